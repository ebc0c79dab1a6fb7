"""A trained segment: FAISS's inverted lists in float16 over the first rows of a table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from service.search.recall import ExactNeighbours, Recall
from service.search.vector_blocks import VectorBlocks

# Lists are twice the square root of the rows: as many centroids to compare as rows per probe.
LISTS_PER_ROOT = 2
SAMPLES_PER_LIST = 40
TRAINING_ROUNDS = 10
FIRST_PROBES = 8
WANTED_RECALL = 0.99


class IvfSegment:
    """Finds nearly all of the nearest rows, how nearly was measured; a position is a row.

    Immutable, but that forgotten rows are zeroed, so that they come last and leave the memory.

    Attributes:
        size: how many rows it covers, dead ones included.
        probes: how many lists a search looks into.
        recall: measured with so many probes.
    """

    def __init__(self, index: faiss.IndexIVFScalarQuantizer, probes: int, recall: Recall) -> None:
        self.size = int(index.ntotal)
        self.probes = probes
        self.recall = recall
        self._index = index

    @classmethod
    def train(
        cls,
        vectors: VectorBlocks,
        norms: NDArray[np.float32],
        size: int,
        living: NDArray[np.int64],
        between: Callable[[], None],
    ) -> IvfSegment:
        """Builds one over the first `size` rows, and probes until nearly everything is found.

        Args:
            vectors: not of unit length.
            norms: their lengths.
            size: how many rows to cover.
            living: those among them from which training and measuring draw.
            between: called now and then; what it raises ends this.
        """
        random = np.random.default_rng(0)
        lists = max(1, min(int(LISTS_PER_ROOT * size**0.5), len(living) // SAMPLES_PER_LIST))
        index = faiss.IndexIVFScalarQuantizer(
            faiss.IndexFlatIP(vectors.dimension),
            vectors.dimension,
            lists,
            faiss.ScalarQuantizer.QT_fp16,
            faiss.METRIC_INNER_PRODUCT,
            False,
        )
        index.cp.niter = TRAINING_ROUNDS
        index.cp.min_points_per_centroid = 1
        drawn = random.choice(
            living, min(len(living), lists * SAMPLES_PER_LIST), replace=False, shuffle=False
        )
        index.train(vectors[drawn] / norms[drawn, None])
        for start, part in vectors.parts(size):
            between()
            index.add(part / norms[start : start + len(part), None])
        # Where each row went, so that it can be zeroed there.
        index.make_direct_map(True)
        exact = ExactNeighbours.of_sample(vectors, norms, living, random, between)
        probes = min(FIRST_PROBES, lists)
        while True:
            between()
            segment = cls(index, probes, Recall(0.0, 0.0))
            segment.recall = exact.recall(segment.nearest)
            if probes == lists or segment.recall.at_10 >= WANTED_RECALL:
                return segment
            probes = min(2 * probes, lists)

    @property
    def bytes(self) -> int:
        """Memory of the codes, and of where each row is."""
        return self.size * (int(self._index.code_size) + 16)

    def nearest(self, query: NDArray[np.float32], limit: int) -> NDArray[np.int64]:
        """Up to `limit` rows, nearest first, forgotten ones among the last."""
        probes = faiss.SearchParametersIVF()
        probes.nprobe = self.probes
        _, rows = self._index.search(query[None], min(limit, self.size), params=probes)
        return np.asarray(rows[0][rows[0] >= 0], np.int64)

    def forget(self, rows: NDArray[np.int64]) -> None:
        """Zeroes rows; those that it does not cover are no error."""
        lists: Any = self._index.invlists
        bytes_each = int(self._index.code_size)
        for row in rows[rows < self.size].tolist():
            place = int(self._index.direct_map.get(row))
            number, offset = place >> 32, place & 0xFFFFFFFF
            codes = faiss.rev_swig_ptr(
                lists.get_codes(number), lists.list_size(number) * bytes_each
            )
            codes[offset * bytes_each : (offset + 1) * bytes_each] = 0
