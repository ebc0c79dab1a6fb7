"""The indexer: keeps galleries' collections in Milvus up to date with the record.

One process on a record holds the lease of a gallery's collection and writes it. It reads the
gallery's changes in order, writes the current state of the changed crops, and then moves the
watermark in the record. Repeating this from an older watermark gives the same rows. A collection
that has other vectors or cannot catch up is rebuilt beside the searched one.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass, field, replace
from typing import Any

from service.errors import CollectionUnavailable, IndexUnavailable, ServiceStopping
from service.milvus.writing import CollectionWriter, Outdated, is_current
from service.ops.threads import LONG_WORK_FACTOR, MonitoredThreadPool, heartbeat
from service.record.collections import IndexState
from service.record.feeds import (
    ALL_GALLERIES,
    OF_CROPS,
    ChangesLost,
    read_changes,
    read_feeds,
)
from service.record.marks import Mark
from service.record.transaction import Change, Reader
from service.record.values import GalleryRecord

log = logging.getLogger(__name__)
# After a crash another process takes over after at most this time.
LEASE_SECONDS = 10.0
RENEW_SECONDS = 3.0
CHANGES_PER_READ = 256
WAIT_SECONDS = 0.5
POLL_SECONDS = 0.05
# A write by the previous process arrives no later than this.
LATE_SECONDS = 30.0
COUNT_SECONDS = 60.0
# A search in progress would find nothing in a dropped collection, without an error.
DROP_AFTER_SECONDS = 10.0
PAUSE_SECONDS = 1.0
SILENT_SECONDS = 90.0
CLOSING_SECONDS = 5.0


class LeaseLost(Exception):
    """Another process writes the collection of a gallery."""


@dataclass
class _Held:
    """A gallery whose collection this process writes.

    Attributes:
        state: as in the record.
        work: a build, which returns the new collection's state, or a sweep, which returns rows.
        sweep_at: when to compare the collection with the record, by `time.monotonic`.
        count_at: when to count its rows.
        retry_at: when to try again after a failure.
    """

    state: IndexState
    work: Future[IndexState | list[int]] | None = None
    sweep_at: float | None = None
    count_at: float = 0.0
    retry_at: float = 0.0


@dataclass(eq=False)
class Indexer:
    """Follows the record for all galleries that no other process indexes.

    It survives every failure: a failed gallery is retried after a pause, while others continue.

    Attributes:
        worker: name of this process, never used by another one.
        dimensions: feature sizes of known embedders, for collections without rows.
    """

    writer: CollectionWriter
    worker: str
    dimensions: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._record = self.writer.record
        self._reader = Reader(self._record.database)
        self._states = self._record.remote_indexes
        self._held: dict[int, _Held] = {}
        # Why galleries, or steps that concern all of them, wait.
        self._failures: dict[tuple[str, int], str] = {}
        self._renew_at = 0.0
        self._data_version = -1
        self._closing = threading.Event()
        self._follower = MonitoredThreadPool(1, "indexer", SILENT_SECONDS)
        self._builder = MonitoredThreadPool(1, "index builder", SILENT_SECONDS, LONG_WORK_FACTOR)
        self._following: list[Future[None]] = []

    @property
    def why_down(self) -> str:
        """Return why a collection cannot be brought up to date; empty if all can."""
        return next(iter(list(self._failures.values())), "")

    @property
    def threads(self) -> list[MonitoredThreadPool]:
        return [self._follower, self._builder]

    def start(self) -> None:
        self._following.append(self._follower.submit(self._run))

    def close(self) -> None:
        self._closing.set()
        wait(self._following, CLOSING_SECONDS)
        self._follower.shutdown(wait=False)
        self._builder.shutdown(cancel_futures=True)
        for held in list(self._held.values()):
            with contextlib.suppress(Exception):
                self._states.advance(held.state, worker="", lease_until_ms=0)

    def turn(self) -> bool:
        # Read the version before the changes, so that a later commit leads to another turn.
        self._data_version = self._record.database.data_version()
        busy = False
        for gallery_id in [ALL_GALLERIES, *self._held]:
            # A slow gallery must not cost the others their leases.
            if time.monotonic() >= self._renew_at:
                self._renew()
            held = self._held.get(gallery_id)
            if held is not None and time.monotonic() >= held.retry_at:
                busy |= self._attempt(gallery_id, self._serve, held)
        return busy

    def _run(self) -> None:
        while not self._closing.is_set():
            heartbeat()
            try:
                if not self.turn():
                    self._wait()
            except ServiceStopping:
                return
            except Exception:
                log.exception("collections in Milvus could not be brought up to date")
                self._closing.wait(PAUSE_SECONDS)

    def _wait(self) -> None:
        database = self._record.database
        until = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < until and database.data_version() == self._data_version:
            if self._closing.wait(POLL_SECONDS) or any(
                held.work and held.work.done() for held in self._held.values()
            ):
                return

    def _attempt(self, gallery_id: int, step: Callable[..., bool | None], *args: Any) -> bool:
        """Run a step of one gallery, isolating its failure; return True if there was work."""
        key = (step.__name__, gallery_id)
        try:
            busy = bool(step(*args))
        except LeaseLost:
            self._give_up(gallery_id)
        except ServiceStopping:
            raise
        except CollectionUnavailable as problem:
            log.info("the index of gallery %d waits: %s", gallery_id, problem.why)
        except Exception as error:
            unknown = not isinstance(error, IndexUnavailable)
            if key not in self._failures:
                log.warning("indexing gallery %d waits: %s", gallery_id, error, exc_info=unknown)
            self._failures[key] = getattr(error, "why", str(error))
        else:
            if self._failures.pop(key, None):
                log.warning("indexing gallery %d continues", gallery_id)
            return busy
        if held := self._held.get(gallery_id):
            held.retry_at = time.monotonic() + PAUSE_SECONDS
        return False

    def _give_up(self, gallery_id: int) -> None:
        if self._held.pop(gallery_id, None):
            log.warning("another process has taken over the index of gallery %d", gallery_id)
            self._states.ask_sweep(gallery_id)

    def _renew(self) -> None:
        self._renew_at = time.monotonic() + RENEW_SECONDS
        galleries = {entry.gallery_id: entry for entry in self._record.galleries.all()}
        for gallery_id in self._held.keys() - galleries.keys():
            del self._held[gallery_id]
        known = {ALL_GALLERIES, *galleries}
        self._failures = {key: why for key, why in self._failures.items() if key[1] in known}
        for gallery_id, entry in galleries.items():
            self._attempt(gallery_id, self._claim, entry)
        self._attempt(ALL_GALLERIES, self._clean_collections)

    def _claim(self, entry: GalleryRecord) -> None:
        gallery_id = entry.gallery_id
        state = self._states.claim(gallery_id, self.worker, LEASE_SECONDS)
        if state is None:
            self._give_up(gallery_id)
            return
        now = time.monotonic()
        held = self._held.get(gallery_id)
        if held is None or held.state.sequence != state.sequence:
            held = self._held[gallery_id] = _Held(state, count_at=now + COUNT_SECONDS)
            if state.builds:
                # A late write by the previous process may bring back a deleted crop, and an older
                # copy of the record may have more or fewer rows than Milvus.
                held.sweep_at = now + LATE_SECONDS
        held.state = state
        if state.unfinished or not is_current(state, entry):
            self._begin_build(held, "it was requested, is unfinished, or has other vectors")
        elif held.work is None and now >= held.retry_at:
            self._check_rows(held, entry)

    def _check_rows(self, held: _Held, entry: GalleryRecord) -> None:
        now = time.monotonic()
        state = held.state
        if state.sweep or (held.sweep_at and now >= held.sweep_at):
            held.sweep_at = None
            self._move(held, sweep=False)
            sweep = self.writer.differing
            held.work = self._builder.submit(sweep, entry.gallery_id, self._require_open)
        elif now >= held.count_at and state.version == entry.version:
            held.count_at = now + COUNT_SECONDS
            if self.writer.server.count(state.collection, state.timestamp) < entry.crops:
                self._states.ask_sweep(entry.gallery_id, lacks_rows=True)

    def _clean_collections(self) -> None:
        present = set(self.writer.server.collections())
        for held in list(self._held.values()):
            if held.state.collection and held.state.collection not in present:
                self._begin_build(held, "its collection is missing")
        names = [name for name in present if self.writer.codes.has_named(name)]
        for name in self._states.note_unknown(names):
            log.warning("collection %s belongs to no gallery and is dropped", name)
        for collection in self._states.unneeded(DROP_AFTER_SECONDS):
            heartbeat()
            self.writer.server.drop(collection)
            self._states.forget_unneeded(collection)

    def _serve(self, held: _Held) -> bool:
        finished = False
        if held.work is not None and held.work.done():
            finished = self._attempt(held.state.gallery_id, self._finish, held)
        return self._follow(held) or finished

    def _follow(self, held: _Held) -> bool:
        try:
            state = self._apply_changes(held.state)
        except (Outdated, ChangesLost) as why:
            self._begin_build(held, str(why))
            return False
        if state is held.state:
            return False
        self._show(held, state)
        return True

    def _apply_changes(self, state: IndexState) -> IndexState:
        """Write the next changes to a collection; return the new state, or the same if none."""
        if not state.collection:
            raise Outdated("it has no collection yet")
        changes = self._changes_after(state)
        if not changes:
            return state
        self._write(state, _slots_of(changes))
        return _after(state, changes)

    def _changes_after(self, state: IndexState) -> list[Change]:
        mark = Mark(state.sequence, state.token)
        return read_changes(self._reader, state.gallery_id, mark, CHANGES_PER_READ)

    def _write(self, state: IndexState, slots: Iterable[int]) -> None:
        def keep_lease() -> None:
            late = time.monotonic() >= self._renew_at
            if late and not self._states.claim(state.gallery_id, self.worker, LEASE_SECONDS):
                raise LeaseLost

        self.writer.write(state, slots, keep_lease)

    def _show(self, held: _Held, state: IndexState) -> None:
        """Move the watermark; from then on the collection in `state` is searched."""
        names = ("collection", "at", "side", "embedder", "building", "sequence", "token", "version")
        changes = {name: getattr(state, name) for name in names}
        self._move(held, **changes, timestamp=self.writer.server.timestamp())

    def _move(self, held: _Held, **changes: Any) -> None:
        state = self._states.advance(held.state, **changes)
        if state is None:
            raise LeaseLost
        held.state = state

    def _begin_build(self, held: _Held, why: str) -> None:
        if held.work is not None:
            return
        state = held.state
        builds = state.builds + 1
        log.info("gallery %d is being rebuilt: %s", state.gallery_id, why)
        name = self.writer.codes.collection(state.gallery_id, builds)
        building = self._states.advance(state, building=name, builds=builds, wanted=False)
        if building is None:
            self._give_up(state.gallery_id)
            return
        held.state = building
        held.work = self._builder.submit(self._build, building)

    def _build(self, state: IndexState) -> IndexState:
        newest = read_feeds(self._reader).get(state.gallery_id)
        entry = self._record.galleries.get(state.gallery_id)
        if entry is None or newest is None:
            raise Outdated("it was deleted")
        built = replace(
            state,
            collection=state.building,
            building="",
            at=entry.at,
            side=entry.side,
            embedder=entry.embedding_fingerprint,
            sequence=newest.seq,
            token=newest.token,
            version=entry.version,
        )
        missed: set[int] = set()

        def require_building() -> None:
            self._require_open()
            current = self._states.state(state.gallery_id)
            if current is None or current.building != state.building:
                raise Outdated("another process builds it")

        def between() -> None:
            nonlocal built
            require_building()
            # Read the changes during the build: old ones may be dropped before it ends.
            while changes := self._changes_after(built):
                missed.update(_slots_of(changes))
                built = _after(built, changes)

        try:
            if not self.writer.fill(built, self.dimensions.get(built.embedder), between):
                return replace(built, collection="")
            self.writer.write(built, missed, require_building)
        except Outdated:
            self.writer.server.drop(state.building)
            raise
        return built

    def _require_open(self) -> None:
        if self._closing.is_set():
            raise ServiceStopping("the service is shutting down")

    def _finish(self, held: _Held) -> bool:
        work = held.work
        held.work = None
        assert work is not None
        try:
            result = work.result()
            if isinstance(result, list):
                self._repair(held, result)
                return bool(result)
            # Searches must not show an older version than before.
            while result.collection and result.sequence < held.state.sequence:
                result = self._apply_changes(result)
            self._show(held, result)
        except BaseException as error:
            # The next renewal of the lease restarts unfinished work.
            held.sweep_at = self._renew_at = time.monotonic() + PAUSE_SECONDS
            if not isinstance(error, Outdated | ChangesLost):
                raise
            log.info("the index of gallery %d starts over: %s", held.state.gallery_id, error)
            return False
        self._renew_at = 0.0
        return True

    def _repair(self, held: _Held, slots: list[int]) -> None:
        if slots:
            log.warning("%d rows differ from the record and are written again", len(slots))
            held.sweep_at = time.monotonic() + LATE_SECONDS
            self._write(held.state, slots)
        if slots or held.state.lacks_rows:
            timestamp = self.writer.server.timestamp()
            self._move(held, timestamp=timestamp, lacks_rows=False)


def _slots_of(changes: Iterable[Change]) -> set[int]:
    of_crops = (change for change in changes if change.kind in OF_CROPS)
    return {slot for change in of_crops for slot in change.row_ids}


def _after(state: IndexState, changes: list[Change]) -> IndexState:
    newest = changes[-1]
    version = max(state.version, *(change.version for change in changes))
    return replace(state, sequence=newest.sequence, token=newest.token, version=version)
