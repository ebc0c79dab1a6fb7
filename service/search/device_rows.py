"""What an index asks of a copy of its vectors that lives where the networks compute."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class DeviceRows(Protocol):
    """Vectors of unit length on a device, row for row those of the table; one thread's alone."""

    @property
    def dtype(self) -> str:
        """What they are stored and compared in, `float32` or `float16`."""

    @property
    def bytes(self) -> int:
        """Memory that they take on the device."""

    def append(self, units: NDArray[np.float32]) -> None:
        """Adds rows `(n, d)` at the end; `MemoryError` leaves everything as it was."""

    def forget(self, rows: NDArray[np.int64]) -> None:
        """Zeroes rows and never finds them again."""

    def keep(self, rows: NDArray[np.int64]) -> None:
        """Drops every row but these, which ascend and are numbered anew from 0.

        Raises:
            MemoryError: nothing here can be used any more.
        """

    def halve(self) -> None:
        """Stores everything in float16 from now on; `MemoryError` as for `keep`."""

    def nearest(
        self, query: NDArray[np.float32], limit: int, rows: NDArray[np.int64] | None
    ) -> NDArray[np.int64]:
        """At least the `limit` rows nearest to a query `(d,)`, and whatever ties with the last.

        Args:
            query: of unit length or shorter.
            limit: fewer than the rows that may be returned.
            rows: those that may be returned; None for every living one.

        Raises:
            MemoryError: there is no room for the scores now; nothing has changed.
        """
