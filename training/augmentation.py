"""Random changes to training crops: drawn for a whole batch, applied to many crops at once.

What happens to a crop is drawn from the batch's seed on the CPU and depends on its place in the
batch alone, not on the device that applies it nor on which process does.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch.nn import functional

from model.preprocessing import Preprocessing
from training.recipe import Augmentation

LUMINANCE = (0.299, 0.587, 0.114)
BLUR_SIGMA = (0.3, 1.5)
ERASED_AREA = (0.02, 0.2)
ERASED_ASPECT = (0.3, 3.3)


class Changes(NamedTuple):
    """What is drawn for each crop of a batch, `(B,)` each, on the CPU.

    Attributes:
        flip, grayscale, blur, erase: whether.
        top, left: of the window that is cut out, from 0, in pixels of the padded crop.
        brightness, contrast, saturation: factors, 1 changes nothing.
        hue: turns of the colour circle, 0 changes nothing.
        sigma: of the blur, pixels.
        box: top, left, height and width of what is erased, `(B, 4)` pixels.
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

    def share(self, part: slice) -> Changes:
        """Those of some of the crops."""
        return Changes(*(drawn[part] for drawn in self))


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
    )


def _boxes(
    area: torch.Tensor,
    aspect: torch.Tensor,
    down: torch.Tensor,
    right: torch.Tensor,
    size: Preprocessing,
) -> torch.Tensor:
    low, high = (math.log(value) for value in ERASED_ASPECT)
    root = (low + (high - low) * aspect).exp().sqrt()
    side = (area * size.height * size.width).sqrt()
    height = (side * root).round().clamp(1, size.height)
    width = (side / root).round().clamp(1, size.width)
    top = (down * (size.height - height + 1)).floor()
    left = (right * (size.width - width + 1)).floor()
    return torch.stack((top, left, height, width), dim=1).long()


def augment(
    crops: torch.Tensor, changes: Changes, settings: Augmentation, size: Preprocessing
) -> torch.Tensor:
    """Applies what was drawn, on the device where the crops are.

    Args:
        crops: `(B, H, W, 3)` uint8, as they were decoded.
        changes: one for each crop.
        settings: the recipe's; what is switched off there costs nothing.
        size: of what leaves.

    Returns:
        `(B, h, w, 3)` uint8.
    """
    cut = _cut(crops, changes, settings.pad, size)
    if not _changes_colour(settings):
        return cut
    pixels = cut.float()
    device = crops.device

    def each(drawn: torch.Tensor) -> torch.Tensor:
        return drawn.to(device, non_blocking=True).view(-1, 1, 1, 1)

    if settings.brightness:
        pixels = (pixels * each(changes.brightness)).clamp_(0, 255)
    if settings.contrast:
        middle = _luminance(pixels).mean(dim=(1, 2), keepdim=True)
        pixels = torch.lerp(middle, pixels, each(changes.contrast)).clamp_(0, 255)
    if settings.saturation:
        pixels = torch.lerp(_luminance(pixels), pixels, each(changes.saturation)).clamp_(0, 255)
    if settings.hue:
        pixels = _turn_hue(pixels, each(changes.hue)[..., 0])
    if settings.grayscale:
        pixels = torch.where(each(changes.grayscale), _luminance(pixels), pixels)
    if settings.blur:
        pixels = _blur(pixels, changes)
    if settings.erasing:
        fill = [255.0 * value for value in size.mean]
        pixels = _erase(pixels, changes, fill)
    return pixels.round_().to(torch.uint8)


def _changes_colour(settings: Augmentation) -> bool:
    return any(
        getattr(settings, name)
        for name in (
            *("brightness", "contrast", "saturation", "hue"),
            *("grayscale", "blur", "erasing"),
        )
    )


def _cut(crops: torch.Tensor, changes: Changes, pad: int, size: Preprocessing) -> torch.Tensor:
    """A window of the padded crop, which is mirrored before where that was drawn."""
    padded = functional.pad(crops, (0, 0, pad, pad, pad, pad)) if pad else crops
    rows = changes.top[:, None] + torch.arange(size.height)
    columns = changes.left[:, None] + torch.arange(size.width)
    columns = torch.where(changes.flip[:, None], padded.shape[2] - 1 - columns, columns)
    # One gather of whole pixels, so that a GPU is given one kernel and not one for each crop.
    flat = rows[:, :, None] * padded.shape[2] + columns[:, None, :]
    flat = flat + torch.arange(len(crops))[:, None, None] * padded.shape[1] * padded.shape[2]
    flat = flat.flatten().to(crops.device, non_blocking=True)
    chosen = padded.reshape(-1, 3).index_select(0, flat)
    return chosen.view(len(crops), size.height, size.width, 3)


def _luminance(pixels: torch.Tensor) -> torch.Tensor:
    """`(B, h, w, 3)` to `(B, h, w, 1)`."""
    red, green, blue = pixels.unbind(-1)
    return (LUMINANCE[0] * red + LUMINANCE[1] * green + LUMINANCE[2] * blue)[..., None]


def _turn_hue(pixels: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Moves each colour around the colour circle (HSV) by a share of a turn, `(B, 1, 1)`."""
    red, green, blue = pixels.unbind(-1)
    value, lowest = pixels.amax(-1), pixels.amin(-1)
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
    return torch.stack(channels, dim=-1)


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
    maps = pixels.index_select(0, chosen).permute(0, 3, 1, 2)
    shape = maps.shape
    maps = functional.pad(maps, (2, 2, 2, 2), mode="reflect").flatten(0, 1)[None]
    maps = functional.conv2d(maps, kernel[:, None, :, None], groups=len(kernel))
    maps = functional.conv2d(maps, kernel[:, None, None, :], groups=len(kernel))
    return pixels.index_copy(0, chosen, maps.view(shape).permute(0, 2, 3, 1).contiguous())


def _erase(pixels: torch.Tensor, changes: Changes, fill: list[float]) -> torch.Tensor:
    """Paints each drawn box in one colour."""
    top, left, height, width = changes.box[:, :, None].unbind(1)
    rows, columns = torch.arange(pixels.shape[1]), torch.arange(pixels.shape[2])
    inside_rows = (rows >= top) & (rows < top + height) & changes.erase[:, None]
    inside_columns = (columns >= left) & (columns < left + width)
    inside_rows = inside_rows.to(pixels.device, non_blocking=True)
    inside_columns = inside_columns.to(pixels.device, non_blocking=True)
    inside = inside_rows[:, :, None, None] & inside_columns[:, None, :, None]
    channels = [
        channel.masked_fill(inside[..., 0], value)
        for channel, value in zip(pixels.unbind(-1), fill, strict=True)
    ]
    return torch.stack(channels, dim=-1)
