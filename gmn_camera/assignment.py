"""The Hungarian method: pairs of rows and columns with the largest sum.

SciPy has it too, but takes 143 MB on the disk.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def best_pairs(likeness: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Return the min(n, m) pairs (row, column) of a matrix `(n, m)` with the largest sum.

    No two pairs share a row or a column.
    """
    if likeness.shape[0] > likeness.shape[1]:
        return [(row, column) for column, row in best_pairs(likeness.T)]
    rows, columns = likeness.shape
    # Row and column 0 are placeholders. Each row starts in column 0, and an augmenting path leads
    # from there to a free column.
    costs = np.zeros((rows + 1, columns + 1))
    costs[1:, 1:] = -likeness
    row_potential = np.zeros(rows + 1)
    column_potential = np.zeros(columns + 1)
    row_of = np.zeros(columns + 1, int)
    for inserted in range(1, rows + 1):
        row_of[0] = inserted
        column = 0
        least = np.full(columns + 1, np.inf)
        previous = np.zeros(columns + 1, int)
        is_visited = np.zeros(columns + 1, bool)
        while row_of[column]:
            is_visited[column] = True
            row = row_of[column]
            reduced = costs[row] - row_potential[row] - column_potential
            is_better = ~is_visited & (reduced < least)
            least[is_better] = reduced[is_better]
            previous[is_better] = column
            reachable = np.where(is_visited, np.inf, least)
            reachable[0] = np.inf
            nearest = int(reachable.argmin())
            step = reachable[nearest]
            row_potential[row_of[is_visited]] += step
            column_potential[is_visited] -= step
            least[~is_visited] -= step
            column = nearest
        while column:
            row_of[column] = row_of[previous[column]]
            column = previous[column]
    return [
        (int(row_of[column]) - 1, column - 1) for column in range(1, columns + 1) if row_of[column]
    ]
