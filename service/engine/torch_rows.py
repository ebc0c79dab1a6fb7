"""A gallery's vectors on the networks' device, as tensors that are ours to mask and to append to.

A matrix product, a mask and top-k where FAISS's GPU indexes ignore filters, stop at 2048 results
and copy everything at every `add`. Nothing in it is particular to CUDA.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from service.engine.faults import device_error, retry_out_of_memory
from service.errors import DeviceFull

BLOCK_ROWS = 65_536
# How far below the last place a row may score and still belong above it: twice the error of a
# score. In float16 the rows, the query and the sum are each rounded by up to 2⁻¹¹ of it.
MARGINS = {torch.float32: 1e-5, torch.float16: 4e-3}


def device_rows(device: torch.device) -> Callable[[int], TorchRows] | None:
    """Makes rows of a dimension on a device; None for a processor, whose memory has them."""
    return None if device.type == "cpu" else lambda dimension: TorchRows(dimension, device)


@contextlib.contextmanager
def _memory_errors() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if isinstance(device_error(error), DeviceFull):
            raise MemoryError("the device has no room for the vectors") from error
        raise


class TorchRows:
    """`service.search.device_rows.DeviceRows` in PyTorch."""

    def __init__(self, dimension: int, device: torch.device, block_rows: int = BLOCK_ROWS) -> None:
        self.size = 0
        self._dimension = dimension
        self._device = device
        self._dtype = torch.float32
        self._block_rows = block_rows
        self._blocks: list[torch.Tensor] = []
        self._alive = torch.zeros(block_rows, dtype=torch.bool, device=device)

    @property
    def dtype(self) -> str:
        """What they are stored and compared in."""
        return str(self._dtype).removeprefix("torch.")

    @property
    def bytes(self) -> int:
        """Memory of the blocks."""
        return sum(block.nbytes for block in self._blocks)

    def append(self, units: NDArray[np.float32]) -> None:
        """Adds rows `(n, d)` at the end; `MemoryError` leaves everything as it was."""
        size = self.size + len(units)
        with _memory_errors():
            self._reserve(size)
            self._write(self.size, torch.from_numpy(units).to(self._device, self._dtype))
        self._alive[self.size : size] = True
        self.size = size

    def forget(self, rows: NDArray[np.int64]) -> None:
        """Zeroes rows and never finds them again."""
        asked = torch.from_numpy(rows).to(self._device)
        self._alive[asked] = False
        for block, here, _ in self._by_block(asked):
            block[here] = 0

    def keep(self, rows: NDArray[np.int64]) -> None:
        """Drops every row but these, which ascend and are numbered anew from 0."""
        asked = torch.from_numpy(rows).to(self._device)
        # In place: a row only moves down, onto a place whose own row has moved before.
        with _memory_errors():
            for start in range(0, len(rows), self._block_rows):
                self._write(start, self._gather(asked[start : start + self._block_rows]))
        alive = self._alive[asked]
        self._alive[: len(rows)] = alive
        self._alive[len(rows) :] = False
        self.size = len(rows)
        del self._blocks[-(-self.size // self._block_rows) :]

    def halve(self) -> None:
        """Stores everything in float16 from now on."""
        with _memory_errors():
            for number, block in enumerate(self._blocks):
                self._blocks[number] = block.half()
        self._dtype = torch.float16

    def nearest(
        self, query: NDArray[np.float32], limit: int, rows: NDArray[np.int64] | None
    ) -> NDArray[np.int64]:
        """At least the `limit` rows nearest to a query `(d,)`, and whatever ties with the last.

        Raises:
            MemoryError: the device has no room for the scores.
        """
        try:
            return retry_out_of_memory(lambda: self._nearest(query, limit, rows))
        except DeviceFull as full:
            raise MemoryError("the device has no room for a search") from full

    def _nearest(
        self, query: NDArray[np.float32], limit: int, rows: NDArray[np.int64] | None
    ) -> NDArray[np.int64]:
        asked = torch.from_numpy(query).to(self._device, self._dtype)
        scores = torch.empty(self.size, device=self._device)
        for start in range(0, self.size, self._block_rows):
            part = scores[start : start + self._block_rows]
            part.copy_(self._blocks[start // self._block_rows][: len(part)] @ asked)
        passing = self._alive[: self.size]
        if rows is not None:
            passing = torch.zeros_like(passing)
            passing[torch.from_numpy(rows).to(self._device)] = True
        scores.masked_fill_(~passing, -torch.inf)
        last = torch.topk(scores, limit).values[-1]
        near = torch.nonzero(scores >= last - MARGINS[self._dtype]).squeeze(1)
        return np.asarray(near.cpu().numpy(), np.int64)

    def _reserve(self, rows: int) -> None:
        while len(self._blocks) * self._block_rows < rows:
            shape = (self._block_rows, self._dimension)
            self._blocks.append(torch.empty(shape, dtype=self._dtype, device=self._device))
        if rows > len(self._alive):
            grown = torch.zeros(2 * rows, dtype=torch.bool, device=self._device)
            grown[: self.size] = self._alive[: self.size]
            self._alive = grown

    def _write(self, start: int, units: torch.Tensor) -> None:
        rows = torch.arange(start, start + len(units), device=self._device)
        for block, here, part in self._by_block(rows):
            block[here] = units[part]

    def _gather(self, rows: torch.Tensor) -> torch.Tensor:
        found = torch.empty((len(rows), self._dimension), dtype=self._dtype, device=self._device)
        for block, here, part in self._by_block(rows):
            found[part] = block[here]
        return found

    def _by_block(
        self, rows: torch.Tensor
    ) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Blocks that hold rows: each with the rows' places in it and among those asked."""
        numbers = rows // self._block_rows
        found = []
        for number in torch.unique(numbers).tolist():
            part = torch.nonzero(numbers == number).squeeze(1)
            found.append((self._blocks[number], rows[part] - number * self._block_rows, part))
        return found
