"""Random changes to training crops: drawn for a whole batch, applied to many crops at once.

What happens to a crop is drawn from the batch's seed on the CPU and depends on its place in the
batch alone, not on the device that applies it nor on which process does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import attrgetter, itemgetter
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from model.preprocessing import Preprocessing
from training.settings import Augmentation

LUMINANCE = (0.299, 0.587, 0.114)
BLUR_SIGMA = (0.3, 1.5)
ERASED_AREA = (0.02, 0.2)
ERASED_ASPECT = (0.3, 3.3)
COARSENESS = (0.3, 0.7)
_colouring = attrgetter(
    "brightness",
    "contrast",
    "saturation",
    "hue",
    "grayscale",
    "blur",
    "erasing",
    "white_balance",
    "gamma",
    "coarse",
)
CROPS_IN_CACHE = 1


class Changes(NamedTuple):
    """What is drawn for each crop of a batch, `(B,)` each, on the CPU.

    Attributes:
        flip, grayscale, blur, erase: whether.
        top, left: of the window that is cut out, from 0, in pixels of the padded crop.
        brightness, contrast, saturation: factors, 1 changes nothing.
        hue: turns of the colour circle, 0 changes nothing.
        sigma: of the blur, pixels.
        box: top, left, height and width of what is erased, `(B, 4)` pixels.
        gains: factors of red, green and blue, `(B, 3)`, 1 changes nothing.
        gamma: exponent of the pixels as shares of white, 1 changes nothing.
        coarse: whether it loses resolution.
        scale: to which share of its size it is reduced then.
    """

    flip: torch.Tensor
    grayscale: torch.Tensor
    blur: torch.Tensor
    erase: torch.Tensor
    top: torch.Tensor
    left: torch.Tensor
    brightness: torch.Tensor
    contrast: torch.Tensor
    saturation: torch.Tensor
    hue: torch.Tensor
    sigma: torch.Tensor
    box: torch.Tensor
    gains: torch.Tensor
    gamma: torch.Tensor
    coarse: torch.Tensor
    scale: torch.Tensor

    def share(self, part: slice) -> Changes:
        """Those of some of the crops."""
        return Changes(*map(itemgetter(part), self))


def draw_changes(
    settings: Augmentation, decoded: Preprocessing, size: Preprocessing, count: int, seed: int
) -> Changes:
    """Draws what happens to each crop of a batch.

    Args:
        settings: the recipe's.
        decoded: of what size the crops come.
        size: of what size they leave.
        count: B.
        seed: decides everything.
    """
    random = torch.Generator().manual_seed(seed)

    def happens(probability: float) -> torch.Tensor:
        return torch.rand(count, generator=random) < probability

    def between(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(count, generator=random)

    def place(room: int) -> torch.Tensor:
        return torch.randint(0, room + 1, (count,), generator=random)

    def factor(strength: float) -> torch.Tensor:
        return between(max(0.0, 1.0 - strength), 1.0 + strength)

    return Changes(
        flip=happens(settings.flip),
        grayscale=happens(settings.grayscale),
        blur=happens(settings.blur),
        erase=happens(settings.erasing),
        top=place(decoded.height + 2 * settings.pad - size.height),
        left=place(decoded.width + 2 * settings.pad - size.width),
        brightness=factor(settings.brightness),
        contrast=factor(settings.contrast),
        saturation=factor(settings.saturation),
        hue=between(-settings.hue, settings.hue),
        sigma=between(*BLUR_SIGMA),
        box=_boxes(
            between(*ERASED_AREA), between(0.0, 1.0), between(0.0, 1.0), between(0, 1), size
        ),
        gains=torch.stack([factor(settings.white_balance) for _ in range(3)], dim=1),
        gamma=(math.log1p(settings.gamma) * between(-1.0, 1.0)).exp(),
        coarse=happens(settings.coarse),
        scale=between(*COARSENESS),
    )


def _boxes(
    area: torch.Tensor,
    aspect: torch.Tensor,
    down: torch.Tensor,
    right: torch.Tensor,
    size: Preprocessing,
) -> torch.Tensor:
    low, high = map(math.log, ERASED_ASPECT)
    root = (low + (high - low) * aspect).exp().sqrt()
    side = (area * size.height * size.width).sqrt()
    height = (side * root).round().clamp(1, size.height)
    width = (side / root).round().clamp(1, size.width)
    top = (down * (size.height - height + 1)).floor()
    left = (right * (size.width - width + 1)).floor()
    return torch.stack((top, left, height, width), dim=1).long()


def cut_windows(
    crops: Sequence[NDArray[np.uint8]], changes: Changes, pad: int, size: Preprocessing
) -> torch.Tensor:
    """Cuts the drawn window out of each padded crop, mirrored before where that was drawn.

    Args:
        crops: `(H, W, 3)` each, all of one size.
        changes: one for each crop.
        pad: black pixels on every side.
        size: of the windows.

    Returns:
        `(B, h, w, 3)` uint8.
    """
    height, width = crops[0].shape[:2]
    padded = np.zeros((height + 2 * pad, width + 2 * pad, 3), dtype=np.uint8)
    windows = np.empty((len(crops), size.height, size.width, 3), dtype=np.uint8)
    places = zip(changes.flip.tolist(), changes.top.tolist(), changes.left.tolist(), strict=True)
    for crop, window, (flip, top, left) in zip(crops, windows, places, strict=True):
        padded[pad : pad + height, pad : pad + width] = crop
        whole = padded[:, ::-1] if flip else padded
        window[:] = whole[top : top + size.height, left : left + size.width]
    return torch.from_numpy(windows)


def recolour(
    crops: torch.Tensor, changes: Changes, settings: Augmentation, size: Preprocessing
) -> torch.Tensor:
    """Applies what was drawn beside the window, on the device where the crops are.

    Args:
        crops: `(B, h, w, 3)` uint8.
        changes: one for each crop.
        settings: the recipe's; what is switched off there costs nothing.
        size: whose mean colour an erased box gets.

    Returns:
        `(B, h, w, 3)` uint8.
    """
    if not any(_colouring(settings)):
        return crops
    # A CPU is fastest on as much as its cache holds, a GPU on everything at once.
    few = CROPS_IN_CACHE if crops.device.type == "cpu" else len(crops)
    parts = [
        _recolour(
            crops[start : start + few], changes.share(slice(start, start + few)), settings, size
        )
        for start in range(0, len(crops), few)
    ]
    return torch.cat(parts)


def _recolour(
    crops: torch.Tensor, changes: Changes, settings: Augmentation, size: Preprocessing
) -> torch.Tensor:
    pixels = crops.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)

    def each(drawn: torch.Tensor) -> torch.Tensor:
        return drawn.to(crops.device, non_blocking=True).view(-1, 1, 1, 1)

    if settings.brightness:
        pixels.mul_(each(changes.brightness)).clamp_(0, 255)
    if settings.contrast:
        _blend(pixels, _luminance(pixels).mean(dim=(2, 3), keepdim=True), each(changes.contrast))
    if settings.saturation:
        _blend(pixels, _luminance(pixels), each(changes.saturation))
    if settings.hue:
        pixels = _turn_hue(pixels, each(changes.hue)[:, 0])
    if settings.grayscale:
        pixels = torch.where(each(changes.grayscale), _luminance(pixels), pixels)
    if settings.white_balance:
        gains = changes.gains.to(crops.device, non_blocking=True)
        pixels = (pixels * gains[:, :, None, None]).clamp_(0, 255)
    if settings.gamma:
        pixels = 255.0 * (pixels / 255.0).pow(each(changes.gamma))
    if settings.blur:
        pixels = _blur(pixels, changes)
    if settings.coarse:
        _coarsen(pixels, changes)
    if settings.erasing:
        _erase(pixels, changes, [round(255 * value) for value in size.mean])
    return pixels.round_().permute(0, 2, 3, 1).to(torch.uint8)


def _blend(pixels: torch.Tensor, other: torch.Tensor, factor: torch.Tensor) -> None:
    pixels.mul_(factor).add_(other.mul_(1.0 - factor)).clamp_(0, 255)


def _luminance(pixels: torch.Tensor) -> torch.Tensor:
    """`(B, 3, h, w)` to `(B, 1, h, w)`."""
    red, green, blue = torch.split(pixels, 1, dim=1)
    luminance: torch.Tensor = red * LUMINANCE[0]
    return luminance.add_(green, alpha=LUMINANCE[1]).add_(blue, alpha=LUMINANCE[2])


def _turn_hue(pixels: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Moves each colour around the colour circle (HSV) by a share of a turn, `(B, 1, 1)`."""
    red, green, blue = pixels.unbind(1)
    value, lowest = pixels.amax(1), pixels.amin(1)
    chroma = value - lowest
    divisor = chroma.clamp(min=1e-6)
    sixths = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, (blue - red) / divisor + 2.0, (red - green) / divisor + 4.0),
    )
    sixths = sixths + 6.0 * turns
    channels = []
    for offset in (5.0, 3.0, 1.0):
        place = torch.remainder(sixths + offset, 6.0)
        channels.append(value - chroma * torch.minimum(place, 4.0 - place).clamp(0.0, 1.0))
    return torch.stack(channels, dim=1)


def _blur(pixels: torch.Tensor, changes: Changes) -> torch.Tensor:
    """A 5×5 Gaussian over the crops that drew one."""
    chosen = changes.blur.nonzero().flatten()
    if len(chosen) == 0:
        return pixels
    distance = torch.arange(-2.0, 3.0)
    kernel = torch.exp(-0.5 * (distance / changes.sigma[chosen, None]).square())
    kernel = kernel / kernel.sum(dim=1, keepdim=True)
    kernel = kernel.repeat_interleave(3, dim=0).to(pixels.device, non_blocking=True)
    chosen = chosen.to(pixels.device, non_blocking=True)
    maps = pixels.index_select(0, chosen)
    shape = maps.shape
    maps = functional.pad(maps, (2, 2, 2, 2), mode="reflect").flatten(0, 1)[None]
    maps = functional.conv2d(maps, kernel[:, None, :, None], groups=len(kernel))
    maps = functional.conv2d(maps, kernel[:, None, None, :], groups=len(kernel))
    return pixels.index_copy_(0, chosen, maps.view(shape))


def _coarsen(pixels: torch.Tensor, changes: Changes) -> None:
    """Gives the crops that drew it the resolution of a farther camera, in place."""
    for row in changes.coarse.nonzero().flatten().tolist():
        crop, scale = pixels[row : row + 1], float(changes.scale[row])
        size = [max(1, round(scale * side)) for side in crop.shape[2:]]
        small = functional.interpolate(crop, size, mode="bilinear", antialias=True)
        pixels[row : row + 1] = functional.interpolate(small, crop.shape[2:], mode="bilinear")


def _erase(pixels: torch.Tensor, changes: Changes, fill: list[int]) -> None:
    """Paints each drawn box in one colour."""
    top, left, height, width = changes.box[:, :, None].unbind(1)
    rows, columns = torch.arange(pixels.shape[2]), torch.arange(pixels.shape[3])
    inside_rows = (rows >= top) & (rows < top + height) & changes.erase[:, None]
    inside_columns = (columns >= left) & (columns < left + width)
    inside_rows = inside_rows.to(pixels.device, non_blocking=True)
    inside_columns = inside_columns.to(pixels.device, non_blocking=True)
    inside = inside_rows[:, :, None] & inside_columns[:, None, :]
    for channel, value in zip(pixels.unbind(1), fill, strict=True):
        channel.masked_fill_(inside, value)
