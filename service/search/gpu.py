"""A gallery's vectors on the networks' device, as a tensor of our own.

A matrix product, a mask and top-k, where FAISS's GPU indexes ignore filters, stop at 2048 results
and copy everything at every `add`. Nothing in it is particular to CUDA.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from service.search.table import RowTable

# How far below the last place a row may score and still belong above it: twice the error of a
# score. In float16 the rows, the query and the sum are each rounded by up to 2⁻¹¹ of it.
MARGINS = {"float32": 1e-5, "float16": 4e-3}


class DeviceVectors:
    """Rows of a table at unit length on a device; only deleted rows change, to zero.

    Attributes:
        size: the number of rows that it covers, deleted ones included.
        dtype: of the stored vectors, `float32` or `float16`.
        bytes: their memory.
    """

    recall = None

    def __init__(
        self,
        device: str,
        dtype: Literal["float32", "float16"],
        table: RowTable,
        rows: NDArray[np.int64],
        between: Callable[[], None],
    ) -> None:
        """Copy rows to a device such as `cuda:0`.

        Raises:
            torch.OutOfMemoryError: the device has no room for them.
        """
        self.size = len(rows)
        self.dtype = dtype
        shape = (self.size, table.dimension)
        self._vectors = torch.empty(shape, dtype=getattr(torch, dtype), device=device)
        self.bytes = self._vectors.nbytes
        for part, units in table.unit_parts(rows):
            between()
            self._vectors[part] = torch.from_numpy(units)

    def mark_deleted(self, rows: NDArray[np.int64]) -> None:
        """Set rows to zero; rows beyond `size` are ignored."""
        self._vectors[torch.from_numpy(rows[rows < self.size]).to(self._vectors.device)] = 0

    def nearest(
        self, query: NDArray[np.float32], limit: int, rows: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Return at least the `limit` nearest of some rows, with all that tie with the last.

        Args:
            query: `(d,)`, of unit length or shorter.
            rows: the candidates; all are returned if there are `limit` or fewer.
        """
        if len(rows) <= limit:
            return rows
        device = self._vectors.device
        dtype = self._vectors.dtype
        scores = (self._vectors @ torch.from_numpy(query).to(device, dtype)).float()
        hidden = torch.ones(self.size, dtype=torch.bool, device=device)
        hidden[torch.from_numpy(rows).to(device)] = False
        scores.masked_fill_(hidden, -torch.inf)
        last = torch.topk(scores, limit).values[-1]
        near = torch.nonzero(scores >= last - MARGINS[self.dtype]).squeeze(1)
        return np.asarray(near.cpu().numpy(), np.int64)
