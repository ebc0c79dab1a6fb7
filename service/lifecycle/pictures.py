"""Pictures of crops, in the record or in a folder outside it, and strays of that folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import groupby
from operator import attrgetter

from service.errors import RecordUnavailable, StorageFailed
from service.gallery.gallery import Gallery
from service.record.picture_folder import PictureFolder
from service.record.records import ArchivedCrop, Picture, StoredCrop
from service.runtime import Runtime

# Longer than any enrolment takes from its first picture to its commit.
SETTLED = timedelta(hours=1)
STRAYS_AT_ONCE = 10_000
REMOVED_PER_CALL = 100


async def keep_elsewhere(
    runtime: Runtime, folder: PictureFolder, target: Gallery, crops: Sequence[ArchivedCrop]
) -> list[ArchivedCrop]:
    """Keeps pictures of crops that are about to be stored in a folder, not in the record store.

    Each is noted before it is written: what lands in no commit is swept up later.

    Raises:
        StorageFailed, RecordUnavailable: nothing was stored.
    """
    kept = [(crop.record.crop_id, crop.picture) for crop in crops if crop.picture is not None]
    crop_ids = [crop_id for crop_id, _ in kept]
    expect, until = runtime.record.stray_pictures.expect, datetime.now(UTC) + SETTLED
    await runtime.galleries.write(expect, target.gallery_id, crop_ids, until)
    for crop_id, picture in kept:
        await folder.changes.run(folder.put, target.gallery_id, crop_id, picture)
    return [replace(crop, picture=None) for crop in crops]


async def stored_picture(runtime: Runtime, gallery_id: int, crop: StoredCrop) -> Picture | None:
    """A crop's kept picture, or None; raises `RecordUnavailable` where the folder hangs."""
    picture = await runtime.galleries.read(runtime.record.crops.picture, gallery_id, crop.crop_id)
    folder = runtime.pictures
    if picture is None and crop.content_type is not None and folder is not None:
        content = await folder.views.run(folder.get, gallery_id, crop.crop_id)
        picture = Picture(content, crop.content_type) if content else None
    return picture


def with_picture(runtime: Runtime, gallery_id: int, crop: ArchivedCrop) -> ArchivedCrop:
    """An archived crop with its picture, also where that is kept elsewhere. Blocks."""
    folder = runtime.pictures
    if crop.picture is not None or crop.record.content_type is None or folder is None:
        return crop
    return replace(crop, picture=folder.views.wait(folder.get, gallery_id, crop.record.crop_id))


async def remove_stray_pictures(runtime: Runtime) -> None:
    """Removes pictures whose crops are deleted or never landed; raises `StorageFailed`."""
    if runtime.pictures is None:
        return
    stray, now = runtime.record.stray_pictures.all, datetime.now(UTC)
    while strays := await runtime.galleries.read(stray, now, STRAYS_AT_ONCE):
        left: dict[str, Exception] = {}
        for gallery_id, some in groupby(strays, attrgetter("gallery_id")):
            ids = [one.crop_id for one in some]
            for start in range(0, len(ids), REMOVED_PER_CALL):
                remove = partial(_remove, runtime, gallery_id, ids[start:][:REMOVED_PER_CALL])
                # No restore brings crops back meanwhile; others wait for one call at most.
                left |= await runtime.sections.run(remove, runtime.snapshot_lock(gallery_id))
        if left:
            raise StorageFailed(f"{len(left)} images of deleted crops could not be removed")


async def remove_pictures(runtime: Runtime, gallery_id: int, crop_ids: Sequence[str]) -> None:
    """Removes deleted crops' pictures elsewhere; raises `StorageFailed` where some stay."""
    if left := await _remove(runtime, gallery_id, crop_ids):
        raise StorageFailed(
            f"the crops are deleted, but {len(left)} images at GMN_IMAGES_URL could not be removed "
            f"({next(iter(left.values()))}); maintenance tries again every GMN_HOUSEKEEPING_SECONDS"
        )


async def _remove(
    runtime: Runtime, gallery_id: int, crop_ids: Sequence[str]
) -> dict[str, Exception]:
    """Removes pictures elsewhere, but of crops that a restore has brought back.

    Returns:
        Why those that are left could not be removed, by crop id.
    """
    folder, crops = runtime.pictures, runtime.record.crops
    left: dict[str, Exception] = {}
    if folder is None or not crop_ids:
        return left

    def find_gone() -> list[str]:
        found = ((one, crops.get(gallery_id, one)) for one in crop_ids)
        # A restore may also have brought a crop back with its picture inside the record.
        return [one for one, crop in found if not (crop and crop.elsewhere)]

    gone = await runtime.galleries.read(find_gone)
    for start in range(0, len(gone), REMOVED_PER_CALL):
        some = gone[start : start + REMOVED_PER_CALL]
        try:
            left |= await folder.changes.run(folder.remove, gallery_id, some)
        except (OSError, RecordUnavailable) as error:
            left |= dict.fromkeys(some, error)
    settled = [one for one in crop_ids if one not in left]
    await runtime.galleries.write(runtime.record.stray_pictures.forget, settled)
    return left
