"""A trained segment: FAISS's inverted lists in float16 over the first rows of a table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from service.search.table import RowTable

# Lists are twice the square root of the rows: as many centroids to compare as rows per probe.
LISTS_PER_ROOT = 2
SAMPLES_PER_LIST = 40
TRAINING_ROUNDS = 10
FIRST_PROBES = 8
WANTED_RECALL = 0.99
# Recall is measured with so many stored crops as queries, on their ten nearest others.
RECALL_SAMPLE = 100
RECALL_DEPTH = 10
# Which of two others with cosines closer than this was found makes no difference.
TOLERANCE = 1e-5


class IvfSegment:
    """Finds nearly all of the nearest rows; a position is a row.

    Immutable, but that deleted rows are zeroed, so that they come last and leave the memory.

    Attributes:
        size: how many rows it covers, with deleted ones.
        probes: how many lists a search looks into.
        recall: the measured mean share of the ten nearest other crops that is found, 0 to 1.
    """

    def __init__(self, index: faiss.IndexIVFScalarQuantizer, probes: int) -> None:
        self.size = int(index.ntotal)
        self.dtype = "float16"
        self.probes = probes
        self.recall = 0.0
        self._index = index

    @classmethod
    def train(
        cls, table: RowTable, size: int, valid: NDArray[np.int64], between: Callable[[], None]
    ) -> IvfSegment:
        """Builds one over the first `size` rows, with probes enough to find nearly everything.

        Args:
            size: how many rows to cover.
            valid: those among them from which training and measuring draw, ascending.
            between: called now and then; an error of it ends this.
        """
        random = np.random.default_rng(0)
        dimension = table.vectors.dimension
        lists = max(1, min(int(LISTS_PER_ROOT * size**0.5), len(valid) // SAMPLES_PER_LIST))
        samples = min(len(valid), lists * SAMPLES_PER_LIST)
        units = table.units(random.choice(valid, samples, replace=False, shuffle=False))
        parameters = faiss.ClusteringParameters()
        parameters.niter = parameters.min_points_per_centroid = 1
        parameters.spherical = True
        clustering = faiss.Clustering(dimension, lists, parameters)
        quantizer = faiss.IndexFlatIP(dimension)
        for _ in range(TRAINING_ROUNDS):
            between()
            clustering.train(units, quantizer)
        index = faiss.IndexIVFScalarQuantizer(
            quantizer,
            dimension,
            lists,
            faiss.ScalarQuantizer.QT_fp16,
            faiss.METRIC_INNER_PRODUCT,
            False,
        )
        index.train(units)
        for part in table.unit_parts(size):
            between()
            index.add(part)
        # The place of each row, so that it can be zeroed there.
        index.make_direct_map(True)
        samples = min(len(valid), RECALL_SAMPLE)
        rows = random.choice(valid, samples, replace=False, shuffle=False)
        # One more: the nearest is the crop itself, or one that equals it.
        others, lasts = min(RECALL_DEPTH, len(valid) - 1) + 1, []
        for unit in table.units(rows):
            between()
            cosines = table.vectors.products(valid, unit) / table.norms[valid]
            lasts.append(np.partition(cosines, -others)[-others])
        segment = cls(index, min(FIRST_PROBES, lists))
        while True:
            between()
            segment.recall = segment._measured_recall(table, rows, valid, lasts)
            if segment.probes == lists or segment.recall >= WANTED_RECALL:
                return segment
            segment.probes = min(2 * segment.probes, lists)

    @property
    def bytes(self) -> int:
        """Memory of the codes, and of where each row is."""
        return self.size * (int(self._index.code_size) + 16)

    def nearest(self, query: NDArray[np.float32], limit: int) -> NDArray[np.int64]:
        """Up to `limit` rows, nearest first, deleted ones among the last."""
        probes = faiss.SearchParametersIVF()
        probes.nprobe = self.probes
        _, rows = self._index.search(query[None], min(limit, self.size), params=probes)
        return np.asarray(rows[0][rows[0] >= 0], np.int64)

    def mark_deleted(self, rows: NDArray[np.int64]) -> None:
        """Zeroes rows; those that it does not cover are ignored."""
        lists: Any = self._index.invlists
        bytes_each = int(self._index.code_size)
        for row in rows[rows < self.size].tolist():
            place = int(self._index.direct_map.get(row))
            number, offset = place >> 32, place & 0xFFFFFFFF
            codes = faiss.rev_swig_ptr(
                lists.get_codes(number), lists.list_size(number) * bytes_each
            )
            codes[offset * bytes_each : (offset + 1) * bytes_each] = 0

    def _measured_recall(
        self,
        table: RowTable,
        queries: NDArray[np.int64],
        valid: NDArray[np.int64],
        lasts: list[np.float32],
    ) -> float:
        """The share of the nearest others that is found; `lasts` are the cosines of the tenth."""
        wanted = min(RECALL_DEPTH, len(valid) - 1)
        if wanted == 0:
            return 1.0
        hits = 0
        for row, unit, last in zip(queries, table.units(queries), lasts, strict=True):
            found = self.nearest(unit, RECALL_DEPTH + 1)
            places = np.minimum(np.searchsorted(valid, found), len(valid) - 1)
            found = found[(valid[places] == found) & (found != row)]
            cosines = table.units(found) @ unit
            hits += min(int(np.count_nonzero(cosines >= last - TOLERANCE)), wanted)
        return hits / (wanted * len(queries))
