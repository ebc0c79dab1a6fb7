"""A gallery's vectors as a tensor on the networks' device.

A search is a matrix product, a mask and top-k. FAISS's GPU indexes ignore filters, return at most
2048 results, and copy everything on each `add`. Nothing here is specific to CUDA.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from model.arrays import Floats
from service.search.columns import Columns, Slots

# Galleries of at least this many crops are copied as float16.
FLOAT16_ROWS = 1_000_000
# Rows scoring this far below the last place may still belong above it: twice the error of a score.
# In float16 the rows, the query and the sum are each rounded by up to 2⁻¹¹ of their value.
MARGINS = {"float32": 1e-5, "float16": 4e-3}


class DeviceVectors:
    """Unit-length vectors of some crops on a device; only deletions change them, to 0.

    Attributes:
        slots: slots of the covered crops, ascending, including deleted ones.
        dtype: type of the stored vectors, `float32` or `float16`.
        bytes: memory that they take.
    """

    recall = None

    def __init__(
        self, device: str, columns: Columns, slots: Slots, between: Callable[[], None]
    ) -> None:
        """Copy crops to a device such as `cuda:0`.

        Raises:
            torch.OutOfMemoryError: the device has too little memory.
        """
        self.slots = slots
        self.dtype = "float16" if len(slots) >= FLOAT16_ROWS else "float32"
        self._vectors = torch.empty(
            (len(slots), columns.dimension),
            dtype=getattr(torch, self.dtype),
            device=device,
        )
        self.bytes = self._vectors.nbytes
        for part, units in columns.unit_parts(slots):
            between()
            self._vectors[part] = torch.from_numpy(units)

    def remove(self, slots: Slots) -> None:
        rows = torch.from_numpy(np.searchsorted(self.slots, slots))
        self._vectors[rows.to(self._vectors.device)] = 0

    def nearest(self, query: Floats, limit: int, passing: Slots) -> Slots:
        """Return at least the `limit` nearest of some crops, with all that tie for the last place.

        Args:
            query: `(d,)`, of length at most 1.
            passing: covered crops, ascending; all are returned if there are at most `limit`.
        """
        if len(passing) <= limit:
            return passing
        device = self._vectors.device
        dtype = self._vectors.dtype
        scores = (self._vectors @ torch.from_numpy(query).to(device, dtype)).float()
        is_hidden = np.ones(int(self.slots[-1]) + 1, np.bool_)
        is_hidden[passing] = False
        scores.masked_fill_(torch.from_numpy(is_hidden[self.slots]).to(device), -torch.inf)
        last = torch.topk(scores, limit).values[-1]
        near = torch.nonzero(scores >= last - MARGINS[self.dtype]).squeeze(1)
        return np.asarray(self.slots[near.cpu().numpy()], np.int64)
