"""Which rows of a table bear which metadata, for searches that filter by it.

Nothing is kept before the first such search. Each one then reads the metadata of the rows that are
new or have changed since the one before, so that a gallery which is never filtered so pays nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic_core import from_json, to_json

from service.search.filters import pair_text

ReadMetadata = Callable[[Sequence[int]], Iterable[tuple[int, str]]]
"""Reads the metadata of those crops of these slots that have any, as JSON, by slot."""


class MetadataRows:
    """Pairs of keys and values as 64-bit codes, each with a row that bears it."""

    def __init__(self, secret: bytes, read: ReadMetadata) -> None:
        """Know nothing yet; `secret` is what codes are keyed by."""
        self._secret = secret
        self._read = read
        self._is_read = np.zeros(0, np.bool_)
        self._rows = np.zeros(0, np.int64)
        self._codes = np.zeros(0, np.uint64)

    def anew(self) -> MetadataRows:
        return MetadataRows(self._secret, self._read)

    def outdate(self, rows: NDArray[np.int64]) -> None:
        self._is_read[rows[rows < len(self._is_read)]] = False

    def bearing(self, pairs: Iterable[str], slots: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which rows bear every pair, `(size,)`.

        Args:
            pairs: as by `pairs_of`.
            slots: of all rows, `(size,)`.
        """
        self._catch_up(slots)
        bearing = np.ones(len(slots), np.bool_)
        for pair in pairs:
            bears = np.zeros(len(slots), np.bool_)
            bears[self._rows[self._codes == np.uint64(self._code(pair))]] = True
            bearing &= bears
        return bearing

    def _catch_up(self, slots: NDArray[np.int64]) -> None:
        unread = np.ones(len(slots), np.bool_)
        unread[: len(self._is_read)] = ~self._is_read
        stale = np.flatnonzero(unread)
        if not len(stale):
            return
        kept = ~np.isin(self._rows, stale)
        found: list[int] = []
        codes: list[int] = []
        # Most pairs are those of many crops.
        known: dict[bytes, int] = {}
        for slot, metadata in self._read(slots[stale].tolist()):
            for pair in from_json(metadata).items():
                body = to_json(pair)
                if body not in known:
                    known[body] = self._code(pair_text(pair))
                found.append(slot)
                codes.append(known[body])
        rows = np.searchsorted(slots, np.array(found, np.int64))
        self._rows = np.concatenate([self._rows[kept], rows])
        self._codes = np.concatenate([self._codes[kept], np.array(codes, np.uint64)])
        self._is_read = np.ones(len(slots), np.bool_)

    def _code(self, pair: str) -> int:
        digest = hashlib.blake2b(pair.encode(), key=self._secret, digest_size=8).digest()
        return int.from_bytes(digest, "big")
