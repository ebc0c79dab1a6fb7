"""The regions of two crops that a pair's score rests on, found by hiding one after another.

Occlusion (Zeiler and Fergus, ECCV 2014): a region's contribution is the score less the score with
the region hidden. It needs the network's outputs alone, and it is of one region at a time:
information that two regions share is credited to neither in full, and contributions do not add up
to the score.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from model.arrays import Floats, Pixels

ROWS = 8
COLUMNS = 4
# Cells of one size, numbered row by row from the top left.
CELLS = ROWS * COLUMNS
# A cell fades over this share of its side. A hard edge would be a pattern of its own.
FADE = 0.5
# The scores `(n,)` of one feature `(d,)` with some others `(n, d)`.
Scores = Callable[[Floats, Floats], Floats]


@dataclass(frozen=True)
class PairExplanation:
    """The contribution of each region of two crops to their score.

    Attributes:
        score: score of the pair, nothing hidden.
        first, second: contributions `(ROWS, COLUMNS)` in units of the score: how much higher it is
            than with this cell of that crop hidden. Positive is evidence for one person, negative
            for two.
    """

    score: float
    first: Floats
    second: Floats


def variants(crop: Pixels, numbers: range) -> Pixels:
    """Return a crop as it is and with one cell hidden.

    A hidden cell has the crop's mean colour and fades into its neighbours; the weights with which
    all cells hide a pixel add up to one, so that none counts for more than another.

    Args:
        crop: `(H, W, 3)` uint8.
        numbers: variant 0 is the crop itself, variant n hides cell n − 1. Those beyond the last
            cell are the crop itself again, to fill a batch.

    Returns:
        `(len(numbers), H, W, 3)` uint8.
    """
    vertical = _weights(crop.shape[0], ROWS)
    horizontal = _weights(crop.shape[1], COLUMNS)
    to_mean = crop.mean(axis=(0, 1), dtype=np.float32) - crop
    drawn = np.repeat(crop[None], len(numbers), axis=0)
    for place, number in enumerate(numbers):
        if 1 <= number <= CELLS:
            row, column = divmod(number - 1, COLUMNS)
            weight = np.outer(vertical[row], horizontal[column])[..., None]
            drawn[place] = np.rint(crop + weight * to_mean)
    return drawn


def explain(
    first: Floats,
    second: Floats,
    scores: Scores,
) -> PairExplanation:
    """Compute contributions from the features of two crops' variants.

    One crop's cells are hidden while the other is whole: exchanging the crops exchanges the grids
    where the score is symmetric.

    Args:
        first, second: features `(1 + CELLS, d)` of `variants` 0 to `CELLS`.
        scores: called with one whole crop and all variants of the other.
    """
    of_first = scores(second[0], first)
    of_second = scores(first[0], second)
    return PairExplanation(float(of_first[0]), _contributions(of_first), _contributions(of_second))


def _contributions(scores: Floats) -> Floats:
    return (scores[0] - scores[1:]).reshape(ROWS, COLUMNS)


def _weights(pixels: int, cells: int) -> Floats:
    """Return how far each cell of an axis hides each pixel, `(cells, pixels)`; columns sum to 1."""
    middles = np.arange(pixels, dtype=np.float32) + 0.5
    places = middles * cells / pixels
    inner = np.arange(1, cells, dtype=np.float32)[:, None]
    # The share of a pixel that lies behind each boundary: 1 behind the first edge, 0 at the last.
    behind = np.clip((places - inner) / FADE + 0.5, 0.0, 1.0)
    first = np.ones((1, pixels))
    last = np.zeros((1, pixels))
    edges = np.concatenate([first, behind, last])
    weights = edges[:-1] - edges[1:]
    return weights.astype(np.float32)
