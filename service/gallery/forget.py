"""Deletion of crops with their vectors and pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gmn_client.models import Removal, RemovedCrops
from service.errors import ServiceError, UnknownCrop
from service.gallery.changes import AuditEntry, change_crops, count_matching, details_of
from service.gallery.gallery import Gallery
from service.gallery.pictures import remove_pictures
from service.record.values import CropsChange, ListFilter
from service.runtime import Runtime

CROPS_PER_SWEEP = 1000


async def forget_crop(runtime: Runtime, gallery: Gallery, crop_id: str) -> Removal:
    """Delete a crop with its vector and picture.

    Raises:
        UnknownGallery, UnknownCrop: there is nothing to delete.
        StorageFailed: the crop was not deleted.
    """

    unknown = UnknownCrop(gallery.name, crop_id)
    wanted = ListFilter(crop_ids=frozenset([crop_id]))
    entry = AuditEntry("delete_crop", {"crop_ids": [crop_id]})
    remove = runtime.record.crops.remove_matching
    removal = await delete_crops(
        runtime, gallery, entry, lambda gallery_id: remove(gallery_id, wanted), unknown
    )
    return Removal(gallery_version=removal.version, removed=removal.count)


async def forget_matching(
    runtime: Runtime, gallery: Gallery, wanted: ListFilter, dry_run: bool
) -> RemovedCrops:
    """Delete every crop that passes a filter, with its vector and picture.

    Raises:
        UnknownGallery: the gallery was deleted.
        StorageFailed: some crops, or an external picture, were not deleted.
    """
    if dry_run:
        matched = await count_matching(runtime, gallery, wanted)
        return RemovedCrops(gallery_version=gallery.version, matched=matched, removed=0)
    entry = AuditEntry("delete_crops", details_of(wanted))
    remove = runtime.record.crops.remove_matching
    removal = await delete_crops(
        runtime, gallery, entry, lambda gallery_id: remove(gallery_id, wanted)
    )
    count = removal.count
    return RemovedCrops(gallery_version=removal.version, matched=count, removed=count)


async def delete_crops(
    runtime: Runtime,
    gallery: Gallery,
    entry: AuditEntry,
    remove: Callable[[int], CropsChange],
    unknown: ServiceError | None = None,
) -> CropsChange:
    """Delete crops with their vectors and pictures.

    Args:
        remove: the `write` of `change_crops`.
        unknown: as in `change_crops`.
    """

    async def delete() -> CropsChange:
        removal = await change_crops(runtime, gallery, entry, "delete-crop", remove, unknown)
        # The audit log comes first: the crop is deleted, even if its external picture remains.
        await remove_pictures(runtime, gallery.gallery_id, removal.crop_ids)
        return removal

    return await runtime.sections.run(delete())


async def forget_expired(runtime: Runtime, gallery: Gallery) -> None:
    crops = runtime.record.crops

    async def sweep(result: dict[str, Any]) -> None:
        removal = await runtime.galleries.change(
            "delete-expired",
            gallery,
            lambda gallery_id: crops.remove_expired(gallery_id, CROPS_PER_SWEEP),
        )
        result["count"] = removal.count

    while await runtime.galleries.read(crops.has_expired, gallery.gallery_id):
        await runtime.audited.run("delete_expired", sweep, gallery=gallery.name)
