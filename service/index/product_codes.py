"""Vectors as 4-bit product codes, which are scanned to propose the nearest crops.

Two components share one of 16 codes, which takes a sixteenth of their bytes, and FAISS scans 32
rows at once. The codes suit any distribution of vectors, because no lists or graphs are searched in
part. Many more crops are proposed than wanted, and then scored again exactly.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import faiss
import numpy as np

from model.arrays import Floats
from service.index.centring import ComparedCrops
from service.index.columns import Columns, Slots

BITS = 4
# The codes are trained on this number of crops, in this number of rounds.
TRAINING_SAMPLE = 4096
TRAINING_ROUNDS = 8
# For n wanted crops, PROPOSED_SHARE * n + PROPOSED_MORE are proposed.
PROPOSED_SHARE = 2
PROPOSED_MORE = 3800
# Codes are used from this recall on, and below this share of the time of an exact scan.
LEAST_RECALL = 0.99
MOST_TIME = 1.0
# Recall and time are measured with a sample of stored crops as queries for their nearest others.
RECALL_SAMPLE = 100
RECALL_DEPTH = 100
# Crops whose cosines differ by less than this are equally near.
TOLERANCE = 1e-5


class ProductCodes:
    """Product codes of some crops; a code is overwritten when its crop is deleted.

    Attributes:
        crops: the covered crops, and what was subtracted from them.
        slots: slots of the covered crops, ascending, including deleted ones.
        recall: measured mean share of the 100 nearest other crops that are found, 0 to 1; None if
            it is too low or an exact scan is at least as fast. Then no codes are kept.
    """

    def __init__(self, columns: Columns, crops: ComparedCrops, between: Callable[[], None]) -> None:
        """Encode crops, then measure recall and time on them.

        Args:
            crops: by ascending slots; samples are drawn from these.
            between: called now and then; its errors are raised.
        """
        self.crops = crops
        self.slots = crops.slots
        self.recall: float | None = None
        dimension = columns.dimension
        parts = dimension if dimension % 2 else dimension // 2
        self._index: Any = faiss.IndexPQFastScan(dimension, parts, BITS, faiss.METRIC_INNER_PRODUCT)
        random = np.random.default_rng(0)

        def sample(count: int) -> ComparedCrops:
            count = min(len(crops.slots), count)
            rows = random.choice(len(crops.slots), count, replace=False, shuffle=False)
            return crops.at(np.sort(rows))

        self._index.pq.cp.niter = TRAINING_ROUNDS
        self._index.train(columns.units(sample(TRAINING_SAMPLE)))
        for _, units in columns.unit_parts(crops):
            between()
            self._index.add(units)
        recall, share_of_time = self._measure(columns, sample(RECALL_SAMPLE), between)
        if recall >= LEAST_RECALL and share_of_time < MOST_TIME:
            self.recall = recall
        else:
            self._index = None

    @property
    def dtype(self) -> str:
        return "float32" if self.recall is None else f"pq{BITS}"

    @property
    def bytes(self) -> int:
        return int(self._index.codes.size()) if self._index else 0

    def nearest(self, query: Floats, limit: int) -> Slots:
        """Return crops that include nearly all of the `limit` nearest; some may be deleted.

        Args:
            query: `(d,)`, of any length.

        Returns:
            Slots of many more than `limit` crops, ascending.
        """
        proposed = min(int(PROPOSED_SHARE * limit) + PROPOSED_MORE, len(self.slots))
        _, (rows,) = self._index.search(query[None], proposed)
        return np.asarray(self.slots[np.sort(rows[rows >= 0])], np.int64)

    def remove(self, slots: Slots) -> None:
        if self._index is None:
            return
        packer = self._index.get_CodePacker()
        codes = self._index.codes
        blocks = faiss.rev_swig_ptr(codes.get(), codes.size()).reshape(-1, packer.block_size)
        # A zero vector is near to no query.
        zero_vectors = np.zeros((1, self._index.d), np.float32)
        zero_code = self._index.pq.compute_codes(zero_vectors)[0]
        for row in np.searchsorted(self.slots, slots).tolist():
            block, offset = divmod(row, packer.nvec)
            # FAISS's wrapper accepts a single block, but refuses distant ones among several.
            packer.pack_1(zero_code, offset, blocks[block : block + 1])

    def _measure(
        self, columns: Columns, queries: ComparedCrops, between: Callable[[], None]
    ) -> tuple[float, float]:
        """Return recall with crops as queries, and the time as a share of an exact scan's."""
        wanted = min(RECALL_DEPTH, len(self.slots) - 1)
        if wanted <= 0:
            return 0.0, 1.0
        hits = 0
        exact_seconds: list[float] = []
        seconds: list[float] = []
        units = columns.units(queries)
        # The vector of a crop that was deleted meanwhile is erased, and near to no other.
        there = units.any(axis=1)
        living = list(zip(queries.slots[there].tolist(), units[there], strict=True))
        if not living:
            return 0.0, 1.0
        for slot, unit in living:
            between()
            began = time.perf_counter()
            cosines = columns.cosines(self.slots, unit)
            # The nearest crop is the query itself or its copy, and does not count.
            last = np.partition(cosines, -wanted - 1)[-wanted - 1]
            scanned = time.perf_counter()
            proposed = self.nearest(unit, wanted + 1)
            columns.cosines(proposed, unit)
            ended = time.perf_counter()
            exact_seconds.append(scanned - began)
            seconds.append(ended - scanned)
            # It counts the scan's cosines, because crops may have been deleted since.
            reached = cosines[np.searchsorted(self.slots, proposed)]
            nearer = (reached >= last - TOLERANCE) & (proposed != slot)
            hits += min(int(np.count_nonzero(nearer)), wanted)
        share_of_time = float(np.median(seconds) / np.median(exact_seconds))
        return hits / (wanted * len(living)), share_of_time
