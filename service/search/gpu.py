"""A gallery's vectors on the networks' device, as tensors of our own.

A matrix product, a mask and top-k, where FAISS's GPU indexes ignore filters, stop at 2048 results
and copy everything at every `add`. Nothing in it is particular to CUDA.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

BLOCK_ROWS = 65_536
# How far below the last place a row may score and still belong above it: twice the error of a
# score. In float16 the rows, the query and the sum are each rounded by up to 2⁻¹¹ of it.
MARGINS = {torch.float32: 1e-5, torch.float16: 4e-3}


class DeviceVectors:
    """Vectors of unit length on a device, row for row those of a table; one thread's alone.

    Without room a method raises PyTorch's error; `retry_out_of_memory` makes it `DeviceFull`.
    """

    def __init__(self, dimension: int, device: torch.device, block_rows: int = BLOCK_ROWS) -> None:
        self.size = 0
        self._dimension = dimension
        self._device = device
        self._dtype = torch.float32
        self._block_rows = block_rows
        self._blocks: list[torch.Tensor] = []

    @property
    def dtype(self) -> str:
        """The type that they are stored and compared in, `float32` or `float16`."""
        return str(self._dtype).removeprefix("torch.")

    @property
    def bytes(self) -> int:
        """Memory of the blocks."""
        return sum(block.nbytes for block in self._blocks)

    def append(self, units: NDArray[np.float32]) -> None:
        """Adds rows `(n, d)` at the end; without room everything stays as it was."""
        size = self.size + len(units)
        self._reserve(size)
        vectors = torch.from_numpy(units).to(self._device, self._dtype)
        written = 0
        while written < len(vectors):
            number, place = divmod(self.size + written, self._block_rows)
            part = vectors[written : written + self._block_rows - place]
            self._blocks[number][place : place + len(part)] = part
            written += len(part)
        self.size = size

    def mark_deleted(self, rows: NDArray[np.int64]) -> None:
        """Zeroes rows."""
        numbers, places = np.divmod(rows, self._block_rows)
        for number in np.unique(numbers).tolist():
            here = torch.from_numpy(places[numbers == number]).to(self._device)
            self._blocks[number][here] = 0

    def to_float16(self) -> None:
        """Stores everything in float16 from now on; without room nothing here can be used."""
        for number, block in enumerate(self._blocks):
            self._blocks[number] = block.half()
        self._dtype = torch.float16

    def nearest(
        self, query: NDArray[np.float32], limit: int, rows: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """At least the `limit` rows nearest to a query `(d,)`, and those that tie with the last.

        Args:
            query: of unit length or shorter.
            limit: fewer than the rows that may be returned.
            rows: those that may be returned.
        """
        direction = torch.from_numpy(query).to(self._device, self._dtype)
        scores = torch.empty(self.size, device=self._device)
        for start in range(0, self.size, self._block_rows):
            part = scores[start : start + self._block_rows]
            part.copy_(self._blocks[start // self._block_rows][: len(part)] @ direction)
        hidden = torch.ones(self.size, dtype=torch.bool, device=self._device)
        hidden[torch.from_numpy(rows).to(self._device)] = False
        scores.masked_fill_(hidden, -torch.inf)
        last = torch.topk(scores, limit).values[-1]
        near = torch.nonzero(scores >= last - MARGINS[self._dtype]).squeeze(1)
        return np.asarray(near.cpu().numpy(), np.int64)

    def _reserve(self, rows: int) -> None:
        while len(self._blocks) * self._block_rows < rows:
            shape = (self._block_rows, self._dimension)
            self._blocks.append(torch.empty(shape, dtype=self._dtype, device=self._device))
