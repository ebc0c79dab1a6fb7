"""The images that cost most within the limits, decoded one by one; a line of JSON for each.

By itself, so that the peak of the memory is this alone: python -m tests.hostile.costly_images
"""

import struct

from PIL import Image

from model.crops.decode import CropProblem, decode_crop
from tests.hostile.jpegs import segment, with_scans, with_segments
from tests.hostile.measuring import print_cost
from tests.hostile.pictures import drawn
from tests.hostile.pngs import chunk
from tests.outside import encoded

SIDE = 4_000


def costly_images():
    wide = drawn().resize((SIDE, SIDE))
    yield "JPEG of 60 scans", with_scans(wide.convert("L"), 50)
    yield "JPEG of 1,000 scans", with_scans(Image.new("L", wide.size), 1_000)
    yield "JPEG of 2,500,000 segments", with_segments(encoded(drawn(), "JPEG"), EMPTY * 2_500_000)
    png = encoded(drawn(), "PNG")
    yield "PNG of 800,000 chunks", png[:33] + chunk(b"teSt", b"") * 800_000 + png[33:]
    yield "PNG of 16 bits", encoded(Image.new("I;16", (SIDE, SIDE)), "PNG")
    yield "PNG seen through", encoded(wide.convert("RGBA"), "PNG", compress_level=1)
    yield "WebP without loss", encoded(wide, "WEBP", lossless=True, method=0, quality=0)
    yield "BMP of 5,000,000 runs", bmp_of_runs()


EMPTY = segment(0xE5, b"")


def bmp_of_runs():
    """Run-length encoded, every run one pixel long: Pillow reads this in Python for seconds."""
    palette = bytes(1024)
    runs = b"\1\5" * 5_200_000
    at = 14 + 40 + len(palette)
    start = b"BM" + struct.pack("<IHHI", at + len(runs), 0, 0, at)
    size = struct.pack("<IiiHHIIiiII", 40, SIDE, SIDE, 1, 8, 1, len(runs), 0, 0, 256, 0)
    return start + size + palette + runs


def main():
    for name, data in costly_images():
        print_cost(name, len(data), lambda: _outcome(data))  # noqa: B023


def _outcome(data):
    try:
        return str(decode_crop(data).size)
    except CropProblem as problem:
        return problem.code


if __name__ == "__main__":
    main()
