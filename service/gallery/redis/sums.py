"""Whether a crop in Redis is what was written.

Redis checks neither the commands in its append-only file nor what they set. So a crop's hash has a
`sum` of what is known of it, made by the script that writes it (`record_sum` of crops.lua), one of
each vector (`sum:<side>`) and one of its picture, CRC-32s that came with them. Crops of format 1
have none, and are taken as they are.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence

from service.problems import DamagedRedisRecord


def content_sum(content: bytes) -> str:
    """Of a vector's or picture's bytes."""
    return str(zlib.crc32(content))


def record_sum(row_id: bytes, values: Sequence[bytes | None]) -> bytes:
    """Of what the `COLUMNS` of a crop hold."""
    parts = [b"-" if value is None else b"%d:%s" % (len(value), value) for value in values]
    return hashlib.sha1(b",".join([row_id, *parts]), usedforsecurity=False).hexdigest().encode()


def check_record(row_id: bytes, values: Sequence[bytes | None], kept: bytes | None) -> None:
    """Raises `DamagedRedisRecord` where a crop's `COLUMNS` are not what was written."""
    crop_id = values[0]
    if crop_id is None:
        raise DamagedRedisRecord(f"crop number {row_id.decode()} is gone without a trace")
    if kept is not None and record_sum(row_id, values) != kept:
        name = crop_id.decode(errors="backslashreplace")
        raise DamagedRedisRecord(f"crop {name} is not what was written")


def check_onwards(after: str | bytes | int | float, onwards: bytes) -> bytes:
    """A row to go on after; raises `DamagedRedisRecord` where that leads nowhere."""
    if onwards and not (onwards.isdigit() and int(onwards) > int(after)):
        raise DamagedRedisRecord("the list of a gallery's crops is not in order")
    return onwards


def not_found(crop_id: str, by: bytes) -> DamagedRedisRecord:
    """What is wrong with a crop that is there, and is not found by what is known of it."""
    return DamagedRedisRecord(f"crop {crop_id} is not found by its {by.decode()}")


def not_listed(crops: int) -> DamagedRedisRecord:
    """What is wrong with a gallery that has more ids than rows."""
    return DamagedRedisRecord(f"{crops} crops have an id and are not listed")


def check_content(what: str, crop_id: str, content: bytes | None, kept: bytes | None) -> None:
    """Raises `DamagedRedisRecord` where a crop's vector or picture is not what was written."""
    if kept is not None and (content is None or content_sum(content).encode() != kept):
        raise DamagedRedisRecord(f"the {what} of crop {crop_id} is not what was written")
