"""How much of the truth a trained segment finds, measured on stored crops searched for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import faiss
import numpy as np
from numpy.typing import NDArray

from service.search.vector_blocks import VectorBlocks

SAMPLE = 100
DEPTHS = (10, 100)
# Cosines closer than this are equal: which of the two was found is no error.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Recall:
    """Mean share of the 10, and of the 100, nearest other crops that is found, 0 to 1."""

    at_10: float
    at_100: float


@dataclass(frozen=True)
class ExactNeighbours:
    """Stored crops, and how near their nearest others are.

    Attributes:
        rows: the crops, `(Q,)`.
        units: their vectors `(Q, d)` of unit length.
        lasts: for each depth, the cosine of the last of the nearest others, `(Q,)`.
        living: the rows that count, ascending.
        vectors, norms: of all rows.
    """

    rows: NDArray[np.int64]
    units: NDArray[np.float32]
    lasts: dict[int, NDArray[np.float32]]
    living: NDArray[np.int64]
    vectors: VectorBlocks
    norms: NDArray[np.float32]

    @classmethod
    def of_sample(
        cls,
        vectors: VectorBlocks,
        norms: NDArray[np.float32],
        living: NDArray[np.int64],
        random: np.random.Generator,
        between: Callable[[], None],
    ) -> ExactNeighbours:
        """Draws crops and compares them with every living one.

        Args:
            vectors: not of unit length.
            norms: their lengths.
            living: the rows that count, ascending.
            random: draws.
            between: called now and then; what it raises ends this.
        """
        rows = random.choice(living, min(SAMPLE, len(living)), replace=False, shuffle=False)
        units = vectors[rows] / norms[rows, None]
        others = min(max(DEPTHS), len(living) - 1)
        best = faiss.ResultHeap(len(rows), others + 1, keep_max=True)
        for start in range(0, len(living), vectors.block_rows):
            between()
            part = living[start : start + vectors.block_rows]
            found = faiss.knn(
                units,
                vectors[part] / norms[part, None],
                min(others + 1, len(part)),
                metric=faiss.METRIC_INNER_PRODUCT,
            )
            best.add_result(*found)
        best.finalize()
        # The first is the crop itself, or one that equals it.
        lasts = {depth: best.D[:, min(depth, others)] for depth in DEPTHS}
        return cls(rows, units, lasts, living, vectors, norms)

    def recall(self, search: Callable[[NDArray[np.float32], int], NDArray[np.int64]]) -> Recall:
        """Measures a search that takes a unit vector `(d,)` and a limit and answers rows."""
        return Recall(*(self._share(search, depth) for depth in DEPTHS))

    def _share(
        self, search: Callable[[NDArray[np.float32], int], NDArray[np.int64]], depth: int
    ) -> float:
        wanted = min(depth, len(self.living) - 1)
        if wanted == 0:
            return 1.0
        found_of_wanted = 0
        for row, unit, last in zip(self.rows, self.units, self.lasts[depth], strict=True):
            found = search(unit, depth + 1)
            places = np.minimum(np.searchsorted(self.living, found), len(self.living) - 1)
            found = found[(self.living[places] == found) & (found != row)]
            cosines = self.vectors[found] @ unit / self.norms[found]
            hits = int(np.count_nonzero(cosines >= last - TOLERANCE))
            found_of_wanted += min(hits, wanted)
        return found_of_wanted / (wanted * len(self.rows))
