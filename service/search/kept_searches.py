"""Searches on their way to the record: scores of one query each, buffered and never waited for."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from model.search_calibration import KEPT_SEARCHES, REFIT_AFTER_SEARCHES, SearchScores

# Queries as near as that are taken for pictures of one person's one passage.
REPEATED_COSINE = 0.9
RECENT_QUERIES = 64
# Of so many galleries the recent queries are held, the last searched ones.
RECENT_GALLERIES = 64
KEY_BYTES = 16
Place = tuple[int, str]


class KeptSearches:
    """Holds what is not stored yet, by gallery and subject. Lives on the event loop.

    Attributes:
        ready: set once so many searches wait that they are worth a commit.
    """

    def __init__(self) -> None:
        self.ready = asyncio.Event()
        self._secret = secrets.token_bytes(KEY_BYTES)
        self._waiting: dict[Place, OrderedDict[str, bytes]] = {}
        self._recent: OrderedDict[int, _RecentQueries] = OrderedDict()

    def keep(
        self, gallery_id: int, subject: str, query: NDArray[np.float32], scores: SearchScores
    ) -> None:
        """Takes a search in; one by nearly the same query gives up its place for it.

        Args:
            gallery_id: what was searched.
            subject: what its scores are of.
            query: the feature `(d,)` asked by. Only a few of these stay, and only in memory.
            scores: of the nine best people.
        """
        recent = self._recent.pop(gallery_id, None) or _RecentQueries()
        self._recent[gallery_id] = recent
        while len(self._recent) > RECENT_GALLERIES:
            self._recent.popitem(last=False)
        digest = hashlib.blake2b(query.tobytes(), digest_size=KEY_BYTES, key=self._secret)
        key = recent.key_of(query, digest.hexdigest())
        waiting = self._waiting.setdefault((gallery_id, subject), OrderedDict())
        waiting.pop(key, None)
        waiting[key] = scores.to_bytes()
        # Where nothing takes them for long, only those count that would be kept.
        while len(waiting) > KEPT_SEARCHES:
            waiting.popitem(last=False)
        if len(waiting) >= REFIT_AFTER_SEARCHES:
            self.ready.set()

    def take(self) -> Iterator[tuple[Place, list[tuple[str, bytes]]]]:
        """Hands over what waits, by gallery and subject; it is no longer held here."""
        self.ready.clear()
        while self._waiting:
            place, rows = self._waiting.popitem()
            yield place, list(rows.items())

    def drop(self, gallery_id: int) -> None:
        """Drops what waits of one gallery, and its recent queries."""
        self._recent.pop(gallery_id, None)
        for place in [place for place in self._waiting if place[0] == gallery_id]:
            del self._waiting[place]


class _RecentQueries:
    """The directions of a gallery's last queries, and the keys that they are stored under."""

    def __init__(self) -> None:
        self._units: OrderedDict[str, NDArray[np.float32]] = OrderedDict()

    def key_of(self, query: NDArray[np.float32], key: str) -> str:
        """The key of the query's nearest recent one where that is near enough, else its own."""
        unit = query / max(float(np.linalg.norm(query)), 1e-12)
        if self._units:
            cosines = np.stack(list(self._units.values())) @ unit
            if cosines.max() >= REPEATED_COSINE:
                key = list(self._units)[int(cosines.argmax())]
        self._units.pop(key, None)
        self._units[key] = unit.astype(np.float32)
        while len(self._units) > RECENT_QUERIES:
            self._units.popitem(last=False)
        return key
