"""The galleries in memory: a write is committed, then shown by the follower, then acknowledged."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from typing import Any, TypeVar

from gmn_client.models import RecordState
from service.engine.device import DeviceThread
from service.errors import GalleryConflict, RecordUnavailable, UnknownGallery, VersionNotReached
from service.gallery.catch_up import fill, read_changes
from service.gallery.follow import Follower
from service.gallery.gallery import CropsChange, Gallery, MakeIndex
from service.ops.failpoints import failpoint
from service.ops.health import HealthCheck, MonitoredThreadPool
from service.ops.shared import SharedRedis
from service.record.feeds import ALL_GALLERIES
from service.record.record import Record
from service.record.transaction import Change
from service.record.values import (
    CropLabel,
    Enrolment,
    GalleryRecord,
    GallerySettings,
    Relabelling,
    Removal,
)
from service.search.index_files import IndexFolder

log = logging.getLogger(__name__)
DEFAULT_GALLERY = "default"
READ_THREADS = 2
# Writes that wait together are committed together.
WRITE_THREADS = 8
KINDS = {Enrolment: "added", Removal: "removed", Relabelling: "relabelled"}
CAUGHT_UP_WITHIN_SECONDS = 2.0
VERSION_WITHIN_SECONDS = 2.0
VERSION_POLL_SECONDS = 0.01
CROPS_PER_EVENT = 1000
Result = TypeVar("Result")
Show = Callable[[], None]


@dataclass(eq=False)
class GalleryRegistry:
    """Every gallery in memory, in step with a record that all processes of a machine write.

    A write runs on one of some threads, and writes that wait together are committed together. The
    follower then has the device thread, which alone changes what is searched, apply each commit in
    the order of its gallery: what this process has written from memory, and what another one has
    written from the record. A caller that is cancelled never leaves a commit unapplied.

    Attributes:
        embedders: sizes of the loaded embedders' features by fingerprint, the newest first.
        read_calibration: reads a gallery's published calibration; it blocks.
        outside: finds galleries' indexes outside this process; None where it holds them itself.
        folders: holds a folder of each gallery's index files; None for no files.
        shared: Redis, to which commits are announced; None where none is named.
    """

    record: Record
    device: DeviceThread
    embedders: Mapping[str, int]
    read_calibration: Callable[[Gallery], None]
    outside: MakeIndex | None = None
    folders: IndexFolder | None = None
    shared: SharedRedis | None = None

    def __post_init__(self) -> None:
        """Hold no gallery yet."""
        self._writers = MonitoredThreadPool(WRITE_THREADS, "writer")
        self._readers = MonitoredThreadPool(READ_THREADS, "reader")
        self._by_name: dict[str, Gallery] = {}
        self._follower = Follower(self.record.database, self._apply, self._read)
        # Changes that this process has committed and not shown yet, by gallery and version.
        self._committed: dict[tuple[int, int], CropsChange] = {}

    def load(self) -> None:
        """Read every gallery into memory and create `default` where it is missing; blocks."""
        names = [gallery.name for gallery in self.record.galleries.all()]
        if DEFAULT_GALLERY not in names:
            # Another process may begin at the same moment.
            with contextlib.suppress(GalleryConflict):
                newest = next(iter(self.embedders))
                self.record.galleries.create(DEFAULT_GALLERY, newest, GallerySettings())
        self._follower.start()

    @property
    def record_state(self) -> RecordState:
        """The state of the galleries in memory beside the record."""
        return self._follower.state()

    @property
    def health_checks(self) -> list[HealthCheck]:
        """Its threads, for the watchdog."""
        return [
            HealthCheck("record writers", self._writers.silent_seconds),
            HealthCheck("record readers", self._readers.silent_seconds),
            self._follower.health_check,
        ]

    def by_id(self, gallery_id: int) -> Gallery | None:
        """Return a gallery by its number; None where it was deleted."""
        for gallery in list(self._by_name.values()):
            if gallery.gallery_id == gallery_id:
                return gallery
        return None

    def all(self) -> list[Gallery]:
        """Return every gallery, by name."""
        return sorted(self._by_name.values(), key=attrgetter("name"))

    def get(self, name: str) -> Gallery:
        """Return a gallery by its name; raises `UnknownGallery` where there is none."""
        gallery = self._by_name.get(name)
        if gallery is None:
            raise UnknownGallery(name)
        return gallery

    async def find(self, name: str) -> Gallery:
        """As `get`, also one that another process has just created."""
        if name not in self._by_name:
            await self.catch_up()
        return self.get(name)

    @property
    def shown(self) -> int:
        """Return what `confirm` is told of a search that begins now."""
        return self._follower.shown

    async def confirm(
        self, gallery: Gallery, crops: Sequence[CropLabel], shown: int
    ) -> frozenset[int]:
        """Ask the record whether crops are still there, where it has changed since it was shown.

        Args:
            shown: `self.shown` from before the search.

        Returns:
            The row ids of deleted ones.

        Raises:
            UnknownGallery: the gallery was deleted.
        """
        if not crops or shown == self.record.database.data_version():
            return frozenset()
        return await self.read(self._confirm, gallery, [crop.row_id for crop in crops])

    async def catch_up(self) -> None:
        """Wait a moment until earlier commits of this and other processes are shown."""
        with contextlib.suppress(RecordUnavailable, TimeoutError):
            async with asyncio.timeout(CAUGHT_UP_WITHIN_SECONDS):
                caught_up = await self.read(self._caught_up)
                await asyncio.wrap_future(caught_up)

    async def wait_for_version(self, gallery: Gallery, version: int) -> None:
        """Return once a gallery shows a version or a later one.

        Raises:
            UnknownGallery: it was deleted meanwhile.
            VersionNotReached: where it does not come within two seconds.
        """
        until = time.monotonic() + VERSION_WITHIN_SECONDS
        while True:
            outside = gallery.outside_index
            shown = await self.read(outside.version) if outside else gallery.version
            if shown >= version:
                return
            self.get(gallery.name)
            if time.monotonic() >= until:
                raise VersionNotReached(gallery.name, shown, version)
            await asyncio.sleep(VERSION_POLL_SECONDS)

    async def create(self, name: str, settings: GallerySettings) -> GalleryRecord:
        """Create an empty gallery, bound to the newest loaded embedder."""
        newest = next(iter(self.embedders))

        def create() -> tuple[GalleryRecord, Future[Any]]:
            failpoint("create-gallery.before-commit")
            created = self.record.galleries.create(name, newest, settings)
            failpoint("create-gallery.committed")
            return created, self._shown(created.gallery_id, created)

        created, shown = await self.write(create)
        await asyncio.shield(asyncio.wrap_future(shown))
        failpoint("create-gallery.shown")
        self._announce(name, "create-gallery", created)
        return created

    async def change(
        self, steps: str, gallery: Gallery, write: Callable[..., Result], *args: Any
    ) -> Result:
        """Commit a change of a gallery, which survives a power cut once this returns.

        Every search then sees it, and until then the state before.

        Args:
            steps: names the failpoints around the commit.
            write: commits it, called with the gallery's number and `args` on a writer thread. It
                returns the change of crops, or anything else.

        Raises:
            UnknownGallery: the gallery was deleted before.
        """

        def commit() -> tuple[Result, Future[Any]]:
            failpoint(f"{steps}.before-commit")
            committed = write(gallery.gallery_id, *args)
            failpoint(f"{steps}.committed")
            return committed, self._shown(gallery.gallery_id, committed)

        try:
            committed, shown = await self.write(commit)
        except UnknownGallery as error:
            # The record knows it by its number.
            raise UnknownGallery(gallery.name) from error
        # Shielded: a committed change is shown also where its request is cancelled.
        await asyncio.shield(asyncio.wrap_future(shown))
        failpoint(f"{steps}.shown")
        self._announce(gallery.name, steps, committed)
        return committed

    async def write(self, call: Callable[..., Result], *args: Any) -> Result:
        """Run a call that writes the record on a thread of its own."""
        return await self._writers.run(call, *args)

    async def read(self, call: Callable[..., Result], *args: Any) -> Result:
        """Run a call that reads the record on a thread of its own."""
        return await self._readers.run(call, *args)

    def read_gallery(self, gallery_id: int) -> Show:
        """Read a gallery with its calibration into an index of its own; blocks.

        It shows the record's version at least; later writes may be in it.

        Returns:
            A call for the device thread, which makes it the searched one, or drops a deleted one.
        """
        record = self.record.galleries.get(gallery_id)
        while record is not None:
            secret = self.record.galleries.group_secret()
            folder = self._folder(gallery_id)
            gallery = Gallery(record, self.embedders, secret, self.outside, folder)
            fill(self.record, gallery, record.crops)
            now = self.record.galleries.get(gallery_id)
            # Vectors of two embedders must not come together in one index.
            if now is not None and gallery.can_go_on_as(now):
                gallery.follow_record(now)
                self.refresh_calibration(gallery)
                return partial(self._switch, gallery_id, gallery)
            record = now
        return partial(self._switch, gallery_id)

    def _switch(self, gallery_id: int, read: Gallery | None = None) -> None:
        """Make a gallery that was read the searched one; None forgets a deleted one."""
        held = self.by_id(gallery_id)
        if held is not None:
            if held.own_index is not None:
                held.own_index.table.discard()
            if read is not None and held.name == read.name:
                held.replace(read)
                return
            del self._by_name[held.name]
        if read is not None:
            self._by_name[read.name] = read

    def refresh_calibration(self, gallery: Gallery) -> None:
        """Read a gallery's published calibration; verdicts go on by the old one on failure."""
        try:
            self.read_calibration(gallery)
        except RecordUnavailable:
            raise
        except Exception:
            log.exception("the calibration of gallery %s cannot be read", gallery.name)

    def save_index(self, gallery: Gallery) -> None:
        """Make a checkpoint of a gallery's index files, which the next start goes on from; blocks.

        Raises:
            OSError: the files cannot be written; the checkpoint before stays.
            ServiceError: the record cannot be written; so does it.
        """
        position = self._position(gallery)
        if position is None:
            return
        stored = self.device.change(partial(gallery.checkpoint, position)).result()
        if stored is not None:
            stored.write()

    def remove_unheld_indexes(self) -> None:
        """Remove index files of processes that have ended, which no deletion reaches; blocks."""
        for gallery in self.all():
            if folder := self._folder(gallery.gallery_id):
                folder.remove_unheld()

    def close(self) -> None:
        """Store the indexes and finish the writes under way."""
        for gallery in self.all():
            try:
                if gallery.own_index and gallery.own_index.table.unsaved:
                    self.save_index(gallery)
            except Exception:
                log.exception("the index of gallery %s is not stored", gallery.name)
        self._writers.shutdown()
        self._follower.close()
        self._readers.shutdown()

    def _folder(self, gallery_id: int) -> IndexFolder | None:
        folders = self.folders
        return folders and replace(folders, path=folders.path / str(gallery_id))

    def _position(self, gallery: Gallery) -> str | None:
        """Return where the record is, no later than the next state of the index.

        Changes are kept from then on.
        """
        return self._writers.submit(self.record.history.begin, gallery.gallery_id).result()

    def _shown(self, gallery_id: int, committed: object) -> Future[Any]:
        """Return a future that is done once a commit is shown; called on a writer thread."""
        newest = self.record.database.feeds().get(gallery_id)
        if newest is None:
            # The gallery was deleted.
            return self._caught_up()
        known = (gallery_id, 0)
        if isinstance(committed, CropsChange):
            known = (gallery_id, committed.version)
            self._committed[known] = committed
        self._follower.wake()
        shown = self._follower.wait_for(gallery_id, newest.seq)
        shown.add_done_callback(lambda _: self._committed.pop(known, None))
        return shown

    def _caught_up(self) -> Future[None]:
        """Return a future that is done once everything is shown that is committed by now."""
        feeds = self.record.database.feeds()
        self._follower.wake()
        waits = [self._follower.wait_for(gallery, mark.seq) for gallery, mark in feeds.items()]

        def wait() -> None:
            for shown in waits:
                shown.result()

        return self._readers.submit(wait)

    def _confirm(self, gallery: Gallery, slots: Sequence[int]) -> frozenset[int]:
        present = self.record.crops.by_row(gallery.gallery_id, slots)
        if self.record.galleries.get(gallery.gallery_id) is None:
            raise UnknownGallery(gallery.name)
        return frozenset(slots) - present.keys()

    def _announce(self, gallery: str, steps: str, committed: object) -> None:
        """Tell other programs by Redis what this process has committed; None is no change."""
        if self.shared is None or committed is None:
            return
        if not isinstance(committed, CropsChange):
            self.shared.announce(gallery, steps)
            return
        crop_ids = _changed_crops(committed)
        for first in range(0, len(crop_ids), CROPS_PER_EVENT):
            named = crop_ids[first : first + CROPS_PER_EVENT]
            self.shared.announce(gallery, steps, version=committed.version, crop_ids=named)

    def _apply(self, gallery_id: int, changes: Sequence[Change]) -> None:
        """Show changes of a gallery; blocks until searches see them."""
        gallery = self.by_id(gallery_id)
        if gallery is None:
            # The feed of all galleries, or one that is being deleted: there is nothing to show.
            return
        if any(change.kind == "calibration" for change in changes):
            self.refresh_calibration(gallery)
        made = [self._committed.get((gallery_id, change.version)) for change in changes]
        failpoint("follower.changes-read")
        pairs = zip(made, changes, strict=True)
        show: Show | None
        if all(KINDS.get(type(own)) == change.kind for own, change in pairs):
            show = partial(_apply_all, gallery, [own for own in made if own is not None])
        else:
            show = read_changes(self.record, gallery, changes)
        if show is None:
            self._read(gallery_id)
        else:
            self.device.change(show).result()
        failpoint("follower.changes-applied")

    def _read(self, gallery_id: int) -> None:
        """Read a gallery again, or drop one that was deleted; blocks until searches see it."""
        if gallery_id != ALL_GALLERIES:
            self.device.change(self.read_gallery(gallery_id)).result()


def _changed_crops(change: CropsChange) -> list[str]:
    match change:
        case Enrolment():
            return [crop.label.crop_id for crop in change.added]
        case Removal():
            return list(change.crop_ids)
        case Relabelling():
            return [label.crop_id for label in change.labels]


def _apply_all(gallery: Gallery, changes: Sequence[CropsChange]) -> None:
    for change in changes:
        gallery.apply(change)
