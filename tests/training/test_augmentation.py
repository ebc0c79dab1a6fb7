"""Augmentation of whole batches: torchvision's operations, drawn for each crop by itself."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms.v2 import functional

from model.preprocessing import Preprocessing
from training.augmentation import Changes, cut_windows, draw_changes, recolour
from training.settings import Augmentation

SIZE = Preprocessing(height=32, width=16)
NOTHING = {"flip": 0, "pad": 0, "brightness": 0, "contrast": 0, "saturation": 0}


@pytest.fixture
def crops() -> torch.Tensor:
    return torch.randint(0, 256, (6, 32, 16, 3), generator=torch.Generator().manual_seed(1)).byte()


def changed(crops: torch.Tensor, **settings: float) -> tuple[torch.Tensor, Changes]:
    chosen = Augmentation(**(NOTHING | settings))
    changes = draw_changes(chosen, SIZE, SIZE, len(crops), seed=5)
    windows = cut_windows(list(crops.numpy()), changes, chosen.pad, SIZE)
    return recolour(windows, changes, chosen, SIZE), changes


def expect_close(found: torch.Tensor, expected: list[torch.Tensor]) -> None:
    """Within what rounding to whole numbers between two of torchvision's steps may do."""
    difference = found.permute(0, 3, 1, 2).float() - torch.stack(expected).float()
    assert difference.abs().max() <= 2.0


@pytest.mark.parametrize(
    ("setting", "drawn", "adjust"),
    [
        ("brightness", "brightness", functional.adjust_brightness),
        ("contrast", "contrast", functional.adjust_contrast),
        ("saturation", "saturation", functional.adjust_saturation),
        ("hue", "hue", functional.adjust_hue),
    ],
)
def test_colour_changes_as_torchvision_changes_it(
    setting: str, drawn: str, adjust, crops: torch.Tensor
) -> None:
    found, changes = changed(crops, **{setting: 0.4})
    factors = getattr(changes, drawn).tolist()
    assert len(set(factors)) == len(crops)
    expect_close(
        found, [adjust(c, f) for c, f in zip(crops.permute(0, 3, 1, 2), factors, strict=True)]
    )


def test_grayscale_and_blur_are_torchvisions_on_the_crops_that_drew_them(
    crops: torch.Tensor,
) -> None:
    images = list(crops.permute(0, 3, 1, 2))
    gray, changes = changed(crops, grayscale=0.5)
    assert 0 < int(changes.grayscale.sum()) < len(crops)
    expect_close(
        gray,
        [
            functional.rgb_to_grayscale(image, 3) if chosen else image
            for image, chosen in zip(images, changes.grayscale, strict=True)
        ],
    )
    blurred, changes = changed(crops, blur=0.5)
    assert 0 < int(changes.blur.sum()) < len(crops)
    expect_close(
        blurred,
        [
            functional.gaussian_blur(image, [5, 5], [float(sigma)] * 2) if chosen else image
            for image, chosen, sigma in zip(images, changes.blur, changes.sigma, strict=True)
        ],
    )


def test_a_flipped_and_shifted_crop_is_a_window_of_its_mirror_image(crops: torch.Tensor) -> None:
    found, changes = changed(crops, flip=0.5, pad=3)
    for crop, one, flip, top, left in zip(
        crops, found, changes.flip, changes.top, changes.left, strict=True
    ):
        padded = torch.nn.functional.pad(crop, (0, 0, 3, 3, 3, 3))
        mirrored = padded.flip(1) if flip else padded
        assert torch.equal(one, mirrored[top : top + 32, left : left + 16])


def test_an_erased_box_has_the_mean_colour_and_the_rest_stays(crops: torch.Tensor) -> None:
    found, changes = changed(crops, erasing=1.0)
    mean = torch.tensor([round(255 * value) for value in SIZE.mean])
    for crop, one, (top, left, height, width) in zip(
        crops, found, changes.box.tolist(), strict=True
    ):
        box = torch.zeros(32, 16, dtype=torch.bool)
        box[top : top + height, left : left + width] = True
        assert (one[box] == mean).all()
        assert torch.equal(one[~box], crop[~box])
        assert 0.01 <= box.float().mean() <= 0.25


def test_a_share_of_the_batch_is_augmented_as_in_the_whole_batch(crops: torch.Tensor) -> None:
    settings = Augmentation(hue=0.1, grayscale=0.3, blur=0.5, erasing=0.5)
    changes = draw_changes(settings, SIZE, SIZE, len(crops), seed=9)
    whole = recolour(crops, changes, settings, SIZE)
    part = slice(2, 5)
    assert torch.equal(recolour(crops[part], changes.share(part), settings, SIZE), whole[part])


def test_another_seed_is_another_augmentation() -> None:
    one, other = (draw_changes(Augmentation(), SIZE, SIZE, 6, seed) for seed in (1, 2))
    assert not any(torch.equal(one[field], other[field]) for field in (4, 5, 6, 7, 8))


def test_white_balance_multiplies_each_channel_by_its_own_factor(crops: torch.Tensor) -> None:
    found, changes = changed(crops, white_balance=0.3)
    assert bool(((changes.gains >= 0.7) & (changes.gains <= 1.3)).all())
    assert len(set(changes.gains.flatten().tolist())) == 3 * len(crops)
    expected = (crops.float() * changes.gains[:, None, None, :]).clamp(0, 255)
    assert (found.float() - expected).abs().max() <= 0.5


def test_gamma_is_torchvisions_and_as_often_lighter_as_darker(crops: torch.Tensor) -> None:
    found, changes = changed(crops, gamma=0.5)
    assert bool(((changes.gamma >= 1 / 1.5) & (changes.gamma <= 1.5)).all())
    images = crops.permute(0, 3, 1, 2)
    expect_close(
        found,
        [
            functional.adjust_gamma(image, gamma)
            for image, gamma in zip(images, changes.gamma.tolist(), strict=True)
        ],
    )
    many = draw_changes(Augmentation(gamma=0.5), SIZE, SIZE, 1000, seed=2).gamma.log()
    assert float(many.mean()) == pytest.approx(0.0, abs=0.03)


def test_a_coarse_crop_loses_its_fine_structure_and_keeps_its_mean() -> None:
    rows = 255 * (torch.arange(32) % 2).byte()
    striped = rows.view(1, 32, 1, 1).expand(40, 32, 16, 3).contiguous()
    found, changes = changed(striped, coarse=0.5)
    assert 0 < int(changes.coarse.sum()) < len(striped)
    assert torch.equal(found[~changes.coarse], striped[~changes.coarse])
    coarse = found[changes.coarse].float()
    assert float(coarse[:, 4:-4].std(dim=(1, 2, 3)).max()) < 0.6 * 127.5
    assert float((coarse.mean(dim=(1, 2, 3)) - 127.5).abs().max()) < 8
