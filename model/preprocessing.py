"""The preprocessing of crops, which an artefact stores for training, evaluation and service."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from pydantic import Field

from model.arrays import Pixels
from model.stored import Stored

if TYPE_CHECKING:
    import torch

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
PATTERNS = 12


@lru_cache(maxsize=16)
def _on_device(
    values: tuple[float, ...],
    device: torch.device,
) -> torch.Tensor:
    import torch

    # Each copy would wait for the GPU, so that the tensor is cached. Training can use it too, since
    # it is made outside of inference mode.
    with torch.inference_mode(False):
        return torch.tensor(values, device=device)


class Preprocessing(Stored):
    """The way from a decoded crop to the input of the network.

    Attributes:
        height, width: input size in pixels; the aspect ratio of the crop is not kept.
        mean, std: mean and standard deviation of each RGB channel, on the scale 0 to 1.
    """

    height: int = Field(
        256,
        ge=32,
        le=1024,
    )
    width: int = Field(
        128,
        ge=16,
        le=1024,
    )
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def resize(self, crop: Image.Image) -> Pixels:
        """Resize a crop in RGB to pixels `(height, width, 3)` uint8, antialiased bilinear."""
        size = (self.width, self.height)
        # PyTorch's resize of uint8 is faster, but at most sizes some values differ by up to 2.
        resized = crop.resize(size, Image.Resampling.BILINEAR)
        return np.asarray(resized, dtype=np.uint8)

    def normalise(self, crops: torch.Tensor) -> torch.Tensor:
        """Normalise crops `(B, height, width, 3)` uint8 to `(B, 3, height, width)` float32."""
        mean = _on_device(self.mean, crops.device)
        std = _on_device(self.std, crops.device)
        scaled = (crops / 255.0).sub_(mean).div_(std)
        return scaled.permute(0, 3, 1, 2)


def drawn_patterns(preprocessing: Preprocessing) -> Pixels:
    """Draw the same crops of coloured stripes every time, `(n, height, width, 3)` uint8 RGB."""
    random = np.random.default_rng(0)
    rows = np.arange(preprocessing.height)[:, None] / preprocessing.height
    columns = np.arange(preprocessing.width)[None, :] / preprocessing.width
    patterns = []
    for _ in range(PATTERNS):
        turns = random.uniform(0.5, 4, 2)
        phase = turns[0] * rows + turns[1] * columns + random.random()
        wave = np.sin(2 * np.pi * phase)[..., None]
        low, high = random.uniform(0, 255, (2, 3))
        patterns.append(low + (high - low) * (wave + 1) / 2)
    return np.stack(patterns).astype(np.uint8)
