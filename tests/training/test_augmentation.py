"""Augmentation of whole batches: torchvision's operations, drawn for each crop by itself."""

import math

import pytest
import torch
from torchvision.transforms.v2 import functional

from model.preprocessing import Preprocessing
from training.augmentation import Augmentation, Augmenter

SIZE = Preprocessing(height=32, width=16)
NOTHING = {"flip": 0, "pad": 0, "brightness": 0, "contrast": 0, "saturation": 0}


@pytest.fixture
def crops():
    return torch.randint(0, 256, (6, 32, 16, 3), generator=torch.Generator().manual_seed(1)).byte()


def augmenter(**settings):
    return Augmenter(Augmentation.model_validate(settings), SIZE)


def changed(crops, **settings):
    chosen = augmenter(**(NOTHING | settings))
    draws = chosen.draw(len(crops), seed=5)
    return chosen.recolour(chosen.cut(list(crops.numpy()), draws), draws), draws


def between(low, high, draws, name, column=0):
    """What the numbers of a change stand for."""
    return low + (high - low) * draws[name][:, column]


def expect_close(found, expected):
    """Within what rounding to whole numbers between two of torchvision's steps may do."""
    difference = found.permute(0, 3, 1, 2).float() - torch.stack(expected).float()
    assert difference.abs().max() <= 2.0


@pytest.mark.parametrize(
    ("setting", "adjust"),
    [
        ("brightness", functional.adjust_brightness),
        ("contrast", functional.adjust_contrast),
        ("saturation", functional.adjust_saturation),
    ],
)
def test_colour_changes_as_torchvision_changes_it(setting, adjust, crops):
    found, draws = changed(crops, **{setting: 0.4})
    factors = between(0.6, 1.4, draws, setting).tolist()
    assert len(set(factors)) == len(crops)
    expect_close(
        found, [adjust(c, f) for c, f in zip(crops.permute(0, 3, 1, 2), factors, strict=True)]
    )


def test_a_flipped_and_shifted_crop_is_a_window_of_its_mirror_image(crops):
    found, draws = changed(crops, flip=0.5, pad=3)
    flips = draws["flip"][:, 0] < 0.5
    for crop, one, flip, (top, left) in zip(crops, found, flips, draws["window"], strict=True):
        padded = torch.nn.functional.pad(crop, (0, 0, 3, 3, 3, 3))
        mirrored = padded.flip(1) if flip else padded
        assert torch.equal(one, mirrored[top : top + 32, left : left + 16])


def test_an_erased_box_has_the_mean_colour_and_the_rest_stays(crops):
    found, _ = changed(crops, erasing=1.0)
    mean = torch.tensor([round(255 * value) for value in SIZE.mean])
    for crop, one in zip(crops, found, strict=True):
        box = (one != crop).any(dim=2)
        assert (one[box] == mean).all()
        rows = box.any(dim=1).nonzero()
        columns = box.any(dim=0).nonzero()
        window = one[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert (window == mean).all()
        assert 0.01 <= box.float().mean() <= 0.25


def test_a_share_of_the_batch_is_augmented_as_in_the_whole_batch(crops):
    chosen = augmenter(white_balance=0.1, gamma=0.3, coarse=0.5, erasing=0.5)
    draws = chosen.draw(len(crops), seed=9)
    part = slice(2, 5)
    whole = chosen.recolour(crops, draws)
    share = chosen.draw(len(crops), seed=9, part=part)
    assert torch.equal(chosen.recolour(crops[part], share), whole[part])


def test_another_seed_is_another_augmentation():
    one, other = (augmenter().draw(6, seed) for seed in (1, 2))
    assert set(one) == {"flip", "window", "brightness", "contrast", "saturation"}
    assert not any(torch.equal(one[name], other[name]) for name in one)


def test_a_change_that_is_switched_on_leaves_the_draws_of_the_others():
    plain = augmenter().draw(6, 1)
    more = augmenter(gamma=0.5, coarse=0.5, flip=0.1).draw(6, 1)
    assert all(torch.equal(drawn, more[name]) for name, drawn in plain.items())


def test_white_balance_multiplies_each_channel_by_its_own_factor(crops):
    found, draws = changed(crops, white_balance=0.3)
    gains = 0.7 + 0.6 * draws["white_balance"]
    assert len(set(gains.flatten().tolist())) == 3 * len(crops)
    expected = (crops.float() * gains[:, None, None, :]).clamp(0, 255)
    assert (found.float() - expected).abs().max() <= 0.5


def test_gamma_is_torchvisions_and_as_often_lighter_as_darker(crops):
    found, draws = changed(crops, gamma=0.5)
    # As often lighter as darker: their logarithm is uniform from −log 1.5 to log 1.5.
    exponents = (math.log(1.5) * between(-1.0, 1.0, draws, "gamma")).exp()
    images = crops.permute(0, 3, 1, 2)
    expect_close(
        found,
        [
            functional.adjust_gamma(image, gamma)
            for image, gamma in zip(images, exponents.tolist(), strict=True)
        ],
    )
    many = between(-1.0, 1.0, augmenter(gamma=0.5).draw(1000, seed=2), "gamma")
    assert float(many.mean()) == pytest.approx(0.0, abs=0.05)


def test_a_coarse_crop_loses_its_fine_structure_and_keeps_its_mean():
    rows = 255 * (torch.arange(32) % 2).byte()
    striped = rows.view(1, 32, 1, 1).expand(40, 32, 16, 3).contiguous()
    found, draws = changed(striped, coarse=0.5)
    drew = draws["coarse"][:, 0] < 0.5
    assert 0 < int(drew.sum()) < len(striped)
    assert torch.equal(found[~drew], striped[~drew])
    coarse = found[drew].float()
    assert float(coarse[:, 4:-4].std(dim=(1, 2, 3)).max()) < 0.6 * 127.5
    assert float((coarse.mean(dim=(1, 2, 3)) - 127.5).abs().max()) < 8
