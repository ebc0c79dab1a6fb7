"""The parts of an image file: too many cost the decoder time, missing ones are filled with grey.

A progressive JPEG goes over the whole picture once for every scan, and a scan can be 31 bytes long:
94 kB then take ten seconds. Segments and chunks that hold nothing cost memory and time as well.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import Literal

from PIL import Image

MAX_SCANS = 64
"""Of a JPEG; encoders write 10 for a colour picture, 24 in rare cases."""
MAX_SEGMENTS = 2_000
"""Of a JPEG; a large colour profile takes 255."""
MAX_CHUNKS = 10_000
"""Of a PNG, or of a WebP's container; 10 MiB in chunks of 8 KiB are 1,280."""

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
SCAN, END = 0xDA, 0xD9
# In a scan FF00 is data; FFFF is a padded marker.
MARKER = re.compile(rb"\xff[\x01-\xfe]", re.DOTALL)
# Markers below, restarts, and the start of the image have no length and no content.
FIRST_WITH_LENGTH = 0xC0
ALONE = range(0xD0, 0xD9)


def has_known_signature(data: bytes) -> bool:
    """Whether the bytes begin as a PNG, JPEG or WebP file does."""
    return data.startswith((PNG, JPEG)) or _is_webp(data)


def too_many_parts(data: bytes) -> str | None:
    """Which parts a file has too many of, with the limit; None where it is fit to be decoded."""
    if data.startswith(JPEG):
        scans = 0
        for segments, marker in enumerate(_jpeg_markers(data), 1):
            scans += marker == SCAN
            if scans > MAX_SCANS:
                return f"the JPEG has more than {MAX_SCANS} scans"
            if segments > MAX_SEGMENTS:
                return f"the JPEG has more than {MAX_SEGMENTS:,} segments"
    elif data.startswith(PNG):
        return _too_many_chunks(data, len(PNG), "big")
    elif _is_webp(data):
        return _too_many_chunks(data, 12, "little")
    return None


def check_whole(data: bytes, image_format: str | None) -> None:
    """Checks what the decoder does not: every checksum of a PNG, the end marker of a JPEG.

    Bytes after the end are allowed. A JPEG whose last scan was cut and closed with an end marker
    passes. WebP checks its own length; BMP carries nothing to check.

    Args:
        data: the whole file, without `too_many_parts`.
        image_format: as Pillow names it.

    Raises:
        OSError, SyntaxError: if the file is cut off or damaged.
    """
    if image_format == "PNG":
        Image.open(io.BytesIO(data), formats=("PNG",)).verify()
    elif image_format in ("JPEG", "MPO"):
        markers = list(_jpeg_markers(data))
        if SCAN not in markers or markers[-1] != END:
            raise OSError("the JPEG has no end marker")


def _is_webp(data: bytes) -> bool:
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def _jpeg_markers(data: bytes) -> Iterator[int]:
    """The markers of the segments in their order, up to the end marker; a thumbnail's are not."""
    position = 2
    while found := MARKER.search(data, position):
        position, marker = found.end(), data[found.end() - 1]
        if marker >= FIRST_WITH_LENGTH and marker not in ALONE:
            yield marker
            if marker == END:
                return
            position += int.from_bytes(data[position : position + 2], "big")


def _too_many_chunks(data: bytes, position: int, order: Literal["big", "little"]) -> str | None:
    """PNG, big-endian: length, kind, content, checksum. RIFF: kind, length, content, even end."""
    for _ in range(MAX_CHUNKS):
        if position + 8 > len(data):
            return None
        at = position if order == "big" else position + 4
        length = int.from_bytes(data[at : at + 4], order)
        position += length + 12 if order == "big" else length + (length & 1) + 8
    return f"the file has more than {MAX_CHUNKS:,} chunks" if position + 8 <= len(data) else None
