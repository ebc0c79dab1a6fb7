"""Bytes of an image file to one upright RGB array; every way it can fail is a `CropProblem`."""

from __future__ import annotations

import io
import re
import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import ExifTags, Image

from model.arrays import Pixels
from model.problems import InputProblem

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")

# Errors of Pillow on damaged bytes, found by fuzzing. UnidentifiedImageError is an OSError.
DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    EOFError,
    struct.error,
)

UPRIGHT_BY = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The transposition that turns an image of each EXIF orientation upright; 1 is upright already."""
REMEDY = "send the person's crop, not the whole frame"

# A progressive JPEG goes over the whole picture once for every scan, and a scan can be 31 bytes
# long: 94 kB then take ten seconds. Segments and chunks that hold nothing cost time as well.
MAX_SCANS = 64
"""Of a JPEG; encoders write 10 for a colour picture, 24 in rare cases."""
MAX_SEGMENTS = 2_000
"""Of a JPEG; a large colour profile takes 255."""
MAX_CHUNKS = 10_000
"""Of a PNG, or of a WebP's container; 10 MiB in chunks of 8 KiB are 1,280."""

ROWS_OF_A_STRIP = 256

PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8\xff"
SCAN = 0xDA
END = 0xD9
# Markers that begin with the precision, height and width of the picture, all but DHT, JPG and DAC.
FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Between two segments of a sound JPEG are at most some padding bytes.
LONGEST_PADDING = 1024
# In a scan FF00 is data; FFFF is a padded marker.
MARKER = re.compile(rb"\xff[\x01-\xfe]", re.DOTALL)
# Markers below, restarts, and the start of the image have no length and no content.
FIRST_WITH_LENGTH = 0xC0
ALONE = range(0xD0, 0xD9)

# Large headers and odd metadata raise a CropProblem or are ignored, without a warning. Set once:
# `warnings.catch_warnings` is not safe in the threads that decode.
warnings.filterwarnings("ignore", module=r"PIL\.")


@dataclass(frozen=True)
class CropLimits:
    """Limits of one image file.

    Attributes:
        max_bytes: largest file, bytes.
        max_pixels: largest width × height, checked from the header before any pixel is decoded.
        min_side: smallest width or height, pixels.
    """

    max_bytes: int = 10 * 1024 * 1024
    max_pixels: int = 16_000_000
    min_side: int = 8

    def require_size(self, width: int, height: int) -> None:
        """Raise `CropProblem` for an image with too many pixels or too short a side."""
        found = f"the image is {width}×{height} pixels"
        if width * height > self.max_pixels:
            raise CropProblem(
                "too_many_pixels",
                f"{found}, over the limit of {self.max_pixels:,}; {REMEDY}",
            )
        if min(width, height) < self.min_side:
            raise CropProblem("too_small", f"{found}; each side needs at least {self.min_side}")


class CropProblem(InputProblem):
    """One image that cannot be used: a `code` that stays the same, and a `detail` for people."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


def decode_crop(data: bytes, limits: CropLimits | None = None) -> Pixels:
    """Decode one image file to pixels `(height, width, 3)` uint8 RGB.

    The type is read from the bytes. EXIF orientation is applied, transparency is laid over white,
    CMYK and palette images become RGB, 16-bit grey is scaled to 8 bits, and of an animated image
    the first frame counts. The limits are `CropLimits()` by default.

    Raises:
        CropProblem: with code `empty`, `file_too_large`, `not_an_image`, `too_many_parts`,
            `too_many_pixels`, `too_small` or `truncated`.
    """
    limits = limits or CropLimits()
    if not data:
        raise CropProblem("empty", "the file has 0 bytes; send the image itself")
    if len(data) > limits.max_bytes:
        raise CropProblem(
            "file_too_large",
            f"the file has {len(data):,} bytes, over the limit of {limits.max_bytes:,}; {REMEDY}",
        )
    if (many := _too_many_parts(data)) is not None:
        raise CropProblem("too_many_parts", f"{many}; save the picture anew and send that")
    image = _open(data, limits)
    try:
        _check_whole(data, image.format)
        image.seek(0)
        image.load()
        return np.asarray(_to_rgb(_upright(image)), dtype=np.uint8)
    except DAMAGE as error:
        raise CropProblem(
            "truncated",
            f"the image data is cut off or damaged ({error}); send the whole file",
        ) from error


def _open(data: bytes, limits: CropLimits) -> Image.Image:
    """Open an image by its header, and check its size."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise CropProblem(
            "too_many_pixels",
            f"the header announces more pixels than the limit of {limits.max_pixels:,}; {REMEDY}",
        ) from error
    except DAMAGE as error:
        if data.startswith((PNG, JPEG)) or _is_webp(data):
            raise CropProblem(
                "truncated",
                "the image's header is cut off or damaged; send the whole file",
            ) from error
        raise CropProblem(
            "not_an_image",
            "the bytes are not a JPEG, PNG, WebP or BMP image; convert the file to one of these",
        ) from error
    limits.require_size(*image.size)
    return image


def _upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; metadata that cannot be read is ignored."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        transpose = UPRIGHT_BY.get(orientation)
    except DAMAGE:
        return image
    return image if transpose is None else image.transpose(transpose)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        grey = np.asarray(image, dtype=np.float32)
        scaled = np.clip(grey / 257.0, 0, 255).astype(np.uint8)
        return Image.fromarray(scaled).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        return _over_white(image)
    return image.convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    """Lay a transparent image over white, in strips: as a whole it takes four times its memory."""
    width, height = image.size
    opaque = Image.new("RGB", image.size)
    for top in range(0, height, ROWS_OF_A_STRIP):
        lower = min(top + ROWS_OF_A_STRIP, height)
        strip = image.crop((0, top, width, lower)).convert("RGBA")
        white = Image.new("RGBA", strip.size, (255, 255, 255, 255))
        over_white = Image.alpha_composite(white, strip)
        opaque.paste(over_white.convert("RGB"), (0, top))
    return opaque


def announced_pixels(data: bytes) -> int | None:
    """Return width × height as an image file's header has them, without decoding anything.

    It reads a few bytes, and may be called where a decoder would keep others waiting.

    Returns:
        0 for a file that is no image or ends within its header; None for a JPEG without a header
        where one is expected, behind which a decoder may yet find one.
    """
    if data.startswith(PNG):
        return _product(data[16:24], ">II")
    if data.startswith(JPEG):
        return _jpeg_pixels(data)
    if data.startswith(b"BM"):
        # The oldest kind of header, of 12 bytes, has short fields.
        if data[14:18] == struct.pack("<I", 12):
            return _product(data[18:22], "<HH")
        return _product(data[18:26], "<ii")
    if not _is_webp(data):
        return 0
    kind = data[12:16]
    if kind == b"VP8X":
        width = int.from_bytes(data[24:27], "little")
        height = int.from_bytes(data[27:30], "little")
        return (width + 1) * (height + 1)
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return ((bits & 0x3FFF) + 1) * ((bits >> 14 & 0x3FFF) + 1)
    return _product(data[26:30], "<HH", 0x3FFF)


def _jpeg_pixels(data: bytes) -> int | None:
    position = 2
    for _ in range(MAX_SEGMENTS):
        found = MARKER.search(data, position, position + LONGEST_PADDING)
        if found is None:
            return None
        position = found.end()
        marker = data[position - 1]
        if marker in FRAME_HEADERS:
            return _product(data[position + 3 : position + 7], ">HH")
        if marker >= FIRST_WITH_LENGTH and marker not in ALONE:
            position += int.from_bytes(data[position : position + 2], "big")
    return None


def _product(
    header: bytes,
    layout: str,
    mask: int = -1,
) -> int:
    if len(header) < struct.calcsize(layout):
        return 0
    width, height = struct.unpack(layout, header)
    return abs(int(width & mask) * int(height & mask))


def _too_many_parts(data: bytes) -> str | None:
    """Return the parts that a file has too many of, and their limit; None if it can be decoded."""
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


def _check_whole(data: bytes, image_format: str | None) -> None:
    """Check every checksum of a PNG and the end marker of a JPEG, which the decoder does not.

    Bytes after the end are allowed. A JPEG whose last scan was cut and closed with an end marker
    passes. WebP checks its own length; BMP carries nothing to check.

    Args:
        data: the whole file, without `_too_many_parts`.
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
    """Yield the markers of the segments in their order, up to the end, without a thumbnail's."""
    position = 2
    while found := MARKER.search(data, position):
        position = found.end()
        marker = data[found.end() - 1]
        if marker >= FIRST_WITH_LENGTH and marker not in ALONE:
            yield marker
            if marker == END:
                return
            position += int.from_bytes(data[position : position + 2], "big")


def _too_many_chunks(
    data: bytes,
    position: int,
    order: Literal["big", "little"],
) -> str | None:
    """Count chunks. PNG: length, kind, content, checksum. RIFF: kind, length, content, even end."""
    for _ in range(MAX_CHUNKS):
        if position + 8 > len(data):
            return None
        at = position if order == "big" else position + 4
        length = int.from_bytes(data[at : at + 4], order)
        position += length + 12 if order == "big" else length + (length & 1) + 8
    return f"the file has more than {MAX_CHUNKS:,} chunks" if position + 8 <= len(data) else None
