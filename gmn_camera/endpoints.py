"""Addresses like HOST:PORT in options of the command line."""

from __future__ import annotations

import ipaddress
import re

MOST_PORT = 65_535
BRACKETED = re.compile(r"\[(?P<host>[^][]*)](:(?P<port>.*))?", re.DOTALL)


def read_endpoint(text: str) -> tuple[str, int | None]:
    """Split HOST:PORT into host and port; an omitted host is empty, and an omitted port None.

    An IPv6 address before a port is in brackets, as in `[::1]:1883`.

    Raises:
        ValueError: the host or the port is malformed.
    """
    bracketed = BRACKETED.fullmatch(text)
    if bracketed is not None:
        host = _checked_ipv6(bracketed["host"])
        port = bracketed["port"]
    elif text.count(":") > 1:
        host = _checked_ipv6(text)
        port = None
    else:
        host, colon, end = text.partition(":")
        port = end if colon else None
    if any(letter.isspace() or letter in "/@[]" for letter in host):
        raise ValueError(f"{host!r} is no host")
    return host, None if port is None else _read_port(port)


def write_endpoint(host: str, port: int) -> str:
    """Return HOST:PORT, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _checked_ipv6(text: str) -> str:
    ipaddress.IPv6Address(text)
    return text


def _read_port(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text[:6]) > MOST_PORT:
        raise ValueError(f"{text!r} is no port")
    return int(text)
