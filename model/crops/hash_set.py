"""A set of very many texts in little memory."""

from __future__ import annotations

import numpy as np

RECENT = 65_536


class HashSet:
    """A set that keeps a hash of 8 bytes of each text.

    A text that was not added may seem to be in it. Among a million texts, the probability that any
    does is below 1 in 10,000,000. Each process hashes in its own way, so nobody can choose them.
    """

    def __init__(self) -> None:
        self._sorted = np.empty(0, np.int64)
        # The newest hashes wait here, as sorting after each text would take too long.
        self._recent: set[int] = set()

    def add(self, text: str) -> bool:
        """Add a text, and return whether it was new."""
        if text in self:
            return False
        self._recent.add(hash(text))
        if len(self._recent) == RECENT:
            recent = np.fromiter(self._recent, np.int64, RECENT)
            self._sorted = np.sort(np.concatenate([self._sorted, recent]))
            self._recent.clear()
        return True

    def __contains__(self, text: str) -> bool:
        value = hash(text)
        if value in self._recent:
            return True
        position = int(np.searchsorted(self._sorted, value))
        return position < len(self._sorted) and bool(self._sorted[position] == value)
