"""Keys that sort as what they name does, and values that carry a checksum."""

from __future__ import annotations

import zlib
from typing import Any

from pydantic_core import to_json

# A key that begins with this is only looked up, never found by a scan.
LOOKUP = b"!"
# Kinds of keys without a value: they are there for scans alone.
INDEXES = ("by", "captured", "enrolled")
_END, _ESCAPED = b"\0", b"\0\xff"
_NUMBER = 16
_CHECKSUM = 4


def key(*parts: str | int) -> bytes:
    """A key whose order is that of its parts, one after another.

    Args:
        parts: texts, which sort by their characters, and numbers from 0 to 2**64 - 1.
    """
    return b"".join([_part(part) for part in parts])


def lookup_key(*parts: str | int) -> bytes:
    """A key that is only looked up, never found by a scan."""
    return LOOKUP + key(*parts)


def _part(part: str | int) -> bytes:
    if isinstance(part, int):
        return b"%016x\0" % part
    text = part.encode()
    return (text.replace(_END, _ESCAPED) if _END in text else text) + _END


def is_index(own_key: bytes) -> bool:
    """Whether a key has no value."""
    return own_key.startswith(_INDEXES)


def below(prefix: bytes) -> tuple[bytes, bytes]:
    """The range of the keys that begin with these parts: its start, and its end, exclusive."""
    # No part begins with this byte: it occurs in no UTF-8, and only an escape has it.
    return prefix, prefix + b"\xff"


def above(prefix: bytes, *parts: str | int) -> tuple[bytes, bytes]:
    """The range of the keys that begin with a prefix and come after these parts."""
    return prefix + key(*parts) + b"\0", prefix + b"\xff"


def last_number(found: bytes) -> int:
    """The number that is a key's last part."""
    return int(found[-1 - _NUMBER : -1], 16)


def last_text(found: bytes, prefix: bytes) -> str:
    """The text that is a key's only part after a prefix."""
    return found[len(prefix) : -1].replace(_ESCAPED, _END).decode()


def seal(own_key: bytes, body: bytes) -> bytes:
    """A body with a checksum of it and of its key before it."""
    return zlib.crc32(body, zlib.crc32(own_key)).to_bytes(_CHECKSUM, "big") + body


def unseal(own_key: bytes, value: bytes) -> bytes | None:
    """The body of a sealed value; None where it is not what was sealed under this key."""
    body = value[_CHECKSUM:]
    return body if seal(own_key, body) == value else None


def as_json(body: Any) -> bytes:
    """A body of plain data, dataclasses or times."""
    return to_json(body)


_INDEXES = tuple(key(kind) for kind in INDEXES)
