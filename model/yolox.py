"""The boxes of people in the output of a YOLOX."""

from __future__ import annotations

import numpy as np

from model.arrays import Array

# Distances in pixels between the centres of cells, for each of the network's three grids.
STRIDES = (8, 16, 32)
# Columns of the output: centre, width and height of a box, the score that the cell has an object,
# and the score of each class.
OBJECT = 4
PERSON = 5


def count_cells(canvas: tuple[int, int]) -> int:
    """Return the number of cells, and so of boxes, of an input with this height and width."""
    height, width = canvas
    return sum((height // stride) * (width // stride) for stride in STRIDES)


def decode_people(output: Array, canvas: tuple[int, int]) -> tuple[Array, Array]:
    """Decode the box of a person in each cell.

    Args:
        output: `(n, 85)`, or its first six columns; the centre of a box as an offset from its
            cell's corner and the logarithm of its width and height, both in strides, and scores of
            the object and of 80 classes.
        canvas: height and width of the input in pixels, multiples of 32.

    Returns:
        Boxes `(n, 4)` as left, top, right and bottom in pixels of the input, and their scores
        `(n,)`: those of the object times those of a person.
    """
    cells, strides = _cells(canvas)
    rows = output[:, : PERSON + 1].astype(np.float64)
    centres = (rows[:, :2] + cells) * strides
    halves = np.exp(rows[:, 2:OBJECT]) * strides / 2
    boxes = np.concatenate([centres - halves, centres + halves], axis=1)
    return boxes, rows[:, OBJECT] * rows[:, PERSON]


def _cells(canvas: tuple[int, int]) -> tuple[Array, Array]:
    """Return the column and row of each cell `(n, 2)`, and its stride `(n, 1)`."""
    height, width = canvas
    cells = []
    strides = []
    for stride in STRIDES:
        rows, columns = np.mgrid[: height // stride, : width // stride]
        cells.append(np.stack([columns.ravel(), rows.ravel()], axis=1))
        strides.append(np.full((rows.size, 1), stride))
    return np.concatenate(cells), np.concatenate(strides)
