"""The indexer: brings galleries' collections in Milvus up to what the record has.

Of the processes on a record one has a gallery's index, under a lease. It reads the record's changes
in order, writes what is there now of the crops that they name, and then moves the watermark in the
record. Doing so again from an older watermark leads to the same rows. What cannot be followed, or
is of other vectors, is built anew beside what is searched.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass, field, replace
from functools import partial
from typing import cast

from service.errors import (
    CollectionUnavailable,
    IndexUnavailable,
    RecordUnavailable,
    ServiceStopping,
)
from service.milvus.writing import CollectionWriter, Outdated, is_of
from service.ops.health import HealthCheck, MonitoredThreadPool, heartbeat
from service.record.collections import IndexState
from service.record.feeds import ChangesLost, ChangeStream

log = logging.getLogger(__name__)
# After a crash another process goes on this late.
LEASE_SECONDS = 10.0
RENEW_SECONDS = 3.0
CHANGES_PER_READ = 256
# The watermark of a gallery without changes is moved so often, so that those after it are kept.
IDLE_CHANGES = 10_000
# While a collection is being filled, the end of that is looked for.
WAIT_SECONDS = 0.5
POLL_SECONDS = 0.05
# A write of the process before arrives no later than this.
LATE_SECONDS = 30.0
# A search that is under way would find nothing in a collection that is dropped, and no error.
DROP_AFTER_SECONDS = 10.0
PAUSE_SECONDS = 1.0
SILENT_SECONDS = 90.0
LONG_WORK_FACTOR = 30.0
CLOSING_SECONDS = 5.0


class LeaseLost(Exception):
    """Another process has the index of a gallery."""


@dataclass
class _Held:
    """A gallery whose index this process writes.

    Attributes:
        state: as the record has it.
        cursor: the last change that was read.
        work: a build, which answers the new collection's state, or a sweep, which answers rows.
        follows: False where the changes cannot be followed until `work` has ended.
        sweep_at: when the collection is compared with the record, by `time.monotonic`.
        retry_at: before then nothing is tried after a failure.
    """

    state: IndexState
    cursor: int
    work: Future[IndexState | list[int]] | None = None
    follows: bool = True
    sweep_at: float | None = None
    retry_at: float = 0.0


@dataclass(eq=False)
class Indexer:
    """Follows the record for all galleries that no other process has.

    It outlives every failure, and tries again after a pause.

    Attributes:
        worker: what this process is called; no other one ever has the name.
        dimensions: sizes of known embedders' features, for collections without rows.
    """

    writer: CollectionWriter
    worker: str
    dimensions: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Starts nothing yet."""
        self._record = self.writer.record
        self._states = self._record.remote_indexes
        self._stream = cast(ChangeStream, self._record.changes)
        self._held: dict[int, _Held] = {}
        self._renew_at, self._seen = 0.0, self._stream.last()
        self._closing = threading.Event()
        self._follower = MonitoredThreadPool(1, "indexer")
        self._builder = MonitoredThreadPool(1, "index builder")
        self._following: list[Future[None]] = []
        self._why_down = ""

    @property
    def health_checks(self) -> list[HealthCheck]:
        """Its threads, for the watchdog."""
        following = self._follower.silent_seconds
        building = self._builder.silent_seconds
        return [
            HealthCheck("indexer", following, SILENT_SECONDS),
            HealthCheck("index builder", building, SILENT_SECONDS, LONG_WORK_FACTOR),
        ]

    def start(self) -> None:
        """Begins to follow the record."""
        self._following.append(self._follower.submit(self._run))

    def close(self) -> None:
        """Ends the work, and lets another process go on with it at once."""
        self._closing.set()
        wait(self._following, CLOSING_SECONDS)
        self._follower.shutdown(wait=False)
        self._builder.shutdown(cancel_futures=True)
        with contextlib.suppress(RecordUnavailable):
            for held in list(self._held.values()):
                self._states.advance(held.state, worker="", lease_until_ms=0)

    def turn(self) -> bool:
        """Does what there is to do; whether that was anything.

        Raises:
            IndexUnavailable, RecordUnavailable: it is to be called again after a pause.
        """
        if time.monotonic() >= self._renew_at:
            self._renew()
        busy = False
        for gallery_id, held in list(self._held.items()):
            if time.monotonic() < held.retry_at:
                continue
            try:
                busy |= self._serve(held)
            except LeaseLost:
                log.warning("the index of gallery %d is not this process' any more", gallery_id)
                del self._held[gallery_id]
            except CollectionUnavailable as problem:
                # What the others have may be there.
                held.retry_at = time.monotonic() + PAUSE_SECONDS
                log.info("the index of gallery %d waits: %s", gallery_id, problem.why)
            except Exception as error:
                held.retry_at = time.monotonic() + PAUSE_SECONDS
                if isinstance(error, IndexUnavailable | RecordUnavailable):
                    raise
                log.exception("gallery %d could not be indexed", gallery_id)
        return busy

    def _run(self) -> None:
        while not self._closing.is_set():
            heartbeat()
            try:
                if not self.turn():
                    self._wait()
                self._note_state("")
                continue
            except ServiceStopping:
                return
            except (IndexUnavailable, RecordUnavailable) as problem:
                self._note_state(problem.why)
            except Exception:
                log.exception("the index in Milvus could not be brought up to the record")
            self._closing.wait(PAUSE_SECONDS)

    def _wait(self) -> None:
        """Waits a while for changes that no wait has seen; the next turn reads them."""
        filling = any(held.work for held in self._held.values())
        seconds = POLL_SECONDS if filling else WAIT_SECONDS
        try:
            if found := self._stream.after(self._seen, CHANGES_PER_READ, seconds):
                self._seen = found[-1].sequence
        except ChangesLost:
            self._seen = self._stream.last()

    def _note_state(self, why_down: str) -> None:
        now = time.monotonic()
        if not why_down and any(held.retry_at > now for held in self._held.values()):
            return
        if bool(why_down) != bool(self._why_down):
            log.warning("indexing %s", f"waits: {why_down}" if why_down else "goes on")
        self._why_down = why_down

    def _renew(self) -> None:
        """Renews leases, takes over what is free, and drops collections that are unneeded."""
        self._renew_at = time.monotonic() + RENEW_SECONDS
        there = {entry.gallery_id: entry for entry in self._record.galleries.all()}
        for gallery_id, entry in there.items():
            state = self._states.claim(gallery_id, self.worker, LEASE_SECONDS)
            if state is None:
                self._held.pop(gallery_id, None)
                continue
            held = self._held.get(gallery_id)
            if held is None or held.state.sequence != state.sequence:
                held = self._held[gallery_id] = _Held(state, state.sequence)
                if state.builds:
                    # A late write of the process before may bring a deleted crop back, and this may
                    # be an older copy of the record, which lacks what Milvus has or has more.
                    held.sweep_at = time.monotonic() + LATE_SECONDS
            held.state = state
            if state.unfinished or not is_of(state, entry):
                self._begin_build(held, "it was asked for, not ended, or is of other vectors")
            elif held.sweep_at and time.monotonic() >= held.sweep_at and held.work is None:
                held.sweep_at = None
                sweep = self.writer.differing
                held.work = self._builder.submit(sweep, gallery_id, self._require_open)
        for gallery_id in self._held.keys() - there.keys():
            del self._held[gallery_id]
        self._rebuild_gone()
        for collection in self._states.unneeded(DROP_AFTER_SECONDS):
            heartbeat()
            self.writer.server.drop(collection)
            self._states.forget_unneeded(collection)

    def _rebuild_gone(self) -> None:
        """Builds anew what Milvus has lost, also of galleries without changes."""
        with contextlib.suppress(IndexUnavailable):
            there = set(self.writer.server.collections())
            for held in list(self._held.values()):
                if held.state.collection and held.state.collection not in there:
                    self._begin_build(held, "its collection is gone")

    def _keep(self, gallery_id: int) -> None:
        """Renews a lease before a write that comes late; raises `LeaseLost`."""
        late = time.monotonic() >= self._renew_at
        if late and self._states.claim(gallery_id, self.worker, LEASE_SECONDS) is None:
            raise LeaseLost

    def _serve(self, held: _Held) -> bool:
        """Finishes and follows one gallery; whether there was anything to do."""
        try:
            finished = held.work is not None and held.work.done() and self._finish(held)
            return (held.follows and self._follow(held)) or finished
        except (Outdated, ChangesLost) as why:
            self._begin_build(held, str(why))
        held.follows = held.work is None
        return False

    def _follow(self, held: _Held) -> bool:
        """Applies some changes of a gallery; whether there were any to read."""
        changes = self._stream.after(held.cursor, CHANGES_PER_READ, 0.0)
        if not changes:
            return False
        last = changes[-1].sequence
        if any(one.kind in ("gallery_created", "gallery_deleted") for one in changes):
            self._renew_at = 0.0
        if own := self._own(held.state, changes):
            self._apply(held.state, own)
        if own or last - held.state.sequence > IDLE_CHANGES:
            self._advance(held, held.state, last, own)
        held.cursor = last
        return True

    def _own(self, state: IndexState, changes: list[Change]) -> list[Change]:
        mine = (one for one in changes if one.gallery_id == state.gallery_id)
        return [one for one in mine if one.kind not in ("jobs", "keys", "calibration")]

    def _apply(self, state: IndexState, own: list[Change]) -> None:
        if not state.collection:
            raise Outdated("it has no collection yet")
        self.writer.apply(state, own, partial(self._keep, state.gallery_id))

    def _advance(self, held: _Held, state: IndexState, last: int, own: list[Change]) -> None:
        """Moves the watermark to a change; `state` names the collection that is searched then."""
        changes: dict[str, object] = {"sequence": last, "timestamp": self.writer.server.timestamp()}
        changes["version"] = max([state.version, *(one.version for one in own)])
        if state is not held.state:
            names = ("collection", "at", "side", "embedder", "building")
            changes |= {name: getattr(state, name) for name in names}
        moved = self._states.advance(held.state, **changes)
        if moved is None:
            raise LeaseLost
        held.state = moved

    def _begin_build(self, held: _Held, why: str) -> None:
        """Begins a new collection beside what is searched, unless one is being filled."""
        if held.work is not None:
            return
        state = held.state
        builds = held.state.builds + 1
        log.info("gallery %d is indexed anew: %s", state.gallery_id, why)
        name = self.writer.codes.collection(state.gallery_id, builds)
        begun = self._states.advance(state, building=name, builds=builds, wanted=False)
        if begun is None:
            self._held.pop(state.gallery_id, None)
            return
        held.state = begun
        held.work = self._builder.submit(self._build, begun)

    def _build(self, state: IndexState) -> IndexState:
        """Fills a collection; answers the state in which it is searched."""
        cursor = self._stream.last()
        entry = self._record.galleries.get(state.gallery_id)
        if entry is None:
            raise Outdated("it was deleted")
        built = replace(
            state,
            collection=state.building,
            building="",
            at=entry.at,
            side=entry.side,
            embedder=entry.embedding_fingerprint,
            version=entry.version,
        )
        missed: list[Change] = []

        def between() -> None:
            nonlocal cursor
            self._require_building(state)
            # Now and not at the end: the record keeps the latest changes alone.
            while changes := self._stream.after(cursor, CHANGES_PER_READ, 0.0):
                missed.extend(self._own(built, changes))
                cursor = changes[-1].sequence

        try:
            if not self.writer.fill(built, self.dimensions.get(built.embedder), between):
                built = replace(built, collection="")
            elif missed:
                self.writer.apply(built, missed, partial(self._require_building, state))
        except Outdated:
            self.writer.server.drop(built.collection)
            raise
        version = max([built.version, *(one.version for one in missed)])
        return replace(built, sequence=cursor, version=version)

    def _require_building(self, state: IndexState) -> None:
        self._require_open()
        now = self._states.state(state.gallery_id)
        if now is None or now.building != state.building:
            raise Outdated("another process builds it")

    def _require_open(self) -> None:
        if self._closing.is_set():
            raise ServiceStopping("the service is shutting down")

    def _finish(self, held: _Held) -> bool:
        """Searches what was built from now on, or mends what a sweep found."""
        work = held.work
        held.work = None
        held.follows = True
        assert work is not None
        try:
            found = work.result()
        except (Outdated, IndexUnavailable, RecordUnavailable, ChangesLost) as why:
            log.warning("a collection could not be filled or compared; tried again: %s", why)
            held.retry_at = self._renew_at = time.monotonic() + PAUSE_SECONDS
            held.sweep_at = held.retry_at
            return False
        if isinstance(found, list):
            if found:
                log.warning("%d rows differ from the record and are written anew", len(found))
                held.sweep_at = time.monotonic() + LATE_SECONDS
                gallery_id = held.state.gallery_id
                version = held.state.version
                rows = Change(0, "relabelled", gallery_id, version, tuple(found))
                self._apply(held.state, [rows])
            return bool(found)
        own: list[Change] = []
        last = found.sequence
        while last < held.cursor:
            changes = self._stream.after(last, CHANGES_PER_READ, 0.0)
            if mine := self._own(found, changes):
                self._apply(found, mine)
                own += mine
            last = changes[-1].sequence
        self._advance(held, found, last, own)
        held.cursor = last
        self._renew_at = 0.0
        return True
