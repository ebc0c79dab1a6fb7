"""Pictures: read one wherever it is kept, keep those of an enrolment elsewhere, sweep up strays."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

from service.gallery.gallery import Gallery
from service.record.pictures import PictureFolder
from service.record.records import ArchivedCrop, NewCrop, Picture, StoredCrop, StrayPicture
from service.record.stored_values import new_crop_id
from service.runtime import Runtime

# Longer than any enrolment takes from its first picture to its commit.
SETTLED = timedelta(hours=1)
STRAYS_PER_SWEEP = 500


async def keep_elsewhere(
    runtime: Runtime, target: Gallery, crops: Sequence[NewCrop]
) -> list[NewCrop]:
    """Keeps pictures of crops that are about to be stored, where they are not for the record store.

    Each is noted before it is written: what lands in no commit is swept up later.

    Raises:
        StorageFailed: nothing was stored.
    """
    folder = runtime.pictures
    if folder is None:
        return list(crops)
    named = [
        replace(crop, crop_id=new_crop_id(), picture_elsewhere=True) if crop.picture else crop
        for crop in crops
    ]
    kept = [(crop.crop_id, crop.picture) for crop in named if crop.crop_id and crop.picture]
    store, number = runtime.record, target.gallery_id
    crop_ids = [crop_id for crop_id, _ in kept]
    until = datetime.now(UTC) + SETTLED
    await runtime.galleries.write(lambda: store.crops.expect_pictures(number, crop_ids, until))

    def put() -> None:
        for crop_id, picture in kept:
            folder.put(number, crop_id, picture.content)

    await asyncio.to_thread(put)
    return named


async def stored_picture(runtime: Runtime, gallery_id: int, crop: StoredCrop) -> Picture | None:
    """A crop's kept picture, in the store or elsewhere; None where none is.

    Raises:
        RecordUnavailable: the store of pictures does not answer.
    """
    picture = await runtime.galleries.read(runtime.record.crops.picture, gallery_id, crop.crop_id)
    if picture is not None or crop.content_type is None or runtime.pictures is None:
        return picture
    # A slow store of pictures holds up neither reads of the record nor their heartbeat.
    content = await asyncio.to_thread(runtime.pictures.get, gallery_id, crop.crop_id)
    return None if content is None else Picture(content, crop.content_type)


def with_picture(runtime: Runtime, gallery_id: int, crop: ArchivedCrop) -> ArchivedCrop:
    """An archived crop with its picture, also where that is kept elsewhere. Blocks."""
    if crop.picture is not None or crop.record.content_type is None or runtime.pictures is None:
        return crop
    content = runtime.pictures.get(gallery_id, crop.record.crop_id)
    if content is None:
        return crop
    return replace(crop, picture=content)


async def remove_strays(runtime: Runtime) -> None:
    """Removes pictures elsewhere whose crops are deleted, or never landed."""
    folder, store = runtime.pictures, runtime.record
    if folder is None:
        return
    now = datetime.now(UTC)
    while strays := await runtime.galleries.read(
        lambda: store.crops.stray_pictures(now, STRAYS_PER_SWEEP)
    ):
        await runtime.sections.run(partial(_remove_batch, runtime, folder, strays))


async def _remove_batch(
    runtime: Runtime, folder: PictureFolder, strays: Sequence[StrayPicture]
) -> None:
    for stray in strays:
        await asyncio.to_thread(folder.remove, stray.gallery_id, [stray.crop_id])
    crop_ids = [stray.crop_id for stray in strays]
    await runtime.galleries.write(lambda: runtime.record.crops.forget_strays(crop_ids))


async def remove_pictures(runtime: Runtime, target: Gallery, crop_ids: Sequence[str]) -> None:
    """Removes the pictures elsewhere of crops that have just been deleted.

    Raises:
        OSError: where the file system does not let go of one; maintenance tries again.
    """
    folder, store = runtime.pictures, runtime.record
    if folder is None or not crop_ids:
        return
    await asyncio.to_thread(folder.remove, target.gallery_id, crop_ids)
    await runtime.galleries.write(lambda: store.crops.forget_strays(crop_ids))
