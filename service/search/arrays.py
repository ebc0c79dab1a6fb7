"""Arrays that grow while other threads read them, in memory or in files."""

from __future__ import annotations

import os
from typing import IO, Any, TypeVar

import faiss
import numpy as np
from numpy.typing import NDArray

FIRST_CAPACITY = 256
ROWS_AT_ONCE = 4096
# Above this share of some rows, multiplying all of them is faster than copying the wanted first.
ALL_ROWS_SHARE = 0.25
Rows = NDArray[np.int64]
Item = TypeVar("Item", bound=np.generic)


class GrowingArray:
    """Items of one shape, which one thread appends and changes.

    In a file they are read through a shared mapping and written by `pwrite`: the page cache holds
    them, what a killed process wrote stays, and a full disk is an error and not a signal.

    Attributes:
        items: `(capacity, ...)`, to be read; what other threads hold of it stays readable.
    """

    def __init__(self, shape: tuple[int, ...], dtype: type, file: IO[bytes] | None = None) -> None:
        """No items; `file` is empty, or `reserve` finds its items again."""
        self.items: NDArray[Any] = np.zeros((0, *shape), dtype)
        self._file = file
        self._item_bytes = self.items.dtype.itemsize * int(np.prod(shape, dtype=int))

    def reserve(self, count: int) -> None:
        """Makes room for so many items in all; it takes memory or disk as it is written.

        Raises:
            MemoryError, OSError: there is no room; nothing was changed.
        """
        if count <= len(self.items):
            return
        capacity = max(count, 2 * len(self.items), FIRST_CAPACITY)
        if self._file is None:
            self.items = grown(self.items, capacity)
            return
        os.ftruncate(self._file.fileno(), capacity * self._item_bytes)
        shape = (capacity, *self.items.shape[1:])
        self.items = np.asarray(np.memmap(self._file, self.items.dtype, "r", shape=shape))

    def write(self, at: int, values: NDArray[Any]) -> None:
        """Writes items, from one on, for which there is room; raises `OSError`."""
        if self._file is None:
            self.items[at : at + len(values)] = values
            return
        content = memoryview(np.ascontiguousarray(values, self.items.dtype).data).cast("B")
        offset = at * self._item_bytes
        while content:
            written = os.pwrite(self._file.fileno(), content, offset)
            content = content[written:]
            offset = offset + written


def grown(array: NDArray[Item], capacity: int) -> NDArray[Item]:
    """A copy with room for more; what is not written yet takes no memory."""
    more = np.zeros((capacity, *array.shape[1:]), array.dtype)
    more[: len(array)] = array
    return more


def vector_sums(vectors: NDArray[np.float32]) -> NDArray[np.uint64]:
    """A checksum of each row of `(n, d)`: the sum of its 32-bit words."""
    words = np.ascontiguousarray(vectors).view(np.uint32)
    return np.asarray(words.sum(axis=1, dtype=np.uint64))


def inner_products(
    vectors: NDArray[np.float32], rows: NDArray[np.int64], query: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Inner products `(n,)` of rows of `(m, d)`, ascending, with a query `(d,)`."""
    products = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), ROWS_AT_ONCE):
        wanted = rows[start : start + ROWS_AT_ONCE]
        first = int(wanted[0])
        end = int(wanted[-1]) + 1
        if len(wanted) > ALL_ROWS_SHARE * (end - first):
            found = _products(vectors[first:end], query)[wanted - first]
        else:
            found = _products(vectors[wanted], query)
        products[start : start + ROWS_AT_ONCE] = found
    return products


def _products(vectors: NDArray[np.float32], query: NDArray[np.float32]) -> NDArray[np.float32]:
    # FAISS's own loop takes half the time of a matrix product through BLAS for one query. It is as
    # fast as IndexFlatIP, which would need a second copy of every vector.
    products = np.empty(len(vectors), np.float32)
    # FAISS exports it, its type stubs leave it out.
    faiss.fvec_inner_products_ny(  # type: ignore[attr-defined]
        faiss.swig_ptr(products),
        faiss.swig_ptr(np.ascontiguousarray(query)),
        faiss.swig_ptr(vectors),
        vectors.shape[1],
        len(vectors),
    )
    return products
