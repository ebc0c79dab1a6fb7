"""Poor crops are told from others, with the reason."""

import io
import os
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from model.crops.decode import decode_crop
from model.crops.quality import (
    SAMPLED,
    QualityLimits,
    _luma,
    measure_quality,
    quality_faults,
)

FOLDER = os.environ.get("REID_TEST_DATA", "")


@pytest.fixture(scope="module")
def person(drawn_crops):
    image = Image.open(io.BytesIO(drawn_crops[0].png)).convert("RGB")
    return image.resize((160, 320), Image.Resampling.NEAREST)


def codes(image, limits=None):
    return [
        fault.code for fault in quality_faults(measure_quality(image), limits or QualityLimits())
    ]


def lit(image, lift, gain):
    return image.point(lambda value: 255 * lift + gain * value)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda crop: crop.resize((20, 40)), "low_resolution"),
        (lambda crop: crop.resize((12, 60)), "low_resolution"),
        (lambda crop: crop.filter(ImageFilter.GaussianBlur(10)), "blurred"),
        (lambda crop: crop.resize((10, 20)).resize(crop.size), "blurred"),
        (lambda crop: lit(crop, 0.0, 0.15), "dark"),
        (lambda crop: lit(crop, 0.7, 0.3), "overexposed"),
        (lambda crop: crop.rotate(90, expand=True), "not_person_shaped"),
        (lambda crop: crop.crop((0, 0, 40, 320)), "not_person_shaped"),
    ],
)
def test_a_crop_spoilt_in_one_way_has_that_fault_alone(person, change, code):
    assert codes(person) == []
    assert codes(change(person)) == [code]


@pytest.mark.parametrize("gain", [0.3, 0.5])
def test_dark_clothes_and_low_contrast_are_not_called_blurred(person, gain):
    assert measure_quality(lit(person, 0.0, gain)).sharpness == pytest.approx(
        measure_quality(person).sharpness, abs=0.03
    )


@pytest.mark.parametrize("height", [128, 256, 512, 1400])
def test_sharpness_hardly_depends_on_the_size_that_a_crop_was_stored_at(person, height):
    smooth = person.filter(ImageFilter.GaussianBlur(4))
    stored = smooth.resize((height // 2, height), Image.Resampling.LANCZOS)
    assert measure_quality(stored).sharpness == pytest.approx(
        measure_quality(smooth).sharpness, abs=0.03
    )


def test_noise_does_not_hide_a_strong_blur(person):
    blurred = np.asarray(person.filter(ImageFilter.GaussianBlur(10)), dtype=np.float64)
    noise = np.random.default_rng(0).normal(0.0, 5.0, blurred.shape)
    noisy = Image.fromarray(np.clip(blurred + noise, 0, 255).astype(np.uint8))
    assert codes(noisy) == ["blurred"]


def test_limits_decide(person):
    strict = QualityLimits(min_height=400, min_sharpness=0.9)
    assert codes(person, strict) == ["low_resolution", "blurred"]


@given(
    height=st.sampled_from([1, 2, 4, 5, 7, 64, 65, 300, 2_000]),
    width=st.sampled_from([1, 2, 4, 5, 7, 64, 65, 300, 2_000]),
    value=st.sampled_from([0, 1, 127, 255, None]),
)
@settings(max_examples=40)
def test_whatever_was_decoded_can_be_measure_quality(height, width, value):
    shape = (height, width, 3)
    pixels = (
        np.random.default_rng(1).integers(0, 256, shape, np.uint8)
        if value is None
        else np.full(shape, value, np.uint8)
    )
    quality = measure_quality(Image.fromarray(pixels))
    assert (quality.height, quality.width) == (height, width)
    for share in (quality.sharpness, quality.brightness, quality.shadow):
        assert 0.0 <= share <= 1.0
    assert all(fault.detail for fault in quality_faults(quality, QualityLimits()))


def test_of_a_frame_of_sixteen_million_pixels_few_are_measure_quality():
    frame = Image.new("RGB", (4_000, 4_000))
    tracemalloc.start()
    try:
        measure_quality(frame)
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most_bytes < 0.02 * 3 * frame.width * frame.height


@given(height=st.integers(1, 1_300), width=st.integers(1, 1_300))
@settings(max_examples=10, deadline=None)
def test_of_a_large_crop_the_first_of_every_few_pixels_are_measured(height, width):
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    every_row = max(1, height // SAMPLED)
    every_column = max(1, width // SAMPLED)
    sampled = np.ascontiguousarray(pixels[::every_row, ::every_column])
    whole = _luma(Image.fromarray(pixels))
    rows, columns = whole.shape
    grey = Image.fromarray(sampled).convert("L").resize((columns, rows), Image.Resampling.BOX)
    np.testing.assert_array_equal(whole, np.asarray(grey, np.float32) / 255)


@pytest.mark.skipif(not FOLDER, reason="REID_TEST_DATA names no folder of real crops")
@pytest.mark.parametrize("name", ["cuhk01", "cuhk03_p1"])
def test_of_ordinary_crops_no_fault_is_found_in_more_than_one_in_a_hundred(name):
    files = sorted(
        file for kind in ("png", "jpg") for file in Path(FOLDER, name).rglob(f"*.{kind}")
    )
    found = Counter(
        fault.code
        for file in files[::8]
        for fault in quality_faults(
            measure_quality(decode_crop(file.read_bytes())), QualityLimits()
        )
    )
    assert max(found.values(), default=0) <= len(files) / 800
