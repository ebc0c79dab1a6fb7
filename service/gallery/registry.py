"""The galleries in memory: a write is committed, then published to the index, then acknowledged."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

from gmn_client.models import RecordState
from service.engine.device import DeviceThread
from service.errors import GalleryConflict, RecordUnavailable, UnknownGallery, VersionNotReached
from service.gallery.gallery import Change, Gallery, named
from service.gallery.replication import REDIS_SECONDS, Confirmation, Replication
from service.ops.failpoints import failpoint
from service.ops.health import HealthCheck, MonitoredThreadPool
from service.record.record import Record
from service.record.records import CropLabel, GalleryRecord, GallerySettings, SettingsChanges
from service.search.compaction import Compactor
from service.search.gpu import DeviceVectors

log = logging.getLogger(__name__)
DEFAULT_GALLERY = "default"
READ_THREADS = 2
CAUGHT_UP_WITHIN_SECONDS = 2.0
VERSION_WITHIN_SECONDS, VERSION_POLL_SECONDS = 2.0, 0.01
# After a gallery could not be read again.
REREAD_PAUSE_SECONDS = 30.0
Result = TypeVar("Result")
Changed = TypeVar("Changed", bound=Change | None)
Version = TypeVar("Version", bound=int | None)


class GalleryRegistry:
    """Every gallery in memory, in step with the record.

    Writes run one after another on one thread. On SQLite each commit is then applied to its index
    on the device thread, in the order of the commits; on Redis `Replication` applies the changes of
    every process, this one's too. A caller that is cancelled never leaves a commit unapplied.
    """

    def __init__(
        self,
        record: Record,
        device: DeviceThread,
        embedders: Mapping[str, int],
        read_calibration: Callable[[Gallery], None],
        device_vectors: Callable[[int], DeviceVectors] | None = None,
    ) -> None:
        """Holds no gallery yet.

        Args:
            embedders: sizes of the loaded embedders' features by fingerprint, the newest first.
            read_calibration: reads a gallery's published calibration; it blocks.
            device_vectors: makes vectors of a size on the networks' device; None leaves them in the
                host's memory.
        """
        self._record = record
        self._device = device
        self._embedders = embedders
        self._read_calibration = read_calibration
        self._compactor = Compactor(device, device_vectors)
        self._by_name: dict[str, Gallery] = {}
        self._replication = (
            Replication(record, record.changes, self, device) if record.changes else None
        )
        self._writer = MonitoredThreadPool(1, "writer")
        self._readers = MonitoredThreadPool(READ_THREADS, "reader")

    def load(self) -> None:
        """Reads every gallery into memory and creates `default` where it is missing; blocks."""
        if all(one.name != DEFAULT_GALLERY for one in self._record.galleries.all()):
            # Another process may begin at the same moment.
            with contextlib.suppress(GalleryConflict):
                self._create(DEFAULT_GALLERY, GallerySettings())
        if self._replication is not None:
            self._replication.start()
            return
        for one in self._record.galleries.all():
            self._reread(one.gallery_id)

    @property
    def record_state(self) -> RecordState:
        """How what is in memory stands to the record."""
        return self._replication.state if self._replication else RecordState()

    @property
    def health_checks(self) -> tuple[HealthCheck, ...]:
        """Its threads, for the watchdog."""
        answers_within = REDIS_SECONDS if self._replication else 0.0
        return (
            HealthCheck("record writer", self._writer.silent_seconds, answers_within),
            HealthCheck("record readers", self._readers.silent_seconds, answers_within),
            *(self._replication.health_checks if self._replication else ()),
            self._compactor.health_check,
        )

    def get(self, name: str) -> Gallery:
        """A gallery by its name.

        Raises:
            UnknownGallery: where there is none.
        """
        try:
            return self._by_name[name]
        except KeyError as error:
            raise UnknownGallery(name) from error

    def by_id(self, gallery_id: int) -> Gallery | None:
        """A gallery by its number; None where it was deleted."""
        held = (one for one in list(self._by_name.values()) if one.gallery_id == gallery_id)
        return next(held, None)

    def all(self) -> list[Gallery]:
        """Every gallery, by name."""
        return sorted(self._by_name.values(), key=lambda gallery: gallery.name)

    async def find(self, name: str) -> Gallery:
        """A gallery by its name, also one that another process has just created.

        Raises:
            UnknownGallery: where there is none.
        """
        if name not in self._by_name and self._replication is not None:
            await self.catch_up()
        return self.get(name)

    async def catch_up(self) -> None:
        """Waits a moment for what was committed before, by this process or others."""
        with contextlib.suppress(RecordUnavailable, TimeoutError):
            async with asyncio.timeout(CAUGHT_UP_WITHIN_SECONDS):
                if self._replication is not None:
                    caught_up = await self.read(self._replication.caught_up)
                else:
                    # After the writes under way, whose changes are then on the device thread.
                    caught_up = await self.write(self._device.submit, lambda: None)
                await asyncio.wrap_future(caught_up)

    async def wait_for_version(self, gallery: Gallery, version: int) -> None:
        """Returns once a gallery shows a version or a later one.

        Raises:
            UnknownGallery: it was deleted meanwhile.
            VersionNotReached: where it does not come within two seconds.
        """
        until = time.monotonic() + VERSION_WITHIN_SECONDS
        while (shown := gallery.version) < version:
            self.get(gallery.name)
            if time.monotonic() >= until:
                raise VersionNotReached(gallery.name, shown, version)
            await asyncio.sleep(VERSION_POLL_SECONDS)

    async def create(self, name: str, settings: GallerySettings) -> GalleryRecord:
        """Creates an empty gallery, bound to the newest loaded embedder."""
        return await self._commit(
            "create-gallery",
            name,
            partial(self._create, name, settings),
            lambda made: self._device.submit(self.put, Gallery(made, self._embedders)),
        )

    async def configure(self, gallery: Gallery, changes: SettingsChanges) -> None:
        """Changes the given settings of a gallery."""
        await self._commit(
            "change-gallery",
            gallery.name,
            partial(self._record.galleries.change, gallery.gallery_id, changes),
            lambda settings: self._device.submit(setattr, gallery, "settings", settings),
        )

    async def delete(self, gallery: Gallery) -> int:
        """Deletes a gallery and what is in it; answers how many crops that were."""
        if gallery.name == DEFAULT_GALLERY:
            raise GalleryConflict("the gallery 'default' always exists; delete its crops instead")
        return await self._commit(
            "delete-gallery",
            gallery.name,
            partial(self._record.galleries.delete, gallery.gallery_id),
            lambda _: self._device.submit(self.drop, gallery.gallery_id),
        )

    async def change(
        self, steps: str, gallery: Gallery, write: Callable[..., Changed], *args: Any
    ) -> Changed:
        """Commits a change of a gallery's crops, which survives a power cut once this returns.

        Every search then sees it.

        Args:
            steps: names the failpoints around the commit.
            write: commits it, called with the gallery's number and `args` on the writer thread;
                None where there is nothing to change.

        Raises:
            UnknownGallery: the gallery was deleted before.
            RecordUnavailable: the record does not answer; it may have happened or not.
        """
        return await self._commit(
            steps,
            gallery.name,
            partial(write, gallery.gallery_id, *args),
            lambda change: self._device.submit(self._apply, gallery, change),
        )

    async def replace(self, steps: str, gallery: Gallery, write: Callable[[], Version]) -> Version:
        """Commits what replaces every vector, and returns once searches see the new ones.

        They see the old ones until then.

        Args:
            write: commits it and answers the gallery's version, or None where nothing was changed;
                on the writer thread.

        Raises:
            UnknownGallery: where it was deleted before its turn came.
        """
        return await self._commit(
            steps,
            gallery.name,
            write,
            # On the writer thread: nothing is written until it is read.
            lambda _: self._reread(gallery.gallery_id),
        )

    async def write(self, call: Callable[..., Result], *args: Any) -> Result:
        """Runs a call on the writer thread, after those that came before.

        Raises:
            RecordUnavailable: where the record is known not to answer.
        """
        return await self._run(self._writer, call, *args)

    async def read(self, call: Callable[..., Result], *args: Any) -> Result:
        """Runs a call on a reader thread; raises `RecordUnavailable` as `write` does."""
        return await self._run(self._readers, call, *args)

    async def confirm(self, gallery: Gallery, crops: Sequence[CropLabel]) -> Confirmation:
        """Which of the crops that a search found another process has deleted.

        Raises:
            UnknownGallery: the gallery was deleted.
        """
        if self._replication is None:
            return Confirmation()
        return await self._replication.confirm(gallery, crops)

    def read_gallery(self, gallery_id: int) -> Callable[[], None]:
        """Reads a gallery with its calibration into an index of its own; blocks.

        It shows the record's version at least. What is written meanwhile may be in it.

        Returns:
            What makes it the one that is searched, or drops one that was deleted; to be called on
            the device thread.
        """
        record = self._record.galleries.get(gallery_id)
        while record is not None:
            gallery = Gallery(record, self._embedders)
            if not gallery.needs_reindex:
                gallery.index.add(self._record.crops.vectors(gallery_id))
            now = self._record.galleries.get(gallery_id)
            # Vectors of two embedders must not come together in one index.
            if now is not None and gallery.can_go_on_as(now):
                gallery.follow_record(now)
                self.refresh_calibration(gallery)
                return partial(self.put, gallery)
            record = now
        return partial(self.drop, gallery_id)

    def put(self, gallery: Gallery) -> None:
        """Makes a gallery that was read the one that is searched; on the device thread."""
        held = self.by_id(gallery.gallery_id)
        if held is not None and held.name == gallery.name:
            held.replace(gallery)
        else:
            self.drop(gallery.gallery_id)
            held = self._by_name[gallery.name] = gallery
        self.schedule_compaction(held)

    def drop(self, gallery_id: int) -> None:
        """Forgets a gallery that was deleted; on the device thread."""
        gallery = self.by_id(gallery_id)
        if gallery is not None:
            del self._by_name[gallery.name]

    def schedule_compaction(self, gallery: Gallery) -> None:
        """Does for an index what its last change calls for; on the device thread, and quick."""
        if not gallery.needs_reindex:
            self._compactor.schedule_if_needed(gallery.index)

    def refresh_calibration(self, gallery: Gallery) -> None:
        """Reads a gallery's published calibration; verdicts go on by the old one on failure."""
        try:
            self._read_calibration(gallery)
        except RecordUnavailable:
            raise
        except Exception:
            log.exception("the calibration of gallery %s cannot be read", gallery.name)

    def close(self) -> None:
        """Finishes the writes under way."""
        self._compactor.close()
        self._writer.shutdown()
        self._readers.shutdown()
        if self._replication is not None:
            self._replication.close()
        self._by_name.clear()

    async def _commit(
        self,
        steps: str,
        name: str,
        write: Callable[[], Result],
        publish: Callable[[Result], Future[Any] | None],
    ) -> Result:
        """Commits a change of the gallery of a name, and returns once the indexes show it.

        Args:
            steps: where it can be made to fail.
            write: commits it, on the writer thread; None where nothing was changed.
            publish: begins to apply what was changed, where replication does not, on the writer
                thread too. The result of its future is None, or the future of reading the gallery
                again.
        """

        def commit() -> tuple[Result, Future[Any] | None]:
            failpoint(f"{steps}.before-commit")
            committed = write()
            failpoint(f"{steps}.committed")
            if self._replication is not None:
                return committed, self._replication.caught_up()
            return committed, None if committed is None else publish(committed)

        with named(name):
            committed, published = await self.write(commit)
        if published is not None:
            # Shielded: a committed change is applied also where its request is cancelled.
            showing = asyncio.shield(asyncio.wrap_future(published))
            rereading = await (self._replication.wait(showing) if self._replication else showing)
            if rereading is not None:
                await asyncio.shield(asyncio.wrap_future(rereading))
        failpoint(f"{steps}.shown")
        return committed

    def _apply(self, gallery: Gallery, change: Change) -> Future[None] | None:
        """Applies a change to an index; one that cannot be changed is read again."""
        try:
            gallery.apply(change)
        except Exception:
            gallery.consistent = False
            log.exception("gallery %s is read again after a failed change", gallery.name)
            return self._writer.submit(self._reread, gallery.gallery_id)
        self.schedule_compaction(gallery)
        return None

    def _reread(self, gallery_id: int) -> None:
        """Reads a gallery and switches to it; on the writer thread, which waits for that."""
        try:
            self._device.submit(self.read_gallery(gallery_id)).result()
        except Exception:
            gallery = self.by_id(gallery_id)
            if gallery is not None:
                gallery.consistent = False
                log.exception("gallery %s could not be read again", gallery.name)
                self._reread_later(gallery_id)
            raise

    def _reread_later(self, gallery_id: int) -> None:
        def reread() -> None:
            # A service that is stopping reads none.
            with contextlib.suppress(RuntimeError):
                self._writer.submit(self._reread, gallery_id)

        timer = threading.Timer(REREAD_PAUSE_SECONDS, reread)
        timer.daemon = True
        timer.start()

    async def _run(
        self, pool: MonitoredThreadPool, call: Callable[..., Result], *args: Any
    ) -> Result:
        loop = asyncio.get_running_loop()
        if self._replication is None:
            return await loop.run_in_executor(pool, call, *args)
        self._replication.require_record()
        return await self._replication.wait(loop.run_in_executor(pool, call, *args))

    def _create(self, name: str, settings: GallerySettings) -> GalleryRecord:
        return self._record.galleries.create(name, next(iter(self._embedders)), settings)
