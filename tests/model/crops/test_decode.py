"""Decoding: every crop comes out as upright RGB, every bad file as a problem with a stable code."""

import re
import resource
import struct
import sys
import threading
import warnings

import numpy as np
import pytest
from PIL import Image, ImageCms

from model.crops.decode import (
    CropLimits,
    CropProblem,
    announced_pixels,
    decode_crop,
    decode_photo,
)
from tests.hostile.pngs import announcing
from tests.outside import encoded, run_command

# Outside a test run the decoder silences these; pytest sets the filters again for every test.
pytestmark = pytest.mark.filterwarnings(r"ignore:::PIL\.")

HEIGHT = 48
WIDTH = 24


def noise(height=HEIGHT, width=WIDTH):
    """Coarse noise, so that every part of the encoded file carries some of the picture."""
    blocks = np.random.default_rng(7).integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(blocks.repeat(8, axis=0).repeat(8, axis=1))


def code_of(data):
    with pytest.raises(CropProblem) as caught:
        decode_crop(data)
    return caught.value.code


def pixels_of(data):
    return np.asarray(decode_crop(data))


def mean_of(pixels):
    return [round(float(value)) for value in pixels.mean(axis=(0, 1))]


@pytest.mark.parametrize("image_format", ["PNG", "BMP"])
def test_a_lossless_crop_decodes_to_exactly_its_pixels(image_format):
    image = noise()
    pixels = pixels_of(encoded(image, image_format))
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, np.asarray(image))


@pytest.mark.parametrize("image_format", ["JPEG", "WEBP"])
def test_a_lossy_crop_decodes_close_to_its_pixels(image_format):
    image = noise()
    pixels = pixels_of(encoded(image, image_format, quality=95))
    assert pixels.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(pixels.astype(float) - np.asarray(image)).mean() < 25


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_a_file_that_a_decoded_picture_is_saved_to_has_no_metadata(image_format):
    exif = Image.Exif()
    exif[0x8298] = "by Ann"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    metadata = {"exif": exif, "icc_profile": profile, "comment": b"by Ann", "dpi": (300, 300)}
    picture = decode_crop(encoded(noise(), image_format, **metadata))
    bare = Image.fromarray(np.asarray(picture))
    for saved_format in ("JPEG", "PNG"):
        assert encoded(picture, saved_format) == encoded(bare, saved_format)


@pytest.mark.parametrize(
    ("detail_pixels", "size"), [(2_000_000, (1600, 1200)), (400_000, (800, 600)), (1, (200, 150))]
)
def test_a_large_jpeg_is_decoded_at_the_smallest_size_with_the_detail(detail_pixels, size):
    whole = noise(1200, 1600)
    photo = decode_photo(encoded(whole, "JPEG", quality=95), detail_pixels)
    assert (photo.picture.size, photo.width, photo.height) == (size, 1600, 1200)
    reduced = np.asarray(whole.resize(size, Image.Resampling.BOX), float)
    assert np.abs(np.asarray(photo.picture) - reduced).mean() < 25


def test_a_reduced_jpeg_on_its_side_has_the_width_and_height_that_it_shows():
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = decode_photo(encoded(noise(800, 1200), "JPEG", exif=exif), 800 * 1200 // 4)
    assert (photo.picture.size, photo.width, photo.height) == ((400, 600), 800, 1200)


@pytest.mark.parametrize("image_format", ["PNG", "WEBP", "BMP"])
def test_a_photo_of_another_format_keeps_all_its_pixels(image_format):
    image = noise(480, 640)
    photo = decode_photo(encoded(image, image_format, quality=95), 1)
    assert photo.picture.size == (photo.width, photo.height) == image.size


def test_the_limit_of_pixels_is_that_of_the_whole_photo():
    file = encoded(noise(480, 640), "JPEG")
    with pytest.raises(CropProblem, match="640×480 pixels, over the limit of 300,000"):
        decode_photo(file, 1, CropLimits(max_pixels=300_000))


@pytest.mark.parametrize("side", [4_100, 60_000, 2**31 - 1])
def test_a_decompression_bomb_is_refused_without_allocating_its_pixels(side):
    peak_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(CropProblem, match="16,000,000; send the person's crop") as caught:
            decode_crop(announcing(side, side))
    assert caught.value.code == "too_many_pixels"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak_before < 20_000  # KiB


@pytest.mark.parametrize(
    ("image_format", "options", "spare"),
    [
        ("JPEG", {}, 0),
        ("JPEG", {"progressive": True}, 0),
        # The checksum of a PNG's end tells nothing of the picture.
        ("PNG", {}, 4),
        ("WEBP", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("BMP", {}, 0),
    ],
)
def test_a_file_cut_at_any_length_is_refused(image_format, options, spare):
    data = encoded(noise(), image_format, **options)
    codes = {code_of(data[:length]) for length in range(1, len(data) - spare)}
    assert codes <= {"truncated", "not_an_image"}
    assert code_of(data[: len(data) // 2]) == "truncated"


@pytest.mark.parametrize("brand", [b"heic", b"mif1", b"avif"])
def test_a_photo_of_a_phone_in_another_format_is_refused_with_what_its_owner_can_do(brand):
    with pytest.raises(CropProblem, match="convert the file to JPEG: a screenshot") as refused:
        decode_crop(b"\0\0\0\x18ftyp" + brand + bytes(200))
    assert refused.value.code == "not_an_image"


def test_a_bmp_of_runs_which_python_would_read_is_refused():
    data = bytearray(encoded(noise().quantize(8), "BMP"))
    # The kind of compression: 1 and 2 are runs of 8 and of 4 bits.
    for kind in (1, 2):
        data[28] = 8 // kind
        data[30] = kind
        assert code_of(bytes(data)) == "unsupported"


@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
def test_a_file_whose_rest_was_never_written_is_refused(image_format):
    data = encoded(noise(), image_format)
    half = len(data) * 2 // 3
    assert code_of(data[:half] + bytes(len(data) - half)) == "truncated"


def test_a_cmyk_jpeg_becomes_rgb():
    red = Image.new("RGB", (16, 32), (200, 30, 30)).convert("CMYK")
    pixels = pixels_of(encoded(red, "JPEG", quality=95))
    assert mean_of(pixels) == pytest.approx([200, 30, 30], abs=6)


def test_sixteen_bit_grey_is_scaled_to_eight_bits():
    ramp = np.linspace(0, 65_535, 32 * 16).reshape(32, 16).astype(np.uint16)
    pixels = pixels_of(encoded(Image.fromarray(ramp), "PNG"))
    assert pixels.shape == (32, 16, 3)
    assert np.array_equal(pixels[0, 0], [0, 0, 0])
    assert np.array_equal(pixels[-1, -1], [255, 255, 255])
    assert np.abs(pixels[:, :, 0].astype(int) - ramp / 257).max() <= 1


@pytest.mark.parametrize("mode", ["L", "1", "P"])
def test_grey_bilevel_and_palette_images_become_rgb(mode):
    image = noise().convert(mode)
    pixels = pixels_of(encoded(image, "PNG"))
    assert np.array_equal(pixels, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("image_format", ["PNG", "WEBP"])
def test_of_an_animated_image_the_first_frame_counts(image_format):
    first = Image.new("RGB", (16, 32), "red")
    second = Image.new("RGB", (16, 32), "blue")
    data = encoded(first, image_format, save_all=True, append_images=[second], lossless=True)
    pixels = pixels_of(data)
    assert mean_of(pixels) == pytest.approx([255, 0, 0], abs=4)


def test_a_transparent_palette_entry_is_laid_over_white():
    image = Image.new("P", (16, 32), 0)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.paste(1, (0, 0, 16, 16))
    pixels = pixels_of(encoded(image, "PNG", transparency=b"\x00\xff"))
    assert np.array_equal(pixels[0, 0], [0, 0, 255])
    assert np.array_equal(pixels[-1, 0], [255, 255, 255])


def see_through(image_format, **options):
    """Return an image that is transparent everywhere, with colours behind it."""
    image = noise().convert("RGBA")
    image.putalpha(0)
    return encoded(image, image_format, **options)


TRANSPARENT = {
    "PNG": see_through("PNG"),
    "WebP": see_through("WEBP", lossless=True, exact=True),
    "grey with alpha": encoded(Image.new("LA", (16, 32), (90, 0)), "PNG"),
    "a palette": encoded(noise().quantize(8), "PNG", transparency=bytes(8)),
    "one colour": encoded(Image.new("RGB", (16, 32), (1, 2, 3)), "PNG", transparency=(1, 2, 3)),
    "grey of 16 bits": encoded(
        Image.fromarray(np.full((32, 16), 700, np.uint16)), "PNG", transparency=700
    ),
}


@pytest.mark.parametrize("data", TRANSPARENT.values(), ids=TRANSPARENT)
def test_an_image_in_which_nothing_can_be_seen_is_refused_with_the_remedy(data):
    with pytest.raises(CropProblem, match=r"the image is wholly transparent.*; save it") as caught:
        decode_crop(data)
    assert caught.value.code == "transparent"


@pytest.mark.parametrize("image_format", ["PNG", "WEBP"])
def test_of_an_animated_image_the_first_frame_has_to_be_visible(image_format):
    clear = Image.new("RGBA", (16, 32), (9, 9, 9, 0))
    red = Image.new("RGBA", (16, 32), "red")
    options = {"save_all": True, "lossless": True}
    with pytest.raises(CropProblem, match="the first frame is wholly transparent"):
        decode_crop(encoded(clear, image_format, append_images=[red], **options))
    pixels = pixels_of(encoded(red, image_format, append_images=[clear], **options))
    assert mean_of(pixels) == pytest.approx([255, 0, 0], abs=4)


def bmp_with_masks(pixels, bits, masks):
    """Return a BMP whose header gives the bits of red, green, blue and alpha."""
    height, width = pixels.shape[:2]
    data = pixels[::-1].tobytes()
    head = struct.pack("<IiiHHIIiiII", 124, width, height, 1, bits, 3, len(data), 0, 0, 0, 0)
    head = (head + struct.pack("<IIII", *masks)).ljust(124, b"\0")
    return b"BM" + struct.pack("<IHHI", 138 + len(data), 0, 0, 138) + head + data


def test_a_bmp_with_nothing_in_its_alpha_is_read_without_it():
    rgb = np.asarray(noise())
    bgra = np.dstack([rgb[:, :, ::-1], np.zeros((HEIGHT, WIDTH), np.uint8)])
    masks = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    assert np.array_equal(decode_crop(bmp_with_masks(bgra, 32, masks)), rgb)
    # As soon as anything is visible, the rest is transparent.
    bgra[0, 0, 3] = 255
    pixels = pixels_of(bmp_with_masks(bgra, 32, masks))
    assert np.array_equal(pixels[0, 0], rgb[0, 0])
    assert pixels[1:].min() == 255


def test_a_bmp_of_16_bits_is_read_without_its_bit_of_alpha():
    red = np.full((HEIGHT, WIDTH), 0x7C00, np.uint16)
    pixels = pixels_of(bmp_with_masks(red, 16, (0x7C00, 0x3E0, 0x1F, 0x8000)))
    assert mean_of(pixels) == [255, 0, 0]


def test_one_colour_of_grey_in_16_bits_is_laid_over_white():
    grey = np.full((32, 16), 3 * 257, np.uint16)
    grey[:16] = 0
    pixels = pixels_of(encoded(Image.fromarray(grey), "PNG", transparency=0))
    assert pixels[:16].min() == 255
    assert pixels[16:].max() == 3


def with_frame(**changes):
    """Return a JPEG with bytes of its frame header changed."""
    data = bytearray(encoded(noise(), "JPEG"))
    start = data.index(b"\xff\xc0") + 1
    places = {"process": start, "bits": start + 3, "height": start + 5, "colours": start + 8}
    for name, value in changes.items():
        data[places[name]] = value
    return bytes(data)


def bmp_with(place, value):
    data = bytearray(encoded(noise(), "BMP"))
    data[place] = value
    return bytes(data)


UNSUPPORTED = {
    "12 bits": with_frame(bits=12),
    "lossless": with_frame(process=0xC3),
    "hierarchical": with_frame(process=0xC5),
    "JPEG-LS": with_frame(process=0xF7),
    "2 colours": with_frame(colours=2),
    "height": with_frame(height=0),
    "layout": bmp_with_masks(np.zeros((16, 16), np.uint16), 16, (0xF00, 0xF0, 0xF, 0xF000)),
    "compression (5)": bmp_with(30, 5),
    "depth (64)": bmp_with(28, 64),
}


@pytest.mark.parametrize(("kind", "data"), UNSUPPORTED.items(), ids=UNSUPPORTED)
def test_an_image_of_a_kind_that_no_decoder_knows_is_not_called_damaged(kind, data):
    with pytest.raises(CropProblem, match=re.escape(kind)) as caught:
        decode_crop(data)
    assert caught.value.code == "unsupported"
    assert "; save it as an ordinary JPEG or PNG" in caught.value.detail
    assert "damaged" not in caught.value.detail


def test_a_thumbnail_in_front_does_not_hide_that_the_crop_is_cut():
    data = encoded(noise(64, 64), "JPEG", quality=95)
    thumbnail = encoded(noise(), "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    whole = data[:2] + segment + data[2:]
    assert decode_crop(whole).size == (64, 64)
    assert code_of(whole[:-200] + bytes(200)) == "truncated"


def test_decoding_in_many_threads_leaves_the_warning_filters_alone():
    before = list(warnings.filters)
    data = encoded(noise(), "JPEG")
    threads = [
        threading.Thread(target=lambda: [decode_crop(data) for _ in range(50)]) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("JPEG", {"progressive": True, "exif": b"Exif\0\0" + b"x" * 500}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"exif": b"Exif\0\0abc"}),
        ("BMP", {}),
    ],
)
def test_the_size_of_a_picture_is_read_from_its_header(kind, options):
    data = encoded(Image.new("RGB", (301, 47)), kind, **options)
    assert announced_pixels(data) == 301 * 47
    for no_image in (data[:10], b"", b"no image"):
        assert not announced_pixels(no_image)


def test_a_jpeg_whose_header_is_hidden_is_not_taken_for_a_small_one():
    data = encoded(Image.new("RGB", (300, 200)), "JPEG")
    assert announced_pixels(data[:3] + b"x" * 5_000 + data[2:]) is None


def test_a_jpeg_whose_header_comes_late_is_priced_like_a_large_one_and_decoded():
    data = encoded(noise(), "JPEG")
    late = data[:2] + b"\xff\xe0\0\2" * 1_900 + data[2:]
    assert announced_pixels(late) is None
    assert decode_crop(late).size == (WIDTH, HEIGHT)


def test_a_png_with_many_colour_profiles_is_refused():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = encoded(noise(), "PNG", icc_profile=profile)
    place = data.index(b"iCCP") - 4
    chunk = data[place : place + 12 + int.from_bytes(data[place : place + 4], "big")]
    assert decode_crop(data).size == (WIDTH, HEIGHT)
    assert code_of(data[:place] + chunk * 4 + data[place:]) == "too_many_parts"


def test_a_transparent_picture_is_laid_over_white_in_strips_as_in_one_piece():
    pixels = np.random.default_rng(0).integers(0, 255, (700, 60, 4), dtype=np.uint8)
    image = Image.fromarray(pixels, "RGBA")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    expected = np.asarray(Image.alpha_composite(white, image).convert("RGB"))
    assert np.array_equal(decode_crop(encoded(image, "PNG")), expected)


LITTLE_MEMORY = """
import resource
import sys
from pathlib import Path
from model.crops.decode import CropProblem, decode_crop

files = [Path(name).read_bytes() for name in sys.argv[1:]]
small = decode_crop(files[0])
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 30_000_000, used + 30_000_000))
for file in files:
    try:
        decode_crop(file)
        print("decoded")
    except CropProblem as problem:
        print(problem.code)
    except MemoryError:
        print("MemoryError")
"""


def test_with_too_little_memory_a_large_file_is_not_called_damaged(tmp_path):
    large = Image.effect_noise((3_900, 3_900), 40).convert("RGB")
    small = encoded(noise(), "JPEG")
    contents = {
        "small": small,
        "JPEG": encoded(large, "JPEG", quality=20),
        "progressive": encoded(large, "JPEG", quality=20, progressive=True),
        "PNG": encoded(large.resize((1_300, 1_300)).resize((3_900, 3_900), 0), "PNG"),
        "WebP": encoded(large, "WEBP", quality=1, method=0),
        "damaged": small[:-200] + bytes(200),
        "no image": b"this is no image",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    paths = [tmp_path / name for name in contents]
    ran = run_command(sys.executable, "-c", LITTLE_MEMORY, *paths, check=True)
    assert ran.stdout.split() == ["decoded", *["MemoryError"] * 4, "truncated", "not_an_image"]
