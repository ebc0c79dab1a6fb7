"""The galleries in memory: each write is committed, shown, then acknowledged."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

from gmn_client.models import RecordState
from service.engine.device import DeviceThread
from service.errors import (
    GalleryConflict,
    QueueFull,
    RecordUnavailable,
    UnknownGallery,
    VersionNotReached,
)
from service.gallery.follow import Follower
from service.gallery.gallery import Gallery, MakeIndex
from service.gallery.waiting import WaitingEnrollments
from service.index.columns import Columns
from service.ops.data_directory import failpoint
from service.ops.shared import SharedRedis
from service.ops.threads import CALLER, LONG_WORK_FACTOR, MonitoredThreadPool, heartbeat
from service.record.crop_rows import (
    COLUMNS_AT_ONCE,
    CropColumns,
    read_changed_slots,
    read_columns,
    read_removed_slots,
)
from service.record.deletions import DeletedCrops
from service.record.galleries import read_entry
from service.record.record import Record
from service.record.transaction import Reader, batches
from service.record.values import (
    ArchivedCrop,
    CommittedEnrollment,
    CropsChange,
    EnrollmentRequest,
    GalleryRecord,
    GallerySettings,
    RequestKey,
    StoredCrop,
)

log = logging.getLogger(__name__)
DEFAULT_GALLERY = "default"
READ_THREADS = 2
# Writes waiting at the same time are committed together.
WRITE_THREADS = 8
CAUGHT_UP_WITHIN_SECONDS = 2.0
VERSION_WITHIN_SECONDS = 2.0
VERSION_POLL_SECONDS = 0.01
# Number of requests of one caller that wait for versions.
MOST_WAITING = 32
CROPS_PER_EVENT = 1000
# Number of vectors read ahead from the disk while the rows before them are read.
READ_AHEAD_SLOTS = 65_536
Result = TypeVar("Result")


@dataclass(eq=False)
class GalleryRegistry:
    """All galleries in memory, in step with a record that every process of a machine may write.

    A write runs on one of several threads; writes waiting at the same time are committed together,
    and enrollments waiting for one gallery are one write. The thread then brings the gallery up to
    date with the record, and the follower does so for the commits of other processes. Both hold the
    device while they change an index. Cancelling a caller never leaves a commit unapplied.

    Attributes:
        embedders: feature sizes of the loaded embedders by fingerprint, newest first.
        read_calibration: reads a gallery's published calibration; blocks.
        centre: centres a gallery that nobody searches yet, as its calibration wants it; blocks.
        settle_calibration: has searches use the calibration, unless the index does not suit it yet;
            called while the device is held.
        outside: returns the external index of a gallery; None if this process holds the indexes.
        shared: Redis, to which commits are announced; None if not configured.
    """

    record: Record
    device: DeviceThread
    embedders: Mapping[str, int]
    read_calibration: Callable[[Gallery], None]
    outside: MakeIndex | None = None
    shared: SharedRedis | None = None
    centre: Callable[[Gallery], None] = lambda _: None
    settle_calibration: Callable[[Gallery], None] = lambda _: None

    def __post_init__(self) -> None:
        self._writers = MonitoredThreadPool(WRITE_THREADS, "record writers", LONG_WORK_FACTOR)
        self._readers = MonitoredThreadPool(READ_THREADS, "record readers", LONG_WORK_FACTOR)
        # It reads the next rows of a large gallery while the vectors of the last ones are read.
        self._ahead = MonitoredThreadPool(1, "read-ahead thread", LONG_WORK_FACTOR)
        self.write = self._writers.run
        self.read = self._readers.run
        self._reader = Reader(self.record.database)
        self._by_name: dict[str, Gallery] = {}
        self._waiting: Counter[str] = Counter()
        self._enrollments = WaitingEnrollments(self._enroll_together)
        # Called by the follower after new commits of any process.
        self.on_commit: Callable[[Reader], object] = lambda _: None
        self._follower = Follower(
            self.record.database, self._apply, self._read, lambda reader: self.on_commit(reader)
        )

    def load(self) -> None:
        """Read every gallery into memory, creating `default` if it is missing; blocks."""
        self.record.database.prefetch()
        names = [gallery.name for gallery in self.record.galleries.all()]
        if DEFAULT_GALLERY not in names:
            # Another process may create it at the same moment.
            with contextlib.suppress(GalleryConflict):
                newest = next(iter(self.embedders))
                self.record.galleries.create(DEFAULT_GALLERY, newest, GallerySettings())
        self._follower.start()

    @property
    def record_state(self) -> RecordState:
        return self._follower.state()

    @property
    def waiting_writes(self) -> int:
        return self._writers.waiting + self._enrollments.count

    def writer_silent_seconds(self) -> float:
        return self._writers.silent_seconds()

    @property
    def threads(self) -> list[MonitoredThreadPool]:
        return [self._writers, self._readers, self._ahead, self._follower.thread]

    def by_id(self, gallery_id: int) -> Gallery | None:
        for gallery in list(self._by_name.values()):
            if gallery.gallery_id == gallery_id:
                return gallery
        return None

    def all(self) -> list[Gallery]:
        return sorted(self._by_name.values(), key=lambda gallery: gallery.name)

    def get(self, name: str) -> Gallery:
        """Return a gallery by its name; raises `UnknownGallery` if there is none."""
        gallery = self._by_name.get(name)
        if gallery is None:
            raise UnknownGallery(name)
        return gallery

    async def find(self, name: str) -> Gallery:
        if name not in self._by_name:
            await self.catch_up()
        return self.get(name)

    def read_crops(self, gallery: Gallery, slots: Sequence[int]) -> dict[int, StoredCrop]:
        """Return the given crops that still exist and are not damaged, by slot; blocks.

        Raises:
            UnknownGallery: the gallery was deleted, and `slots` is not empty.
        """
        if not slots:
            return {}
        try:
            _, crops = self.record.crops.vectors_of(gallery.gallery_id, slots)
        except UnknownGallery as error:
            raise UnknownGallery(gallery.name) from error
        return {crop.record.slot: crop.record for crop in crops}

    def leave_out_damaged(self) -> None:
        """Remove crops that were found damaged from the indexes; blocks."""
        slots: dict[int, list[int]] = defaultdict(list)
        for gallery_id, slot in list(self.record.database.damaged):
            slots[gallery_id].append(slot)
        for gallery_id, damaged in slots.items():
            with self.device.held():
                self._remove(gallery_id, damaged)

    def _remove(self, gallery_id: int, slots: Sequence[int]) -> None:
        gallery = self.by_id(gallery_id)
        if gallery is not None and gallery.own_index is not None:
            gallery.own_index.remove(slots)
            gallery.crops = gallery.own_index.columns.count

    def reload_calibration(self, gallery: Gallery) -> None:
        """Read the published calibration of a gallery again; blocks."""
        self._refresh_calibration(gallery)
        with self.device.held():
            self.settle_calibration(gallery)

    async def catch_up(self) -> None:
        """Wait briefly until earlier commits of this and other processes are shown."""
        with contextlib.suppress(RecordUnavailable, TimeoutError):
            async with asyncio.timeout(CAUGHT_UP_WITHIN_SECONDS):
                newest = await self.read(self._reader.newest_commit)
                await asyncio.wrap_future(self._follower.wait_for_all(newest))

    async def wait_until_kept(self) -> None:
        """Return once what this process has seen of the record cannot be lost any more.

        Raises:
            RecordUnavailable: the record cannot be reached, or its writes wait for too long.
        """
        database = self.record.database
        if database.machine is not None:
            # As a write that changes nothing, of which one waits at a time.
            await self.write(database.write, lambda _: None)

    async def wait_for_version(self, gallery: Gallery, version: int) -> None:
        """Wait until a gallery shows a version or a later one.

        Raises:
            UnknownGallery: the gallery was deleted in the meantime.
            VersionNotReached: the version was not reached within two seconds.
            QueueFull: the caller waits `MOST_WAITING` times already.
        """
        until = time.monotonic() + VERSION_WITHIN_SECONDS
        caller = CALLER.get()
        self._waiting[caller] += 1
        try:
            while True:
                outside = gallery.outside_index
                shown = await self.read(outside.version) if outside else gallery.version
                if shown >= version:
                    return
                self.get(gallery.name)
                if self._waiting[caller] > MOST_WAITING:
                    raise QueueFull(self._waiting.total())
                if time.monotonic() >= until:
                    raise VersionNotReached(gallery.name, shown, version)
                # All waiting requests of a caller together cost as much as one.
                await asyncio.sleep(VERSION_POLL_SECONDS * self._waiting[caller])
        finally:
            # Subtraction drops callers that no longer wait.
            self._waiting -= Counter([caller])

    async def create(self, name: str, settings: GallerySettings) -> GalleryRecord:
        newest = next(iter(self.embedders))

        def create() -> tuple[int, GalleryRecord]:
            created = self.record.galleries.create(name, newest, settings)
            return created.gallery_id, created

        return await self._commit("create-gallery", name, create)

    async def change(self, steps: str, gallery: Gallery, write: Callable[[int], Result]) -> Result:
        """Commit a change of a gallery, which is durable once this returns.

        From then on every search sees the change; until then, none does.

        Args:
            steps: prefix of the names of the failpoints around the commit.
            write: commits the change; called with the gallery's id on a writer thread. It returns
                the change of crops, or anything else.

        Raises:
            UnknownGallery: the gallery was already deleted.
        """
        gallery_id = gallery.gallery_id
        try:
            return await self._commit(steps, gallery.name, lambda: (gallery_id, write(gallery_id)))
        except UnknownGallery as error:
            # The record's error has the id instead of the name.
            raise UnknownGallery(gallery.name) from error

    async def enroll(
        self,
        gallery: Gallery,
        embedder: str,
        crops: Sequence[ArchivedCrop],
        key: RequestKey | None = None,
        keep_best: int | None = None,
        import_job: str | None = None,
        deletions: DeletedCrops | None = None,
    ) -> CommittedEnrollment:
        """Commit an enrollment together with others that wait for the same gallery.

        Once this returns, the crops are durable, and every search sees them. For the arguments see
        `Crops.enroll`.

        Raises:
            UnknownGallery: the gallery was already deleted.
        """
        if keep_best is not None or deletions is not None:
            # The first may delete crops, and the second depends on deletions, so that it is
            # committed like a deletion.
            return await self.change(
                "enroll",
                gallery,
                lambda gallery_id: self.record.crops.enroll(
                    gallery_id, embedder, crops, key, keep_best, import_job, deletions
                ),
            )
        request = EnrollmentRequest(embedder, crops, key, import_job)
        try:
            committed = await self._enrollments.enroll(gallery.gallery_id, request)
        except UnknownGallery as error:
            # The record's error has the id instead of the name.
            raise UnknownGallery(gallery.name) from error
        if self.shared:
            _announce(self.shared, gallery.name, "enroll", committed)
        return committed

    def _enroll_together(
        self, gallery_id: int, requests: Sequence[EnrollmentRequest]
    ) -> Awaitable[list[CommittedEnrollment | Exception]]:
        enroll = self.record.crops.enroll_together
        return self._commit_and_show("enroll", lambda: (gallery_id, enroll(gallery_id, requests)))

    async def _commit(
        self, steps: str, name: str, write: Callable[[], tuple[int, Result]]
    ) -> Result:
        committed = await self._commit_and_show(steps, write)
        if self.shared and committed is not None:
            _announce(self.shared, name, steps, committed)
        return committed

    async def _commit_and_show(self, steps: str, write: Callable[[], tuple[int, Result]]) -> Result:
        """Call `write` on a writer thread, and return its result once searches see the change.

        Args:
            write: commits a change, and returns the id of the changed gallery with the result.
        """

        def commit() -> tuple[Result, Future[None]]:
            failpoint(f"{steps}.before-commit")
            gallery_id, committed = write()
            failpoint(f"{steps}.committed")
            return committed, self._follower.show(gallery_id)

        # The thread shows its commit even if the request is cancelled.
        committed, shown = await self.write(commit)
        await asyncio.wrap_future(shown)
        failpoint(f"{steps}.shown")
        return committed

    def _read(self, gallery_id: int) -> None:
        """Read a gallery again, or drop a deleted one; blocks until searches see it.

        Raises:
            DamagedRecord: the row of the gallery is damaged.
        """
        loaded = self._load(gallery_id)
        with self.device.held():
            self._switch(gallery_id, loaded)
            if gallery := self.by_id(gallery_id):
                self.settle_calibration(gallery)

    def _load(self, gallery_id: int) -> Gallery | None:
        """Read a gallery with its calibration; its index may show later writes than its version."""
        record = self.record.galleries.get(gallery_id)
        while record is not None:
            gallery = Gallery(record, self.embedders, self.record, self.outside)
            if gallery.own_index is not None:
                self.fill(gallery.own_index.columns, gallery_id, record.crops)
            latest = self.record.galleries.get(gallery_id)
            # An index must not mix the vectors of two embedders.
            if latest is not None and gallery.has_vectors_of(latest):
                gallery.follow_record(latest)
                self._refresh_calibration(gallery)
                self.centre(gallery)
                return gallery
            record = latest
        return None

    def _switch(self, gallery_id: int, loaded: Gallery | None) -> None:
        current = self.by_id(gallery_id)
        if current is not None and loaded is not None and current.name == loaded.name:
            current.replace(loaded)
            return
        if current is not None:
            del self._by_name[current.name]
        if loaded is not None:
            self._by_name[loaded.name] = loaded

    def _refresh_calibration(self, gallery: Gallery) -> None:
        try:
            self.read_calibration(gallery)
        except RecordUnavailable:
            raise
        except Exception:
            # Verdicts continue to use the previous calibration.
            log.exception("the calibration of gallery %s cannot be read", gallery.name)

    def cut_off(self) -> None:
        """End long writes and reads, because the process stops; no part of a write is stored."""
        self._writers.cut_off()
        self._ahead.cut_off()

    def close(self) -> None:
        self.cut_off()
        self._writers.shutdown()
        self._follower.close()
        self._readers.shutdown()
        self._ahead.shutdown()

    def fill(self, columns: Columns, gallery_id: int, count: int) -> None:
        """Add the crops of a gallery, about `count` of them, to empty columns; blocks."""
        crops = self.record.crops
        parts = read_columns(self._reader, gallery_id, columns.secret)
        for part in parts if count <= COLUMNS_AT_ONCE else self._read_ahead(parts):
            file = crops.vector_file(self.record.galleries.get(gallery_id))
            # None if the gallery was deleted in the meantime.
            if file is not None:
                file.prefetch(int(part.slots[-1]) + 1, READ_AHEAD_SLOTS)
                file.load(part.slots)
                columns.add(part, file)

    def _read_ahead(self, parts: Iterator[CropColumns]) -> Iterator[CropColumns]:
        def read() -> CropColumns | None:
            heartbeat()
            return next(parts, None)

        reading = self._ahead.submit(read)
        while (columns := reading.result()) is not None:
            reading = self._ahead.submit(read)
            yield columns

    def _apply(self, gallery_id: int) -> None:
        """Show the changes since the shown version; read the gallery anew if its vectors changed.

        Blocks until searches see the changes.
        """
        gallery = self.by_id(gallery_id)
        changed: list[CropColumns] = []
        removed: list[int] = []
        with self.record.database.read() as reader:
            latest = read_entry(reader, gallery_id)
            if gallery and latest and gallery.own_index and gallery.has_vectors_of(latest):
                slots = read_changed_slots(reader, gallery_id, gallery.version)
                secret = gallery.own_index.columns.secret
                changed = list(read_columns(reader, gallery_id, secret, slots))
                removed = read_removed_slots(reader, gallery_id, gallery.version)
        failpoint("follower.changes-read")
        if gallery is None or latest is None or not gallery.has_vectors_of(latest):
            self._read(gallery_id)
        else:
            if latest.calibrated != gallery.calibrated:
                self._refresh_calibration(gallery)
            file = self.record.crops.vector_file(latest) if changed else None
            if file is not None:
                for part in changed:
                    file.load(part.slots)
            with self.device.held():
                gallery.apply(latest, changed, removed, file)
                self.settle_calibration(gallery)
        failpoint("follower.changes-applied")


def _announce(shared: SharedRedis, gallery: str, steps: str, committed: object) -> None:
    if isinstance(committed, CommittedEnrollment | CropsChange):
        for crop_ids in batches(committed.crop_ids, CROPS_PER_EVENT):
            shared.announce(gallery, steps, version=committed.version, crop_ids=crop_ids)
    else:
        shared.announce(gallery, steps)
    if isinstance(committed, CommittedEnrollment) and committed.removal:
        _announce(shared, gallery, "delete-crop", committed.removal)
