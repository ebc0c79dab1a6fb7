"""Which rows of a table bear which metadata, for searches that filter by it.

Nothing is kept before the first such search. Each one then reads the labels that are new or have
changed since the one before, so that a gallery which is never filtered so pays nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray
from pydantic_core import from_json, to_json

from service.ops.health import heartbeat
from service.search.arrays import grown
from service.search.filters import pair_text

ROWS_PER_BEAT = 4096
# Of a row that was never read, and of one that was deleted.
UNREAD = -2
GONE = -1


class MetadataRows:
    """Pairs of keys and values as 64-bit codes, each with a row that bears it."""

    def __init__(self, secret: bytes) -> None:
        """Knows nothing yet; `secret` is what codes are keyed by."""
        self._secret = secret
        # Where the label lay that was read of each row.
        self._read_at = np.zeros(0, np.int64)
        self._rows, self._codes = np.zeros(0, np.int64), np.zeros(0, np.uint64)

    def bearing(
        self,
        pairs: Iterable[str],
        text_at: NDArray[np.int64],
        valid: NDArray[np.bool_],
        text: Callable[[int], bytes],
    ) -> NDArray[np.bool_]:
        """Which rows bear every pair, `(size,)`; reads the labels that are new or have changed.

        Args:
            text_at: where the label of each row lies, `(size,)`.
            valid: False where a row was deleted, `(size,)`.
            text: answers the label of a row.
        """
        self._catch_up(text_at, valid, text)
        bearing = np.ones(len(text_at), np.bool_)
        for pair in pairs:
            bears = np.zeros(len(text_at), np.bool_)
            bears[self._rows[self._codes == np.uint64(self._code(pair))]] = True
            bearing &= bears
        return bearing

    def _catch_up(
        self, text_at: NDArray[np.int64], valid: NDArray[np.bool_], text: Callable[[int], bytes]
    ) -> None:
        size = len(text_at)
        if size > len(self._read_at):
            before = len(self._read_at)
            self._read_at = grown(self._read_at, size)
            self._read_at[before:] = UNREAD
        now = np.where(valid, text_at, GONE)
        stale = np.flatnonzero(now != self._read_at[:size])
        if not len(stale):
            return
        kept = ~np.isin(self._rows, stale)
        rows: list[int] = []
        codes: list[int] = []
        # Most pairs are those of many crops.
        known: dict[bytes, int] = {}
        for place, row in enumerate(stale[valid[stale]].tolist()):
            if place % ROWS_PER_BEAT == 0:
                heartbeat()
            # A label is a list whose last item is the metadata.
            if (label := text(row)).endswith(b"}]"):
                for pair in from_json(label)[-1].items():
                    if (code := known.get(body := to_json(pair))) is None:
                        code = known[body] = self._code(pair_text(pair))
                    rows.append(row)
                    codes.append(code)
        self._rows = np.concatenate([self._rows[kept], np.array(rows, np.int64)])
        self._codes = np.concatenate([self._codes[kept], np.array(codes, np.uint64)])
        self._read_at[:size] = now

    def _code(self, pair: str) -> int:
        digest = hashlib.blake2b(pair.encode(), key=self._secret, digest_size=8).digest()
        return int.from_bytes(digest, "big")
