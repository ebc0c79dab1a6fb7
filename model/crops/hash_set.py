"""A set of very many texts in little memory."""

from __future__ import annotations

import heapq
from array import array
from bisect import bisect_left

RECENT = 65_536


class HashSet:
    """A set that keeps a hash of 8 bytes of each text.

    A text that was not added may seem to be in it. Among a million texts, the probability that any
    does is below 1 in 10,000,000. Each process hashes in its own way, so nobody can choose them.
    """

    def __init__(self) -> None:
        # The client, which has this set too, does without NumPy.
        self._sorted = array("q")
        # The newest hashes wait here, as sorting after each text would take too long.
        self._recent: set[int] = set()

    def add(self, text: str) -> bool:
        """Add a text, and return whether it was new."""
        if text in self:
            return False
        self._recent.add(hash(text))
        if len(self._recent) == RECENT:
            self._sorted = array("q", heapq.merge(self._sorted, sorted(self._recent)))
            self._recent.clear()
        return True

    def __contains__(self, text: str) -> bool:
        value = hash(text)
        if value in self._recent:
            return True
        position = bisect_left(self._sorted, value)
        return position < len(self._sorted) and self._sorted[position] == value
