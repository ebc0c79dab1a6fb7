"""Addresses as messages and logs may show them: without users, passwords and queries."""

from __future__ import annotations

import re

HIDDEN = "***"
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
# Names or addresses with their ports, and commas between.
HOST = r"(\[[0-9A-Fa-f:.%]*\]|[^][\s:@/?#,]*)(:\d*)?"
HOSTS = re.compile(f"{HOST}(,{HOST})*")
# A word of a message that may be, or contain, an address with a password.
WORD = re.compile(r"[^\s\"'(]*(?:://|@)[^\s\"')]*")


def without_secret(address: str) -> str:
    """Return an address without what may be a secret in it, also if it is malformed.

    Where a character of a password was not percent-encoded, its end is unclear. Then nothing is
    shown that may belong to it.
    """
    scheme, mark, rest = address.partition("://")
    if not mark:
        # It may be a path, a name, or a list such as `host=db password=secret`.
        return HIDDEN if re.search("[@:=]", address) else address
    user, at, place = rest.rpartition("@")
    place = re.split("[?#]", place, maxsplit=1)[0]
    hosts, slash, path = place.partition("/")
    is_clear = HOSTS.fullmatch(hosts) and not re.search("[?#]", user)
    if not SCHEME.fullmatch(scheme):
        return HIDDEN
    if not is_clear:
        return f"{scheme}://{HIDDEN}"
    return f"{scheme}://{HIDDEN}@{hosts}{slash}{path}" if at else f"{scheme}://{place}"


def without_secrets(text: str) -> str:
    """Return a message without the words that may be addresses with passwords."""
    return WORD.sub(lambda word: without_secret(word[0]) if "://" in word[0] else HIDDEN, text)
