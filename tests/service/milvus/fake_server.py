"""A server of rows in memory that can be dead or hang; stands for `service.milvus.server`."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import CollectionUnavailable, IndexUnavailable
from service.milvus.rows import EARLIEST_TIME, TOO_SLOW, Codes, Hit, LabelRow, Row
from service.record.values import identity_code
from service.search.filters import Filter

Rows = dict[int, Row]
LARGE = 1000
ANSWERS_WITHIN_SECONDS = 0.8


class FakeServer:
    """A stand-in with the methods of `MilvusServer`.

    Attributes:
        dead: every call is refused.
        answers: while cleared, calls hang.
        searches: how often it was searched.
    """

    def __init__(self, url: str = "/nowhere", _: str = "") -> None:
        """Take orders by files from another process.

        URL.dead and URL.hangs do as the attributes, URL.behind lets writes hang, URL.slow large
        searches; with URL.lost every second row is found no more.
        """
        self._dead, self._hangs = Path(f"{url}.dead"), Path(f"{url}.hangs")
        self._behind = Path(f"{url}.behind")
        self._slow = Path(f"{url}.slow")
        self._lost = Path(f"{url}.lost")
        self.dead = False
        self.answers = threading.Event()
        self.answers.set()
        self.searches = 0
        self._held: dict[str, Rows] = {}
        self._clock = itertools.count(1)

    def connect(self) -> FakeServer:
        """Return another connection to the same rows, as another process has it."""
        other = FakeServer()
        other._held = self._held
        other._clock = self._clock
        return other

    def create(self, collection: str, *_: object) -> None:
        self._ask()
        self._held[collection] = {}

    def collections(self, _: float = 0.0) -> list[str]:
        self._ask()
        return list(self._held)

    def drop(self, collection: str) -> None:
        self._ask()
        self._held.pop(collection, None)

    def upsert(self, collection: str, rows: Sequence[Row]) -> None:
        self._ask(self._behind)
        self._rows(collection).update({row["id"]: row for row in rows})

    def delete(self, collection: str, row_ids: Sequence[int]) -> None:
        self._ask(self._behind)
        for row_id in row_ids:
            self._rows(collection).pop(row_id, None)

    def count(self, collection: str, _: int) -> int:
        self._ask()
        return len(self._rows(collection))

    def timestamp(self) -> int:
        self._ask()
        return next(self._clock)

    def search(
        self,
        collection: str,
        query: NDArray[np.float32],
        limit: int,
        wanted: Filter,
        codes: Codes,
        _: int,
        grouped: bool = False,
    ) -> list[Hit]:
        self.searches += 1
        self._ask(self._slow if limit > LARGE else None, ANSWERS_WITHIN_SECONDS)
        passing = [row for row in self._rows(collection).values() if _passes(row, wanted, codes)]
        if self._lost.exists():
            passing = passing[::2]
        passing.sort(key=lambda row: -float(row["v"] @ query))
        if grouped:
            passing = list({row["grp"]: row for row in reversed(passing)}.values())[::-1]
            passing.sort(key=lambda row: -float(row["v"] @ query))
        return [{name: row[name] for name in Hit.__annotations__} for row in passing[:limit]]

    def rows(self, collection: str, first: int, end: int, _: int) -> list[Any]:
        self._ask()
        rows: list[Any] = [
            row for row in self._rows(collection).values() if first <= row["id"] < end
        ]
        return [{name: row[name] for name in LabelRow.__annotations__} for row in rows]

    def compact(self, collection: str) -> int:
        return len(self._rows(collection))

    def is_compacted(self, _: int) -> bool:
        return True

    def close(self) -> None:
        self.answers.set()

    def _rows(self, collection: str) -> Rows:
        if collection not in self._held:
            raise CollectionUnavailable("a collection is missing; it is being rebuilt")
        return self._held[collection]

    def _ask(self, waits: Path | None = None, seconds: float = 20.0) -> None:
        until = time.monotonic() + seconds
        if not self.answers.wait(20):
            raise TimeoutError("a test has left a call hanging")
        while self._hangs.exists() or (waits and waits.exists()):
            if time.monotonic() > until:
                slow = None if self._hangs.exists() else CollectionUnavailable(TOO_SLOW)
                raise slow or IndexUnavailable("it does not answer (4)")
            time.sleep(0.02)
        if self.dead or self._dead.exists():
            raise IndexUnavailable("it does not answer (2)")


def _passes(row: Any, wanted: Filter, codes: Codes) -> bool:
    cameras, excluded = (
        list(map(codes.camera, names)) for names in (wanted.cameras, wanted.exclude_cameras)
    )
    after = wanted.captured_after
    before = wanted.captured_before
    people = [identity_code(identity, codes.secret) for identity in wanted.identities]
    return (
        (not cameras or row["camera"] in cameras)
        and row["camera"] not in excluded
        and (after is None or row["captured"] >= after.timestamp())
        and (before is None or EARLIEST_TIME < row["captured"] <= before.timestamp())
        and row["id"] not in wanted.without
        and wanted.named in (None, row["grp"] >= 0)
        and (not people or row["grp"] in people)
    )


MilvusServer = FakeServer
