"""Decoding: every crop comes out as upright RGB, every bad file as a problem with a stable code."""

import resource
import struct
import threading
import warnings

import numpy as np
import pytest
from PIL import Image, ImageCms

from model.crops.decode import CropProblem, announced_pixels, decode_crop
from tests.hostile.pngs import announcing
from tests.outside import encoded

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


def mean_of(pixels):
    return [round(float(value)) for value in pixels.mean(axis=(0, 1))]


@pytest.mark.parametrize("image_format", ["PNG", "BMP"])
def test_a_lossless_crop_decodes_to_exactly_its_pixels(image_format):
    image = noise()
    pixels = decode_crop(encoded(image, image_format))
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, np.asarray(image))


@pytest.mark.parametrize("image_format", ["JPEG", "WEBP"])
def test_a_lossy_crop_decodes_close_to_its_pixels(image_format):
    image = noise()
    pixels = decode_crop(encoded(image, image_format, quality=95))
    assert pixels.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(pixels.astype(float) - np.asarray(image)).mean() < 25


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


def test_a_bmp_of_runs_which_python_would_read_is_refused():
    data = bytearray(encoded(noise().quantize(8), "BMP"))
    # The kind of compression: 1 and 2 are runs of 8 and of 4 bits.
    for kind in (1, 2):
        data[28] = 8 // kind
        data[30] = kind
        assert code_of(bytes(data)) == "not_an_image"


@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
def test_a_file_whose_rest_was_never_written_is_refused(image_format):
    data = encoded(noise(), image_format)
    half = len(data) * 2 // 3
    assert code_of(data[:half] + bytes(len(data) - half)) == "truncated"


def test_a_cmyk_jpeg_becomes_rgb():
    red = Image.new("RGB", (16, 32), (200, 30, 30)).convert("CMYK")
    pixels = decode_crop(encoded(red, "JPEG", quality=95))
    assert mean_of(pixels) == pytest.approx([200, 30, 30], abs=6)


def test_sixteen_bit_grey_is_scaled_to_eight_bits():
    ramp = np.linspace(0, 65_535, 32 * 16).reshape(32, 16).astype(np.uint16)
    pixels = decode_crop(encoded(Image.fromarray(ramp), "PNG"))
    assert pixels.shape == (32, 16, 3)
    assert np.array_equal(pixels[0, 0], [0, 0, 0])
    assert np.array_equal(pixels[-1, -1], [255, 255, 255])
    assert np.abs(pixels[:, :, 0].astype(int) - ramp / 257).max() <= 1


@pytest.mark.parametrize("mode", ["L", "1", "P"])
def test_grey_bilevel_and_palette_images_become_rgb(mode):
    image = noise().convert(mode)
    pixels = decode_crop(encoded(image, "PNG"))
    assert np.array_equal(pixels, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("image_format", ["PNG", "WEBP"])
def test_of_an_animated_image_the_first_frame_counts(image_format):
    first = Image.new("RGB", (16, 32), "red")
    second = Image.new("RGB", (16, 32), "blue")
    data = encoded(first, image_format, save_all=True, append_images=[second], lossless=True)
    pixels = decode_crop(data)
    assert mean_of(pixels) == pytest.approx([255, 0, 0], abs=4)


def test_a_transparent_palette_entry_is_laid_over_white():
    image = Image.new("P", (16, 32), 0)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.paste(1, (0, 0, 16, 16))
    pixels = decode_crop(encoded(image, "PNG", transparency=b"\x00\xff"))
    assert np.array_equal(pixels[0, 0], [0, 0, 255])
    assert np.array_equal(pixels[-1, 0], [255, 255, 255])


def test_a_thumbnail_in_front_does_not_hide_that_the_crop_is_cut():
    data = encoded(noise(64, 64), "JPEG", quality=95)
    thumbnail = encoded(noise(), "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    whole = data[:2] + segment + data[2:]
    assert decode_crop(whole).shape == (64, 64, 3)
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
    assert decode_crop(late).shape == (HEIGHT, WIDTH, 3)


def test_a_png_with_many_colour_profiles_is_refused():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = encoded(noise(), "PNG", icc_profile=profile)
    place = data.index(b"iCCP") - 4
    chunk = data[place : place + 12 + int.from_bytes(data[place : place + 4], "big")]
    assert decode_crop(data).shape == (HEIGHT, WIDTH, 3)
    assert code_of(data[:place] + chunk * 4 + data[place:]) == "too_many_parts"


def test_a_transparent_picture_is_laid_over_white_in_strips_as_in_one_piece():
    pixels = np.random.default_rng(0).integers(0, 255, (700, 60, 4), dtype=np.uint8)
    image = Image.fromarray(pixels, "RGBA")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    expected = np.asarray(Image.alpha_composite(white, image).convert("RGB"))
    assert np.array_equal(decode_crop(encoded(image, "PNG")), expected)
