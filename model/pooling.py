"""Spatial pooling: generalised mean (GeM), average, or a learnt weight for each place."""

from __future__ import annotations

import torch
from torch import nn


class GeneralizedMeanPooling(nn.Module):
    """GeM, (mean xᵖ)^(1/p) over space with p learnt from 3 (Radenović et al., TPAMI 2019)."""

    def __init__(self, exponent: float = 3.0, floor: float = 1e-6) -> None:
        super().__init__()
        self.exponent = nn.Parameter(torch.tensor(exponent))
        self.floor = floor

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Pools `(B, C, h, w)` to `(B, C)` in float32, whatever the autocast type."""
        with torch.autocast(maps.device.type, enabled=False):
            clamped = maps.float().clamp(min=self.floor)
            pooled = clamped.pow(self.exponent).mean(dim=(2, 3))
            return pooled.pow(1.0 / self.exponent)


class AveragePooling(nn.Module):
    """The mean over space."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Pools `(B, C, h, w)` to `(B, C)` in float32."""
        return maps.float().mean(dim=(2, 3))


class DepthwisePooling(nn.Module):
    """A learnt weight for each place of each channel's map (MobileFaceNets, Chen et al., 2018)."""

    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        """Builds it, as the mean over space.

        Args:
            channels: C.
            size: height and width of the maps.
        """
        super().__init__()
        self.weight = nn.Conv2d(channels, channels, size, groups=channels)
        nn.init.constant_(self.weight.weight, 1.0 / (size[0] * size[1]))
        nn.init.zeros_(self.weight.bias)  # type: ignore[arg-type]

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Pools `(B, C, h, w)` of that size to `(B, C)` in float32."""
        with torch.autocast(maps.device.type, enabled=False):
            pooled: torch.Tensor = self.weight(maps.float()).flatten(1)
            return pooled
