"""The ledger of requests and answers, against which a service is held after a crash.

A crop's state is the identity it bears, or None where it is not there. A write that was not
answered is a doubt: it has happened as a whole or not at all, the first sight decides, and it
stays so. Deleted crops never come back.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field

State = str | None
LINE_CROPS = 6


class Violation(Exception):
    """The service broke a promise."""

    def __init__(self, kind, what, crops=()):
        super().__init__(f"{kind}: {what}")
        self.kind = kind
        self.crops = frozenset(crops)


@dataclass
class Crop:
    """One image that was sent, and under which id it landed; made-up vectors have no image."""

    number: int
    gallery: str
    owner: str
    image: bytes | None
    sha256: str
    crop_id: str | None = None


@dataclass
class Operation:
    """A write under way.

    Attributes:
        after: states of the crops concerned, once it has happened.
        deletes: whether crops that it takes away are gone for good.
        expected: whether it has happened at its failpoint; None if that is open.
    """

    what: str
    gallery: str
    before: dict[int, State]
    after: dict[int, State]
    deletes: bool = False
    expected: bool | None = None


@dataclass
class Ledger:
    """The ledger of one world; every method may be called from any thread.

    Attributes:
        exports: contents of exports, by gallery.
        expiring: galleries whose crops housekeeping deletes.
    """

    crops: dict[int, Crop] = field(default_factory=dict)
    now: dict[int, State] = field(default_factory=dict)
    galleries: dict[str, bool] = field(default_factory=lambda: {"default": True})
    versions: dict[str, int] = field(default_factory=dict)
    exports: dict[str, list[bytes]] = field(default_factory=dict)
    jobs: dict[str, int] = field(default_factory=dict)
    expiring: list[str] = field(default_factory=list)
    doubts: list[Operation] = field(default_factory=list)
    doubtful_galleries: dict[str, Operation] = field(default_factory=dict)
    dead: set[int] = field(default_factory=set)
    outcomes: Counter[str] = field(default_factory=Counter)
    settled: Counter[str] = field(default_factory=Counter)
    history: list[tuple[frozenset[int], str]] = field(default_factory=list)
    by_sha: dict[str, int] = field(default_factory=dict)
    by_id: dict[str, int] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def new_crop(self, gallery, owner, image, sha256):
        with self._lock:
            crop = Crop(len(self.crops) + 1, gallery, owner, image, sha256)
            self.crops[crop.number] = crop
            self.by_sha[sha256] = crop.number
            return crop

    def begin(self, what, gallery, after, deletes=False):
        with self._lock:
            before = {number: self.now.get(number) for number in after}
            operation = Operation(what, gallery, before, dict(after), deletes)
            self._note(operation, "sent")
            return operation

    def acknowledge(self, operation, crop_ids=None):
        """Note that the write has happened, or will as a job, and has to survive."""
        with self._lock:
            self._end(operation, "acknowledged")
            self._happened(operation)
            for number, crop_id in (crop_ids or {}).items():
                self._know(number, crop_id)

    def refuse(self, operation, why):
        with self._lock:
            self._end(operation, "refused", str(why))

    def lose(self, operation, why):
        with self._lock:
            self._end(operation, "unknown", str(why))
            self.doubts.append(operation)

    def saw_version(self, gallery, version):
        """Note an answered version; no later answer may be below it."""
        with self._lock:
            self.versions[gallery] = max(version, self.versions.get(gallery, 0))

    def owned(self, owner, gallery):
        """Return the identities of an owner's crops that are there for certain."""
        with self._lock:
            doubtful = self._doubtful()
            return {
                number: state
                for number, state in self.now.items()
                if state is not None
                and self.crops[number].owner == owner
                and self.crops[number].gallery == gallery
                and number not in doubtful
                and self.crops[number].crop_id is not None
            }

    def dead_ids(self):
        """Return the ids of crops that must not be shown any more."""
        with self._lock:
            return {crop_id for crop_id, number in self.by_id.items() if number in self.dead}

    def know(self, listed):
        with self._lock:
            for row in listed:
                self._know(self.by_sha[row["sha256"]], row["crop_id"])

    def settle_galleries(self, listed):
        with self._lock:
            there = set(listed)
            for name, operation in self.doubtful_galleries.items():
                happened = (name in there) != self.galleries.get(name, False)
                self._expect(operation, happened)
                self.galleries[name] = name in there
                if operation in self.doubts:
                    self.doubts.remove(operation)
                    if happened:
                        self._happened(operation)
            self.doubtful_galleries.clear()
            self.doubts = [doubt for doubt in self.doubts if doubt.gallery in there]
            expected = {name for name, exists in self.galleries.items() if exists}
            if lost := expected - there:
                raise Violation("lost", f"galleries {sorted(lost)}")
            if phantoms := there - expected:
                raise Violation("phantom", f"galleries {sorted(phantoms)}")

    def settle(self, gallery, listed):
        """Compare a listing with the ledger, and resolve doubts by it."""
        with self._lock:
            seen = self._seen(gallery, listed)
            for doubt in [doubtful for doubtful in self.doubts if doubtful.gallery == gallery]:
                self.doubts.remove(doubt)
                self._settle_doubt(doubt, seen)
            for number, crop in self.crops.items():
                if crop.gallery == gallery:
                    self._compare(number, seen.get(number))

    def excerpt(self, numbers=(), last=40):
        wanted = frozenset(numbers)
        own = [line for concerned, line in self.history if wanted & concerned]
        return [*own[-last:], "...", *(line for _, line in self.history[-last:])]

    def _seen(self, gallery, listed):
        seen = {}
        for row in listed:
            number = self.by_sha.get(row["sha256"])
            if number is None or self.crops[number].gallery != gallery:
                raise Violation("phantom", f"{row} in {gallery}")
            if number in seen:
                raise Violation("phantom", f"crop {number} twice in {gallery}: {row}", [number])
            if number in self.dead:
                raise Violation("resurrected", f"crop {number} in {gallery}: {row}", [number])
            self._know(number, row["crop_id"])
            seen[number] = row["identity"]
        return seen

    def _settle_doubt(self, doubt, seen):
        before = self._fits(doubt.before, seen)
        after = self._fits(doubt.after, seen)
        if not (before or after):
            shown = {number: seen.get(number) for number in doubt.after}
            raise Violation(
                "half",
                f"{doubt.what} in {doubt.gallery}: {doubt.before} or {doubt.after}, seen {shown}",
                doubt.after,
            )
        if before != after:
            self._expect(doubt, after)
            self.settled["happened" if after else "did not happen"] += 1
        if after and not before:
            self._happened(doubt)

    def _expect(self, doubt, happened):
        if doubt.expected is not None and doubt.expected != happened:
            said = "has happened" if happened else "has not happened"
            raise Violation("lost" if doubt.expected else "phantom", f"{doubt.what} {said}")

    def _compare(self, number, seen):
        known = self.now.get(number)
        if seen != known:
            kind = "lost" if seen is None else "phantom" if known is None else "changed"
            raise Violation(kind, f"crop {number}: was {known!r}, is {seen!r}", [number])

    def _know(self, number, crop_id):
        crop = self.crops[number]
        if crop.crop_id not in (None, crop_id):
            raise Violation("changed", f"crop {number} was {crop.crop_id} and is {crop_id}")
        if self.by_id.setdefault(crop_id, number) != number:
            raise Violation("reused", f"{crop_id} of crop {self.by_id[crop_id]} is {number}'s")
        crop.crop_id = crop_id

    def _happened(self, operation):
        self.now |= operation.after
        if operation.deletes:
            self.dead |= {n for n, state in operation.after.items() if state is None}

    def _doubtful(self):
        return {number for doubt in self.doubts for number in doubt.after}

    def _end(self, operation, outcome, why=""):
        self.outcomes[outcome] += 1
        self._note(operation, f"{outcome} {why}".strip())

    def _note(self, operation, said):
        states = dict(list(operation.after.items())[:LINE_CROPS])
        more = (
            f" and {len(operation.after) - LINE_CROPS}" if len(operation.after) > LINE_CROPS else ""
        )
        line = f"{operation.what} in {operation.gallery} {states}{more}: {said}"
        self.history.append((frozenset(operation.after), line))

    @staticmethod
    def _fits(states, seen):
        return all(state == seen.get(number) for number, state in states.items())


def bearers(crops, identity):
    return [number for number, name in crops.items() if name == identity]
