"""Pictures with a colour profile: their colours are those of sRGB, and no profile refuses one."""

import random
import struct
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms

from model.crops.colour_profiles import MOST_PROFILE_BYTES
from model.crops.decode import decode_crop, decode_photo
from tests.outside import encoded

pytestmark = pytest.mark.promise("hostile-files")

WHITE_POINT = (0.9642, 1.0, 0.8249)
# The colours of red, green and blue in XYZ.
DISPLAY_P3 = ((0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189), (0.1571, 0.06657, 0.78407))
ADOBE_RGB = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def pixels_of(data):
    return np.asarray(decode_crop(data))


def fixed(*numbers):
    return b"".join(struct.pack(">i", round(number * 65536)) for number in numbers)


def profile(space, tags, kind=b"mntr", connection=b"XYZ "):
    """Return a profile of version 2 with some tags beside those that each has to have."""
    description = b"desc\0\0\0\0" + struct.pack(">I", 2) + b"P\0" + bytes(78)
    every = {
        b"desc": description,
        b"cprt": b"text\0\0\0\0-\0\0\0",
        b"wtpt": b"XYZ \0\0\0\0" + fixed(*WHITE_POINT),
        **tags,
    }
    place = 132 + 12 * len(every)
    table = struct.pack(">I", len(every))
    content = b""
    for name, tag in every.items():
        table += name + struct.pack(">II", place + len(content), len(tag))
        content += tag + bytes(-len(tag) % 4)
    header = struct.pack(
        ">I4sI4s4s4s12s4s", 0, b"", 0x02400000, kind, space, connection, bytes(12), b"acsp"
    )
    header += bytes(28) + fixed(*WHITE_POINT) + bytes(48)
    return struct.pack(">I", len(header) + len(table) + len(content)) + header[4:] + table + content


def curve(gamma):
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))


def of_primaries(primaries, gamma=2.2):
    colours = {
        name: b"XYZ \0\0\0\0" + fixed(*primary)
        for name, primary in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=True)
    }
    return profile(b"RGB ", {**colours, **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve(gamma))})


def of_ink():
    """Return a profile of a printer whose four inks take the lightness from white down to black."""
    steps = np.indices((2, 2, 2, 2)).reshape(4, -1).sum(axis=0) > 0
    lightness = np.where(steps, 0, 0xFF00)
    table = np.stack([lightness, np.full(16, 0x8000), np.full(16, 0x8000)], axis=-1)
    line = np.array([0, 0xFFFF], ">u2").tobytes()
    lookup = b"mft2\0\0\0\0" + bytes([4, 3, 2, 0]) + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    lookup += struct.pack(">HH", 2, 2) + line * 4 + table.astype(">u2").tobytes() + line * 3
    return profile(b"CMYK", {b"A2B0": lookup, b"A2B1": lookup}, b"prtr", b"Lab ")


P3 = of_primaries(DISPLAY_P3)
ADOBE = of_primaries(ADOBE_RGB)


def plain(colour, mode="RGB"):
    return Image.new(mode, (64, 128), colour)


def noise(mode="RGB"):
    shape = (128, 64) if mode == "L" else (128, 64, len(mode))
    return Image.fromarray(np.random.default_rng(3).integers(0, 255, shape, dtype=np.uint8), mode)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize(
    ("embedded", "stored", "right"),
    [
        (P3, (234, 51, 35), (255, 0, 0)),
        (P3, (117, 251, 76), (0, 255, 0)),
        (ADOBE, (144, 255, 60), (0, 255, 0)),
        (of_primaries(DISPLAY_P3, 1.0), (55, 55, 55), (128, 128, 128)),
        (ADOBE, (255, 255, 255), (255, 255, 255)),
        (ADOBE, (0, 0, 0), (0, 0, 0)),
    ],
)
def test_colours_of_a_profile_become_those_of_srgb(kind, embedded, stored, right):
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}
    data = encoded(plain(stored), kind, icc_profile=embedded, **options.get(kind, {}))
    assert np.abs(pixels_of(data)[64, 32].astype(int) - right).max() <= 14


def test_a_photo_that_is_decoded_at_a_reduced_size_has_the_same_colours():
    data = encoded(plain((117, 251, 76)).resize((640, 1280)), "JPEG", quality=95, icc_profile=P3)
    photo = decode_photo(data, 640 * 1280 // 64)
    assert photo.picture.size == (80, 160)
    assert np.abs(np.asarray(photo.picture)[80, 40].astype(int) - (0, 255, 0)).max() <= 14


def test_a_picture_on_its_side_is_turned_and_converted():
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    data = encoded(plain((117, 251, 76)), "JPEG", quality=95, icc_profile=P3, exif=exif)
    pixels = pixels_of(data)
    assert pixels.shape == (64, 128, 3)
    assert np.abs(pixels[32, 64].astype(int) - (0, 255, 0)).max() <= 14


def test_a_picture_with_the_profile_of_srgb_keeps_its_bits():
    alike = of_primaries(
        ((0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7139))
    )
    for mode, kind in (("RGB", "PNG"), ("RGB", "JPEG"), ("RGB", "WEBP"), ("RGBA", "PNG")):
        image = noise(mode)
        bare = decode_crop(encoded(image, kind))
        assert np.array_equal(decode_crop(encoded(image, kind, icc_profile=SRGB)), bare)
    # One with the same primaries and another curve is none of sRGB.
    other = pixels_of(encoded(noise(), "PNG", icc_profile=alike))
    assert np.abs(other.astype(int) - np.asarray(noise())).max() > 3


def test_transparent_and_palette_pictures_are_converted():
    for image in (plain((117, 251, 76, 255), "RGBA"), plain((117, 251, 76)).quantize(2)):
        pixels = pixels_of(encoded(image, "PNG", icc_profile=P3))
        assert np.abs(pixels[64, 32].astype(int) - (0, 255, 0)).max() <= 30


def test_a_grey_profile_is_of_grey_pictures():
    linear = profile(b"GRAY", {b"kTRC": curve(1.0)})
    pixels = pixels_of(encoded(plain(55, "L"), "PNG", icc_profile=linear))
    assert np.abs(pixels[64, 32].astype(int) - 128).max() <= 3
    deep = Image.fromarray(np.full((128, 64), 55 * 257, np.uint16))
    pixels = pixels_of(encoded(deep, "PNG", icc_profile=linear))
    assert np.abs(pixels[64, 32].astype(int) - 128).max() <= 3


def test_the_profile_of_a_printer_is_of_cmyk():
    data = encoded(plain((0, 0, 0, 0), "CMYK"), "JPEG", quality=95, icc_profile=of_ink())
    assert pixels_of(data)[64, 32].min() >= 250
    data = encoded(plain((128, 0, 0, 0), "CMYK"), "JPEG", quality=95, icc_profile=of_ink())
    # By the profile this is a grey, and cyan without it.
    assert np.ptp(pixels_of(data)[64, 32].astype(int)) <= 8
    assert np.ptp(pixels_of(encoded(plain((128, 0, 0, 0), "CMYK"), "JPEG"))[64, 32]) >= 100


def changed(content, place, text):
    return content[:place] + text + content[place + len(text) :]


UNUSABLE = {
    "nothing to read": b"x",
    "noise": bytes(range(256)) * 20,
    "the first half": P3[: len(P3) // 2],
    "another space": of_ink(),
    "a grey one": profile(b"GRAY", {b"kTRC": curve(1.0)}),
    "no signature": changed(P3, 36, b"abcd"),
    "a link of two devices": changed(P3, 12, b"link"),
    "named colours": changed(P3, 12, b"nmcl"),
    "a million tags": changed(P3, 128, struct.pack(">I", 1_000_000)),
    "101 tags": changed(P3 + bytes(2_000), 128, struct.pack(">I", 101)),
    "no colours": profile(b"RGB ", {}),
    "any number of steps": changed(P3, 132, b"D2B0"),
    "tags that lie outside": changed(P3, 172, struct.pack(">II", 2**31, 2**31)),
    "too large": P3 + bytes(MOST_PROFILE_BYTES),
}


@pytest.mark.parametrize("embedded", UNUSABLE.values(), ids=UNUSABLE)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_profile_that_cannot_be_used_is_ignored(kind, embedded):
    image = noise()
    data = encoded(image, kind, icc_profile=embedded)
    assert np.array_equal(decode_crop(data), decode_crop(encoded(image, kind)))


@pytest.mark.parametrize("kind", [b"iCCP", b"zTXt"])
def test_a_chunk_that_unpacks_to_megabytes_refuses_no_png(kind):
    image = noise()
    data = encoded(image, "PNG")
    content = b"name\0\0" + zlib.compress(bytes(50_000_000))
    chunk = struct.pack(">I", len(content)) + kind + content
    chunk += struct.pack(">I", zlib.crc32(kind + content))
    place = data.index(b"IDAT") - 4
    assert np.array_equal(decode_crop(data[:place] + chunk + data[place:]), np.asarray(image))


def test_damaged_profiles_refuse_no_picture():
    chance = random.Random(5)
    for embedded in (P3, SRGB, of_ink()):
        mode = "CMYK" if embedded[16:20] == b"CMYK" else "RGB"
        for _ in range(60):
            spoilt = bytearray(embedded)
            for _ in range(chance.randint(1, 5)):
                spoilt[chance.randrange(len(spoilt))] = chance.randrange(256)
            data = encoded(noise(mode), "JPEG", icc_profile=bytes(spoilt))
            assert decode_crop(data).size == (64, 128)
