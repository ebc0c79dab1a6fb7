"""Pictures of crops stored outside the record, and removal of stray ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from model.wording import counted
from service.errors import RecordUnavailable, StorageFailed
from service.gallery.gallery import Gallery
from service.gallery.registry import GalleryRegistry
from service.ops.critical_sections import CriticalSections
from service.record.files import PictureFolder
from service.record.record import Record
from service.record.transaction import batches
from service.record.values import ArchivedCrop, Picture, StoredCrop

# A picture is removed if its crop was not stored within this time.
SETTLED = timedelta(hours=1)
# Upper bound on images removed while a gallery's lock is held.
STRAYS_AT_ONCE = 1000
REMOVED_PER_CALL = 100


@dataclass(frozen=True)
class CropPictures:
    """The pictures of crops, in the record or in a folder outside it.

    Attributes:
        folder: external store of the pictures; None keeps them in the record.
    """

    record: Record
    galleries: GalleryRegistry
    sections: CriticalSections
    folder: PictureFolder | None

    async def keep_in(
        self, folder: PictureFolder, target: Gallery, crops: Sequence[ArchivedCrop]
    ) -> Sequence[ArchivedCrop]:
        """Store pictures in the folder outside the record, and return the crops without them.

        Raises:
            StorageFailed, RecordUnavailable: nothing was stored.
        """
        gallery_id = target.gallery_id
        pictures = {crop.record.crop_id: crop.picture for crop in crops if crop.picture is not None}
        # Note the pictures first, so that they are removed later if no commit uses them.
        until = datetime.now(UTC) + SETTLED
        await self.galleries.write(
            self.record.stray_files.expect, gallery_id, list(pictures), until
        )
        await folder.changes.run(folder.put, gallery_id, pictures)
        return [replace(crop, picture=None) for crop in crops]

    async def read(self, gallery_id: int, crop: StoredCrop) -> Picture | None:
        """Read a crop's picture, or None; raises `RecordUnavailable` if the folder hangs."""
        picture = await self.galleries.read(self.record.crops.picture, gallery_id, crop.crop_id)
        folder = self.folder
        if picture is None and crop.content_type is not None and folder is not None:
            content = await folder.views.run(folder.get, gallery_id, crop.crop_id)
            picture = Picture(content, crop.content_type) if content else None
        return picture

    async def remove_strays(self) -> None:
        """Remove pictures whose crops were deleted or never stored; raises `StorageFailed`."""
        if self.folder is None:
            return
        stray = self.record.stray_files.all
        now = datetime.now(UTC)
        while strays := await self.galleries.read(stray, now, STRAYS_AT_ONCE):
            failed: dict[str, Exception] = {}
            names: dict[int, list[str]] = defaultdict(list)
            for gallery_id, name in strays:
                names[gallery_id].append(name)
            for gallery_id, names_of_gallery in names.items():
                failed |= await self.sections.run(self._remove(gallery_id, names_of_gallery))
            if failed:
                count = counted(len(failed), "image")
                raise StorageFailed(f"{count} of deleted crops could not be removed")

    async def remove(self, gallery_id: int, crop_ids: Sequence[str]) -> None:
        """Remove external pictures of deleted crops; raises `StorageFailed` if some remain."""
        if failed := await self._remove(gallery_id, crop_ids):
            raise StorageFailed(
                f"the crops are deleted, but {counted(len(failed), 'image')} at GMN_IMAGES_URL "
                f"could not be removed ({next(iter(failed.values()))}); the next maintenance will "
                "try again"
            )

    async def _remove(self, gallery_id: int, names: Sequence[str]) -> dict[str, Exception]:
        """Remove external pictures, except of crops that the gallery has.

        Returns:
            The errors of pictures that could not be removed, by name.
        """
        folder = self.folder
        failed: dict[str, Exception] = {}
        if folder is None or not names:
            return failed
        # An export may bring back a crop that was noted before, possibly with its picture inside.
        existing = await self.galleries.read(self.record.crops.by_id, gallery_id, names)
        unneeded = [name for name in names if name not in existing or not existing[name].elsewhere]
        for batch in batches(unneeded, REMOVED_PER_CALL):
            try:
                failed |= await folder.changes.run(folder.remove, gallery_id, batch)
            except (OSError, RecordUnavailable) as error:
                failed |= dict.fromkeys(batch, error)
        settled = [name for name in names if name not in failed]
        await self.galleries.write(self.record.stray_files.forget, gallery_id, settled)
        return failed
