"""Random changes to a training crop, made from the recipe with torchvision's transforms."""

from __future__ import annotations

import torch
from torchvision.transforms import v2

from model.preprocessing import Preprocessing
from training.recipe import Augmentation


def build_augmentation(settings: Augmentation, preprocessing: Preprocessing) -> v2.Transform:
    """A transform of one crop `(3, h, w)` uint8, as it was decoded, to the input's size."""
    size = (preprocessing.height, preprocessing.width)
    steps: list[v2.Transform] = [v2.RandomHorizontalFlip(settings.flip)]
    if settings.pad or settings.resize:
        steps.append(v2.RandomCrop(size, padding=settings.pad))
    jitter = (settings.brightness, settings.contrast, settings.saturation, settings.hue)
    if any(jitter):
        steps.append(v2.ColorJitter(*jitter))
    if settings.grayscale:
        steps.append(v2.RandomGrayscale(settings.grayscale))
    if settings.blur:
        steps.append(v2.RandomApply([v2.GaussianBlur(5, sigma=(0.3, 1.5))], settings.blur))
    if settings.erasing:
        mean = [round(255 * value) for value in preprocessing.mean]
        steps.append(v2.RandomErasing(settings.erasing, scale=(0.02, 0.2), value=mean))
    return v2.Compose(steps)


def augment(crops: torch.Tensor, transform: v2.Transform, seed: int) -> torch.Tensor:
    """Augments `(B, 3, h, w)` uint8, each crop by itself; the outcome depends on `seed` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return torch.stack([transform(crop) for crop in crops])
