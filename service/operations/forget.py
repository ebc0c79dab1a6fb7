"""Forget: delete crops so that they are never returned again."""

from __future__ import annotations

from dataclasses import dataclass

from service.runtime import Runtime


@dataclass(frozen=True)
class Forgotten:
    """How many crops were removed, and the version from which on they are gone."""

    gallery_version: int
    removed: int


async def forget_crop(runtime: Runtime, gallery: str, crop_id: str) -> Forgotten:
    """Deletes one crop with its vector and picture.

    Raises:
        UnknownGallery, UnknownCrop: there is nothing to delete.
        StorageFailed: the crop is still there.
    """
    removal = await runtime.galleries.remove_crop(gallery, crop_id)
    return Forgotten(removal.version, len(removal.row_ids))
