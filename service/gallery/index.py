"""The index of one gallery: FAISS for searches of everything, direct scoring for filtered ones.

It is derived from the record store and belongs to one thread. Deleted crops are masked by row and
never by an `IDSelector`, which FAISS's GPU indexes accept and ignore.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import faiss
import numpy as np
from numpy.typing import NDArray

from service.gallery.records import IndexedCrop
from service.gallery.rows import Filter, RowTable

log = logging.getLogger(__name__)
ROWS_PER_CHUNK = 8192
EXACT_ROWS = 1024
# Float32 sums differ in their last digits from one way of searching to another. Whatever comes so
# close to the last place is scored exactly before the cut, so that ties are cut by age.
TOLERANCE = 1e-5
FIRST_MARGIN = 16
COMPACT_AT_DEAD_ROWS = 64
COMPACT_AT_DEAD_SHARE = 0.2


@dataclass(frozen=True)
class Candidates:
    """The best of a search, by cosine downwards and, where equal, by age.

    Attributes:
        rows: row numbers, `(n,)`.
        cosines: mean cosine to the queries, `(n,)` float32.
        searched: how many crops passed the filter.
    """

    rows: NDArray[np.int64]
    cosines: NDArray[np.float32]
    searched: int


class GalleryIndex:
    """Vectors of one gallery, ready to be searched.

    The same search gives the same rows and the same cosines whether it is filtered or not, before
    and after a compaction: what a search returns is scored once more in float64.
    """

    kind = "flat_ip"
    dtype = "float32"

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self.table = RowTable(dimension)
        self._faiss = faiss.IndexFlatIP(dimension)

    @property
    def bytes(self) -> int:
        """Memory of the vectors, counted once for FAISS and once for M-Net."""
        return int(self.table.vectors.nbytes) + self._faiss.ntotal * self.dimension * 4

    def add(self, crops: Iterable[IndexedCrop]) -> None:
        """Makes crops findable."""
        chunk: list[IndexedCrop] = []
        for crop in crops:
            chunk.append(crop)
            if len(chunk) == ROWS_PER_CHUNK:
                self._append(chunk)
                chunk = []
        self._append(chunk)

    def remove(self, row_ids: Iterable[int]) -> None:
        """Makes crops unfindable, at once."""
        for row_id in row_ids:
            self.table.kill(row_id)
        dead = self.table.size - self.table.live
        if dead >= COMPACT_AT_DEAD_ROWS and dead > COMPACT_AT_DEAD_SHARE * self.table.size:
            self._compact()

    def search(
        self, queries: NDArray[np.float32], limit: int, wanted: Filter | None = None
    ) -> Candidates:
        """The `limit` crops with the highest mean cosine to the queries.

        Args:
            queries: features `(m, d)` of one person, not of unit length.
            limit: how many at most.
            wanted: which crops may be returned, all by default.
        """
        wanted = wanted or Filter()
        units = queries.astype(np.float64)
        units /= np.maximum(np.linalg.norm(units, axis=1, keepdims=True), 1e-12)
        query = units.mean(axis=0)
        if wanted.passes_all:
            searched = self.table.live
            rows = self._nearest_of_all(query.astype(np.float32), limit)
        else:
            passing = self.table.select(wanted)
            searched = len(passing)
            rows = self._nearest_of(passing, query.astype(np.float32), limit)
        cosines = self._exact_cosines(rows, query)
        order = np.lexsort((self.table.row_ids[rows], -cosines))[:limit]
        return Candidates(rows[order], cosines[order], searched)

    def _compact(self) -> None:
        # Beside the old one: where memory is short, the old one stays, masked and right.
        fresh = GalleryIndex(self.dimension)
        try:
            fresh.add(self.table.living())
        except MemoryError:
            log.exception("too little memory to compact an index; it stays as it is")
            return
        self.table, self._faiss = fresh.table, fresh._faiss

    def _append(self, crops: Sequence[IndexedCrop]) -> None:
        if not crops:
            return
        # Whatever can fail for want of memory comes before the first change.
        self.table.reserve(len(crops))
        vectors = np.stack([crop.vector for crop in crops]).astype(np.float32)
        lengths = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        self._faiss.add(vectors / lengths)
        self.table.append(crops)

    def _nearest_of_all(self, query: NDArray[np.float32], limit: int) -> NDArray[np.int64]:
        size, limit = self.table.size, min(limit, self.table.live)
        if limit == 0:
            return np.empty(0, np.int64)
        asked = min(limit + FIRST_MARGIN, size)
        while True:
            scores, rows = (found[0] for found in self._faiss.search(query[None], asked))
            living = self.table.alive[rows]
            passing = rows[living]
            enough = len(passing) >= limit and scores[-1] < scores[living][limit - 1] - TOLERANCE
            if enough or asked == size:
                return np.asarray(passing, np.int64)
            asked = min(asked * 2, size)

    def _nearest_of(
        self, rows: NDArray[np.int64], query: NDArray[np.float32], limit: int
    ) -> NDArray[np.int64]:
        if len(rows) <= limit:
            return rows
        scores = np.empty(len(rows), np.float32)
        for start in range(0, len(rows), ROWS_PER_CHUNK):
            part = rows[start : start + ROWS_PER_CHUNK]
            products = self.table.vectors[part] @ query
            scores[start : start + len(part)] = products / self.table.norms[part]
        last = np.partition(scores, len(rows) - limit)[len(rows) - limit]
        return np.asarray(rows[scores >= last - TOLERANCE], np.int64)

    def _exact_cosines(
        self, rows: NDArray[np.int64], query: NDArray[np.float64]
    ) -> NDArray[np.float32]:
        cosines = np.empty(len(rows), np.float32)
        for start in range(0, len(rows), EXACT_ROWS):
            part = slice(start, start + EXACT_ROWS)
            vectors = self.table.vectors[rows[part]].astype(np.float64)
            # einsum sums every row alone; a matrix product's last digits depend on its height.
            products = np.einsum("rd,d->r", vectors, query)
            norms = np.sqrt(np.einsum("rd,rd->r", vectors, vectors))
            cosines[part] = products / np.maximum(norms, 1e-12)
        return np.clip(cosines, -1.0, 1.0)
