"""Files of other kinds under an image's name, files that are two things, and pixel bombs."""

import io
import struct
import zipfile

from tests.hostile import jpegs, pngs
from tests.hostile.pictures import HostileFile, drawn
from tests.outside import encoded

HEIF = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)
FITS = b"SIMPLE  =                    T".ljust(80) + b"NAXIS   =                    2".ljust(80)
PSD = b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 50_000, 50_000, 8, 3) + bytes(100)
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50000 50000\n%%EndComments\n"
SVG = (
    b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "cc">]><svg xmlns="http://www.w3.org/2000/svg"/>'
)
TGA = b"\0\0\2" + bytes(9) + struct.pack("<HHBB", 50_000, 50_000, 24, 0) + bytes(100)
FOREIGN = {
    "HEIF": HEIF,
    "FITS": FITS + bytes(2880),
    "PSD": PSD,
    "EPS": EPS,
    "SVG": SVG,
    "TGA": TGA,
    "PDF": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n<< /Type /Catalog >>\nendobj\n%%EOF\n",
    "HTML": b"<!doctype html><script>alert(1)</script>",
    "a program": b"\x7fELF\2\1\1" + bytes(200),
    "text": "0042,east\n".encode("utf-16"),
}
WRITTEN = ("GIF", "TIFF", "ICO", "TGA", "PPM", "PCX", "DDS", "ICNS")


def foreign_files():
    for name, data in FOREIGN.items():
        yield HostileFile(name, data, False)
    for image_format in WRITTEN:
        yield HostileFile(f"a whole {image_format}", encoded(drawn(), image_format), False)


def polyglots():
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("run.class", b"\xca\xfe\xba\xbe")
    page = b"<script>alert(document.cookie)</script>"
    jpeg = encoded(drawn(), "JPEG")
    png = encoded(drawn(), "PNG")
    yield HostileFile("JPEG and zip", jpeg + archive.getvalue(), True)
    yield HostileFile("PNG and zip", png + archive.getvalue(), True)
    yield HostileFile("BMP and zip", encoded(drawn(), "BMP") + archive.getvalue(), True)
    yield HostileFile("WebP and zip", encoded(drawn(), "WEBP") + archive.getvalue(), None)
    yield HostileFile("GIF and zip", encoded(drawn(), "GIF") + archive.getvalue(), False)
    commented = jpegs.with_segments(jpeg, jpegs.segment(0xFE, page))
    yield HostileFile("a page in a JPEG", commented, True)
    first, *rest = pngs.parts(png)
    yield HostileFile("a page in a PNG", pngs.png([first, (b"tEXt", b"a\0" + page), *rest]), True)
    yield HostileFile("a page before a JPEG", page + jpeg, False)
    yield HostileFile("PDF before a PNG", FOREIGN["PDF"] + png, False)
    yield HostileFile("PNG's name before a JPEG", pngs.SIGNATURE + jpeg, False)
    yield HostileFile("JPEG after JPEG", jpeg + jpeg, True)


def pixel_bombs():
    for side in (4_100, 16_383, 50_000):
        yield HostileFile(f"PNG of {side:,} pixels a side", pngs.announcing(side, side), False)
        yield HostileFile(f"JPEG of {side:,}", jpegs.announcing(side, side), False)
        yield HostileFile(f"BMP of {side:,}", _bmp(side), False)
        yield HostileFile(f"WebP of {side:,}", _webp(side), False)
    yield HostileFile("PNG of 2 thousand million", pngs.announcing(2**31 - 1, 2**31 - 1), False)
    yield HostileFile("PNG of 0 pixels", pngs.announcing(0, 96), False)
    yield HostileFile("JPEG of 0 pixels", jpegs.announcing(0, 0), False)
    yield HostileFile("a line of 65,535 pixels", jpegs.announcing(65_535, 1), False)
    yield HostileFile("BMP of less than no height", _bmp(-(2**31)), False)


def _bmp(side):
    data = bytearray(encoded(drawn(), "BMP"))
    data[18:26] = struct.pack("<ii", abs(side) & 0x7FFFFFFF, side)
    return bytes(data)


def _webp(side):
    """Animated, so that its canvas is announced apart from its pictures."""
    frames = [drawn(1), drawn(2)]
    data = bytearray(encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:]))
    at = data.index(b"VP8X") + 12
    data[at : at + 6] = (side - 1).to_bytes(3, "little") * 2
    return bytes(data)
