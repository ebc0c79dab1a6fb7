"""The galleries in memory: a write is committed, then published to the index, then acknowledged."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

from gmn_client.models import RecordState
from service.engine.device import DeviceThread
from service.errors import GalleryConflict, RecordUnavailable, UnknownGallery, VersionNotReached
from service.gallery.gallery import CropsChange, Gallery, naming_unknown_gallery
from service.gallery.held import HeldGalleries
from service.gallery.replication import Confirmation, Replication
from service.ops.failpoints import failpoint
from service.ops.health import HealthCheck, MonitoredThreadPool
from service.record.record import Record
from service.record.records import GalleryRecord, GallerySettings, SettingsChanges

log = logging.getLogger(__name__)
DEFAULT_GALLERY = "default"
READ_THREADS = 2
CAUGHT_UP_WITHIN_SECONDS = 2.0
VERSION_WITHIN_SECONDS, VERSION_POLL_SECONDS = 2.0, 0.01
# After a gallery could not be read again.
REREAD_PAUSE_SECONDS = 30.0
Result = TypeVar("Result")
Changed = TypeVar("Changed", bound=CropsChange | None)
Version = TypeVar("Version", bound=int | None)
Show = Callable[[], None]


class DirectPublisher:
    """Publishes the commits of the only process that writes a record.

    Each commit is applied on the device thread, in the order of the commits. What cannot be applied
    is read again from the record, on the writer thread.
    """

    # A record in a file answers.
    answers_within = 0.0
    health_checks: tuple[HealthCheck, ...] = ()
    state = RecordState()

    def __init__(
        self,
        record: Record,
        held: HeldGalleries,
        device: DeviceThread,
        writer: MonitoredThreadPool,
    ) -> None:
        self._record = record
        self._held = held
        self._device = device
        self._writer = writer

    def start(self) -> None:
        """Reads every gallery into memory; blocks."""
        for one in self._record.galleries.all():
            self._reread(one.gallery_id)

    def publish(self, name: str, prepare: Callable[[], Show]) -> Future[Future[None] | None]:
        """Begins to show a commit of the gallery of a name; on the writer thread.

        Args:
            prepare: reads what the index needs; its result shows it, on the device thread.

        Returns:
            Done once searches see it; its result is the future of reading the gallery again, where
            that is needed.
        """
        try:
            show = prepare()
        except Exception:
            self._read_later(self._held.find_by_name(name))
            raise
        return self._device.submit(self._show, name, show)

    def caught_up(self) -> Future[None]:
        """Done once the indexes show the commits of before, those under way included."""
        done: Future[None] = Future()

        def finish() -> None:
            if done.set_running_or_notify_cancel():
                done.set_result(None)

        self._writer.submit(self._device.submit, finish)
        return done

    def require_record(self) -> None:
        """A record in a file is always there."""

    async def wait(self, asked: asyncio.Future[Result]) -> Result:
        """Waits for a call."""
        return await asked

    async def confirm(self, *_: object) -> Confirmation:
        """No other process deletes crops."""
        return Confirmation()

    def close(self) -> None:
        """Nothing is under way beside the writer's calls."""

    def _show(self, name: str, show: Show) -> Future[None] | None:
        try:
            show()
        except Exception:
            gallery = self._held.find_by_name(name)
            if gallery is None:
                raise
            gallery.consistent = False
            log.exception("gallery %s is read again after a failed change", name)
            return self._writer.submit(self._reread, gallery.gallery_id)
        return None

    def _reread(self, gallery_id: int) -> None:
        """Reads a gallery and switches to it; on the writer thread, which waits for that."""
        try:
            self._device.submit(self._held.read_gallery(gallery_id)).result()
        except Exception:
            self._read_later(self._held.by_id(gallery_id))
            raise

    def _read_later(self, gallery: Gallery | None) -> None:
        """Marks a gallery that could not be read, and tries again after a pause."""
        if gallery is None:
            return
        gallery.consistent = False
        log.exception("gallery %s could not be read again", gallery.name)

        def reread() -> None:
            # A service that is stopping reads none.
            with contextlib.suppress(RuntimeError):
                self._writer.submit(self._reread, gallery.gallery_id)

        timer = threading.Timer(REREAD_PAUSE_SECONDS, reread)
        timer.daemon = True
        timer.start()


class GalleryRegistry(HeldGalleries):
    """Every gallery in memory, in step with the record.

    Writes run one after another on one thread. On SQLite `DirectPublisher` then applies each
    commit to its index; on Redis `Replication` applies the changes of every process, this one's
    too. A caller that is cancelled never leaves a commit unapplied.
    """

    def __init__(
        self,
        record: Record,
        device: DeviceThread,
        embedders: Mapping[str, int],
        read_calibration: Callable[[Gallery], None],
    ) -> None:
        """Holds no gallery yet; the arguments are those of `HeldGalleries`."""
        super().__init__(record, embedders, read_calibration)
        self._writer = MonitoredThreadPool(1, "writer")
        self._readers = MonitoredThreadPool(READ_THREADS, "reader")
        self._publisher: DirectPublisher | Replication = (
            Replication(record, record.changes, self, device)
            if record.changes
            else DirectPublisher(record, self, device, self._writer)
        )
        self.confirm = self._publisher.confirm

    def load(self) -> None:
        """Reads every gallery into memory and creates `default` where it is missing; blocks."""
        if all(one.name != DEFAULT_GALLERY for one in self._record.galleries.all()):
            # Another process may begin at the same moment.
            with contextlib.suppress(GalleryConflict):
                self._create(DEFAULT_GALLERY, GallerySettings())
        self._publisher.start()

    @property
    def record_state(self) -> RecordState:
        """How what is in memory stands to the record."""
        return self._publisher.state

    @property
    def health_checks(self) -> tuple[HealthCheck, ...]:
        """Its threads, for the watchdog."""
        answers_within = self._publisher.answers_within
        return (
            HealthCheck("record writer", self._writer.silent_seconds, answers_within),
            HealthCheck("record readers", self._readers.silent_seconds, answers_within),
            *self._publisher.health_checks,
        )

    async def find(self, name: str) -> Gallery:
        """A gallery by its name, also one that another process has just created.

        Raises:
            UnknownGallery: where there is none.
        """
        if name not in self._by_name and self._record.changes:
            await self.catch_up()
        return self.get(name)

    def get(self, name: str) -> Gallery:
        """A gallery by its name; raises `UnknownGallery` where there is none."""
        try:
            return self._by_name[name]
        except KeyError as error:
            raise UnknownGallery(name) from error

    async def catch_up(self) -> None:
        """Waits a moment for what was committed before, by this process or others."""
        with contextlib.suppress(RecordUnavailable, TimeoutError):
            async with asyncio.timeout(CAUGHT_UP_WITHIN_SECONDS):
                caught_up = await self.read(self._publisher.caught_up)
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
            lambda made: partial(self.put, Gallery(made, self.embedders)),
        )

    async def configure(
        self, gallery: Gallery, changes: SettingsChanges, reset_calibration: bool = False
    ) -> None:
        """Changes the given settings of a gallery."""
        await self._commit(
            "change-gallery",
            gallery.name,
            partial(self._record.galleries.change, gallery.gallery_id, changes, reset_calibration),
            lambda settings: partial(setattr, gallery, "settings", settings),
        )

    async def delete(self, gallery: Gallery) -> int:
        """Deletes a gallery and what is in it; answers how many crops that were."""
        if gallery.name == DEFAULT_GALLERY:
            raise GalleryConflict("the gallery 'default' always exists; delete its crops instead")
        return await self._commit(
            "delete-gallery",
            gallery.name,
            partial(self._record.galleries.delete, gallery.gallery_id),
            lambda _: partial(self.drop, gallery.gallery_id),
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
            lambda change: partial(self._apply, gallery, change),
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
            lambda _: self.read_gallery(gallery.gallery_id),
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

    def close(self) -> None:
        """Finishes the writes under way."""
        self._writer.shutdown()
        self._readers.shutdown()
        self._publisher.close()
        self._by_name.clear()

    async def _commit(
        self,
        steps: str,
        name: str,
        write: Callable[[], Result],
        prepare: Callable[[Result], Show],
    ) -> Result:
        """Commits a change of the gallery of a name, and returns once the indexes show it.

        Args:
            steps: where it can be made to fail.
            write: commits it, on the writer thread; None where nothing was changed.
            prepare: what shows it on the device thread, where replication does not; called on the
                writer thread.
        """

        def commit() -> tuple[Result, Future[Any]]:
            failpoint(f"{steps}.before-commit")
            committed = write()
            failpoint(f"{steps}.committed")
            if committed is None:
                return committed, self._publisher.caught_up()
            return committed, self._publisher.publish(name, partial(prepare, committed))

        with naming_unknown_gallery(name):
            committed, published = await self.write(commit)
        # Shielded: a committed change is applied also where its request is cancelled.
        showing = asyncio.shield(asyncio.wrap_future(published))
        rereading = await self._publisher.wait(showing)
        if rereading is not None:
            await asyncio.shield(asyncio.wrap_future(rereading))
        failpoint(f"{steps}.shown")
        return committed

    async def _run(
        self, pool: MonitoredThreadPool, call: Callable[..., Result], *args: Any
    ) -> Result:
        self._publisher.require_record()
        running = asyncio.get_running_loop().run_in_executor(pool, call, *args)
        return await self._publisher.wait(running)

    def _apply(self, gallery: Gallery, change: CropsChange | None) -> None:
        if change is not None:
            gallery.apply(change)

    def _create(self, name: str, settings: GallerySettings) -> GalleryRecord:
        return self._record.galleries.create(name, next(iter(self.embedders)), settings)
