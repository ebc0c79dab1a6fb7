"""Pictures of crops outside the record, and strays among them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

from service.errors import RecordUnavailable, StorageFailed
from service.gallery.gallery import Gallery
from service.ops.data_directory import snapshot_name
from service.record.archive import archived_ids
from service.record.picture_folder import PictureFolder
from service.record.transaction import batches
from service.record.values import ArchivedCrop, Picture, StoredCrop
from service.runtime import Runtime

# A picture whose crop has not landed after this long is swept up.
SETTLED = timedelta(hours=1)
LOOKED_AT_AGAIN = timedelta(days=1)
# Upper bound on the images that are removed while a gallery's lock is held.
STRAYS_AT_ONCE = 1000
REMOVED_PER_CALL = 100


async def keep_elsewhere(
    runtime: Runtime, folder: PictureFolder, target: Gallery, crops: Sequence[ArchivedCrop]
) -> list[ArchivedCrop]:
    """Keep pictures in a folder, and return the crops as they are then.

    Raises:
        StorageFailed, RecordUnavailable: nothing was stored.
    """
    number = target.gallery_id
    pictures = {crop.record.crop_id: crop.picture for crop in crops if crop.picture is not None}
    # Noted before: what lands in no commit is swept up later.
    expect = runtime.record.stray_files.expect
    until = datetime.now(UTC) + SETTLED
    await runtime.galleries.write(expect, number, list(pictures), until)
    await folder.changes.run(folder.put, number, pictures)
    return [replace(crop, picture=None) for crop in crops]


async def stored_picture(runtime: Runtime, gallery_id: int, crop: StoredCrop) -> Picture | None:
    """Read a crop's picture, or None; raises `RecordUnavailable` where the folder hangs."""
    picture = await runtime.galleries.read(runtime.record.crops.picture, gallery_id, crop.crop_id)
    folder = runtime.pictures
    if picture is None and crop.content_type is not None and folder is not None:
        content = await folder.views.run(folder.get, gallery_id, crop.crop_id)
        picture = Picture(content, crop.content_type) if content else None
    return picture


async def remove_stray_pictures(runtime: Runtime) -> None:
    """Remove pictures whose crops are deleted or never landed; raises `StorageFailed`."""
    if runtime.pictures is None:
        return
    stray = runtime.record.stray_files.all
    now = datetime.now(UTC)
    while strays := await runtime.galleries.read(stray, now, STRAYS_AT_ONCE):
        left: dict[str, Exception] = {}
        names: dict[int, list[str]] = defaultdict(list)
        for gallery_id, name in strays:
            names[gallery_id].append(name)
        for gallery_id, of_gallery in names.items():
            remove = partial(_remove_strays, runtime, gallery_id, of_gallery)
            # No restore brings crops back meanwhile.
            left |= await runtime.sections.run(remove, runtime.snapshot_lock(gallery_id))
        if left:
            raise StorageFailed(f"{len(left)} images of deleted crops could not be removed")


async def remove_pictures(runtime: Runtime, gallery_id: int, crop_ids: Sequence[str]) -> None:
    """Remove the pictures of deleted crops elsewhere; raises `StorageFailed` where some stay."""
    if left := await _remove(runtime, gallery_id, crop_ids):
        raise StorageFailed(
            f"the crops are deleted, but {len(left)} images at GMN_IMAGES_URL could not be removed "
            f"({next(iter(left.values()))}); maintenance tries again every GMN_HOUSEKEEPING_SECONDS"
        )


async def _remove_strays(
    runtime: Runtime, gallery_id: int, names: Sequence[str]
) -> dict[str, Exception]:
    needed = await runtime.pools.files.run(_needed_by_snapshots, runtime, gallery_id, names)
    if needed:
        later = datetime.now(UTC) + LOOKED_AT_AGAIN
        expect = runtime.record.stray_files.expect
        await runtime.galleries.write(expect, gallery_id, sorted(needed), later)
    return await _remove(runtime, gallery_id, [name for name in names if name not in needed])


def _needed_by_snapshots(runtime: Runtime, gallery_id: int, names: Sequence[str]) -> set[str]:
    record = runtime.record
    needed: set[str] = set()
    for snapshot in record.snapshots.all(gallery_id):
        path = runtime.settings.data_dir / snapshot_name(gallery_id, snapshot.snapshot_id)
        needed.update(archived_ids(path))
    needed.intersection_update(names)
    return needed.difference(record.crops.removed_among(gallery_id, sorted(needed)))


async def _remove(runtime: Runtime, gallery_id: int, names: Sequence[str]) -> dict[str, Exception]:
    """Remove pictures elsewhere, but of crops that a restore has brought back.

    Returns:
        The error of each picture that could not be removed, by name.
    """
    folder = runtime.pictures
    left: dict[str, Exception] = {}
    if folder is None or not names:
        return left
    # A restore may have brought a crop back, also with its picture inside the record.
    there = await runtime.galleries.read(runtime.record.crops.by_id, gallery_id, names)
    gone = [name for name in names if name not in there or not there[name].elsewhere]
    for some in batches(gone, REMOVED_PER_CALL):
        try:
            left |= await folder.changes.run(folder.remove, gallery_id, some)
        except (OSError, RecordUnavailable) as error:
            left |= dict.fromkeys(some, error)
    settled = [name for name in names if name not in left]
    await runtime.galleries.write(runtime.record.stray_files.forget, gallery_id, settled)
    return left
