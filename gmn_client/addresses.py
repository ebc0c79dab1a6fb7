"""Hides users, passwords and queries of addresses in messages and logs."""

from __future__ import annotations

import re

HIDDEN = "***"
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.:-]*")
# Names or addresses with their ports, separated by commas.
HOST = r"(\[[^]\s@/?#]*\]|[^][\s:@/?#,]*)(:\d*)?"
HOSTS = re.compile(f"{HOST}(,{HOST})*")
# A word of a message that may be, or contain, an address with a password.
WORD = re.compile(r"[^\s\"'(]*(?:://|@)[^\s\"')]*")
REMEDY = (
    "its user, password, host or port is malformed; a user and a password need each of @ : / ? # % "
    "and space as %40 %3A %2F %3F %23 %25 and %20"
)


def is_malformed(address: str) -> bool:
    """Return whether the end of a password in an address is unclear, or its port is no number.

    Messages of libraries about such an address may show a part of the password.
    """
    _, mark, rest = address.partition("://")
    if not mark:
        return "@" in address
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    hosts = authority.rpartition("@")[2]
    # A character of the password may have been read as the end of the host.
    is_cut = ":" in authority and "@" in rest[len(authority) :]
    return is_cut or not HOSTS.fullmatch(hosts)


def without_secret(address: str) -> str:
    """Hide each part of an address that may be a secret, also if it is malformed."""
    scheme, mark, rest = address.partition("://")
    if not mark:
        # It may be a path, a name, or a list such as `host=db password=secret`.
        return HIDDEN if re.search("[@=]", address) else address
    user, at, location = rest.rpartition("@")
    location = re.split("[?#]", location, maxsplit=1)[0]
    hosts, slash, path = location.partition("/")
    if not SCHEME.fullmatch(scheme):
        return HIDDEN
    if not HOSTS.fullmatch(hosts) or re.search("[?#]", user):
        return f"{scheme}://{HIDDEN}"
    return f"{scheme}://{HIDDEN}@{hosts}{slash}{path}" if at else f"{scheme}://{location}"


def without_secrets(text: str) -> str:
    """Hide the words of a message that may be addresses with passwords."""
    return WORD.sub(lambda word: without_secret(word[0]) if "://" in word[0] else HIDDEN, text)
