"""Every hostile image, over a thousand of them, the same for the same seed."""

import numpy as np
from PIL import Image

from tests.hostile.foreign import foreign_files, pixel_bombs, polyglots
from tests.hostile.jpegs import hostile_jpegs
from tests.hostile.pictures import HostileFile, drawn, in_every_format
from tests.hostile.pngs import hostile_pngs
from tests.outside import encoded

FLIPS_PER_FORMAT = 80
STORED_AS = {  # how a camera that turned so stores the same scene
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def hostile_images(seed):
    return [
        *odd_but_right(),
        *turned(),
        *cut(),
        *flipped(seed),
        *hostile_jpegs(),
        *hostile_pngs(),
        *foreign_files(),
        *polyglots(),
        *pixel_bombs(),
    ]


def odd_but_right():
    image = drawn()
    clear = image.convert("RGBA")
    clear.putalpha(128)
    grey = np.linspace(0, 65_535, 96 * 48).reshape(96, 48).astype(np.uint16)
    yield HostileFile("CMYK", encoded(image.convert("CMYK"), "JPEG"), True)
    yield HostileFile("grey JPEG", encoded(image.convert("L"), "JPEG"), True)
    yield HostileFile("16 bits of grey", encoded(Image.fromarray(grey), "PNG"), True)
    for mode in ("1", "L", "LA", "P", "RGBA"):
        yield HostileFile(f"{mode} as PNG", encoded(clear.convert(mode), "PNG"), True)
    for mode in ("1", "L", "P", "RGBA"):
        yield HostileFile(f"{mode} as BMP", encoded(clear.convert(mode), "BMP"), True)
    seen_through = encoded(image.quantize(8), "PNG", transparency=bytes([0, 128, 255]))
    yield HostileFile("a palette that is seen through", seen_through, True)
    key = encoded(image, "PNG", transparency=(112, 112, 112))
    yield HostileFile("one colour that is seen through", key, True)
    for image_format in ("PNG", "WEBP"):
        frames = encoded(image, image_format, save_all=True, append_images=[drawn(1)] * 5)
        yield HostileFile(f"animated {image_format}", frames, True)
        yield HostileFile(f"{image_format} seen through", encoded(clear, image_format), True)
    yield HostileFile("no bytes", b"", False)
    for image_format in ("JPEG", "PNG", "WEBP", "BMP"):
        for size in ((1, 1), (1, 500), (500, 1), (7, 7)):
            small = encoded(Image.new("RGB", size), image_format)
            yield HostileFile(f"{image_format} of {size[0]}x{size[1]}", small, False)


def turned():
    """Yield the drawn person as a camera stores it that was held in each of eight ways."""
    for orientation, transpose in STORED_AS.items():
        stored = drawn() if transpose is None else drawn().transpose(transpose)
        exif = Image.Exif()
        exif[0x0112] = orientation
        for image_format in ("JPEG", "PNG", "WEBP"):
            data = encoded(stored, image_format, exif=exif, quality=95)
            yield HostileFile(f"{image_format} turned by {orientation}", data, True)


def cut():
    """Yield every format at each 5 %, as it is and with zeros in place of the missing part."""
    for name, data in in_every_format().items():
        for percent in range(5, 100, 5):
            length = len(data) * percent // 100
            yield HostileFile(f"{name} cut at {percent} %", data[:length], False)
        if name != "bmp":  # which has nothing by which to tell
            for percent in (30, 60, 90):
                length = len(data) * percent // 100
                padded = data[:length] + bytes(len(data) - length)
                yield HostileFile(f"{name} unwritten from {percent} % on", padded, None)


def flipped(seed):
    """Yield every format with 1 to 30 changed bits, half of the times in its first 200 bytes."""
    random = np.random.default_rng(seed)
    for name, data in in_every_format().items():
        for number in range(FLIPS_PER_FORMAT):
            changed = bytearray(data)
            reach = 200 if number % 2 else len(data)
            for position in random.integers(0, reach, size=random.integers(1, 31)):
                changed[position] ^= 1 << random.integers(0, 8)
            yield HostileFile(f"{name} with bits changed, {number}", bytes(changed), None)
