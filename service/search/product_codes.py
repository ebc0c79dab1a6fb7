"""Vectors as product codes of 4 bits, which are scanned to propose the nearest crops.

Two components share one of 16 codes, a sixteenth of their bytes, and FAISS scans 32 rows at once.
It suits any distribution of the vectors: there are no lists or graphs to search in part. Many more
crops are proposed than are wanted, to be scored once more exactly.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from service.search.columns import Columns, Slots

BITS = 4
# Number of crops that the codes are learnt from, and of rounds.
TRAINING_SAMPLE = 4096
TRAINING_ROUNDS = 8
# For n wanted crops, PROPOSED_SHARE * n + PROPOSED_MORE are proposed.
PROPOSED_SHARE = 2
PROPOSED_MORE = 3800
# The codes are worth their memory at this recall, and below this share of an exact scan's time.
LEAST_RECALL = 0.99
MOST_TIME = 1.0
# Recall and time are measured with a sample of stored crops as queries, on their nearest others.
RECALL_SAMPLE = 100
RECALL_DEPTH = 100
# Crops whose cosines differ by less count as equally near.
TOLERANCE = 1e-5


class ProductCodes:
    """Product codes of some crops, which are only overwritten, once a crop is deleted.

    Attributes:
        slots: of the crops that are covered, ascending, deleted ones included.
        recall: measured mean share of the 100 nearest other crops that is found, 0 to 1; None if
            it is too low, or an exact scan is no slower. No codes are kept then.
    """

    def __init__(self, columns: Columns, slots: Slots, between: Callable[[], None]) -> None:
        """Code crops, then measure recall and time on them.

        Args:
            slots: of the crops, ascending; the samples are drawn from these.
            between: called now and then; its errors are raised.
        """
        self.slots = slots
        self.recall: float | None = None
        dimension = columns.dimension
        parts = dimension if dimension % 2 else dimension // 2
        self._index: Any = faiss.IndexPQFastScan(dimension, parts, BITS, faiss.METRIC_INNER_PRODUCT)
        random = np.random.default_rng(0)
        learnt, asked = (
            np.sort(random.choice(slots, min(len(slots), count), replace=False, shuffle=False))
            for count in (TRAINING_SAMPLE, RECALL_SAMPLE)
        )
        self._index.pq.cp.niter = TRAINING_ROUNDS
        self._index.train(columns.units(learnt))
        for _, units in columns.unit_parts(slots):
            between()
            self._index.add(units)
        recall, share_of_time = self._measure(columns, asked, between)
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

    def nearest(self, query: NDArray[np.float32], limit: int) -> Slots:
        """Return crops that include nearly all of the `limit` nearest, and maybe deleted ones.

        Args:
            query: `(d,)`, of any length.

        Returns:
            Many more than `limit`, ascending.
        """
        proposed = min(int(PROPOSED_SHARE * limit) + PROPOSED_MORE, len(self.slots))
        _, (found,) = self._index.search(query[None], proposed)
        return np.asarray(self.slots[np.sort(found[found >= 0])], np.int64)

    def remove(self, slots: Slots) -> None:
        """Overwrite the codes of covered crops."""
        if self._index is None:
            return
        packer = self._index.get_CodePacker()
        codes = self._index.codes
        blocks = faiss.rev_swig_ptr(codes.get(), codes.size()).reshape(-1, packer.block_size)
        # Zeros are near to no query.
        nothing = self._index.pq.compute_codes(np.zeros((1, self._index.d), np.float32))[0]
        for row in np.searchsorted(self.slots, slots).tolist():
            block, place = divmod(row, packer.nvec)
            # FAISS's wrapper takes a single block; of several it refuses those far in.
            packer.pack_1(nothing, place, blocks[block : block + 1])

    def _measure(
        self, columns: Columns, asked: Slots, between: Callable[[], None]
    ) -> tuple[float, float]:
        """Return the recall for crops as queries, and the share of an exact scan's time."""
        wanted = min(RECALL_DEPTH, len(self.slots) - 1)
        if wanted <= 0:
            return 0.0, 1.0
        hits = 0
        exact_seconds = list[float]()
        seconds = list[float]()
        for slot, unit in zip(asked.tolist(), columns.units(asked), strict=True):
            between()
            began = time.perf_counter()
            cosines = columns.cosines(self.slots, unit)
            # The nearest crop is the query itself, or equals it, and does not count.
            last = np.partition(cosines, -wanted - 1)[-wanted - 1]
            scanned = time.perf_counter()
            found = self.nearest(unit, wanted + 1)
            cosines = columns.cosines(found, unit)
            ended = time.perf_counter()
            exact_seconds.append(scanned - began)
            seconds.append(ended - scanned)
            nearer = (cosines >= last - TOLERANCE) & (found != slot)
            hits += min(int(np.count_nonzero(nearer)), wanted)
        share_of_time = float(np.median(seconds) / np.median(exact_seconds))
        return hits / (wanted * len(asked)), share_of_time
