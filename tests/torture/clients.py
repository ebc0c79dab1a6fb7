"""Clients that make any call side by side, until the service is gone."""

from __future__ import annotations

import random
import threading
import traceback
from collections.abc import Callable
from uuid import uuid4

import httpx

from tests.torture.gate import Gate
from tests.torture.ledger import Ledger, Violation
from tests.torture.operations import Caller, Gone

GALLERIES = ("default", "lobby", "yard")
MOST_CROPS = 12
MOST_SNAPSHOTS = 3


class Client(threading.Thread):
    """A client; `violation` is the broken promise that it met, if any."""

    def __init__(
        self,
        name: str,
        ledger: Ledger,
        http: httpx.Client,
        gates: dict[str, Gate],
        chance: random.Random,
    ) -> None:
        super().__init__(name=name, daemon=True)
        self.caller = Caller(name, ledger, http, chance.randrange(2**31))
        self.violation: Violation | None = None
        self.stop = threading.Event()
        self._ledger = ledger
        self._gates = gates
        self._chance = chance

    def run(self) -> None:
        try:
            while not self.stop.is_set():
                self._do_something()
        except Gone:
            return
        except Violation as violation:
            self.violation = violation
        except Exception:
            self.violation = Violation("failed", f"the client: {traceback.format_exc()}")

    def _do_something(self) -> None:
        gallery = self._chance.choice(GALLERIES)
        chosen: list[tuple[Callable[[str], None], int]] = [
            (self._enroll, 30),
            (self._repeat, 6),
            (self._delete_crop, 14),
            (self._forget, 7),
            (self._relabel, 8),
            (self._query, 14),
            (self._import, 3),
            (self._snapshot, 4),
            (self._come_and_go, 3),
            (self._reindex, 2),
        ]
        if self._chance.random() < 0.05:
            self._restore(gallery)
            return
        calls, weights = zip(*chosen, strict=True)
        with self._gates[gallery].together():
            self._chance.choices(calls, weights)[0](gallery)

    def _enroll(self, gallery: str) -> None:
        own = self._ledger.owned(self.name, gallery)
        if len(own) >= MOST_CROPS:
            self._delete_crop(gallery)
            return
        known = self._chance.choice([None, *own.values()])
        key = uuid4().hex if self._chance.random() < 0.5 else None
        self.caller.enroll(gallery, self._chance.choice((1, 1, 2, 3, 5)), known, key)

    def _repeat(self, gallery: str) -> None:
        if own := self._ledger.owned(self.name, gallery):
            number = self._chance.choice(list(own))
            self.caller.repeat(self._ledger.crops[number], own[number])

    def _delete_crop(self, gallery: str) -> None:
        if own := self._ledger.owned(self.name, gallery):
            self.caller.delete_crop(self._ledger.crops[self._chance.choice(list(own))])

    def _forget(self, gallery: str) -> None:
        if own := self._ledger.owned(self.name, gallery):
            identity = self._chance.choice(list(own.values()))
            bearers = [number for number, name in own.items() if name == identity]
            self.caller.forget(gallery, identity, bearers)

    def _relabel(self, gallery: str) -> None:
        if own := self._ledger.owned(self.name, gallery):
            identity = self._chance.choice(list(own.values()))
            bearers = [number for number, name in own.items() if name == identity]
            new = self._chance.choice([self.caller.new_identity(), *own.values()])
            if new != identity:
                self.caller.relabel(gallery, identity, new, bearers)

    def _query(self, gallery: str) -> None:
        if own := self._ledger.owned(self.name, gallery):
            self.caller.query(self._ledger.crops[self._chance.choice(list(own))])

    def _import(self, gallery: str) -> None:
        if len(self._ledger.owned(self.name, gallery)) < MOST_CROPS:
            self.caller.import_archive(gallery, self._chance.randint(3, 20))

    def _snapshot(self, gallery: str) -> None:
        kept = [snapshot for snapshot in self._ledger.snapshots if snapshot.gallery == gallery]
        self.caller.take_snapshot(gallery)
        # Only one client deletes snapshots, and only the oldest one, which no other client uses.
        if len(kept) >= MOST_SNAPSHOTS and self.name == "ann" and kept[0] in self._ledger.snapshots:
            self.caller.delete_snapshot(kept[0])

    def _restore(self, gallery: str) -> None:
        kept = [taken for taken in self._ledger.snapshots if taken.gallery == gallery]
        if not kept:
            return
        with self._gates[gallery].alone(0.5) as alone:
            snapshot = self._chance.choice(kept)
            if alone and snapshot in self._ledger.snapshots and self._ledger.is_certain(gallery):
                self.caller.restore(snapshot)

    def _come_and_go(self, _: str) -> None:
        gallery = f"{self.name}-{uuid4().hex[:8]}"
        self.caller.create_gallery(gallery)
        if self._ledger.galleries.get(gallery):
            self.caller.enroll(gallery, 2)
            self.caller.delete_gallery(gallery)

    def _reindex(self, gallery: str) -> None:
        self.caller.reindex(gallery)
