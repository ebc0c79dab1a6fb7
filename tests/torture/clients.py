"""Clients that make any call side by side, until the service is gone."""

import contextlib
import threading
import time
import traceback
from uuid import uuid4

from tests.torture.ledger import Violation, bearers
from tests.torture.operations import Caller, Gone

GALLERIES = ("default", "lobby", "yard")
MOST_CROPS = 12
MOST_SNAPSHOTS = 3


class Gate:
    """Keeps a restore alone in its gallery: other writes there would come before or after it."""

    def __init__(self, callers):
        self._callers = callers
        self._permits = threading.Semaphore(callers)

    def together(self):
        """Return a context in which other callers may be, but none who is alone."""
        return self._permits

    @contextlib.contextmanager
    def alone(self, seconds):
        """Yield whether all others have left within some seconds; those who come wait."""
        until = time.monotonic() + seconds
        taken = 0
        while taken < self._callers:
            if not self._permits.acquire(timeout=max(0.0, until - time.monotonic())):
                break
            taken += 1
        try:
            yield taken == self._callers
        finally:
            for _ in range(taken):
                self._permits.release()


class Client(threading.Thread):
    """A client; `violation` is the broken promise that it met, if any."""

    def __init__(self, name, ledger, http, gates, chance):
        super().__init__(name=name, daemon=True)
        self.caller = Caller(name, ledger, http, chance.randrange(2**31))
        self.violation = None
        self.stop = threading.Event()
        self._ledger = ledger
        self._gates = gates
        self._chance = chance

    def run(self):
        try:
            while not self.stop.is_set():
                self._do_something()
        except Gone:
            return
        except Violation as violation:
            self.violation = violation
        except Exception:
            self.violation = Violation("failed", f"the client: {traceback.format_exc()}")

    def _do_something(self):
        gallery = self._chance.choice(GALLERIES)
        if self._chance.random() < 0.05:
            self._restore(gallery)
            return
        calls = {
            self._enroll: 30,
            self._repeat: 6,
            self._delete_crop: 14,
            self._forget: 7,
            self._relabel: 8,
            self._query: 14,
            self._import: 3,
            self._snapshot: 4,
            self._come_and_go: 3,
            self._reindex: 2,
        }
        with self._gates[gallery].together():
            own = self._ledger.owned(self.name, gallery)
            (call,) = self._chance.choices(list(calls), list(calls.values()))
            if not own:
                call = self._enroll
            call(gallery, own)

    def _enroll(self, gallery, own):
        if len(own) >= MOST_CROPS:
            self._delete_crop(gallery, own)
            return
        known = self._chance.choice([None, *own.values()])
        key = uuid4().hex if self._chance.random() < 0.5 else None
        self.caller.enroll(gallery, self._chance.choice((1, 1, 2, 3, 5)), known, key)

    def _repeat(self, _, own):
        number, identity = self._chance.choice(list(own.items()))
        self.caller.repeat(self._ledger.crops[number], identity)

    def _delete_crop(self, _, own):
        self.caller.delete_crop(self._ledger.crops[self._chance.choice(list(own))])

    def _forget(self, gallery, own):
        identity = self._chance.choice(list(own.values()))
        self.caller.forget(gallery, identity, bearers(own, identity))

    def _relabel(self, gallery, own):
        identity = self._chance.choice(list(own.values()))
        new = self._chance.choice([self.caller.new_identity(), *own.values()])
        if new != identity:
            self.caller.relabel(gallery, identity, new, bearers(own, identity))

    def _query(self, _, own):
        self.caller.query(self._ledger.crops[self._chance.choice(list(own))])

    def _import(self, gallery, own):
        if len(own) < MOST_CROPS:
            self.caller.import_archive(gallery, self._chance.randint(3, 20))

    def _snapshot(self, gallery, _):
        kept = self._ledger.snapshots_of(gallery)
        self.caller.take_snapshot(gallery)
        # Only one client deletes snapshots, and only the oldest one, which no other client uses.
        if len(kept) >= MOST_SNAPSHOTS and self.name == "ann" and kept[0] in self._ledger.snapshots:
            self.caller.delete_snapshot(kept[0])

    def _restore(self, gallery):
        kept = self._ledger.snapshots_of(gallery)
        if not kept:
            return
        with self._gates[gallery].alone(0.5) as alone:
            snapshot = self._chance.choice(kept)
            if alone and snapshot in self._ledger.snapshots and self._ledger.is_certain(gallery):
                self.caller.restore(snapshot)

    def _come_and_go(self, _, __):
        gallery = f"{self.name}-{uuid4().hex[:8]}"
        self.caller.create_gallery(gallery)
        if self._ledger.galleries.get(gallery):
            self.caller.enroll(gallery, 2)
            self.caller.delete_gallery(gallery)

    def _reindex(self, gallery, _):
        self.caller.reindex(gallery)
