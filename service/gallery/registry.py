"""The galleries in memory: a write is committed, then published to the index, then acknowledged."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from typing import Any, ClassVar, TypeVar

from gmn_client.models import RecordState
from service.engine.device import DeviceThread
from service.errors import GalleryConflict, RecordUnavailable, UnknownGallery, VersionNotReached
from service.gallery.catch_up import fill
from service.gallery.gallery import CropsChange, Gallery, MakeIndex
from service.ops.failpoints import failpoint
from service.ops.health import HealthCheck, MonitoredThreadPool
from service.record.record import Record
from service.record.records import CropLabel, GalleryRecord, GallerySettings
from service.search.index_files import IndexFolder

log = logging.getLogger(__name__)
DEFAULT_GALLERY = "default"
READ_THREADS = 2
CAUGHT_UP_WITHIN_SECONDS = 2.0
VERSION_WITHIN_SECONDS = 2.0
VERSION_POLL_SECONDS = 0.01
# After a gallery could not be read again.
REREAD_PAUSE_SECONDS = 30.0
Result = TypeVar("Result")
Show = Callable[[], None]


@dataclass(frozen=True)
class Confirmation:
    """The record's view of crops that a search found.

    Attributes:
        gone: row ids of those that were deleted.
        stale: the record could not be asked, or the search saw a gallery that was replaced since.
    """

    gone: frozenset[int] = frozenset()
    stale: bool = False


@dataclass(eq=False)
class GalleryRegistry:
    """Every gallery in memory, in step with a record that this process alone writes.

    Writes run one after another on one thread. The device thread, which alone changes what is
    searched, then applies each commit in the order of the commits; what cannot be applied is read
    again from the record. A caller that is cancelled never leaves a commit unapplied.

    Attributes:
        embedders: sizes of the loaded embedders' features by fingerprint, the newest first.
        read_calibration: reads a gallery's published calibration; it blocks.
        outside: finds galleries' indexes outside this process; None where it holds them itself.
        folders: holds a folder of each gallery's index files; None for no files.
    """

    record: Record
    device: DeviceThread
    embedders: Mapping[str, int]
    read_calibration: Callable[[Gallery], None]
    outside: MakeIndex | None = None
    folders: IndexFolder | None = None
    # A record in a file answers.
    answers_within: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        """Holds no gallery yet."""
        self._writer = MonitoredThreadPool(1, "writer")
        self._readers = MonitoredThreadPool(READ_THREADS, "reader")
        self._by_name: dict[str, Gallery] = {}

    def load(self) -> None:
        """Reads every gallery into memory and creates `default` where it is missing; blocks."""
        if all(one.name != DEFAULT_GALLERY for one in self.record.galleries.all()):
            # Another process may begin at the same moment.
            with contextlib.suppress(GalleryConflict):
                newest = next(iter(self.embedders))
                self.record.galleries.create(DEFAULT_GALLERY, newest, GallerySettings())
        self._load()

    @property
    def record_state(self) -> RecordState:
        """How what is in memory stands to the record."""
        return RecordState()

    @property
    def health_checks(self) -> list[HealthCheck]:
        """Its threads, for the watchdog."""
        return [
            HealthCheck("record writer", self._writer.silent_seconds, self.answers_within),
            HealthCheck("record readers", self._readers.silent_seconds, self.answers_within),
        ]

    def by_id(self, gallery_id: int) -> Gallery | None:
        """A gallery by its number; None where it was deleted."""
        held = (one for one in list(self._by_name.values()) if one.gallery_id == gallery_id)
        return next(held, None)

    def all(self) -> list[Gallery]:
        """Every gallery, by name."""
        return sorted(self._by_name.values(), key=attrgetter("name"))

    def get(self, name: str) -> Gallery:
        """A gallery by its name; raises `UnknownGallery` where there is none."""
        gallery = self._by_name.get(name)
        if gallery is None:
            raise UnknownGallery(name)
        return gallery

    async def find(self, name: str) -> Gallery:
        """As `get`, also one that another process has just created."""
        if name not in self._by_name and self.record.changes:
            await self.catch_up()
        return self.get(name)

    async def confirm(self, _: Gallery, __: Sequence[CropLabel], /) -> Confirmation:
        """Asks whether crops that a search found are still there; no other process deletes any.

        Raises:
            UnknownGallery: the gallery was deleted.
        """
        return Confirmation()

    async def catch_up(self) -> None:
        """Waits a moment for what was committed before, by this process or others."""
        with contextlib.suppress(RecordUnavailable, TimeoutError):
            async with asyncio.timeout(CAUGHT_UP_WITHIN_SECONDS):
                caught_up = await self.read(self._caught_up)
                await asyncio.wrap_future(caught_up)

    async def wait_for_version(self, gallery: Gallery, version: int) -> None:
        """Returns once a gallery shows a version or a later one.

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
        """Creates an empty gallery, bound to the newest loaded embedder."""
        create = self.record.galleries.create
        newest = next(iter(self.embedders))
        return await self.change("create-gallery", name, create, newest, settings)

    async def change(
        self, steps: str, gallery: Gallery | str, write: Callable[..., Result], *args: Any
    ) -> Result:
        """Commits a change of a gallery, which survives a power cut once this returns.

        Every search then sees it, and until then what was before.

        Args:
            steps: names the failpoints around the commit.
            gallery: or the name of a new one.
            write: commits it, called with the gallery's number or that name, and `args`, on the
                writer thread. It answers what was done to crops, or the new settings; None where
                there is nothing to change. After any other answer the gallery is read again.

        Raises:
            UnknownGallery: the gallery was deleted before.
            RecordUnavailable: the record does not answer; it may have happened or not.
        """
        name = gallery if isinstance(gallery, str) else gallery.name
        subject = gallery if isinstance(gallery, str) else gallery.gallery_id

        def commit() -> tuple[Result, Future[Any]]:
            failpoint(f"{steps}.before-commit")
            committed = write(subject, *args)
            failpoint(f"{steps}.committed")
            if committed is None:
                return committed, self._caught_up()
            return committed, self._publish(name, committed)

        try:
            committed, published = await self.write(commit)
        except UnknownGallery as error:
            # The record knows it by its number.
            raise UnknownGallery(name) from error
        # Shielded: a committed change is applied also where its request is cancelled.
        rereading = await self._wait(asyncio.shield(asyncio.wrap_future(published)))
        if rereading is not None:
            await asyncio.shield(asyncio.wrap_future(rereading))
        failpoint(f"{steps}.shown")
        return committed

    async def write(self, call: Callable[..., Result], *args: Any) -> Result:
        """Runs a call on the writer thread, after those that came before.

        Raises:
            RecordUnavailable: where the record is known not to answer.
        """
        self._require_record()
        return await self._wait(asyncio.wrap_future(self._writer.submit(call, *args)))

    async def read(self, call: Callable[..., Result], *args: Any) -> Result:
        """Runs a call on a reader thread; raises `RecordUnavailable` as `write` does."""
        self._require_record()
        return await self._wait(asyncio.wrap_future(self._readers.submit(call, *args)))

    def read_gallery(self, gallery_id: int) -> Show:
        """Reads a gallery with its calibration into an index of its own; blocks.

        It shows the record's version at least. What is written meanwhile may be in it.

        Returns:
            What makes it the one that is searched, or drops one that was deleted; to be called on
            the device thread.
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
        """Makes a gallery that was read the one that is searched; None forgets a deleted one."""
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
        """Reads a gallery's published calibration; verdicts go on by the old one on failure."""
        try:
            self.read_calibration(gallery)
        except RecordUnavailable:
            raise
        except Exception:
            log.exception("the calibration of gallery %s cannot be read", gallery.name)

    def save_index(self, gallery: Gallery) -> None:
        """Makes a checkpoint of a gallery's index files, which the next start goes on from; blocks.

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
        """Removes index files of processes that have ended, which no deletion reaches; blocks."""
        for gallery in self.all():
            if folder := self._folder(gallery.gallery_id):
                folder.remove_unheld()

    def close(self) -> None:
        """Stores the indexes and finishes the writes under way."""
        for gallery in self.all():
            try:
                if gallery.own_index and gallery.own_index.table.unsaved:
                    self.save_index(gallery)
            except Exception:
                log.exception("the index of gallery %s is not stored", gallery.name)
        self._writer.shutdown()
        self._readers.shutdown()

    def _folder(self, gallery_id: int) -> IndexFolder | None:
        folders = self.folders
        return folders and replace(folders, path=folders.path / str(gallery_id))

    def _position(self, gallery: Gallery, /) -> str | None:
        """Where the record is, no later than what an index shows next; None where that is unknown.

        Changes are kept from then on.
        """
        return self._writer.submit(self.record.history.begin, gallery.gallery_id).result()

    def _load(self) -> None:
        for one in self.record.galleries.all():
            self.device.change(self.read_gallery(one.gallery_id)).result()

    def _publish(self, name: str, committed: object, /) -> Future[Any]:
        """Begins to show a commit of the gallery of a name; on the writer thread.

        Returns:
            Done once searches see it; its result is the future of reading the gallery again, where
            that is needed.
        """
        shown: Show
        changed = committed if isinstance(committed, GalleryRecord) else self.get(name)

        def show() -> Future[None] | None:
            try:
                shown()
            except Exception:
                return self._read_again(name, changed.gallery_id)
            return None

        try:
            if isinstance(committed, CropsChange):
                shown = partial(self.get(name).apply, committed)
            elif isinstance(committed, GallerySettings):
                shown = partial(setattr, changed, "settings", committed)
            else:
                # On the writer thread: nothing is written until it is read.
                shown = self.read_gallery(changed.gallery_id)
        except Exception:
            return self._read_again(name, changed.gallery_id)
        return self.device.change(show)

    def _caught_up(self) -> Future[None]:
        """Done once the indexes show the commits of before, those under way included."""
        return self._writer.submit(lambda: self.device.change(lambda: None).result())

    def _read_again(self, name: str, gallery_id: int) -> Future[None]:
        """Reads a gallery again on the writer thread; where that fails, once more after a pause."""
        # A new one is not held yet.
        if held := self.by_id(gallery_id):
            held.consistent = False
        log.exception("gallery %s is read again after a failed change", name)

        def read() -> None:
            try:
                self.device.change(self.read_gallery(gallery_id)).result()
            except Exception:
                log.exception("gallery %s could not be read again", name)
                timer = threading.Timer(REREAD_PAUSE_SECONDS, read_later)
                timer.daemon = True
                timer.start()
                raise

        def read_later() -> None:
            # A service that is stopping reads none.
            with contextlib.suppress(RuntimeError):
                self._writer.submit(read)

        return self._writer.submit(read)

    def _require_record(self) -> None:
        """Raises `RecordUnavailable` where the record is known not to answer; a file answers."""

    async def _wait(self, asked: asyncio.Future[Result]) -> Result:
        """Waits for a call."""
        return await asked
