"""Pictures: read one wherever it is kept, keep those of an enrolment elsewhere, sweep up strays."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import groupby
from operator import attrgetter

from service.errors import StorageFailed
from service.gallery.gallery import Gallery
from service.record.encoding import new_crop_id
from service.record.records import ArchivedCrop, NewCrop, Picture, StoredCrop
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
    crop_ids = [crop_id for crop_id, _ in kept]
    expect, until = runtime.record.crops.expect_pictures, datetime.now(UTC) + SETTLED
    await runtime.galleries.write(expect, target.gallery_id, crop_ids, until)

    def put() -> None:
        for crop_id, picture in kept:
            folder.put(target.gallery_id, crop_id, picture.content)

    await asyncio.to_thread(put)
    return named


async def stored_picture(runtime: Runtime, gallery_id: int, crop: StoredCrop) -> Picture | None:
    """A crop's kept picture, in the store or elsewhere; None where none is.

    Raises:
        RecordUnavailable: the store of pictures does not answer.
    """
    picture = await runtime.galleries.read(runtime.record.crops.picture, gallery_id, crop.crop_id)
    if picture is None:
        # A slow store of pictures holds up neither reads of the record nor their heartbeat.
        content = await asyncio.to_thread(_picture_elsewhere, runtime, gallery_id, crop)
        picture = Picture(content, crop.content_type or "") if content else None
    return picture


def with_picture(runtime: Runtime, gallery_id: int, crop: ArchivedCrop) -> ArchivedCrop:
    """An archived crop with its picture, also where that is kept elsewhere. Blocks."""
    if crop.picture is not None:
        return crop
    return replace(crop, picture=_picture_elsewhere(runtime, gallery_id, crop.record))


def _picture_elsewhere(runtime: Runtime, gallery_id: int, crop: StoredCrop) -> bytes | None:
    if crop.content_type is None or runtime.pictures is None:
        return None
    return runtime.pictures.get(gallery_id, crop.crop_id)


async def remove_strays(runtime: Runtime) -> None:
    """Removes pictures elsewhere whose crops are deleted, or never landed.

    Raises:
        StorageFailed: as `remove_pictures` does.
    """
    if runtime.pictures is None:
        return
    stray, now = runtime.record.crops.stray_pictures, datetime.now(UTC)
    while strays := await runtime.galleries.read(stray, now, STRAYS_PER_SWEEP):
        for gallery_id, some in groupby(strays, attrgetter("gallery_id")):
            crop_ids = [one.crop_id for one in some]
            await runtime.sections.run(partial(remove_pictures, runtime, gallery_id, crop_ids))


async def remove_pictures(runtime: Runtime, gallery_id: int, crop_ids: Sequence[str]) -> None:
    """Removes the pictures elsewhere of deleted crops.

    Raises:
        StorageFailed: where the file system does not remove one.
    """
    if runtime.pictures is None or not crop_ids:
        return
    try:
        await asyncio.to_thread(runtime.pictures.remove, gallery_id, crop_ids)
    except OSError as error:
        raise StorageFailed(
            f"the crops are deleted, but an image at GMN_IMAGES_URL could not be removed ({error});"
            " maintenance tries again every GMN_HOUSEKEEPING_SECONDS"
        ) from error
    await runtime.galleries.write(runtime.record.crops.forget_strays, crop_ids)
