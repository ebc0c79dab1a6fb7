"""Deletion of crops with their vectors and pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gmn_client.models import Removal, RemovedCrops
from service.errors import ServiceError, UnknownCrop
from service.gallery.changes import AuditEntry, CropChanges, details_of
from service.gallery.gallery import Gallery
from service.gallery.pictures import CropPictures
from service.gallery.registry import GalleryRegistry
from service.ops.critical_sections import AuditedSections, CriticalSections
from service.record.record import Record
from service.record.values import CropsChange, ListFilter

CROPS_PER_SWEEP = 1000


@dataclass(frozen=True)
class CropDeletions:
    """Deletes crops, each time with lines in the audit log."""

    record: Record
    galleries: GalleryRegistry
    pictures: CropPictures
    changes: CropChanges
    sections: CriticalSections
    audited: AuditedSections

    async def forget_crop(self, gallery: Gallery, crop_id: str) -> Removal:
        """Delete a crop with its vector and picture.

        Raises:
            UnknownGallery, UnknownCrop: there is nothing to delete.
            StorageFailed: the crop was not deleted.
        """
        unknown = UnknownCrop(gallery.name, crop_id)
        wanted = ListFilter(crop_ids=frozenset([crop_id]))
        entry = AuditEntry("delete_crop", {"crop_ids": [crop_id]})
        remove = self.record.crops.remove_matching
        removal = await self.delete(
            gallery, entry, lambda gallery_id: remove(gallery_id, wanted), unknown
        )
        return Removal(gallery_version=removal.version, removed=removal.count)

    async def forget_matching(
        self, gallery: Gallery, wanted: ListFilter, dry_run: bool
    ) -> RemovedCrops:
        """Delete every crop that passes a filter, with its vector and picture.

        Raises:
            UnknownGallery: the gallery was deleted.
            StorageFailed: some crops, or an external picture, were not deleted.
        """
        if dry_run:
            matched = await self.changes.count_matching(gallery, wanted)
            return RemovedCrops(gallery_version=gallery.version, matched=matched, removed=0)
        entry = AuditEntry("delete_crops", details_of(wanted))
        remove = self.record.crops.remove_matching
        removal = await self.delete(gallery, entry, lambda gallery_id: remove(gallery_id, wanted))
        count = removal.count
        return RemovedCrops(gallery_version=removal.version, matched=count, removed=count)

    async def delete(
        self,
        gallery: Gallery,
        entry: AuditEntry,
        remove: Callable[[int], CropsChange],
        unknown: ServiceError | None = None,
    ) -> CropsChange:
        """Delete crops with their vectors and pictures.

        Args:
            remove: the `write` of `CropChanges.commit`.
            unknown: as in `CropChanges.commit`.
        """

        async def delete() -> CropsChange:
            removal = await self.changes.commit(gallery, entry, "delete-crop", remove, unknown)
            # The audit log comes first: the crop is deleted, even if its external picture remains.
            await self.pictures.remove(gallery.gallery_id, removal.crop_ids)
            return removal

        return await self.sections.run(delete())

    async def forget_expired(self, gallery: Gallery) -> None:
        crops = self.record.crops

        async def sweep(result: dict[str, Any]) -> None:
            removal = await self.galleries.change(
                "delete-expired",
                gallery,
                lambda gallery_id: crops.remove_expired(gallery_id, CROPS_PER_SWEEP),
            )
            result["count"] = removal.count

        while await self.galleries.read(crops.has_expired, gallery.gallery_id):
            await self.audited.run("delete_expired", sweep, gallery=gallery.name)
