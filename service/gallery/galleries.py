"""Every gallery: a write is committed, then applied to the index, then acknowledged."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from typing import TypeVar

from service.device import DeviceThread
from service.gallery.compactor import Compactor
from service.gallery.device_rows import DeviceRows
from service.gallery.gallery import Gallery
from service.gallery.record_store import RecordStore
from service.gallery.records import (
    Enrolment,
    GalleryRecord,
    GallerySettings,
    NewCrop,
    Relabelling,
    Removal,
    RequestKey,
)
from service.problems import GalleryConflict, UnknownCrop, UnknownGallery, UnknownIdentity

log = logging.getLogger(__name__)
DEFAULT_GALLERY = "default"
READ_THREADS = 2
Result = TypeVar("Result")
Change = TypeVar("Change")


class Galleries:
    """The record store and the indexes, kept in step.

    Writes run one after another on one thread, and their changes reach the indexes in the order of
    the commits. A caller that is cancelled never leaves a commit unapplied.

    Attributes:
        store: the record; to be read with `read` and written with `change` and `write`.
    """

    def __init__(
        self,
        store: RecordStore,
        device: DeviceThread,
        embedders: Mapping[str, int],
        device_rows: Callable[[int], DeviceRows] | None = None,
    ) -> None:
        """Holds galleries of a store.

        Args:
            store: the record of everything.
            device: the thread that owns the indexes.
            embedders: sizes of the loaded embedders' features by fingerprint, the newest first.
            device_rows: makes room on the networks' device for vectors of a size; None where they
                stay in the host's memory.
        """
        self.store = store
        self._device = device
        self._embedders = embedders
        self._compactor = Compactor(device, device_rows)
        self._galleries: dict[str, Gallery] = {}
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="writer")
        self._readers = ThreadPoolExecutor(READ_THREADS, thread_name_prefix="reader")

    def load(self) -> None:
        """Reads every gallery into memory and sees to it that `default` exists; blocks."""
        if all(record.name != DEFAULT_GALLERY for record in self.store.galleries.all()):
            self._create(DEFAULT_GALLERY, GallerySettings())
        for record in self.store.galleries.all():
            gallery = Gallery(record, self._embedders)
            if not gallery.needs_reindex:
                gallery.load(self.store.crops.vectors(record.gallery_id))
                self._compactor.consider(gallery.index)
            self._galleries[record.name] = gallery

    def get(self, name: str) -> Gallery:
        """A gallery by its name.

        Raises:
            UnknownGallery: where there is none.
        """
        try:
            return self._galleries[name]
        except KeyError as error:
            raise UnknownGallery(name) from error

    def by_id(self, gallery_id: int) -> Gallery | None:
        """A gallery by its number; None where it was deleted."""
        held = (one for one in self._galleries.values() if one.gallery_id == gallery_id)
        return next(held, None)

    def all(self) -> list[Gallery]:
        """Every gallery, by name."""
        return sorted(self._galleries.values(), key=lambda gallery: gallery.name)

    async def create(self, name: str, settings: GallerySettings) -> GalleryRecord:
        """Creates an empty gallery, bound to the newest loaded embedder."""

        def write() -> GalleryRecord:
            record = self._create(name, settings)
            self._galleries[name] = Gallery(record, self._embedders)
            return record

        return await self.write(write)

    async def configure(self, name: str, settings: GallerySettings) -> None:
        """Replaces a gallery's settings."""
        gallery = self.get(name)

        def write() -> None:
            self._still_there(gallery)
            self.store.galleries.change(gallery.gallery_id, settings)
            gallery.settings = settings

        await self.write(write)

    async def delete(self, name: str) -> int:
        """Deletes a gallery and what is in it; answers how many crops that were."""
        if name == DEFAULT_GALLERY:
            raise GalleryConflict("the gallery 'default' always exists; delete its crops instead")
        gallery = self.get(name)

        def write() -> int:
            if self._galleries.pop(name, None) is None:
                raise UnknownGallery(name)
            try:
                self.store.galleries.delete(gallery.gallery_id)
            except BaseException:
                self._galleries[name] = gallery
                raise
            return gallery.crops

        return await self.write(write)

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

        return await self.change(gallery, write, gallery.apply_removal)

    async def remove_identity(self, name: str, identity: str) -> Removal:
        """Deletes every crop of an identity; raises `UnknownIdentity` where there is none."""
        gallery = self.get(name)

        def write() -> Removal:
            removal = self.store.crops.remove_identity(gallery.gallery_id, identity)
            if removal is None:
                raise UnknownIdentity(name, identity)
            return removal

        return await self.change(gallery, write, gallery.apply_removal)

    async def remove_older(self, gallery: Gallery, than: datetime, limit: int) -> int:
        """Deletes up to `limit` crops from before a moment; answers how many those were."""

        def write() -> Removal | None:
            return self.store.crops.remove_older(gallery.gallery_id, than, limit)

        def apply(removal: Removal | None) -> None:
            if removal is not None:
                gallery.apply_removal(removal)

        removal = await self.change(gallery, write, apply)
        return len(removal.row_ids) if removal else 0

    async def relabel(self, name: str, identity: str, new: str) -> Relabelling:
        """Renames an identity, or merges it into another; raises `UnknownIdentity`."""
        gallery = self.get(name)

        def write() -> Relabelling:
            relabelling = self.store.crops.relabel(gallery.gallery_id, identity, new)
            if relabelling is None:
                raise UnknownIdentity(name, identity)
            return relabelling

        return await self.change(gallery, write, gallery.apply_relabelling)

    async def record(self, name: str) -> GalleryRecord:
        """A gallery's record, counted now."""
        gallery = self.get(name)
        record = await self.read(lambda: self.store.galleries.get(gallery.gallery_id))
        if record is None:
            raise UnknownGallery(name)
        return record

    def write_later(self, call: Callable[[], None]) -> None:
        """Queues a call for the writer thread that nobody waits for; its failure is logged."""

        def logged() -> None:
            try:
                call()
            except Exception:
                log.exception("a write that nobody waits for failed")

        # A service that is stopping takes no more of them.
        with contextlib.suppress(RuntimeError):
            self._writer.submit(logged)

    def close(self) -> None:
        """Finishes the writes under way and closes the store."""
        self._compactor.close()
        self._writer.shutdown()
        self._readers.shutdown()
        with contextlib.closing(self.store):
            self._galleries.clear()

    async def change(
        self, gallery: Gallery, write: Callable[[], Change], apply: Callable[[Change], None]
    ) -> Change:
        """Commits a change, and returns once the index shows it.

        Args:
            gallery: what is changed.
            write: commits it; on the writer thread.
            apply: tells the index; on the device thread, in the order of the commits.

        Raises:
            UnknownGallery: where it was deleted before its turn came.
        """

        def show(committed: Change) -> None:
            apply(committed)
            if not gallery.needs_reindex:
                self._compactor.consider(gallery.index)

        def commit() -> tuple[Change, Future[None]]:
            self._still_there(gallery)
            committed = write()
            return committed, self._device.submit(lambda: show(committed))

        committed, applied = await self.write(commit)
        await asyncio.shield(asyncio.wrap_future(applied))
        return committed

    async def write(self, call: Callable[[], Result]) -> Result:
        """Runs a call on the writer thread, after those that came before."""
        return await asyncio.get_running_loop().run_in_executor(self._writer, call)

    async def read(self, call: Callable[[], Result]) -> Result:
        """Runs a call on a reader thread."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, call)

    def _create(self, name: str, settings: GallerySettings) -> GalleryRecord:
        newest = next(iter(self._embedders))
        return self.store.galleries.create(name, newest, settings)

    def _still_there(self, gallery: Gallery) -> None:
        # Between the request and its turn on the writer thread the gallery may have been deleted.
        if self._galleries.get(gallery.name) is not gallery:
            raise UnknownGallery(gallery.name)
