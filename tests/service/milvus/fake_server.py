"""A server of rows in memory that can be dead or hang; stands for `service.milvus.server`."""

import itertools
import time
from pathlib import Path

from service.errors import CollectionUnavailable, IndexUnavailable
from service.milvus.rows import TOO_SLOW, Hit, LabelRow

LARGE = 1000
ANSWERS_WITHIN_SECONDS = 0.8


class FakeServer:
    """A stand-in with the methods of `MilvusServer`, which obeys files beside its address.

    While ADDRESS.dead is there every call is refused, and while ADDRESS.hangs every call hangs;
    with ADDRESS.behind writes hang, with ADDRESS.slow large searches.
    """

    def __init__(self, url="/nowhere"):
        self._url = url
        self._held = {}
        self._clock = itertools.count(1)

    def connect(self):
        other = FakeServer(self._url)
        other._held = self._held
        other._clock = self._clock
        return other

    def create(self, collection, _=0):
        self._ask()
        self._held[collection] = {}

    def collections(self, _=0.0):
        self._ask()
        return list(self._held)

    def drop(self, collection):
        self._ask()
        self._held.pop(collection, None)

    def upsert(self, collection, rows):
        self._ask("behind")
        self._rows(collection).update({row["id"]: row for row in rows})

    def delete(self, collection, slots):
        self._ask("behind")
        for slot in slots:
            self._rows(collection).pop(slot, None)

    def count(self, collection, _):
        self._ask()
        return len(self._rows(collection))

    def timestamp(self):
        self._ask()
        return next(self._clock)

    def search(self, collection, query, limit, wanted, codes, _, grouped=False):
        self._ask("slow" if limit > LARGE else "hangs", ANSWERS_WITHIN_SECONDS)
        # The indexer may write meanwhile.
        rows = list(self._rows(collection).values())
        # An expression of Milvus is one of Python too.
        condition = codes.expression(wanted) or "True"
        passing = [row for row in rows if eval(condition, {}, row)]
        passing.sort(key=lambda row: -float(row["v"] @ query))
        if grouped:
            nearest = {}
            for row in passing:
                nearest.setdefault(row["grp"], row)
            passing = list(nearest.values())
        return [{name: row[name] for name in Hit.__annotations__} for row in passing[:limit]]

    def rows(self, collection, first, end, _):
        self._ask()
        held = list(self._rows(collection).values())
        rows = [row for row in held if first <= row["id"] < end]
        return [{name: row[name] for name in LabelRow.__annotations__} for row in rows]

    def compact(self, collection):
        return len(self._rows(collection))

    def is_compacted(self, _):
        return True

    def close(self):
        pass

    def _rows(self, collection):
        if collection not in self._held:
            raise CollectionUnavailable("a collection is missing; it is being rebuilt")
        return self._held[collection]

    def _is_told(self, order):
        return Path(f"{self._url}.{order}").exists()

    def _ask(self, order="hangs", seconds=20.0):
        until = time.monotonic() + seconds
        while self._is_told("hangs") or self._is_told(order):
            if time.monotonic() > until:
                if order == "slow":
                    raise CollectionUnavailable(TOO_SLOW)
                raise IndexUnavailable("it does not answer (4)")
            time.sleep(0.02)
        if self._is_told("dead"):
            raise IndexUnavailable("it does not answer (2)")


MilvusServer = FakeServer
