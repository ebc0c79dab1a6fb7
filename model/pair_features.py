"""The sample-pair feature of GMN, f_sp(p, q) = d·(z_p − z_q)⊙(z_p − z_q) with z = f/‖f‖₂.

The paper writes the square on f itself. Unit length makes features comparable across domains; the
factor d brings the entries near 1, so that a BatchNorm's eps does not swallow them.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch.nn import functional

PairFeatureKind = Literal["square", "abs"]


def unit_features(features: torch.Tensor) -> torch.Tensor:
    """z = f/‖f‖₂ of features `(…, d)`, float32."""
    return functional.normalize(features.float(), dim=-1)


def pair_features(
    first: torch.Tensor, second: torch.Tensor, kind: PairFeatureKind = "square"
) -> torch.Tensor:
    """Pair features of unit features that broadcast against each other.

    Args:
        first, second: unit features, `(…, d)` float32, from `unit_features`.
        kind: `square` is d·(z_p − z_q)², `abs` is √d·|z_p − z_q| ("Squ" and "Abs" of Figure 3).

    Returns:
        `(…, d)` float32, symmetric in its arguments.
    """
    difference = first - second
    dimension = difference.shape[-1]
    if kind == "square":
        return difference.square() * dimension
    return difference.abs() * math.sqrt(dimension)


def batch_pairs(size: int, device: torch.device | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Row numbers of all B(B−1)/2 unordered pairs of a batch, two `(N,)` int64 tensors."""
    rows = torch.triu_indices(size, size, offset=1, device=device)
    return rows[0], rows[1]
