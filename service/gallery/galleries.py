"""Every gallery: a write is committed, then shown by the index, then acknowledged."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from datetime import datetime
from typing import TypeVar

from gmn_client.answers import RecordState
from service.engine.device import DeviceThread
from service.errors import (
    GalleryConflict,
    RecordUnavailable,
    UnknownCrop,
    UnknownGallery,
    UnknownIdentity,
    UnknownMerge,
)
from service.gallery.follower import REDIS_SECONDS, Follower
from service.gallery.gallery import Gallery
from service.gallery.held_galleries import HeldGalleries, LoadedGallery
from service.gallery.index_updates import (
    Confirmation,
    DirectUpdates,
    IndexUpdates,
    Learner,
    finished,
)
from service.gallery.record_access import RecordAccess
from service.ops.pulse import Stage
from service.record.record import Record
from service.record.records import (
    CropFields,
    CropLabel,
    Enrolment,
    GalleryRecord,
    GallerySettings,
    NewCrop,
    Relabelling,
    Removal,
    RequestKey,
    SettingsChanges,
)
from service.search.compaction import Compactor
from service.search.gpu import DeviceVectors

DEFAULT_GALLERY = "default"
CAUGHT_UP_WITHIN_SECONDS = 2.0
ENROLL = "enroll"
DELETE_CROP = "delete-crop"
FORGET_IDENTITY = "forget-identity"
DELETE_EXPIRED = "delete-expired"
RELABEL = "relabel"
CREATE_GALLERY = "create-gallery"
CHANGE_GALLERY = "change-gallery"
DELETE_GALLERY = "delete-gallery"
Result = TypeVar("Result")
Change = TypeVar("Change")
Version = TypeVar("Version", bound=int | None)


class Galleries:
    """The record store and the indexes, kept in step.

    Writes run one after another on one thread, and their changes reach the indexes in the order of
    the commits: directly, or by following the record where other processes write it too. A caller
    that is cancelled never leaves a commit unapplied.

    Attributes:
        store: the record; to be read with `read` and written with `change` and `write`.
    """

    def __init__(
        self,
        store: Record,
        device: DeviceThread,
        embedders: Mapping[str, int],
        device_vectors: Callable[[int], DeviceVectors] | None = None,
    ) -> None:
        """Holds galleries of a store.

        Args:
            store: the record of everything.
            device: the thread that owns the indexes.
            embedders: sizes of the loaded embedders' features by fingerprint, the newest first.
            device_vectors: makes vectors of a size on the networks' device; None leaves them in the
                host's memory.
        """
        self.store = store
        self._device = device
        self._compactor = Compactor(device, device_vectors)
        self._held = HeldGalleries(store, embedders, self._compactor)
        self._updates: IndexUpdates = (
            DirectUpdates(store, self._held, device)
            if store.changes is None
            else Follower(store, store.changes, self._held, device)
        )
        self._learner: Learner | None = None
        self._access = RecordAccess(self._updates, REDIS_SECONDS if store.changes else 0.0)

    def load(self, learner: Learner) -> None:
        """Reads every gallery into memory and sees to it that `default` exists; blocks.

        Args:
            learner: told from now on where what a gallery has learnt is another process's, or
                means nothing any more.
        """
        self._learner = learner
        if all(record.name != DEFAULT_GALLERY for record in self.store.galleries.all()):
            # Another process may begin at the same moment.
            with contextlib.suppress(GalleryConflict):
                self._create(DEFAULT_GALLERY, GallerySettings())
        self._updates.load(learner)

    @property
    def record_state(self) -> RecordState:
        """How what is in memory stands to the record."""
        return self._updates.state

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Its threads, for the watchdog."""
        return (*self._access.stages, *self._updates.stages, self._compactor.stage)

    def get(self, name: str) -> Gallery:
        """A gallery by its name.

        Raises:
            UnknownGallery: where there is none.
        """
        return self._held.get(name)

    async def find(self, name: str) -> Gallery:
        """A gallery by its name, also one that another process has just created.

        Raises:
            UnknownGallery: where there is none.
        """
        try:
            return self._held.get(name)
        except UnknownGallery:
            if self.store.changes is None:
                # No other process creates galleries, so that an unknown name waits for nothing.
                raise
            await self.catch_up()
            return self._held.get(name)

    async def catch_up(self) -> None:
        """Waits for what other processes have committed before, and for no more than moments."""
        with contextlib.suppress(RecordUnavailable, TimeoutError):
            async with asyncio.timeout(CAUGHT_UP_WITHIN_SECONDS):
                await asyncio.wrap_future(await self.read(self._updates.caught_up))

    def by_id(self, gallery_id: int) -> Gallery | None:
        """A gallery by its number; None where it was deleted."""
        return self._held.by_id(gallery_id)

    def all(self) -> list[Gallery]:
        """Every gallery, by name."""
        return self._held.all()

    async def create(self, name: str, settings: GallerySettings) -> GalleryRecord:
        """Creates an empty gallery, bound to the newest loaded embedder."""

        def begin(record: GalleryRecord) -> Future[None]:
            self._held.add(record)
            return finished()

        return await self._access.commit(
            CREATE_GALLERY, lambda: self._create(name, settings), begin
        )

    async def configure(self, name: str, changes: SettingsChanges) -> None:
        """Changes the given settings of a gallery."""
        gallery = self.get(name)

        def begin(settings: GallerySettings) -> Future[None]:
            gallery.settings = settings
            return finished()

        await self._commit_to(
            CHANGE_GALLERY,
            gallery,
            lambda: self.store.galleries.change(gallery.gallery_id, changes),
            begin,
        )

    async def delete(self, name: str) -> int:
        """Deletes a gallery and what is in it; answers how many crops that were."""
        if name == DEFAULT_GALLERY:
            raise GalleryConflict("the gallery 'default' always exists; delete its crops instead")
        gallery = self.get(name)

        def write() -> int:
            self._still_there(gallery)
            record = self.store.galleries.get(gallery.gallery_id)
            if record is None:
                raise UnknownGallery(name)
            self.store.galleries.delete(gallery.gallery_id)
            return record.crops

        def begin(_: int) -> Future[None]:
            self._held.drop(gallery.gallery_id)
            return finished()

        return await self._access.commit(DELETE_GALLERY, write, begin)

    async def enroll(
        self,
        name: str,
        embedding_fingerprint: str,
        crops: Sequence[NewCrop],
        request: RequestKey | None = None,
    ) -> Enrolment:
        """Stores crops; once this returns they survive a power cut and every search finds them."""
        gallery = self.get(name)
        return await self.change(
            ENROLL,
            gallery,
            lambda: self.store.crops.enroll(
                gallery.gallery_id, embedding_fingerprint, crops, request
            ),
            gallery.apply_enrolment,
        )

    async def remove_crop(self, name: str, crop_id: str) -> Removal:
        """Deletes a crop; once this returns no search finds it, now or after a restart."""
        gallery = self.get(name)

        def write() -> Removal:
            removal = self.store.crops.remove(gallery.gallery_id, [crop_id])
            if removal is None:
                raise UnknownCrop(name, crop_id)
            return removal

        return await self.change(DELETE_CROP, gallery, write, gallery.apply_removal)

    async def remove_identity(self, name: str, identity: str) -> Removal:
        """Deletes every crop of an identity; raises `UnknownIdentity` where there is none."""
        gallery = self.get(name)

        def write() -> Removal:
            removal = self.store.crops.remove_identity(gallery.gallery_id, identity)
            if removal is None:
                raise UnknownIdentity(name, identity)
            return removal

        return await self.change(FORGET_IDENTITY, gallery, write, gallery.apply_removal)

    async def remove_older(self, gallery: Gallery, than: datetime, limit: int) -> int:
        """Deletes up to `limit` crops from before a moment; answers how many those were."""

        def write() -> Removal | None:
            since = gallery.settings.retention_from
            return self.store.crops.remove_older(gallery.gallery_id, than, limit, since)

        def apply(removal: Removal | None) -> None:
            if removal is not None:
                gallery.apply_removal(removal)

        removal = await self.change(DELETE_EXPIRED, gallery, write, apply)
        return len(removal.row_ids) if removal else 0

    async def relabel(self, name: str, identity: str, new: str) -> Relabelling:
        """Renames an identity, or merges it into another; raises `UnknownIdentity`."""
        gallery = self.get(name)

        def write() -> Relabelling:
            relabelling = self.store.crops.relabel(gallery.gallery_id, identity, new)
            if relabelling is None:
                raise UnknownIdentity(name, identity)
            return relabelling

        return await self.change(RELABEL, gallery, write, gallery.apply_relabelling)

    async def change_crop(self, name: str, crop_id: str, fields: CropFields) -> Relabelling:
        """Changes what is known of a crop; raises `UnknownCrop` where it is not there."""
        gallery = self.get(name)

        def write() -> Relabelling:
            relabelling = self.store.crops.change(gallery.gallery_id, crop_id, fields)
            if relabelling is None:
                raise UnknownCrop(name, crop_id)
            return relabelling

        return await self.change(RELABEL, gallery, write, gallery.apply_relabelling)

    async def undo_merge(self, name: str, merge_id: str) -> tuple[str, Relabelling]:
        """Undoes a merge; answers the former identity too, and raises `UnknownMerge`."""
        gallery = self.get(name)

        def write() -> tuple[str, Relabelling]:
            undone = self.store.merges.undo(gallery.gallery_id, merge_id)
            if undone is None:
                raise UnknownMerge(name, merge_id)
            return undone

        return await self.change(
            RELABEL, gallery, write, lambda undone: gallery.apply_relabelling(undone[1])
        )

    async def record(self, name: str) -> GalleryRecord:
        """A gallery's record, counted now."""
        gallery = self.get(name)
        record = await self.read(lambda: self.store.galleries.get(gallery.gallery_id))
        if record is None:
            raise UnknownGallery(name)
        return record

    def close(self) -> None:
        """Finishes the writes under way and closes the store."""
        self._compactor.close()
        self._access.close()
        self._updates.close()
        with contextlib.closing(self.store):
            self._held.clear()

    async def change(
        self,
        steps: str,
        gallery: Gallery,
        write: Callable[[], Change],
        apply: Callable[[Change], None],
    ) -> Change:
        """Commits a change, and returns once the index shows it.

        Args:
            steps: where it can be made to fail.
            gallery: what is changed.
            write: commits it; on the writer thread.
            apply: tells the index; on the device thread, in the order of the commits.

        Raises:
            UnknownGallery: where it was deleted before its turn came.
        """

        def show(committed: Change) -> None:
            apply(committed)
            self._held.look_after(gallery)

        return await self._commit_to(
            steps, gallery, write, lambda committed: self._device.submit(lambda: show(committed))
        )

    async def replace(self, steps: str, gallery: Gallery, write: Callable[[], Version]) -> Version:
        """Commits what replaces every vector, and returns once searches see the new ones.

        They see the old ones until then.

        Args:
            steps: where it can be made to fail.
            gallery: what is replaced.
            write: commits it and answers the gallery's version, or None where nothing was changed;
                on the writer thread.

        Raises:
            UnknownGallery: where it was deleted before its turn came.
        """

        def begin(version: Version) -> Future[None]:
            # On the writer thread: nothing is written until this is read, so that nothing is
            # missing in it.
            loaded = self._held.read(gallery.gallery_id) if version is not None else None
            if loaded is None:
                return finished()
            return self._device.submit(lambda: show(loaded))

        def show(loaded: LoadedGallery) -> None:
            self._held.show(loaded)
            if self._learner is not None:
                self._learner.forget(gallery)

        return await self._commit_to(steps, gallery, write, begin)

    async def write(self, call: Callable[[], Result]) -> Result:
        """Runs a call on the writer thread; see `RecordAccess.write`."""
        return await self._access.write(call)

    async def read(self, call: Callable[[], Result]) -> Result:
        """Runs a call on a reader thread; see `RecordAccess.read`."""
        return await self._access.read(call)

    def write_later(self, call: Callable[[], None]) -> None:
        """Queues a call for the writer thread that nobody waits for; its failure is logged."""
        self._access.write_later(call)

    async def confirm(self, gallery: Gallery, crops: Sequence[CropLabel]) -> Confirmation:
        """Asks the record for crops that a search found; see `RecordAccess.confirm`."""
        return await self._access.confirm(gallery, crops)

    async def _commit_to(
        self,
        steps: str,
        gallery: Gallery,
        write: Callable[[], Change],
        begin: Callable[[Change], Future[None]],
    ) -> Change:
        def write_if_there() -> Change:
            self._still_there(gallery)
            with named(gallery):
                return write()

        return await self._access.commit(steps, write_if_there, begin)

    def _create(self, name: str, settings: GallerySettings) -> GalleryRecord:
        return self.store.galleries.create(name, self._held.newest_embedder, settings)

    def _still_there(self, gallery: Gallery) -> None:
        # Between the request and its turn on the writer thread the gallery may have been deleted.
        if not self._held.has(gallery):
            raise UnknownGallery(gallery.name)


@contextlib.contextmanager
def named(gallery: Gallery) -> Iterator[None]:
    """Raises `UnknownGallery` by the gallery's name; the record knows it by its number."""
    try:
        yield
    except UnknownGallery as error:
        raise UnknownGallery(gallery.name) from error
