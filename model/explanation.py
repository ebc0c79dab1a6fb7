"""The contributions of the regions of two crops to their score, by occlusion.

The contribution of a region is the score less the score with the region hidden (Zeiler and Fergus,
ECCV 2014). This needs the outputs of the network alone. Since one region is hidden at a time,
information that two regions share counts for neither in full, and contributions do not add up to
the score.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from model.arrays import Floats, Pixels

ROWS = 8
COLUMNS = 4
# Cells have equal sizes, and are numbered row by row from the top left.
CELLS = ROWS * COLUMNS
# A cell fades over this share of its side, since the network would see a hard edge as a pattern.
FADE = 0.5
# A function that returns the scores `(n,)` of a feature `(d,)` with others `(n, d)`.
Scores = Callable[[Floats, Floats], Floats]


class PairExplanation(NamedTuple):
    """The contributions of the regions of two crops to their score.

    Attributes:
        score: score of the whole crops.
        first, second: contributions `(ROWS, COLUMNS)` of the cells of each crop, in units of the
            score. Positive ones are evidence for one person, negative ones for two.
    """

    score: float
    first: Floats
    second: Floats


def variants(crop: Pixels, numbers: range) -> Pixels:
    """Return variants of a crop, each with one cell hidden.

    A hidden cell has the mean colour of the crop and fades into its neighbours. The weights with
    which all cells hide a pixel add up to one, so that all pixels count alike.

    Args:
        crop: pixels `(H, W, 3)` uint8.
        numbers: numbers of the variants. Variant 0 is the crop itself, and variant n hides cell
            n − 1. Variants beyond the last cell are the crop again, to fill a batch.

    Returns:
        Pixels `(len(numbers), H, W, 3)` uint8.
    """
    vertical = _weights(crop.shape[0], ROWS)
    horizontal = _weights(crop.shape[1], COLUMNS)
    to_mean = crop.mean(axis=(0, 1), dtype=np.float32) - crop
    drawn = np.repeat(crop[None], len(numbers), 0)
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
    """Compute contributions from the features of the variants of two crops.

    Cells of one crop are hidden while the other crop is whole.

    Args:
        first, second: features `(1 + CELLS, d)` of variants 0 to `CELLS` of each crop.
        scores: scores a whole crop with all variants of the other one.
    """
    first_scores = scores(second[0], first)
    second_scores = scores(first[0], second)
    return PairExplanation(
        score=float(first_scores[0]),
        first=(first_scores[0] - first_scores[1:]).reshape(ROWS, COLUMNS),
        second=(second_scores[0] - second_scores[1:]).reshape(ROWS, COLUMNS),
    )


def _weights(pixels: int, cells: int) -> Floats:
    """Return the weights `(cells, pixels)` by which cells of an axis hide pixels; they sum to 1."""
    middles = np.arange(pixels, dtype=np.float32) + 0.5
    places = middles * cells / pixels
    boundaries = np.arange(cells + 1, dtype=np.float32)[:, None]
    # The share of each pixel that lies behind each boundary. All lie between the outer two.
    behind = np.clip((places - boundaries) / FADE + 0.5, 0.0, 1.0)
    behind[0] = 1.0
    behind[-1] = 0.0
    return (behind[:-1] - behind[1:]).astype(np.float32)
