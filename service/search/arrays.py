"""Arrays of rows: room for more, and inner products with a query."""

from __future__ import annotations

from typing import TypeVar

import faiss
import numpy as np
from numpy.typing import NDArray

FIRST_CAPACITY = 256
ROWS_AT_ONCE = 4096
# Above this share of some rows, multiplying all of them is faster than copying the wanted first.
ALL_ROWS_SHARE = 0.25
Rows = NDArray[np.int64]
Item = TypeVar("Item", bound=np.generic)


def grown(array: NDArray[Item], capacity: int) -> NDArray[Item]:
    """Return a copy with room for more, which takes no memory before it is written."""
    more = np.zeros((capacity, *array.shape[1:]), array.dtype)
    more[: len(array)] = array
    return more


def inner_products(
    vectors: NDArray[np.float32], rows: NDArray[np.int64], query: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Compute inner products `(n,)` of rows of `(m, d)`, ascending, with a query `(d,)`."""
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
