"""Manage: create, change and delete galleries."""

from __future__ import annotations

import asyncio
import shutil

from gmn_client import models
from service.gallery.browse import describe_gallery
from service.gallery.gallery import Gallery
from service.lifecycle.snapshots import FOLDER
from service.record.records import GallerySettings, SettingsChanges
from service.runtime import Runtime


async def create_gallery(runtime: Runtime, name: str, settings: GallerySettings) -> models.Gallery:
    """Creates an empty gallery; raises `GalleryConflict` where the name is taken."""

    async def section() -> None:
        await runtime.galleries.create(name, settings)
        await runtime.audit.done("create_gallery", gallery=name)

    await runtime.sections.run(section)
    return await describe_gallery(runtime, runtime.galleries.get(name))


async def change_gallery(
    runtime: Runtime, gallery: Gallery, changes: SettingsChanges, reset_calibration: bool = False
) -> models.Gallery:
    """Changes the given settings of a gallery; raises `UnknownGallery` where it was just deleted.

    A calibration that is reset or switched off is dropped with the searches behind it; a shorter
    retention deletes at the next maintenance.
    """
    details = {**changes, "calibration": "reset"} if reset_calibration else {**changes}

    async def section() -> None:
        async with runtime.audit.trail("change_gallery", gallery=gallery.name, **details):
            await runtime.galleries.configure(gallery, changes)
            if reset_calibration or changes.get("calibration") == "off":
                await runtime.galleries.write(runtime.record.calibrations.drop, gallery.gallery_id)
                runtime.calibrations.forget(gallery)

    await runtime.sections.run(section)
    return await describe_gallery(runtime, gallery)


async def delete_gallery(runtime: Runtime, gallery: Gallery) -> int:
    """Deletes a gallery with its crops, jobs and snapshots; answers how many crops.

    Raises:
        UnknownGallery, GalleryConflict: nothing was deleted.
    """

    async def section() -> int:
        async with runtime.audit.trail("delete_gallery", gallery=gallery.name) as result:
            removed = await runtime.galleries.delete(gallery)
            result["count"] = removed
            runtime.calibrations.forget(gallery)
            folder = runtime.settings.data_dir / FOLDER / str(gallery.gallery_id)
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        return removed

    return await runtime.sections.run(section, runtime.snapshot_lock)
