"""Every gallery: a write is committed, then applied to the index, then acknowledged."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from service.device import DeviceThread
from service.gallery.gallery import Gallery
from service.gallery.record_store import RecordStore
from service.gallery.records import (
    Enrolment,
    GalleryRecord,
    IdentityCount,
    NewCrop,
    Picture,
    Removal,
    StoredCrop,
)
from service.problems import GalleryConflict, UnknownCrop, UnknownGallery

DEFAULT_GALLERY = "default"
READ_THREADS = 2
Result = TypeVar("Result")


class Galleries:
    """The record store and the indexes, kept in step.

    Writes run one after another on one thread, and their changes reach the indexes in the order of
    the commits. A caller that is cancelled never leaves a commit unapplied.
    """

    def __init__(
        self, store: RecordStore, device: DeviceThread, embedding_fingerprint: str, dimension: int
    ) -> None:
        self._store = store
        self._device = device
        self._fingerprint = embedding_fingerprint
        self._dimension = dimension
        self._galleries: dict[str, Gallery] = {}
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="writer")
        self._readers = ThreadPoolExecutor(READ_THREADS, thread_name_prefix="reader")

    def load(self) -> None:
        """Reads every gallery into memory and sees to it that `default` exists; blocks."""
        if all(record.name != DEFAULT_GALLERY for record in self._store.galleries()):
            self._store.create_gallery(DEFAULT_GALLERY, self._fingerprint)
        for record in self._store.galleries():
            gallery = Gallery(record, self._fingerprint, self._dimension)
            if not gallery.needs_reindex:
                gallery.load(self._store.vectors(record.gallery_id))
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

    def all(self) -> list[Gallery]:
        """Every gallery, by name."""
        return sorted(self._galleries.values(), key=lambda gallery: gallery.name)

    async def create(self, name: str) -> GalleryRecord:
        """Creates an empty gallery, bound to the loaded embedder."""

        def write() -> GalleryRecord:
            record = self._store.create_gallery(name, self._fingerprint)
            self._galleries[name] = Gallery(record, self._fingerprint, self._dimension)
            return record

        return await self._write(write)

    async def delete(self, name: str) -> int:
        """Deletes a gallery and what is in it; answers how many crops that were."""
        if name == DEFAULT_GALLERY:
            raise GalleryConflict("the gallery 'default' always exists; delete its crops instead")
        gallery = self.get(name)

        def write() -> int:
            if self._galleries.pop(name, None) is None:
                raise UnknownGallery(name)
            try:
                self._store.delete_gallery(gallery.gallery_id)
            except BaseException:
                self._galleries[name] = gallery
                raise
            return gallery.crops

        return await self._write(write)

    async def enroll(self, name: str, crops: Sequence[NewCrop]) -> Enrolment:
        """Stores crops; once this returns they survive a power cut and every search finds them."""
        gallery = self.get(name)

        def write() -> tuple[Enrolment, Future[None]]:
            self._still_there(gallery)
            enrolment = self._store.enroll(gallery.gallery_id, self._fingerprint, crops)
            return enrolment, self._device.submit(lambda: gallery.apply_enrolment(enrolment))

        enrolment, applied = await self._write(write)
        await asyncio.shield(asyncio.wrap_future(applied))
        return enrolment

    async def remove_crop(self, name: str, crop_id: str) -> Removal:
        """Deletes a crop; once this returns no search finds it, now or after a restart."""
        gallery = self.get(name)

        def write() -> tuple[Removal, Future[None]]:
            self._still_there(gallery)
            removal = self._store.remove_crop(gallery.gallery_id, crop_id)
            if removal is None:
                raise UnknownCrop(name, crop_id)
            return removal, self._device.submit(lambda: gallery.apply_removal(removal))

        removal, applied = await self._write(write)
        await asyncio.shield(asyncio.wrap_future(applied))
        return removal

    async def record(self, name: str) -> GalleryRecord:
        """A gallery's record, counted now."""
        gallery = self.get(name)
        record = await self._read(lambda: self._store.gallery(gallery.gallery_id))
        if record is None:
            raise UnknownGallery(name)
        return record

    async def records(self) -> list[GalleryRecord]:
        """Every gallery's record, by name."""
        return await self._read(self._store.galleries)

    async def crop(self, name: str, crop_id: str) -> StoredCrop:
        """One crop's record."""
        gallery = self.get(name)
        crop = await self._read(lambda: self._store.crop(gallery.gallery_id, crop_id))
        if crop is None:
            raise UnknownCrop(name, crop_id)
        return crop

    async def crops(
        self, name: str, identity: str | None, camera: str | None, after: int, limit: int
    ) -> list[StoredCrop]:
        """Up to `limit` crops with a `row_id` above `after`."""
        gallery = self.get(name)
        return await self._read(
            lambda: self._store.crops(gallery.gallery_id, identity, camera, after, limit)
        )

    async def identities(self, name: str, after: str, limit: int) -> list[IdentityCount]:
        """Up to `limit` identities that sort after `after`."""
        gallery = self.get(name)
        return await self._read(lambda: self._store.identities(gallery.gallery_id, after, limit))

    async def picture(self, name: str, crop_id: str) -> Picture:
        """One crop's image file."""
        gallery = self.get(name)
        picture = await self._read(lambda: self._store.picture(gallery.gallery_id, crop_id))
        if picture is None:
            raise UnknownCrop(name, crop_id)
        return picture

    def close(self) -> None:
        """Finishes the writes under way and closes the store."""
        self._writer.shutdown()
        self._readers.shutdown()
        with contextlib.closing(self._store):
            self._galleries.clear()

    def _still_there(self, gallery: Gallery) -> None:
        # Between the request and its turn on the writer thread the gallery may have been deleted.
        if self._galleries.get(gallery.name) is not gallery:
            raise UnknownGallery(gallery.name)

    async def _write(self, call: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._writer, call)

    async def _read(self, call: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._readers, call)
