"""Image files without their metadata, such as the place, the time and the device of a photo.

The pixels stay as they are encoded: only the parts of a file are chosen anew. What is not known to
be part of the picture is left out.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

from PIL import ExifTags, Image

from model.crops.decode import (
    END,
    FORMATS,
    FRAME_HEADERS,
    LIMIT_OF_METADATA,
    METADATA,
    PNG,
    SCAN,
    CropProblem,
    is_webp,
    jpeg_segments,
    require_few_parts,
)

TURNED = range(2, 9)
# EXIF with the orientation alone: one entry of type SHORT in the first directory.
EXIF = struct.Struct(">8sHHHIHHI")
EXIF_HEADER = b"MM\0*\0\0\0\x08"
SHORT = 3

JPEG_START = b"\xff\xd8"
JFIF = b"JFIF\0"
# Version and density of a JFIF segment follow its name; behind them is a thumbnail.
JFIF_BYTES = 12
PROFILE = b"ICC_PROFILE\0"
ADOBE = b"Adobe"
# Name, version, flags and the transformation of the colours.
ADOBE_BYTES = 12
APP0 = 0xE0
APP1 = 0xE1
APP2 = 0xE2
APP14 = 0xEE
# Tables of Huffman codes, of arithmetic coding and of quantisation, and restart intervals.
TABLES = frozenset({0xC4, 0xCC, 0xDB, 0xDD})

# Chunks of a PNG with pixels and colours, and the most bytes of those that have few.
PNG_KEPT = {
    **dict.fromkeys((b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"iCCP", b"fdAT")),
    **{b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"sBIT": 4, b"cICP": 4, b"pHYs": 9},
    **{b"acTL": 8, b"fcTL": 26},
}
# A grey pixel, with which the metadata of a large image is read.
PIXEL_HEADER = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
PIXEL = zlib.compress(bytes(2))

WEBP_KEPT = frozenset({b"VP8X", b"ICCP", b"ANIM", b"ANMF", b"ALPH", b"VP8 ", b"VP8L"})
WEBP_FRAME_KEPT = frozenset({b"ALPH", b"VP8 ", b"VP8L"})
# Bytes of an animation's frame before its chunks, and of the extended header. Flags in that say
# whether there are a profile, transparency, an animation, and EXIF.
WEBP_FRAME_BYTES = 16
WEBP_EXTENDED_BYTES = 10
WEBP_FLAGS = 0x20 | 0x10 | 0x02
WEBP_HAS_EXIF = 0x08

# The fields of the BMP headers that tell where the pixels begin, and how many there are.
BMP_START = b"BM"
BMP_OLDEST_HEADER = 12
BMP_UNCOMPRESSED = (0, 3, 6)


def strip_metadata(data: bytes) -> bytes:
    """Return an image file with nothing but pixels, colours and EXIF orientation.

    It decodes to the same pixels. A file that has nothing else is returned itself. A damaged file
    loses what is behind the damage, at most.

    Raises:
        CropProblem: it is no JPEG, PNG, WebP or BMP, or has too many parts to be decoded.
    """
    require_few_parts(data)
    if data.startswith(JPEG_START):
        stripped = _strip_jpeg(data)
    elif data.startswith(PNG):
        stripped = _strip_png(data)
    elif is_webp(data):
        stripped = _strip_webp(data)
    elif data.startswith(BMP_START):
        stripped = data[: _find_end_of_bmp(data)]
    else:
        raise CropProblem(
            "not_an_image",
            "the bytes are not a JPEG, PNG, WebP or BMP image; convert the file to one of these",
        )
    return data if stripped == data else stripped


def _read_orientation(data: bytes) -> int | None:
    """Return the orientation by which the decoder turns an image; None if it does not."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        orientation = image.getexif().get(ExifTags.Base.Orientation)
        if orientation is None or orientation not in TURNED:
            return None
        return int(orientation)
    except Exception as error:
        # Metadata may be damaged in any way. The decoder then does not turn the image either.
        if isinstance(error, MemoryError) or LIMIT_OF_METADATA in str(error):
            raise
        return None


def _write_exif(orientation: int) -> bytes:
    return EXIF.pack(EXIF_HEADER, 1, ExifTags.Base.Orientation, SHORT, 1, orientation, 0, 0)


def _strip_jpeg(data: bytes) -> bytes:
    kept = [JPEG_START]
    has_exif = False
    is_scanned = False
    segments = list(jpeg_segments(data, len(data)))
    ends = [position - 2 for _, position in segments[1:]] + [len(data)]
    for (marker, position), next_marker in zip(segments, ends, strict=False):
        end = position + int.from_bytes(data[position : position + 2], "big")
        content = data[position + 2 : end]
        if marker == SCAN:
            is_scanned = True
            # The coded pixels follow, up to the next marker.
            kept.append(_segment(marker, content) + data[end:next_marker])
        elif marker in FRAME_HEADERS or marker in TABLES:
            kept.append(_segment(marker, content))
        elif marker == END:
            kept.append(bytes((0xFF, END)))
        elif not is_scanned and (colours := _kept_of_application(marker, content)):
            kept.append(_segment(marker, colours))
        has_exif |= marker == APP1
    if has_exif and (orientation := _read_orientation(data)):
        exif = _segment(APP1, b"Exif\0\0" + _write_exif(orientation))
        is_behind_jfif = len(kept) > 1 and kept[1][1] == APP0
        kept.insert(2 if is_behind_jfif else 1, exif)
    return b"".join(kept)


def _kept_of_application(marker: int, content: bytes) -> bytes:
    """Return what an application's segment says about colours; empty if it says nothing."""
    if marker == APP0 and content.startswith(JFIF) and len(content) >= JFIF_BYTES + 2:
        return content[:JFIF_BYTES] + b"\0\0"
    if marker == APP2 and content.startswith(PROFILE):
        return content
    if marker == APP14 and content.startswith(ADOBE):
        return content[:ADOBE_BYTES]
    return b""


def _segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def _strip_png(data: bytes) -> bytes:
    chunks = list(_png_chunks(data))
    others = [chunk for kind, chunk in chunks if kind not in PNG_KEPT or kind == b"iCCP"]
    kept = [(kind, chunk) for kind, chunk in chunks if _is_kept_in_png(kind, chunk)]
    orientation = None
    if len(kept) < len(chunks):
        try:
            orientation = _read_orientation(_png_with(others))
        except ValueError:
            # The decoder leaves out texts and profiles that unpack to too much.
            kept = [(kind, chunk) for kind, chunk in kept if kind not in METADATA]
            left = [chunk for kind, chunk in chunks if kind not in (*PNG_KEPT, *METADATA)]
            orientation = _read_orientation(_png_with(left))
    stripped = [PNG, *(chunk for _, chunk in kept)]
    if orientation is not None:
        # The header comes first.
        stripped.insert(2, _png_chunk(b"eXIf", _write_exif(orientation)))
    return b"".join(stripped)


def _is_kept_in_png(kind: bytes, chunk: bytes) -> bool:
    most = PNG_KEPT.get(kind, -1)
    return most is None or len(chunk) - 12 <= most


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the kind of each chunk up to the end of the image, and the whole chunk."""
    position = len(PNG)
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + length + 12
        if kind == b"IEND":
            yield kind, _png_chunk(kind, b"")
            return
        yield kind, data[position:end]
        position = end


def _png_with(chunks: list[bytes]) -> bytes:
    header = _png_chunk(b"IHDR", PIXEL_HEADER)
    pixel = (_png_chunk(b"IDAT", PIXEL), _png_chunk(b"IEND", b""))
    return b"".join((PNG, header, *chunks, *pixel))


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def _strip_webp(data: bytes) -> bytes:
    size = int.from_bytes(data[4:8], "little")
    chunks = list(_webp_chunks(data[12 : 8 + size]))
    kept = [(kind, content) for kind, content in chunks if kind in WEBP_KEPT]
    orientation = None
    if len(kept) < len(chunks):
        orientation = _read_orientation(data)
    if orientation is not None:
        kept.append((b"EXIF", _write_exif(orientation)))
    body = b"".join(
        _webp_chunk(kind, _kept_of_webp(kind, content, orientation is not None))
        for kind, content in kept
    )
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def _kept_of_webp(kind: bytes, content: bytes, has_exif: bool) -> bytes:
    if kind == b"VP8X" and content:
        flags = content[0] & WEBP_FLAGS | (WEBP_HAS_EXIF if has_exif else 0)
        return bytes((flags,)) + content[1:WEBP_EXTENDED_BYTES]
    if kind == b"ANMF":
        frame = _webp_chunks(content[WEBP_FRAME_BYTES:])
        return content[:WEBP_FRAME_BYTES] + b"".join(
            _webp_chunk(part, pixels) for part, pixels in frame if part in WEBP_FRAME_KEPT
        )
    return content


def _webp_chunks(body: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the kind and the content of each chunk."""
    position = 0
    while position + 8 <= len(body):
        kind, size = struct.unpack_from("<4sI", body, position)
        yield kind, body[position + 8 : position + 8 + size]
        position += 8 + size + size % 2


def _webp_chunk(kind: bytes, content: bytes) -> bytes:
    return kind + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)


def _find_end_of_bmp(data: bytes) -> int:
    """Return where the pixels of a BMP end; the length of the file if it does not tell."""
    header = data[:54].ljust(54, b"\0")
    start, size = struct.unpack_from("<II", header, 10)
    if size == BMP_OLDEST_HEADER:
        width, height, _, bits = struct.unpack_from("<HHHH", header, 18)
        compression = 0
    else:
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", header, 18)
    if compression not in BMP_UNCOMPRESSED:
        return len(data)
    bytes_of_row = (abs(width) * bits + 31) // 32 * 4
    return int(start + bytes_of_row * abs(height))
