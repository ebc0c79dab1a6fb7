"""Keys of the record: they sort as what they name does. Redis keeps them packed, in the same order.

Every crop has several keys in memory, which would be numbers of 16 digits for the most part. A
packed part begins with a byte that no text begins with, and has no end mark. What is not a whole
key of a kind of `PARTS`, such as the bound of a range, is packed as far as it is one.
"""

from __future__ import annotations

import re
import secrets
import time
from datetime import UTC, datetime, timedelta

# A key that begins with this is only looked up, never found by a scan.
LOOKUP = b"!"
# Kinds of keys without a value: they are there for scans alone.
INDEXES = ("by", "captured", "enrolled")
# What `new_crop_id` makes.
CROP_ID = "[0-9a-f]{32}"
_END = b"\0"
_ESCAPED = b"\0\xff"
# By kind what its parts are: n a number, m a time, f a field, h hexadecimal digits that are only
# looked up.
PARTS = {
    b"crop": "nnn",
    b"by": "nnfhn",
    b"captured": "nnmn",
    b"enrolled": "nnmn",
    b"identity": "nn",
    b"staged": "nnnn",
    LOOKUP + b"crop id": "nnh",
    LOOKUP + b"vector": "nnnn",
    LOOKUP + b"picture": "nnn",
}
# Kinds and fields in one byte each; a key that is only looked up still begins with its mark.
KINDS = {kind: kind[: kind.startswith(LOOKUP)] + bytes([0x80 + n]) for n, kind in enumerate(PARTS)}
FIELDS = {b"sha256": b"\x90", b"identity": b"\x91", b"camera": b"\x92", b"external_id": b"\x93"}
LONG = {short: long for table in (KINDS, FIELDS) for long, short in table.items()}
# Followed by how many bytes the number has; no UTF-8 has these bytes, and bounds end with 0xff.
NUMBER = 0xF5
HEX = 0xFE
DIGITS = re.compile(rb"([0-9a-f]{16})\0")
MOMENT = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{6})?)\+00:00\0")
HEXADECIMAL = re.compile(rb"((?:[0-9a-f]{32}){1,2})\0")
TEXT = re.compile(rb"(?:[^\0]|\0\xff)*\0")
FIRST_DAY = datetime.min
MICROSECOND = timedelta(microseconds=1)


def key(*parts: str | int) -> bytes:
    """A key that sorts as its parts: texts by their characters, numbers from 0 to 2**64 - 1."""
    return b"".join(
        b"%016x\0" % part if isinstance(part, int) else part.encode().replace(_END, _ESCAPED) + _END
        for part in parts
    )


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


def packed(key: bytes) -> bytes:
    """A key as Redis keeps it; a packed one stays as it is."""
    kind, end, _ = key.partition(b"\0")
    if not end or kind not in KINDS:
        return key
    place = len(kind) + 1
    found = [KINDS[kind]]
    for part in PARTS[kind]:
        if part == "n" and (digits := DIGITS.match(key, place)):
            found.append(_number(int(digits[1], 16)))
            place += 17
        elif part == "m" and (moment := MOMENT.match(key, place)):
            since = datetime.fromisoformat(moment[1].decode()) - FIRST_DAY
            found.append(_number(since // MICROSECOND))
            place = moment.end()
        elif part == "h" and (digits := HEXADECIMAL.match(key, place)):
            content = bytes.fromhex(digits[1].decode())
            found.append(bytes([HEX, len(content)]) + content)
            place = digits.end()
        elif part != "n" and (text := TEXT.match(key, place)):
            found.append(FIELDS.get(text[0][:-1], text[0]) if part == "f" else text[0])
            place = text.end()
        else:
            break
    return b"".join(found) + key[place:]


def unpacked(key: bytes) -> bytes:
    """The key of which `packed` made this one."""
    place = 1 + key.startswith(LOOKUP)
    kind = LONG.get(key[:place])
    if kind is None:
        return key
    found = [kind + b"\0"]
    for part in PARTS[kind]:
        first = key[place] if place < len(key) else 0
        if first == HEX:
            start = place + 2
            place = place + 2 + key[place + 1]
            found.append(key[start:place].hex().encode() + b"\0")
        elif NUMBER <= first < HEX:
            start = place + 1
            place = place + 1 + first - NUMBER
            number = int.from_bytes(key[start:place], "big")
            if part == "m":
                moment = FIRST_DAY + number * MICROSECOND
                found.append(f"{moment.isoformat()}+00:00\0".encode())
            else:
                found.append(b"%016x\0" % number)
        elif part == "f" and (field := LONG.get(key[place : place + 1])):
            found.append(field + b"\0")
            place += 1
        elif text := TEXT.match(key, place):
            found.append(text[0])
            place = text.end()
    return b"".join(found) + key[place:]


def _number(number: int) -> bytes:
    size = (number.bit_length() + 7) // 8
    return bytes([NUMBER + size]) + number.to_bytes(size, "big")


INDEX_KEYS = tuple(key(kind) for kind in INDEXES)
