"""Of how many parts an image file consists: each costs a decoder time, however small it is.

A progressive JPEG goes over the whole picture once for every scan, and a scan can be 31 bytes long:
94 kB then take ten seconds. Segments and chunks that hold nothing cost memory and time as well.
"""

from __future__ import annotations

import re
from typing import Literal

MAX_SCANS = 64
"""Of a JPEG; encoders write 10 for a colour picture, 24 for the oddest."""
MAX_SEGMENTS = 2_000
"""Of a JPEG; a large colour profile takes 255."""
MAX_CHUNKS = 10_000
"""Of a PNG, or of a WebP's container; 10 MiB in chunks of 8 KiB are 1,280."""

PNG = b"\x89PNG\r\n\x1a\n"
SCAN, END = 0xDA, 0xD9
# In a scan FF00 is data, and FFFF is a marker's beginning drawn out.
MARKER = re.compile(rb"\xff[\x01-\xfe]", re.DOTALL)
# Everything below, restarts, and the start of the image stand alone; others tell their length.
FIRST_WITH_LENGTH = 0xC0
ALONE = range(0xD0, 0xD9)


def too_many_parts(data: bytes) -> str | None:
    """What a file has too many of, in words with the limit; None where it is fit to be decoded."""
    if data.startswith(b"\xff\xd8\xff"):
        return _parts_of_jpeg(data)
    if data.startswith(PNG):
        return _chunks(data, len(PNG), "big")
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _chunks(data, 12, "little")
    return None


def _parts_of_jpeg(data: bytes) -> str | None:
    position, scans, segments = 2, 0, 0
    while found := MARKER.search(data, position):
        position, marker = found.end(), data[found.end() - 1]
        if marker == END:
            break
        if marker < FIRST_WITH_LENGTH or marker in ALONE:
            continue
        segments += 1
        scans += marker == SCAN
        if scans > MAX_SCANS:
            return f"the JPEG has more than {MAX_SCANS} scans"
        if segments > MAX_SEGMENTS:
            return f"the JPEG has more than {MAX_SEGMENTS:,} segments"
        position += int.from_bytes(data[position : position + 2], "big")
    return None


def _chunks(data: bytes, position: int, order: Literal["big", "little"]) -> str | None:
    """PNG, big-endian: length, kind, content, checksum. RIFF: kind, length, content, even end."""
    chunks = 0
    while position + 8 <= len(data):
        chunks += 1
        if chunks > MAX_CHUNKS:
            return f"the file has more than {MAX_CHUNKS:,} chunks"
        at = position if order == "big" else position + 4
        length = int.from_bytes(data[at : at + 4], order)
        position += length + 12 if order == "big" else length + (length & 1) + 8
    return None
