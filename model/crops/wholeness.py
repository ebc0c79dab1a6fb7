"""Whether an image file is whole, where the decoder would fill the missing part with grey."""

from __future__ import annotations

import io

from PIL import Image

SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")


def has_known_signature(data: bytes) -> bool:
    """Whether the bytes begin as a PNG, JPEG or WebP file does, whatever follows."""
    return data.startswith(SIGNATURES) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")


def check_whole(data: bytes, image_format: str | None) -> None:
    """Checks what the decoder does not: every checksum of a PNG, the end marker of a JPEG.

    Bytes after the end are allowed. WebP checks its own length; BMP carries nothing to check.

    Args:
        data: the whole file.
        image_format: as Pillow names it.

    Raises:
        OSError, SyntaxError: if the file is cut off or damaged.
    """
    if image_format == "PNG":
        Image.open(io.BytesIO(data), formats=("PNG",)).verify()
    elif image_format in ("JPEG", "MPO") and not _jpeg_has_end(data):
        raise OSError("the JPEG has no end marker")


def _jpeg_has_end(data: bytes) -> bool:
    """Whether an end marker (FFD9) follows the first scan (FFDA): a thumbnail's does not count.

    A scan that was cut and then closed again with an end marker is not told from a whole one.
    """
    position = 2
    while position + 4 <= len(data):
        marker = data[position + 1]
        if data[position] != 0xFF or marker == 0xFF:
            position += 1
        elif marker == 0xDA:
            return data.find(b"\xff\xd9", position) >= 0
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return False
