"""What a store of record has to do, whichever database it is built on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from service.gallery.records import (
    Enrolment,
    GalleryRecord,
    IdentityCount,
    IndexedCrop,
    NewCrop,
    Picture,
    Removal,
    StoredCrop,
)


class RecordStore(Protocol):
    """The galleries of record.

    Writes are called from one thread and are durable once they return; each one that changes a
    gallery raises its version in the same transaction. Reads may be called from any thread.
    """

    def galleries(self) -> list[GalleryRecord]:
        """Every gallery, by name."""

    def gallery(self, gallery_id: int) -> GalleryRecord | None:
        """One gallery, counted now; None where it was deleted."""

    def create_gallery(self, name: str, embedding_fingerprint: str) -> GalleryRecord:
        """Creates an empty gallery; raises `GalleryConflict` where the name is taken."""

    def delete_gallery(self, gallery_id: int) -> None:
        """Removes a gallery and all that is in it."""

    def enroll(
        self, gallery_id: int, embedding_fingerprint: str, crops: Sequence[NewCrop]
    ) -> Enrolment:
        """Stores crops in one transaction; raises `NeedsReindex` for another embedder's gallery.

        The same bytes under the same identity and camera are stored once. An empty gallery is
        bound to the embedder that fills it.
        """

    def remove_crop(self, gallery_id: int, crop_id: str) -> Removal | None:
        """Removes a crop, its vector and its picture; None where there is no such crop."""

    def crop(self, gallery_id: int, crop_id: str) -> StoredCrop | None:
        """One crop's record."""

    def crops(
        self, gallery_id: int, identity: str | None, camera: str | None, after: int, limit: int
    ) -> list[StoredCrop]:
        """Up to `limit` crops with a `row_id` above `after`, in that order."""

    def identities(self, gallery_id: int, after: str, limit: int) -> list[IdentityCount]:
        """Up to `limit` identities that sort after `after`."""

    def picture(self, gallery_id: int, crop_id: str) -> Picture | None:
        """One crop's image file."""

    def vectors(self, gallery_id: int) -> Iterator[IndexedCrop]:
        """Every crop as the index needs it, by `row_id`."""

    def close(self) -> None:
        """Closes every connection."""
