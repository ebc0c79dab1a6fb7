"""Decoding: every crop comes out as upright RGB, every bad file as a problem with a stable code."""

from __future__ import annotations

import contextlib
import io
import resource
import struct
import threading
import warnings
import zlib

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from model.crops.decode import CropLimits, CropProblem, announced_pixels, decode_crop

# Outside a test run the decoder silences these; pytest sets the filters anew for every test.
pytestmark = pytest.mark.filterwarnings(r"ignore:::PIL\.")

HEIGHT = 48
WIDTH = 24


def noise(height: int = HEIGHT, width: int = WIDTH) -> Image.Image:
    """Coarse noise, so that every part of the encoded file carries some of the picture."""
    blocks = np.random.default_rng(7).integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(blocks.repeat(8, axis=0).repeat(8, axis=1))


def encoded(image: Image.Image, image_format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def png_that_announces(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def code_of(data: bytes, limits: CropLimits | None = None) -> str:
    with pytest.raises(CropProblem) as caught:
        decode_crop(data, limits)
    return caught.value.code


def mean_of(pixels: NDArray[np.uint8], rows: slice, columns: slice) -> list[int]:
    return [round(float(value)) for value in pixels[rows, columns].mean(axis=(0, 1))]


@pytest.mark.parametrize("image_format", ["PNG", "BMP"])
def test_a_lossless_crop_decodes_to_exactly_its_pixels(image_format: str) -> None:
    image = noise()
    pixels = decode_crop(encoded(image, image_format))
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, np.asarray(image))


@pytest.mark.parametrize("image_format", ["JPEG", "WEBP"])
def test_a_lossy_crop_decodes_close_to_its_pixels(image_format: str) -> None:
    image = noise()
    pixels = decode_crop(encoded(image, image_format, quality=95))
    assert pixels.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(pixels.astype(float) - np.asarray(image)).mean() < 25


def test_an_empty_file_is_refused() -> None:
    assert code_of(b"") == "empty"


@pytest.mark.parametrize(
    "data", [b"path,identity,camera\n", b"\x00" * 500, b"%PDF-1.7 ...", b"<svg/>", b"\xff"]
)
def test_what_is_no_image_is_refused(data: bytes) -> None:
    assert code_of(data) == "not_an_image"


@pytest.mark.parametrize("image_format", ["GIF", "TIFF", "ICO", "PPM"])
def test_other_image_formats_are_refused(image_format: str) -> None:
    assert code_of(encoded(noise(), image_format)) == "not_an_image"


def test_a_file_over_the_byte_limit_is_refused_before_it_is_decoded() -> None:
    assert code_of(b"x" * 1001, CropLimits(max_bytes=1000)) == "file_too_large"


@pytest.mark.parametrize("size", [(1, 1), (7, 40), (40, 7)])
def test_a_crop_with_a_tiny_side_is_refused(size: tuple[int, int]) -> None:
    assert code_of(encoded(Image.new("RGB", size), "PNG")) == "too_small"


@pytest.mark.parametrize("side", [pytest.param(4_100, id="just-over"), 10_000, 20_000, 2**31 - 1])
def test_a_decompression_bomb_is_refused_without_allocating_its_pixels(side: int) -> None:
    peak_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert code_of(png_that_announces(side, side)) == "too_many_pixels"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak_before < 20_000  # KiB


def test_a_bomb_is_refused_even_where_warnings_are_errors() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert code_of(png_that_announces(10_000, 10_000)) == "too_many_pixels"


@pytest.mark.parametrize(
    ("image_format", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("BMP", {}),
    ],
)
def test_a_file_cut_at_any_length_is_refused(image_format: str, options: dict[str, object]) -> None:
    data = encoded(noise(), image_format, **options)
    codes = {code_of(data[:length]) for length in range(1, len(data))}
    assert codes <= {"truncated", "not_an_image"}
    assert code_of(data[: len(data) // 2]) == "truncated"


def test_a_png_cut_at_any_length_is_refused_unless_only_its_last_checksum_is_gone() -> None:
    data = encoded(noise(), "PNG")
    for length in range(1, len(data) - 4):
        assert code_of(data[:length]) in ("truncated", "not_an_image"), length


@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
def test_a_file_whose_rest_was_never_written_is_refused(image_format: str) -> None:
    data = encoded(noise(), image_format)
    half = len(data) * 2 // 3
    assert code_of(data[:half] + bytes(len(data) - half)) == "truncated"


def test_a_damaged_png_is_refused_wherever_the_damage_is() -> None:
    data = encoded(noise(), "PNG")
    start_of_last_chunk = len(data) - 12
    for position in range(8, start_of_last_chunk):
        damaged = bytearray(data)
        damaged[position] ^= 0x10
        assert code_of(bytes(damaged)) in ("truncated", "not_an_image"), position


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "BMP"])
def test_random_damage_ends_in_pixels_or_in_a_problem_and_nothing_else(image_format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a description"
    options = {} if image_format == "BMP" else {"exif": exif}
    data = encoded(noise(), image_format, **options)
    random = np.random.default_rng(11)
    for _ in range(400):
        damaged = bytearray(data)
        for position in random.integers(0, min(len(data), 300), size=random.integers(1, 9)):
            damaged[position] = random.integers(0, 256)
        with contextlib.suppress(CropProblem):
            assert decode_crop(bytes(damaged)).shape[2] == 3


def test_a_cmyk_jpeg_becomes_rgb() -> None:
    red = Image.new("RGB", (16, 32), (200, 30, 30)).convert("CMYK")
    pixels = decode_crop(encoded(red, "JPEG", quality=95))
    assert mean_of(pixels, slice(None), slice(None)) == pytest.approx([200, 30, 30], abs=6)


def test_sixteen_bit_grey_is_scaled_to_eight_bits() -> None:
    ramp = np.linspace(0, 65_535, 32 * 16).reshape(32, 16).astype(np.uint16)
    pixels = decode_crop(encoded(Image.fromarray(ramp), "PNG"))
    assert pixels.shape == (32, 16, 3)
    assert np.array_equal(pixels[0, 0], [0, 0, 0])
    assert np.array_equal(pixels[-1, -1], [255, 255, 255])
    assert np.abs(pixels[:, :, 0].astype(int) - ramp / 257).max() <= 1


@pytest.mark.parametrize("mode", ["L", "1", "P"])
def test_grey_bilevel_and_palette_images_become_rgb(mode: str) -> None:
    image = noise().convert(mode)
    pixels = decode_crop(encoded(image, "PNG"))
    assert np.array_equal(pixels, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_every_exif_orientation_comes_out_upright(image_format: str, orientation: int) -> None:
    upright = Image.new("RGB", (16, 32), (0, 0, 255))
    upright.paste((255, 0, 0), (0, 0, 16, 16))
    upright.paste((0, 255, 0), (0, 0, 8, 16))
    stored_as = {  # how a camera that turned so stores the same scene
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    stored = upright if stored_as is None else upright.transpose(stored_as)
    exif = Image.Exif()
    exif[0x0112] = orientation
    quality = {"subsampling": 0} if image_format == "JPEG" else {}
    pixels = decode_crop(encoded(stored, image_format, exif=exif, quality=95, **quality))
    assert pixels.shape == (32, 16, 3)
    assert mean_of(pixels, slice(2, 14), slice(2, 6)) == pytest.approx([0, 255, 0], abs=20)
    assert mean_of(pixels, slice(2, 14), slice(10, 14)) == pytest.approx([255, 0, 0], abs=20)
    assert mean_of(pixels, slice(18, 30), slice(2, 14)) == pytest.approx([0, 0, 255], abs=20)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_unreadable_exif_leaves_the_crop_as_it_is_stored(image_format: str) -> None:
    data = encoded(noise(), image_format, exif=b"Exif\x00\x00this is not a TIFF directory")
    assert decode_crop(data).shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("image_format", ["PNG", "WEBP"])
def test_of_an_animated_image_the_first_frame_counts(image_format: str) -> None:
    first = Image.new("RGB", (16, 32), "red")
    second = Image.new("RGB", (16, 32), "blue")
    data = encoded(first, image_format, save_all=True, append_images=[second], lossless=True)
    pixels = decode_crop(data)
    assert mean_of(pixels, slice(None), slice(None)) == pytest.approx([255, 0, 0], abs=4)


def test_transparency_is_laid_over_white() -> None:
    image = Image.new("RGBA", (16, 32), (255, 0, 0, 0))
    image.paste((0, 0, 255, 255), (0, 0, 16, 16))
    pixels = decode_crop(encoded(image, "PNG"))
    assert np.array_equal(pixels[0, 0], [0, 0, 255])
    assert np.array_equal(pixels[-1, 0], [255, 255, 255])


def test_a_transparent_palette_entry_is_laid_over_white() -> None:
    image = Image.new("P", (16, 32), 0)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.paste(1, (0, 0, 16, 16))
    pixels = decode_crop(encoded(image, "PNG", transparency=b"\x00\xff"))
    assert np.array_equal(pixels[0, 0], [0, 0, 255])
    assert np.array_equal(pixels[-1, 0], [255, 255, 255])


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "BMP"])
@pytest.mark.parametrize("tail", [b"\x00" * 99, b"PK\x03\x04 a zip", b"\xff\xda\xff", b"<script>"])
def test_bytes_after_the_image_do_not_matter(image_format: str, tail: bytes) -> None:
    data = encoded(noise(), image_format)
    assert np.array_equal(decode_crop(data + tail), decode_crop(data))


def test_a_thumbnail_in_front_does_not_hide_that_the_crop_is_cut() -> None:
    data = encoded(noise(64, 64), "JPEG", quality=95)
    thumbnail = encoded(noise(), "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    whole = data[:2] + segment + data[2:]
    assert decode_crop(whole).shape == (64, 64, 3)
    assert code_of(whole[:-200] + bytes(200)) == "truncated"


def test_decoding_in_many_threads_leaves_the_warning_filters_alone() -> None:
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


def test_the_message_says_what_to_do() -> None:
    with pytest.raises(CropProblem, match="send the person's crop, not the whole frame"):
        decode_crop(png_that_announces(5_000, 5_000))
    with pytest.raises(CropProblem, match="convert the file"):
        decode_crop(encoded(noise(), "GIF"))


def test_a_header_that_announces_too_much_is_refused_by_the_limit_of_this_project():
    with pytest.raises(CropProblem) as refused:
        decode_crop(png_that_announces(60_000, 60_000))
    assert "16,000,000" in refused.value.detail
    assert "178956970" not in refused.value.detail


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
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
def test_the_size_of_a_picture_is_read_from_its_header(mode, kind, options):
    file = io.BytesIO()
    shown = "RGB" if kind == "JPEG" and mode in ("RGBA", "P") else mode
    Image.new(shown, (301, 47)).save(file, kind, **options)
    assert announced_pixels(file.getvalue()) == 301 * 47
    assert not announced_pixels(file.getvalue()[:10])


def test_what_is_no_image_has_no_pixels():
    assert announced_pixels(b"") == 0
    assert announced_pixels(b"no image") == 0


def test_a_jpeg_whose_header_is_hidden_is_not_taken_for_a_small_one():
    file = io.BytesIO()
    Image.new("RGB", (300, 200)).save(file, "JPEG")
    hidden = file.getvalue()[:2] + b"x" * 5_000 + file.getvalue()[2:]
    assert announced_pixels(b"\xff\xd8\xff" + hidden[2:]) is None


def test_a_transparent_picture_is_laid_over_white_in_strips_as_in_one_piece():
    pixels = np.random.default_rng(0).integers(0, 255, (700, 60, 4), dtype=np.uint8)
    image = Image.fromarray(pixels, "RGBA")
    file = io.BytesIO()
    image.save(file, "PNG")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    expected = np.asarray(Image.alpha_composite(white, image).convert("RGB"))
    assert np.array_equal(decode_crop(file.getvalue()), expected)
