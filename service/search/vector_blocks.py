"""Vectors in blocks of a fixed height: appending never moves, nor copies, what is there."""

from __future__ import annotations

from collections.abc import Iterator

import faiss
import numpy as np
from numpy.typing import NDArray

BLOCK_ROWS = 4096
# Beyond this share of a block, multiplying all of it is quicker than copying what is asked first.
WHOLE_BLOCK_SHARE = 0.25


class VectorBlocks:
    """Rows `(d,)` float32, numbered from 0; how many of them count is the owner's to know.

    Other threads may read rows while the owner appends: a block stays where it is.
    """

    def __init__(self, dimension: int, block_rows: int = BLOCK_ROWS) -> None:
        self.dimension = dimension
        self.block_rows = block_rows
        self._blocks: list[NDArray[np.float32]] = []

    def reserve(self, rows: int) -> None:
        """Makes room for so many rows in all; what is never written takes no memory."""
        while len(self._blocks) * self.block_rows < rows:
            self._blocks.append(np.empty((self.block_rows, self.dimension), np.float32))

    def extend(self, vectors: NDArray[np.float32], start: int) -> None:
        """Writes rows `(n, d)` from a row on, and makes room for them."""
        self.reserve(start + len(vectors))
        written = 0
        while written < len(vectors):
            number, place = divmod(start + written, self.block_rows)
            part = vectors[written : written + self.block_rows - place]
            self._blocks[number][place : place + len(part)] = part
            written += len(part)

    def __setitem__(self, row: int, vector: NDArray[np.float32] | float) -> None:
        number, place = divmod(row, self.block_rows)
        self._blocks[number][place] = vector

    def __getitem__(self, rows: NDArray[np.int64] | slice) -> NDArray[np.float32]:
        """A copy of rows `(n, d)`; a slice needs its two ends and has no step."""
        if isinstance(rows, slice):
            rows = np.arange(rows.start, rows.stop)
        found = np.empty((len(rows), self.dimension), np.float32)
        numbers, places = np.divmod(rows, self.block_rows)
        for number in np.unique(numbers):
            here = numbers == number
            found[here] = self._blocks[number][places[here]]
        return found

    def parts(self, rows: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Views of the first rows, block by block, each with its first row's number."""
        for start in range(0, rows, self.block_rows):
            yield start, self._blocks[start // self.block_rows][: rows - start]

    def products(self, rows: NDArray[np.int64], query: NDArray[np.float32]) -> NDArray[np.float32]:
        """Inner products `(n,)` of rows, ascending, with a query `(d,)`."""
        products = np.empty(len(rows), np.float32)
        if len(rows) == 0:
            return products
        first, last = int(rows[0]) // self.block_rows, int(rows[-1]) // self.block_rows
        edges = np.searchsorted(rows, np.arange(first, last + 2) * self.block_rows)
        for number, start, stop in zip(range(first, last + 1), edges[:-1], edges[1:], strict=True):
            if start == stop:
                continue
            places = rows[start:stop] - number * self.block_rows
            filled = self._blocks[number][: places[-1] + 1]
            if len(places) > WHOLE_BLOCK_SHARE * len(filled):
                products[start:stop] = _products(filled, query)[places]
            else:
                products[start:stop] = _products(filled[places], query)
        return products


def _products(vectors: NDArray[np.float32], query: NDArray[np.float32]) -> NDArray[np.float32]:
    # FAISS's own loop: for one query half the time of a matrix product through BLAS, and as quick
    # as IndexFlatIP, which would need a second copy of every vector.
    products = np.empty(len(vectors), np.float32)
    # FAISS exports it, its type stubs forget it.
    faiss.fvec_inner_products_ny(  # type: ignore[attr-defined]
        faiss.swig_ptr(products),
        faiss.swig_ptr(np.ascontiguousarray(query)),
        faiss.swig_ptr(vectors),
        vectors.shape[1],
        len(vectors),
    )
    return products
