"""Users whom a proxy has signed on, and the rights of their groups.

A proxy such as Authelia or oauth2-proxy names the user and the user's groups in headers. They are
read only from the addresses in `GMN_TRUSTED_PROXIES`, which must remove them from what clients
send.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass as stored_dataclass
from starlette.datastructures import Headers

from gmn_client.models import Scope
from model.crops.texts import nfc
from service.errors import Forbidden, Unauthorised
from service.record.keys import NO_HASH, ApiKey
from service.settings import SCOPES, Group, Settings

# The files in docker/ remove these from what clients send.
REMOVED_HEADERS = frozenset(
    [
        "remote-user",
        "remote-groups",
        "x-forwarded-user",
        "x-forwarded-groups",
        "x-forwarded-email",
        "x-auth-request-user",
        "x-auth-request-groups",
        "x-auth-request-email",
        "x-authentik-username",
        "x-authentik-groups",
    ]
)
# Characters of a user's name, which logs and the record contain.
MOST_CHARACTERS = 64
MOST_GROUP_CHARACTERS = 256
USER = "user:"
log = logging.getLogger(__name__)


@stored_dataclass(frozen=True)
class User(ApiKey):
    """A user whom a proxy has signed on, with the rights of a key.

    Attributes:
        key_id: `user:` and the name; no key has such an id.
        created_at: time of the request.
    """

    key_id: Annotated[str, Field(pattern=f"^{USER}")]


class SignOn:
    """Reads users from the headers of requests, by the settings of the sign-on."""

    def __init__(self, settings: Settings) -> None:
        self.is_on = settings.user_header is not None
        self._user_header = settings.user_header or ""
        self._groups_header = settings.groups_header or ""
        self._separator = settings.groups_separator
        self._groups = {group.name: group for group in settings.groups}
        self._proxies = [ipaddress.ip_network(proxy) for proxy in settings.trusted_proxies]
        for header in filter(None, (settings.user_header, settings.groups_header)):
            if header.lower() not in REMOVED_HEADERS:
                log.warning(
                    "the files in docker/ do not remove the header %s, which clients may send; see "
                    "that your proxy does",
                    header,
                )

    def find_user(self, headers: Headers, peer: str | None) -> User | None:
        """Return the user of a request; None if no trusted proxy names one.

        Args:
            peer: address at the other end of the connection.

        Raises:
            Unauthorised: the name of the user cannot be read, or the groups are there twice.
            Forbidden: no group of the user has rights here, or the groups are for several
                galleries.
        """
        if not self._is_trusted(peer):
            return None
        names = headers.getlist(self._user_header)
        if not any(names):
            return None
        name = _read_name(names)
        if name is None:
            raise Unauthorised(
                f"the header {self._user_header} is there several times, or is no name of at most "
                f"{MOST_CHARACTERS} characters; have the proxy replace what the client sent"
            )
        sent = headers.getlist(self._groups_header)
        if len(sent) > 1:
            raise Unauthorised(
                f"the header {self._groups_header} is there several times; have the proxy replace "
                "what the client sent"
            )
        named = _read_groups(sent[0], self._separator) if sent else []
        groups = [self._groups[group] for group in named if group in self._groups]
        if not groups:
            raise Forbidden(
                f"the user {name!r} has no group that has rights here; name one of the groups in "
                "GMN_GROUPS, or put the user into one that it names (the header "
                f"{self._groups_header} separates groups by {self._separator!r} alone)"
            )
        scopes, gallery = _joined(name, groups)
        return User(f"{USER}{name}", NO_HASH, scopes, gallery, created_at=datetime.now(UTC))

    def _is_trusted(self, peer: str | None) -> bool:
        address = read_address(peer or "")
        return address is not None and any(address in proxy for proxy in self._proxies)


def read_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Parse an address, and unwrap an IPv4 address in IPv6; return None for any other text."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _read_name(values: Sequence[str]) -> str | None:
    """Return the name in the values of a header; None if there is not exactly one."""
    if len(values) != 1:
        return None
    name = _normalise(_decode(values[0]), MOST_CHARACTERS)
    return name if name and name.isprintable() else None


def _read_groups(value: str, separator: str) -> list[str]:
    # A space belongs to the name of its group. Were it left out, somebody who may name groups would
    # have the rights of `admins` by a group called ` admins`.
    groups = (_normalise(text, MOST_GROUP_CHARACTERS) for text in _decode(value).split(separator))
    return [group for group in groups if group]


def _decode(value: str) -> str:
    """Return a header, whose bytes are UTF-8 and were read as Latin-1; empty for other bytes."""
    try:
        return value.encode("latin-1").decode().strip(" \t")
    except UnicodeError:
        return ""


def _normalise(text: str, most: int) -> str | None:
    """Return a text in NFC; None if it has more characters than `most`."""
    # NFC has at least a quarter of the characters of a text in a decomposed form.
    if len(text) > 4 * most:
        return None
    normal = nfc(text)
    return normal if len(normal) <= most else None


def _joined(user: str, groups: Sequence[Group]) -> tuple[tuple[Scope, ...], str | None]:
    """Return the scopes of a user's groups together, and the only gallery that they are for.

    If a group has rights in every gallery, those in a single one give no more.
    """
    of_all = [group for group in groups if group.gallery is None]
    galleries = sorted({group.gallery for group in groups if group.gallery is not None})
    if not of_all and len(galleries) > 1:
        raise Forbidden(
            f"the groups of the user {user!r} are for the galleries {', '.join(galleries)}, and a "
            "user has rights in one or in all; leave the user in groups of one gallery"
        )
    scopes = {scope for group in of_all or groups for scope in group.scopes}
    return tuple(scope for scope in SCOPES if scope in scopes), None if of_all else galleries[0]
