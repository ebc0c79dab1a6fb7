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


def pair_features(
    first: torch.Tensor, second: torch.Tensor, kind: PairFeatureKind = "square"
) -> torch.Tensor:
    """Pair features of features that broadcast against each other.

    Args:
        first, second: features, `(…, d)`, of any length.
        kind: `square` is d·(z_p − z_q)², `abs` is √d·|z_p − z_q| ("Squ" and "Abs" of Figure 3).

    Returns:
        `(…, d)` float32, symmetric in its arguments.
    """
    difference = functional.normalize(first.float(), dim=-1) - functional.normalize(
        second.float(), dim=-1
    )
    dimension = difference.shape[-1]
    if kind == "square":
        return difference.square() * dimension
    return difference.abs() * math.sqrt(dimension)


def batch_pairs(size: int, device: torch.device | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Row numbers of all B(B−1)/2 unordered pairs of a batch, two `(N,)` int64 tensors."""
    rows = torch.triu_indices(size, size, offset=1, device=device)
    return rows[0], rows[1]
