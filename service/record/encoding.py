"""Keys that sort as what they name does, values that carry a checksum, and stored times and ids."""

from __future__ import annotations

import secrets
import time
import zlib
from datetime import UTC, datetime

# A key that begins with this is only looked up, never found by a scan.
LOOKUP = b"!"
# Kinds of keys without a value: they are there for scans alone.
INDEXES = ("by", "captured", "enrolled")
CHECKSUM_BYTES = 4
_END, _ESCAPED = b"\0", b"\0\xff"


def key(*parts: str | int) -> bytes:
    """A key whose order is that of its parts, one after another.

    Args:
        parts: texts, which sort by their characters, and numbers from 0 to 2**64 - 1.
    """
    whole = b""
    for part in parts:
        if isinstance(part, int):
            whole += b"%016x\0" % part
        else:
            whole += part.encode().replace(_END, _ESCAPED) + _END
    return whole


def below(prefix: bytes) -> tuple[bytes, bytes]:
    """The range of the keys that begin with these parts: its start, and its end, exclusive."""
    # No part begins with this byte: it occurs in no UTF-8, and only an escape has it.
    return prefix, prefix + b"\xff"


def above(prefix: bytes, part: str | int) -> tuple[bytes, bytes]:
    """The range of the keys that begin with a prefix and come after this part."""
    return prefix + key(part) + b"\0", prefix + b"\xff"


def last_number(found: bytes) -> int:
    """The number that is a key's last part."""
    return int(found[-17:-1], 16)


def last_text(found: bytes, prefix: bytes) -> str:
    """The text that is a key's only part after a prefix."""
    return found[len(prefix) : -1].replace(_ESCAPED, _END).decode()


def seal(own_key: bytes, body: bytes) -> bytes:
    """A body with a checksum of it and of its key before it."""
    return zlib.crc32(body, zlib.crc32(own_key)).to_bytes(CHECKSUM_BYTES, "big") + body


def shown(own_key: bytes) -> str:
    """A key as a message names it: `crop 1/0/24`."""
    kind, *parts = (part.decode(errors="replace") for part in own_key.lstrip(LOOKUP).split(_END))
    return f"{kind} {'/'.join(part.lstrip('0') or '0' for part in parts if part)}"


def as_text(moment: datetime) -> str:
    """A time as it is stored; texts of UTC times sort as the times do."""
    return moment.astimezone(UTC).isoformat()


def now() -> str:
    """This moment as it is stored, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def new_crop_id() -> str:
    """48 bits of milliseconds, then 80 random ones: unguessable, and roughly in order of time."""
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"
