"""The decoding of image files to upright RGB pictures, within limits."""

from __future__ import annotations

import io
import re
import resource
import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps

from model.crops.colour_profiles import convert_to_srgb
from model.problems import InputProblem

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")

# Fuzzing found these errors of Pillow on damaged bytes. UnidentifiedImageError is an OSError.
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

REMEDY = "send the person's crop, not the whole frame"
# Names of kinds of HEIF, in which phones store photos: HEIC and AVIF.
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"avif")
HEIF_REMEDY = (
    "a HEIC or AVIF picture, as phones take them, is not read; convert the file to JPEG: a "
    "screenshot of the picture will do, and in the settings of an iPhone Camera, Formats, Most "
    "Compatible makes it take JPEGs"
)
OTHER_REMEDY = "the bytes are not a JPEG, PNG, WebP or BMP image; convert the file to one of these"

# A decoder goes over the whole image for each scan of a progressive JPEG. A scan may have 31 bytes,
# so that 94 kB take ten seconds. Encoders write 10 scans of a colour image, rarely 24.
MAX_SCANS = 64
# Empty segments and chunks cost time as well. A large colour profile takes 255 segments of a JPEG,
# and 10 MiB in chunks of 8 KiB are 1,280 chunks of a PNG. A million chunks of a WebP take 60 ms.
# A PNG has one colour profile, and a kilobyte of it may unpack to a megabyte.
MAX_SEGMENTS = 2_000
MAX_CHUNKS = 10_000
MAX_PROFILES = 4

ROWS_OF_A_STRIP = 256
WHITE = 255

# Problems that a decoder also reports if it has too little memory, and upper bounds on its memory.
# A progressive JPEG keeps two bytes for each of three or four colours beside the pixels.
MAY_BE_MEMORY = frozenset({"not_an_image", "truncated", "unsupported"})
BYTES_PER_PIXEL = 16
MEMORY_OF_A_DECODER = 16 * 1024 * 1024

PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8\xff"
SCAN = 0xDA
END = 0xD9
JPEG_LS = 0xF7
# Decoders support some of these processes in part, and the others not at all.
RARE_PROCESSES = {
    0xC3: "lossless",
    0xC9: "arithmetically coded",
    0xCA: "arithmetically coded",
    0xCB: "lossless and arithmetically coded",
    **dict.fromkeys((0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF), "hierarchical"),
}
# Pillow refuses a PNG for compressed chunks of these kinds that unpack to over a megabyte, though
# they are no part of the picture; its error names such a limit.
METADATA = frozenset({b"iCCP", b"zTXt", b"iTXt", b"tEXt"})
LIMIT_OF_METADATA = "MAX_TEXT_"
UNSUPPORTED_BMP = "Unsupported BMP"
# Parts of the width and height at which a JPEG can be decoded, and the EXIF orientations of images
# that lie on their side.
JPEG_REDUCTIONS = (8, 4, 2)
ON_ITS_SIDE = range(5, 9)
# The segments of these markers, all but DHT, JPG and DAC, begin with precision, height and width.
FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# For each kind of WebP: the byte where width and height begin, the bits from one to the other, the
# bits of each, and the size that zeros stand for.
WEBP_SIDES = {b"VP8X": (24, 24, 0xFFFFFF, 1), b"VP8L": (21, 14, 0x3FFF, 1)}
LOSSY_SIDES = (26, 16, 0x3FFF, 0)
# An undamaged JPEG has at most some bytes of padding between two segments, and few segments before
# its header. These limits bound the time to find the header.
LONGEST_PADDING = 1024
MOST_BEFORE_HEADER = 32
# FF00 is data of a scan, and FFFF the padding of a marker. Lower markers, restarts and the start of
# the image have no content.
MARKER = re.compile(rb"\xff[\xc0-\xcf\xd9-\xfe]")

# Large headers and odd metadata raise a CropProblem or are ignored, without a warning. The filter
# stays set, since `warnings.catch_warnings` is not safe in the threads that decode.
warnings.filterwarnings("ignore", module=r"PIL\.")


@dataclass(frozen=True)
class CropLimits:
    """Limits of one image file.

    Attributes:
        max_bytes: size of the largest file in bytes.
        max_pixels: largest width × height, which is checked before any pixel is decoded.
        min_side: smallest width or height in pixels.
    """

    max_bytes: int = 10 * 1024 * 1024
    max_pixels: int = 16_000_000
    min_side: int = 8

    def require_size(self, width: int, height: int) -> None:
        """Raise `CropProblem` for an image with too many pixels or too short a side."""
        size = f"the image has {width}×{height} pixels"
        if width * height > self.max_pixels:
            raise CropProblem(
                "too_many_pixels",
                f"{size}, over the limit of {self.max_pixels:,}; {REMEDY}",
            )
        if min(width, height) < self.min_side:
            raise CropProblem("too_small", f"{size}; each side needs at least {self.min_side}")


DEFAULT_LIMITS = CropLimits()


class CropProblem(InputProblem):
    """An image that cannot be used.

    Attributes:
        code: name of the problem, which stays the same in later versions.
        detail: the problem in words.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class Photo(NamedTuple):
    """A decoded photo, upright.

    Attributes:
        picture: the photo in RGB, possibly reduced.
        width, height: size of the photo before it was reduced, in pixels.
    """

    picture: Image.Image
    width: int
    height: int


def decode_crop(data: bytes, limits: CropLimits = DEFAULT_LIMITS) -> Image.Image:
    """Decode an image file to a picture in RGB, without the metadata of the file.

    The bytes tell the file type. The EXIF orientation is applied, transparency is laid over white,
    CMYK and palette images become RGB, the colours of an embedded profile become those of sRGB,
    16-bit grey is scaled to 8 bits, and an animated image gives its first frame. A BMP that is
    transparent everywhere is read as opaque, since programs that ignore transparency write such
    files.

    Raises:
        CropProblem: the image cannot be used; the code is `empty`, `file_too_large`,
            `not_an_image`, `too_many_parts`, `too_many_pixels`, `too_small`, `transparent`,
            `truncated` or `unsupported`.
        MemoryError: there is too little memory to decode it.
    """
    return decode_photo(data, None, limits).picture


def decode_photo(
    data: bytes,
    detail_pixels: int | None,
    limits: CropLimits = DEFAULT_LIMITS,
) -> Photo:
    """Decode an image file like `decode_crop`, but a large JPEG at a reduced size.

    The limits apply to the whole photo. A JPEG is decoded at an eighth, a quarter or half of its
    width and height if enough pixels are left, which takes less time and memory.

    Args:
        data: the file.
        detail_pixels: least number of pixels to keep; None keeps all.
        limits: limits of the file.

    Raises:
        CropProblem, MemoryError: as `decode_crop`.
    """
    if not data:
        raise CropProblem("empty", "the file has 0 bytes; send the image itself")
    if len(data) > limits.max_bytes:
        raise CropProblem(
            "file_too_large",
            f"the file has {len(data):,} bytes, over the limit of {limits.max_bytes:,}; {REMEDY}",
        )
    require_few_parts(data)
    try:
        return _decode(data, limits, detail_pixels)
    except CropProblem as refused:
        if LIMIT_OF_METADATA in str(refused.__cause__):
            return _decode(_without_metadata(data), limits, detail_pixels)
        if refused.code in MAY_BE_MEMORY and _is_memory_limited():
            return _decode_with_room(data, limits, detail_pixels)
        raise


def _decode(data: bytes, limits: CropLimits, detail_pixels: int | None) -> Photo:
    image = _open(data, limits)
    width, height = image.size
    try:
        _check_whole(data)
        image.seek(0)
        if detail_pixels is not None:
            _reduce_jpeg(image, detail_pixels)
        image.load()
        is_turned = _turn_upright(image)
        picture = _to_rgb(image)
        if profile := image.info.get("icc_profile"):
            picture = convert_to_srgb(image, picture, profile)
        # Pillow would write some of the metadata into a file that the picture is saved to.
        picture.info.clear()
        if is_turned:
            return Photo(picture, width=height, height=width)
        return Photo(picture, width, height)
    except CropProblem:
        raise
    except DAMAGE as error:
        if kind := _unusual_kind(data):
            raise _unsupported(kind) from error
        raise CropProblem(
            "truncated",
            f"the image data is cut off or damaged ({error}); send the whole file",
        ) from error


def _without_metadata(data: bytes) -> bytes:
    """Return a PNG, of a limited number of chunks, without its texts and colour profile."""
    kept = [PNG]
    position = len(PNG)
    while position < len(data):
        end = position + int.from_bytes(data[position : position + 4], "big") + 12
        if data[position + 4 : position + 8] not in METADATA:
            kept.append(data[position:end])
        position = end
    return b"".join(kept)


def _reduce_jpeg(image: Image.Image, detail_pixels: int) -> None:
    """Let a JPEG that is not loaded yet be decoded at a reduced size, if it is large enough."""
    width, height = image.size
    for factor in JPEG_REDUCTIONS:
        if width * height >= detail_pixels * factor**2:
            # Pillow ignores this for the other formats.
            image.draft(None, (width // factor, height // factor))
            return


def _turn_upright(image: Image.Image) -> bool:
    """Turn an image by its EXIF orientation, and return whether width and height were swapped."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
        ImageOps.exif_transpose(image, in_place=True)
        return orientation in ON_ITS_SIDE
    except Exception as error:
        # Metadata may be damaged in any way. An image whose orientation cannot be read stays as it
        # is stored.
        if isinstance(error, MemoryError):
            raise
        return False


def _is_memory_limited() -> bool:
    """Return whether an allocation may fail; otherwise the kernel would end the process."""
    limits = (resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
    return any(limit != resource.RLIM_INFINITY for limit in limits) or _is_overcommit_strict()


def _is_overcommit_strict() -> bool:
    try:
        return Path("/proc/sys/vm/overcommit_memory").read_text().strip() == "2"
    except OSError:
        return False


def _decode_with_room(data: bytes, limits: CropLimits, detail_pixels: int | None) -> Photo:
    """Decode again after a failure that too little memory may have caused.

    Decoders report too little memory as damage. A file is damaged if it fails while there is enough
    memory before and afterwards.

    Raises:
        CropProblem: as `decode_crop`.
        MemoryError: there is too little memory for the file.
    """
    pixels = announced_pixels(data)
    if pixels is None or pixels > limits.max_pixels:
        pixels = limits.max_pixels
    needed = len(data) + pixels * BYTES_PER_PIXEL + MEMORY_OF_A_DECODER
    try:
        bytearray(needed)
        return _decode(data, limits, detail_pixels)
    except CropProblem:
        bytearray(needed)
        raise


def _open(data: bytes, limits: CropLimits) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise CropProblem(
            "too_many_pixels",
            f"the header announces more pixels than the limit of {limits.max_pixels:,}; {REMEDY}",
        ) from error
    except DAMAGE as error:
        if kind := _unusual_kind(data, error):
            raise _unsupported(kind) from error
        if data.startswith((PNG, JPEG)) or is_webp(data):
            raise CropProblem(
                "truncated",
                "the image's header is cut off or damaged; send the whole file",
            ) from error
        is_heif = data[4:8] == b"ftyp" and data[8:12] in HEIF_BRANDS
        raise CropProblem("not_an_image", HEIF_REMEDY if is_heif else OTHER_REMEDY) from error
    limits.require_size(*image.size)
    if image.tile and image.tile[0].codec_name == "bmp_rle":
        # Pillow decodes these in Python, which takes seconds for a large one.
        raise _unsupported("the BMP is run-length encoded")
    return image


def _unsupported(kind: str) -> CropProblem:
    return CropProblem(
        "unsupported",
        f"{kind}, which is unsupported; save it as an ordinary JPEG or PNG and send that file",
    )


def _unusual_kind(data: bytes, error: Exception | None = None) -> str | None:
    """Describe why decoders may not support an image; return None for a common kind.

    Args:
        data: the file.
        error: the error of opening it.
    """
    if error is not None and str(error).startswith(UNSUPPORTED_BMP):
        return f"the BMP has a rare layout ({error})"
    if data.startswith(PNG) and data[12:16] == b"CgBI":
        return "the PNG is of the kind that Xcode writes for iOS (CgBI)"
    return _unusual_jpeg(data) if data.startswith(JPEG) else None


def _unusual_jpeg(data: bytes) -> str | None:
    for marker, content in islice(jpeg_segments(data, LONGEST_PADDING), MOST_BEFORE_HEADER):
        if marker == JPEG_LS:
            return "the file is a JPEG-LS"
        if marker in FRAME_HEADERS:
            header = data[content + 2 : content + 8]
            return _unusual_frame(marker, header) if len(header) == 6 else None
    return None


def _unusual_frame(marker: int, header: bytes) -> str | None:
    """Describe an uncommon JPEG by its frame header; return None for a common one."""
    if header[1:3] == b"\0\0":
        return "the JPEG gives its height behind the pixels"
    if header[0] != 8:
        return f"the JPEG has {header[0]} bits for each colour"
    if header[5] not in (1, 3, 4):
        return f"the JPEG has {header[5]} colours"
    process = RARE_PROCESSES.get(marker)
    return f"the JPEG is {process}" if process else None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        grey = np.asarray(image, dtype=np.float32)
        scaled = np.clip(grey / 257.0, 0, 255).astype(np.uint8)
        if "transparency" in image.info:
            transparent = grey == image.info["transparency"]
            if transparent.all():
                raise _transparent(image)
            scaled[transparent] = WHITE
        return Image.fromarray(scaled).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        return _over_white(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    """Lay a transparent image over white, in strips, which take a quarter of the memory."""
    width, height = image.size
    opaque = Image.new("RGB", image.size)
    is_visible = False
    for top in range(0, height, ROWS_OF_A_STRIP):
        strip = image.crop((0, top, width, min(top + ROWS_OF_A_STRIP, height))).convert("RGBA")
        white = Image.new("RGBA", strip.size, "white")
        opaque.paste(Image.alpha_composite(white, strip).convert("RGB"), (0, top))
        is_visible = is_visible or strip.getchannel("A").getbbox() is not None
    if is_visible:
        return opaque
    if image.format == "BMP":
        return image.convert("RGB")
    raise _transparent(image)


def _transparent(image: Image.Image) -> CropProblem:
    shown = "the first frame" if getattr(image, "is_animated", False) else "the image"
    return CropProblem(
        "transparent",
        f"{shown} is wholly transparent, so that nothing of it can be seen; save it without "
        "transparency and send that file",
    )


def announced_pixels(data: bytes) -> int | None:
    """Return width × height by the header of an image file, without decoding it.

    It reads a few bytes, so that it may be called where a decoder would take too long.

    Returns:
        The product. 0 for a file that is no image, and None for a JPEG whose header is not in its
        place, since a decoder may find it elsewhere. A file that ends within its header, which no
        decoder opens, gives any number.
    """
    # Bytes that a cut file lacks count as zeros.
    header = data[:30].ljust(30, b"\0")
    if data.startswith(JPEG):
        size = jpeg_size(data)
        return size and size[0] * size[1]
    if data.startswith(PNG):
        width, height = struct.unpack_from(">II", header, 16)
    elif data.startswith(b"BM"):
        # The oldest header has 12 bytes and short fields.
        is_oldest = header[14:18] == b"\x0c\0\0\0"
        width, height = struct.unpack_from("<HH" if is_oldest else "<ii", header, 18)
    elif is_webp(data):
        start, shift, mask, least = WEBP_SIDES.get(header[12:16], LOSSY_SIDES)
        sides = int.from_bytes(header[start:], "little")
        width = (sides & mask) + least
        height = (sides >> shift & mask) + least
    else:
        return 0
    return abs(width * height)


def require_few_parts(data: bytes) -> None:
    """Raise `CropProblem` for a file with more parts than are read."""
    if problem := _too_many_parts(data):
        raise CropProblem("too_many_parts", f"{problem}; save the image again and send that file")


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Return width and height by the header of a JPEG, without decoding it.

    Returns:
        The size in pixels; None if the file is no JPEG, or its header is not in its place.
    """
    if not data.startswith(JPEG):
        return None
    for marker, content in islice(jpeg_segments(data, LONGEST_PADDING), MOST_BEFORE_HEADER):
        if marker in FRAME_HEADERS:
            height = int.from_bytes(data[content + 3 : content + 5], "big")
            width = int.from_bytes(data[content + 5 : content + 7], "big")
            return width, height
    return None


def _too_many_parts(data: bytes) -> str | None:
    """Describe the kind of parts of which a file has too many, or return None."""
    if data.startswith(JPEG):
        markers = _jpeg_markers(data)
        if markers.count(SCAN) > MAX_SCANS:
            return f"the JPEG has more than {MAX_SCANS} scans"
        if len(markers) > MAX_SEGMENTS:
            return f"the JPEG has more than {MAX_SEGMENTS:,} segments"
    elif data.startswith(PNG):
        if data.count(b"iCCP") > MAX_PROFILES:
            return f"the PNG has more than {MAX_PROFILES} colour profiles"
        position = len(PNG)
        for _ in range(MAX_CHUNKS + 1):
            if position + 8 > len(data):
                return None
            # A chunk has length, kind, content and checksum.
            position += int.from_bytes(data[position : position + 4], "big") + 12
        return f"the PNG has more than {MAX_CHUNKS:,} chunks"
    return None


def _check_whole(data: bytes) -> None:
    """Check the checksums of a PNG and the end marker of a JPEG, which the decoder does not check.

    Bytes after the end are allowed, and so is a JPEG whose last scan was cut and closed with an end
    marker. The decoder checks the length of a WebP, and a BMP has nothing to check.

    Args:
        data: the whole file, of a limited number of parts.

    Raises:
        OSError, SyntaxError: the file is cut off or damaged.
    """
    if data.startswith(PNG):
        Image.open(io.BytesIO(data), formats=("PNG",)).verify()
    elif data.startswith(JPEG):
        markers = _jpeg_markers(data)
        if SCAN not in markers or markers[-1] != END:
            raise OSError("the JPEG has no end marker")


def is_webp(data: bytes) -> bool:
    """Return whether a file begins as a WebP."""
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def _jpeg_markers(data: bytes) -> list[int]:
    """Return the markers of a JPEG's segments, up to its end or one more than are allowed."""
    return [marker for marker, _ in islice(jpeg_segments(data, len(data)), MAX_SEGMENTS + 1)]


def jpeg_segments(data: bytes, most_padding: int) -> Iterator[tuple[int, int]]:
    """Yield the marker of each segment of a JPEG, and the position behind the marker.

    Segments of an embedded thumbnail are left out.

    The segments end with the image, or before more than `most_padding` bytes without a marker.
    """
    position = 2
    while match := MARKER.search(data, position, position + most_padding):
        position = match.end()
        marker = data[position - 1]
        yield marker, position
        if marker == END:
            return
        position += int.from_bytes(data[position : position + 2], "big")
