"""The one preprocessing."""

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from model.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing


def test_a_crop_of_any_size_becomes_the_input_size():
    crop = np.random.default_rng(0).integers(0, 256, (211, 57, 3), dtype=np.uint8)
    resized = Preprocessing(height=128, width=64).resize(Image.fromarray(crop))
    assert resized.shape == (128, 64, 3)
    assert resized.dtype == np.uint8


def test_a_crop_of_the_input_size_is_left_as_it_is():
    crop = np.random.default_rng(0).integers(0, 256, (128, 64, 3), dtype=np.uint8)
    resized = Preprocessing(height=128, width=64).resize(Image.fromarray(crop))
    assert np.array_equal(resized, crop)


def test_shrinking_is_antialiased():
    stripes = np.zeros((256, 128, 3), np.uint8)
    stripes[::2] = 255
    resized = Preprocessing(height=64, width=32).resize(Image.fromarray(stripes))
    assert abs(int(resized.min()) - 127) < 30
    assert abs(int(resized.max()) - 127) < 30


def test_normalising_takes_mean_and_std_of_each_channel():
    white = torch.full((2, 64, 32, 3), 255, dtype=torch.uint8)
    batch = Preprocessing(height=64, width=32).normalise(white)
    assert batch.shape == (2, 3, 64, 32)
    for channel in range(3):
        expected = (1.0 - IMAGENET_MEAN[channel]) / IMAGENET_STD[channel]
        assert batch[:, channel].unique().item() == pytest.approx(expected, rel=1e-5)


def test_a_size_of_zero_is_refused():
    with pytest.raises(ValidationError, match="height"):
        Preprocessing(height=0)
