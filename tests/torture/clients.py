"""Clients that make any call side by side, until the service is gone."""

import threading
import traceback
from uuid import uuid4

from tests.torture.ledger import Violation, bearers
from tests.torture.operations import Caller, Gone

GALLERIES = ("default", "lobby", "yard")
MOST_CROPS = 12


class Client(threading.Thread):
    """A client; `violation` is the broken promise that it met, if any."""

    def __init__(self, name, ledger, http, chance):
        super().__init__(name=name, daemon=True)
        self.caller = Caller(name, ledger, http, chance.randrange(2**31))
        self.violation = None
        self.stop = threading.Event()
        self._ledger = ledger
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
        calls = {
            self._enroll: 30,
            self._repeat: 6,
            self._delete_crop: 14,
            self._forget: 7,
            self._relabel: 8,
            self._query: 14,
            self._import: 3,
            self._export: 4,
            self._import_export: 4,
            self._come_and_go: 3,
            self._reindex: 2,
        }
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

    def _export(self, gallery, _):
        self.caller.make_export(gallery)

    def _import_export(self, gallery, _):
        if exports := self._ledger.exports.get(gallery):
            self.caller.import_export(gallery, self._chance.choice(exports))

    def _come_and_go(self, _, __):
        gallery = f"{self.name}-{uuid4().hex[:8]}"
        self.caller.create_gallery(gallery)
        if self._ledger.galleries.get(gallery):
            self.caller.enroll(gallery, 2)
            self.caller.delete_gallery(gallery)

    def _reindex(self, gallery, _):
        self.caller.reindex(gallery)
