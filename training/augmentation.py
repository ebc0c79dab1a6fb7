"""Augmentation: random changes of training crops, drawn for a whole batch at once.

The numbers are drawn on the CPU from the batch's seed. The change of a crop therefore depends on
its position in the batch alone, and not on the device or the process that applies it.
"""

from __future__ import annotations

import math
import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from model.arrays import Pixels
from model.preprocessing import Preprocessing
from training.parts import Kind, Kinds, Section, Table

LUMINANCE = (0.299, 0.587, 0.114)
COARSENESS = (0.3, 0.7)
# Bounds of an erased box: its share of the crop's area, and its ratio of height to width.
ERASED_AREA = (0.02, 0.2)
ERASED_ASPECT = (0.3, 3.3)
CROPS_IN_CACHE = 1
FLIP = "flip"
WINDOW = "window"
# The order in which a batch's numbers are drawn. Numbers are also drawn for changes that are off,
# so that switching one change on does not alter the others. A change of a plug-in draws from a
# generator of its own.
DRAWN = (
    FLIP,
    "erasing",
    WINDOW,
    "brightness",
    "contrast",
    "saturation",
    *["erasing"] * 4,
    *["white_balance"] * 3,
    "gamma",
    "coarse",
    "coarse",
)
# The numbers drawn for a batch, on the CPU, by the name of the change: `(B, draws)`, uniform from 0
# to 1; also `flip`, `(B, 1)`, and `window`, `(B, 2)`, the top and left of the window in pixels of
# the padded crop.
Draws = dict[str, Tensor]


class Strength(Section):
    """Settings of a change with a strength; 0 switches it off."""

    strength: float = Field(0.0, ge=0)


class Probability(Section):
    """Settings of a change that is applied to some crops; 0 switches it off."""

    probability: float = Field(0.0, ge=0, le=1)


@dataclass(frozen=True)
class ChangeKind(Kind):
    """A registered change of crops; changes are applied in the order of their registration.

    It is a function of its settings, of crops `(B, 3, h, w)` float32 from 0 to 255, of random
    numbers from 0 to 1, `(B, draws)` on the CPU, and of `Preprocessing`. It returns the changed
    crops, and may change them in place. If its first setting is 0, it is off.

    Attributes:
        draws: the number of random numbers that it needs for each crop.
    """

    draws: int = 1


AUGMENTATIONS = Kinds("augmentation", "gmn.augmentations", ChangeKind, Strength)
register_augmentation = AUGMENTATIONS.register


class Augmentation(Table):
    """Settings of augmentation: a random window is cut out of a crop, then changes are applied.

    Attributes:
        resize: the height and width to which a crop is resized before a window of the input's size
            is cut out of it; null resizes it to the input's size.
        flip: the probability of mirroring a crop.
        pad: the width of a black border, in pixels, that is added before the window is cut.
    """

    kinds: ClassVar[Kinds[Any]] = AUGMENTATIONS
    usual: ClassVar[Mapping[str, Any]] = {"brightness": 0.2, "contrast": 0.15, "saturation": 0.1}

    resize: tuple[int, int] | None = None
    flip: float = Field(0.5, ge=0, le=1)
    pad: int = Field(10, ge=0)

    def decoded(self, size: Preprocessing) -> Preprocessing:
        """Return the preprocessing of decoded crops, out of which windows of `size` are cut."""
        if self.resize is None:
            return size
        height, width = self.resize
        return size.model_copy(update={"height": height, "width": width})


class Augmenter:
    """Draws and applies the changes of a recipe.

    Attributes:
        settings: the recipe's settings; a change that is off takes no time.
        size: the size of the changed crops.
    """

    def __init__(self, settings: Augmentation, size: Preprocessing) -> None:
        self.settings = settings
        self.size = size
        self._changes = settings.on
        decoded = settings.decoded(size)
        # With n pixels of slack the window has n + 1 positions in each direction.
        self._places = (
            decoded.height + 2 * settings.pad - size.height + 1,
            decoded.width + 2 * settings.pad - size.width + 1,
        )

    def draw(
        self,
        count: int,
        seed: int,
        part: slice = slice(None),
    ) -> Draws:
        """Draw the numbers of a batch of `count` crops, and return those of a part of it."""
        random = torch.Generator().manual_seed(seed)
        drawn: dict[str, list[Tensor]] = defaultdict(list)
        for name in DRAWN:
            if name == WINDOW:
                for places in self._places:
                    drawn[name].append(torch.randint(0, places, (count,), generator=random))
            else:
                drawn[name].append(torch.rand(count, generator=random))
        draws = {}
        for name in (FLIP, WINDOW, *self._changes):
            if name in drawn:
                numbers = torch.stack(drawn[name], dim=1)
            else:
                plugin_random = torch.Generator().manual_seed(seed ^ zlib.crc32(name.encode()))
                numbers = torch.rand((count, AUGMENTATIONS[name].draws), generator=plugin_random)
            draws[name] = numbers[part]
        return draws

    def cut(self, crops: Sequence[Pixels], draws: Draws) -> Tensor:
        """Cut the drawn window out of each padded, and perhaps mirrored, crop.

        Args:
            crops: `(H, W, 3)` each, all of one size.
            draws: the numbers drawn for these crops.

        Returns:
            `(B, h, w, 3)` uint8.
        """
        pad = self.settings.pad
        size = self.size
        height, width = crops[0].shape[:2]
        padded_shape = (height + 2 * pad, width + 2 * pad, 3)
        padded = np.zeros(padded_shape, dtype=np.uint8)
        windows_shape = (len(crops), size.height, size.width, 3)
        windows = np.empty(windows_shape, dtype=np.uint8)
        flips = (draws[FLIP][:, 0] < self.settings.flip).tolist()
        places = draws[WINDOW].tolist()
        for crop, window, flip, place in zip(crops, windows, flips, places, strict=True):
            padded[pad : pad + height, pad : pad + width] = crop
            top, left = place
            whole = padded[:, ::-1] if flip else padded
            window[:] = whole[top : top + size.height, left : left + size.width]
        return torch.from_numpy(windows)

    def recolour(self, crops: Tensor, draws: Draws) -> Tensor:
        """Apply all changes but the window, on the device of the crops.

        Args:
            crops: `(B, h, w, 3)` uint8.
            draws: the numbers drawn for these crops.

        Returns:
            `(B, h, w, 3)` uint8.
        """
        if not self._changes:
            return crops
        # A CPU is fastest on crops that fit into its cache, a GPU on the whole batch.
        few = CROPS_IN_CACHE if crops.device.type == "cpu" else len(crops)
        parts = []
        for start in range(0, len(crops), few):
            part = slice(start, start + few)
            pixels = crops[part].permute(0, 3, 1, 2)
            pixels = pixels.to(torch.float32, memory_format=torch.contiguous_format)
            for name, settings in self._changes.items():
                change = AUGMENTATIONS[name].build
                pixels = change(settings, pixels, draws[name][part], self.size)
            parts.append(pixels.round_().permute(0, 2, 3, 1).to(torch.uint8))
        return torch.cat(parts)


@register_augmentation("brightness")
def brightness(
    settings: Strength,
    pixels: Tensor,
    drawn: Tensor,
    _: Preprocessing,
) -> Tensor:
    """Multiply all channels by one factor."""
    factor = _beside(pixels, _factor(settings.strength, drawn[:, 0]))
    return pixels.mul_(factor).clamp_(0, 255)


@register_augmentation("contrast")
def contrast(
    settings: Strength,
    pixels: Tensor,
    drawn: Tensor,
    _: Preprocessing,
) -> Tensor:
    """Move pixels away from the crop's mean luminance, or towards it."""
    factor = _beside(pixels, _factor(settings.strength, drawn[:, 0]))
    mean = _luminance(pixels).mean(dim=(2, 3), keepdim=True)
    return _blend(pixels, mean, factor)


@register_augmentation("saturation")
def saturation(
    settings: Strength,
    pixels: Tensor,
    drawn: Tensor,
    _: Preprocessing,
) -> Tensor:
    """Move pixels away from their luminance, or towards it."""
    factor = _beside(pixels, _factor(settings.strength, drawn[:, 0]))
    return _blend(pixels, _luminance(pixels), factor)


class Gain(Strength):
    """Settings of white balance: the largest distance of a channel's factor from 1."""

    strength: float = Field(0.0, ge=0, lt=1)


@register_augmentation("white_balance", Gain, draws=3)
def white_balance(
    settings: Gain,
    pixels: Tensor,
    drawn: Tensor,
    _: Preprocessing,
) -> Tensor:
    """Multiply each colour channel by a factor of its own."""
    gains = _factor(settings.strength, drawn).to(pixels.device, non_blocking=True)
    return (pixels * gains[:, :, None, None]).clamp_(0, 255)


@register_augmentation("gamma")
def gamma(
    settings: Strength,
    pixels: Tensor,
    drawn: Tensor,
    _: Preprocessing,
) -> Tensor:
    """Raise pixels, as shares of white, to a power from 1 / (1 + strength) to 1 + strength."""
    logarithm = math.log1p(settings.strength) * _between(-1.0, 1.0, drawn[:, 0])
    exponent = logarithm.exp()
    return 255.0 * (pixels / 255.0).pow(_beside(pixels, exponent))


@register_augmentation("coarse", Probability, draws=2)
def coarse(
    settings: Probability,
    pixels: Tensor,
    drawn: Tensor,
    _: Preprocessing,
) -> Tensor:
    """Reduce crops to a third to two thirds of their size and back, as if farther away."""
    scales = _between(*COARSENESS, drawn[:, 1])
    chosen = drawn[:, 0] < settings.probability
    for row in chosen.nonzero().flatten().tolist():
        crop = pixels[row : row + 1]
        scale = float(scales[row])
        size = [max(1, round(scale * side)) for side in crop.shape[2:]]
        small = functional.interpolate(crop, size, mode="bilinear", antialias=True)
        pixels[row : row + 1] = functional.interpolate(small, crop.shape[2:], mode="bilinear")
    return pixels


@register_augmentation("erasing", Probability, draws=5)
def erasing(
    settings: Probability,
    pixels: Tensor,
    drawn: Tensor,
    size: Preprocessing,
) -> Tensor:
    """Paint a random box in the input's mean colour, as in Random Erasing (Zhong et al., 2020)."""
    boxes = _boxes(drawn[:, 1:], size)
    top, left, height, width = boxes[:, :, None].unbind(1)
    rows = torch.arange(pixels.shape[2])
    columns = torch.arange(pixels.shape[3])
    chosen = (drawn[:, 0] < settings.probability)[:, None]
    inside_rows = (rows >= top) & (rows < top + height) & chosen
    inside_columns = (columns >= left) & (columns < left + width)
    inside_rows = inside_rows.to(pixels.device, non_blocking=True)
    inside_columns = inside_columns.to(pixels.device, non_blocking=True)
    inside = inside_rows[:, :, None] & inside_columns[:, None, :]
    for channel, value in zip(pixels.unbind(1), size.mean, strict=True):
        channel.masked_fill_(inside, round(255 * value))
    return pixels


def _beside(pixels: Tensor, drawn: Tensor) -> Tensor:
    """Reshape one number per crop, `(B,)`, to `(B, 1, 1, 1)` on the device of the pixels."""
    return drawn.to(pixels.device, non_blocking=True).view(-1, 1, 1, 1)


def _between(
    low: float,
    high: float,
    drawn: Tensor,
) -> Tensor:
    return low + (high - low) * drawn


def _factor(strength: float, drawn: Tensor) -> Tensor:
    return _between(max(0.0, 1.0 - strength), 1.0 + strength, drawn)


def _blend(
    pixels: Tensor,
    other: Tensor,
    factor: Tensor,
) -> Tensor:
    return pixels.mul_(factor).add_(other.mul_(1.0 - factor)).clamp_(0, 255)


def _luminance(pixels: Tensor) -> Tensor:
    """Return the luminance `(B, 1, h, w)` of pixels `(B, 3, h, w)`."""
    red, green, blue = torch.split(pixels, 1, dim=1)
    luminance: Tensor = red * LUMINANCE[0]
    return luminance.add_(green, alpha=LUMINANCE[1]).add_(blue, alpha=LUMINANCE[2])


def _boxes(drawn: Tensor, size: Preprocessing) -> Tensor:
    """Return top, left, height and width of the erased boxes, `(B, 4)` pixels."""
    area, aspect, down, right = drawn.unbind(1)
    area = _between(*ERASED_AREA, area)
    lowest, highest = ERASED_ASPECT
    logarithm = _between(math.log(lowest), math.log(highest), aspect)
    root = logarithm.exp().sqrt()
    side = (area * size.height * size.width).sqrt()
    height = (side * root).round().clamp(1, size.height)
    width = (side / root).round().clamp(1, size.width)
    top = (down * (size.height - height + 1)).floor()
    left = (right * (size.width - width + 1)).floor()
    return torch.stack((top, left, height, width), dim=1).long()
