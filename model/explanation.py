"""Which regions of two crops a pair's score rests on, by hiding one after another.

Occlusion (Zeiler and Fergus, ECCV 2014): a region's contribution is the score less the score that
is obtained with the region hidden. It asks nothing of the network but its answers, so that it is
true of whatever embeds and scores, and it is of one region at a time: what two regions say alike
is credited to neither in full, and contributions do not add up to the score.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Of a cell's side: how wide a band it fades over. A hard edge would be a pattern of its own.
FADE = 0.5
Scores = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]]
"""The scores `(n,)` of one feature `(d,)` with some others `(n, d)`."""


@dataclass(frozen=True)
class Grid:
    """How a crop is divided: cells of one size, numbered row by row from the top left.

    Cell (r, c) covers r/rows to (r + 1)/rows of the crop's height and c/columns to
    (c + 1)/columns of its width.
    """

    rows: int = 8
    columns: int = 4

    @property
    def cells(self) -> int:
        """How many there are."""
        return self.rows * self.columns


@dataclass(frozen=True)
class PairExplanation:
    """What each region of two crops did to their score.

    Attributes:
        score: of the pair, nothing hidden.
        first, second: contributions `(rows, columns)` in units of the score: how much higher it is
            than with this cell of that crop hidden. Positive spoke for one person, negative for
            two.
    """

    score: float
    first: NDArray[np.float32]
    second: NDArray[np.float32]


def variants(
    crop: NDArray[np.uint8], numbers: range, grid: Grid | None = None
) -> NDArray[np.uint8]:
    """A crop as it is and with one cell hidden, whichever variants are asked for.

    A hidden cell has the crop's mean colour and fades into its neighbours; the weights with which
    all cells hide a pixel add up to one, so that none counts for more than another.

    Args:
        crop: `(H, W, 3)` uint8.
        numbers: variant 0 is the crop itself, variant n hides cell n − 1. What lies beyond the
            last cell is the crop itself again, which fills a batch.
        grid: the cells, `Grid()` by default.

    Returns:
        `(len(numbers), H, W, 3)` uint8.
    """
    grid = grid or Grid()
    vertical = _weights(crop.shape[0], grid.rows)
    horizontal = _weights(crop.shape[1], grid.columns)
    to_mean = crop.mean(axis=(0, 1), dtype=np.float32) - crop
    drawn = np.repeat(crop[None], len(numbers), axis=0)
    for place, number in enumerate(numbers):
        if 1 <= number <= grid.cells:
            row, column = divmod(number - 1, grid.columns)
            weight = np.outer(vertical[row], horizontal[column])[..., None]
            drawn[place] = np.rint(crop + weight * to_mean)
    return drawn


def explain(
    first: NDArray[np.float32],
    second: NDArray[np.float32],
    scores: Scores,
    grid: Grid | None = None,
) -> PairExplanation:
    """Contributions from the features of two crops' variants.

    One crop's cells are hidden while the other is whole: exchanging the crops exchanges the grids
    where the score is symmetric.

    Args:
        first, second: features `(1 + cells, d)` of `variants` 0 to `grid.cells`.
        scores: of the pair; asked for one whole crop with all variants of the other.
        grid: as the variants were made.
    """
    grid = grid or Grid()
    of_first, of_second = scores(second[0], first), scores(first[0], second)
    return PairExplanation(
        float(of_first[0]), _contributions(of_first, grid), _contributions(of_second, grid)
    )


def _contributions(scores: NDArray[np.float32], grid: Grid) -> NDArray[np.float32]:
    lost = scores[0] - scores[1:]
    return np.asarray(lost.reshape(grid.rows, grid.columns), np.float32)


def _weights(pixels: int, cells: int) -> NDArray[np.float32]:
    """How far each cell of one axis hides each pixel, `(cells, pixels)`; columns add up to 1."""
    places = (np.arange(pixels, dtype=np.float32) + 0.5) * cells / pixels
    inner = np.arange(1, cells, dtype=np.float32)[:, None]
    # The share of a pixel that lies behind each boundary: 1 behind the first edge, 0 at the last.
    behind = np.clip((places - inner) / FADE + 0.5, 0.0, 1.0)
    edges = np.concatenate([np.ones((1, pixels)), behind, np.zeros((1, pixels))])
    return np.asarray(edges[:-1] - edges[1:], np.float32)
