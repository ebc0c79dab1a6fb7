"""The indexer: keeps galleries' collections in Milvus up to date with the record.

One process of the record writes all collections until it ends. It reads which crops of a
gallery have changed since the version that its collection shows, writes their current state, and
then moves the watermark in the record. Repeating this from an older watermark gives the same rows.
A collection that has other vectors is rebuilt beside the searched one.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from typing import Any

from model.wording import counted
from service.errors import (
    CollectionUnavailable,
    IndexUnavailable,
    ServiceStopping,
    UnknownGallery,
)
from service.milvus.tables import CollectionState
from service.milvus.writing import CollectionOutdated, CollectionWriter, is_current
from service.ops.critical_sections import log_failure
from service.ops.locks import WORKS_BY
from service.ops.threads import LONG_WORK_FACTOR, MonitoredThreadPool, heartbeat
from service.record.crop_rows import read_changed_slots, read_removed_slots
from service.record.galleries import (
    put_index_owners,
    read_index_owners,
    require_entry,
)
from service.record.transaction import Reader
from service.record.values import GalleryRecord

log = logging.getLogger(__name__)
# Interval between two looks for new galleries, missing collections, and the end of the process that
# indexes.
CHECK_SECONDS = 3.0
WAIT_SECONDS = 0.5
POLL_SECONDS = 0.05
# A write by the previous process arrives no later than this.
LATE_SECONDS = 30.0
# Interval between two counts of a collection's rows.
COUNT_SECONDS = 60.0
# A search in progress would find nothing in a dropped collection, without an error.
DROP_AFTER_SECONDS = 10.0
PAUSE_SECONDS = 1.0
CLOSING_SECONDS = 5.0
INDEXER = "indexer"
# Stands for every gallery where a step that concerns all of them fails.
ALL_GALLERIES = 0
Work = Future[tuple[CollectionState | None, list[int]]]


@dataclass
class _Indexed:
    """A gallery whose collection this process writes.

    Attributes:
        state: state of the collection, as the record has it.
        work: a build or a comparison, which returns the new collection's state (None if there is
            no new one) and the slots to write.
        sweep_at: when to compare the collection with the record, by `time.monotonic`.
        count_at: when to count its rows.
        retry_at: when to try again after a failure.
    """

    state: CollectionState
    sweep_at: float
    count_at: float
    work: Work | None = None
    retry_at: float = 0.0


@dataclass(eq=False)
class Indexer:
    """Follows the record, unless another living process does.

    It survives every failure: a failed gallery is retried after a pause, while others continue.
    """

    writer: CollectionWriter

    def __post_init__(self) -> None:
        self._record = self.writer.record
        self._reader = Reader(self._record.database)
        self._states = self.writer.states
        self._lock = self._record.database.work_lock(INDEXER)
        self._galleries: dict[int, _Indexed] = {}
        # Why galleries, or steps that concern all of them, wait.
        self._failures: dict[tuple[str, int], str] = {}
        # Collections of no gallery, and when they were first seen.
        self._unneeded: dict[str, float] = {}
        self._check_at = 0.0
        self._data_version = -1
        self._closing = threading.Event()
        self._follower = MonitoredThreadPool(1, "indexer")
        self._builder = MonitoredThreadPool(1, "index builder", LONG_WORK_FACTOR)
        self._following: list[Future[None]] = []

    @property
    def why_down(self) -> str:
        """The reason why a collection cannot be brought up to date; empty if all can."""
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

    def _run(self) -> None:
        while not self._closing.is_set():
            heartbeat()
            try:
                if self._lock.acquire():
                    self._follow_alone()
            except ServiceStopping:
                pass
            except Exception as error:
                log_failure("the update of collections in Milvus", error)
            self._closing.wait(CHECK_SECONDS)
        self._lock.release()

    def _follow_alone(self) -> None:
        WORKS_BY.set(self._lock)
        try:
            self._follow_record()
        finally:
            WORKS_BY.set(None)
            self._lock.release()

    def _follow_record(self) -> None:
        # After a failure another process may have written the collections.
        self._galleries.clear()
        while not self._closing.is_set() and self._lock.keep():
            heartbeat()
            if not self._run_turn():
                self._wait()

    def _run_turn(self) -> bool:
        # Read the version before the changes, so that a later commit leads to another turn.
        self._data_version = self._record.database.data_version()
        if time.monotonic() >= self._check_at:
            self._check()
        busy = False
        for gallery_id, gallery in list(self._galleries.items()):
            if time.monotonic() >= gallery.retry_at:
                busy |= self._attempt(gallery_id, self._update, gallery)
        return busy

    def _wait(self) -> None:
        until = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < until and not self._closing.wait(POLL_SECONDS):
            if self._record.database.data_version() != self._data_version:
                return

    def _attempt(self, gallery_id: int, step: Callable[..., bool | None], *args: Any) -> bool:
        """Run a step of one gallery, isolating its failure; return True if there was work."""
        key = (step.__name__, gallery_id)
        try:
            busy = bool(step(*args))
        except UnknownGallery:
            self._galleries.pop(gallery_id, None)
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
        if gallery := self._galleries.get(gallery_id):
            gallery.retry_at = time.monotonic() + PAUSE_SECONDS
        return False

    def _check(self) -> None:
        self._check_at = time.monotonic() + CHECK_SECONDS
        entries = {entry.gallery_id: entry for entry in self._record.galleries.all()}
        for gallery_id in self._galleries.keys() - entries.keys():
            del self._galleries[gallery_id]
        known = {ALL_GALLERIES, *entries}
        self._failures = {key: why for key, why in self._failures.items() if key[1] in known}
        for gallery_id, entry in entries.items():
            self._attempt(gallery_id, self._check_gallery, entry)
        self._attempt(ALL_GALLERIES, self._clean_collections)

    def _check_gallery(self, entry: GalleryRecord) -> None:
        gallery_id = entry.gallery_id
        state = self._states.state(gallery_id) or CollectionState(gallery_id)
        now = time.monotonic()
        gallery = self._galleries.get(gallery_id)
        if gallery is None:
            # A late write by the previous process may bring back a deleted crop, and an older copy
            # of the record may have more or fewer rows than Milvus.
            sweep_at = now + LATE_SECONDS if state.builds else math.inf
            gallery = _Indexed(state, sweep_at, now + COUNT_SECONDS)
            self._galleries[gallery_id] = gallery
        gallery.state = state
        if state.unfinished or not is_current(state, entry):
            self._begin_build(gallery, "it was requested, is unfinished, or has other vectors")
        elif gallery.work is not None or now < gallery.retry_at:
            return
        elif state.lacks_rows or now >= gallery.sweep_at:
            gallery.sweep_at = math.inf
            gallery.work = self._builder.submit(self._compare, gallery_id)
        elif state.collection and now >= gallery.count_at and state.version == entry.version:
            gallery.count_at = now + COUNT_SECONDS
            rows = self.writer.server.count(state.collection, state.timestamp)
            if rows < entry.searchable_crops:
                gallery.state = self._states.change(gallery_id, lacks_rows=True)

    def _clean_collections(self) -> None:
        # Read the record last: it names a collection before that is created.
        present = set(self.writer.server.collections())
        for gallery in list(self._galleries.values()):
            if gallery.state.collection and gallery.state.collection not in present:
                self._begin_build(gallery, "its collection is missing")
        unneeded = present - self._states.named()
        owners = read_index_owners(self._reader)
        prefixes = tuple(self.writer.codes.prefix(owner) for owner in owners)
        now = time.monotonic()
        self._unneeded = {
            name: self._unneeded.get(name, now) for name in unneeded if name.startswith(prefixes)
        }
        expired = [
            name for name, since in self._unneeded.items() if now >= since + DROP_AFTER_SECONDS
        ]
        for collection in expired:
            heartbeat()
            log.info("collection %s belongs to no gallery and is dropped", collection)
            self.writer.server.drop(collection)
        if len(owners) > 1 and (expired or not self._unneeded):
            # A replaced service that is started again fills its collections again, and keeps them.
            self._record.database.write(put_index_owners, owners[:1])

    def _update(self, gallery: _Indexed) -> bool:
        if gallery.work is not None and gallery.work.done():
            return self._finish(gallery, gallery.work)
        try:
            state = self._apply_changes(gallery.state)
        except CollectionOutdated as why:
            self._begin_build(gallery, str(why))
            return False
        if state is gallery.state:
            return False
        self._move_watermark(gallery, state)
        return True

    def _apply_changes(self, state: CollectionState) -> CollectionState:
        """Write changes to a collection; return the new state, or the same if there are none."""
        with self._record.database.read() as reader:
            version = require_entry(reader, state.gallery_id).version
            changed = read_changed_slots(reader, state.gallery_id, state.version)
            removed = read_removed_slots(reader, state.gallery_id, state.version)
        if version == state.version:
            return state
        if not state.collection:
            raise CollectionOutdated("it has no collection yet")
        self.writer.write(state, sorted({*changed, *removed}), self._require_open)
        return replace(state, version=version)

    def _move_watermark(self, gallery: _Indexed, state: CollectionState, **more: bool) -> None:
        """Move the watermark; from then on the collection in `state` is searched."""
        names = ("collection", "generation", "embedder", "building", "version")
        fields = {name: getattr(state, name) for name in names}
        fields["timestamp"] = self.writer.server.timestamp()
        gallery.state = self._states.change(state.gallery_id, **fields, **more)

    def _begin_build(self, gallery: _Indexed, why: str) -> None:
        if gallery.work is not None:
            return
        state = gallery.state
        builds = state.builds + 1
        log.info("gallery %d is being rebuilt: %s", state.gallery_id, why)
        owner = read_index_owners(self._reader)[0]
        name = self.writer.codes.collection(owner, state.gallery_id, builds)
        fields = {"building": name, "builds": builds, "wanted": False}
        gallery.state = self._states.change(state.gallery_id, **fields)
        gallery.work = self._builder.submit(self._build, gallery.state)

    def _compare(self, gallery_id: int) -> tuple[None, list[int]]:
        return None, self.writer.differing(gallery_id, self._require_open)

    def _build(self, state: CollectionState) -> tuple[CollectionState, list[int]]:
        entry = self._record.galleries.get(state.gallery_id)
        if entry is None:
            raise CollectionOutdated("it was deleted")
        built = replace(
            state,
            collection=state.building,
            building="",
            generation=entry.generation,
            embedder=entry.embedding_fingerprint,
            version=entry.version,
        )
        if not self.writer.fill(built, self._require_open):
            return replace(built, collection=""), []
        return built, []

    def _require_open(self) -> None:
        if self._closing.is_set():
            raise ServiceStopping("the service is shutting down")

    def _finish(self, gallery: _Indexed, work: Work) -> bool:
        gallery.work = None
        try:
            built, slots = work.result()
            if slots and not built:
                rows = counted(len(slots), "row differs", "rows differ")
                log.warning("%s from the record: written again", rows)
                gallery.sweep_at = time.monotonic() + LATE_SECONDS
            state = built or gallery.state
            self.writer.write(state, slots, self._require_open)
            # Searches must not show an older version than before.
            while state.collection and state.version < gallery.state.version:
                state = self._apply_changes(state)
            self._move_watermark(gallery, state, lacks_rows=False)
        except BaseException as error:
            # The next check restarts unfinished work.
            gallery.sweep_at = self._check_at = time.monotonic() + PAUSE_SECONDS
            if not isinstance(error, CollectionOutdated):
                raise
            log.info("the index of gallery %d starts over: %s", gallery.state.gallery_id, error)
            return False
        self._check_at = 0.0
        return True
