"""Keys as Redis keeps them: kinds, numbers, checksums and ids in few bytes, in the same order.

Every crop has several keys in memory, which would be numbers of 16 digits for the most part. A
packed part begins with a byte that no text begins with, and has no end mark. What is not a whole
key of a kind below, such as the bound of a range, is packed as far as it is one.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from service.record.engine import LOOKUP

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
NUMBER, HEX = 0xF5, 0xFE
DIGITS = re.compile(rb"([0-9a-f]{16})\0")
MOMENT = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{6})?)\+00:00\0")
HEXADECIMAL = re.compile(rb"((?:[0-9a-f]{32}){1,2})\0")
TEXT = re.compile(rb"(?:[^\0]|\0\xff)*\0")
FIRST_DAY, MICROSECOND = datetime.min, timedelta(microseconds=1)


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
            start, place = place + 2, place + 2 + key[place + 1]
            found.append(key[start:place].hex().encode() + b"\0")
        elif NUMBER <= first < HEX:
            start, place = place + 1, place + 1 + first - NUMBER
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
