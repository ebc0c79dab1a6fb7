"""Snapshot: copy a gallery while it is served, and put a copy back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex

from gmn_client.models import RestoredSnapshot
from service.errors import StorageFailed, UnknownGallery, UnknownSnapshot
from service.gallery.gallery import Gallery, named
from service.lifecycle.pictures import with_picture
from service.ops.durable import require_free_disk, snapshot_name, sync
from service.ops.failpoints import failpoint
from service.record.records import ArchivedCrop, Snapshot
from service.record.snapshot_file import (
    SnapshotOrigin,
    read_snapshot,
    remove_from_snapshot,
    snapshot_crop_ids,
    write_snapshot,
)
from service.runtime import Runtime


async def take_snapshot(runtime: Runtime, gallery: Gallery) -> Snapshot:
    """Copies a gallery as it is at this moment into a file, while reads and writes go on.

    Raises:
        UnknownGallery: there is none of that name.
        StorageFailed: the disk did not take it; nothing is left of it.
    """
    require_free_disk(runtime.settings)
    store = runtime.record
    snapshot_id = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{token_hex(4)}"
    name = snapshot_name(gallery.gallery_id, snapshot_id)
    path = runtime.settings.data_dir / name

    def copy() -> Snapshot:
        with store.crops.archive(gallery.gallery_id) as archive:
            crops = (with_picture(runtime, gallery.gallery_id, crop) for crop in archive.crops)
            origin = SnapshotOrigin(gallery.name, archive.embedding_fingerprint, archive.version)
            content = write_snapshot(path, crops, origin)
        failpoint("snapshot.in-place")
        return Snapshot(
            snapshot_id=snapshot_id,
            gallery_id=gallery.gallery_id,
            version=archive.version,
            embedding_fingerprint=archive.embedding_fingerprint,
            crops=content.crops,
            bytes=path.stat().st_size,
            sha256=content.sha256,
            created_at=datetime.now(UTC),
        )

    async def section() -> None:
        async with runtime.audit.trail("take_snapshot", gallery=gallery.name) as result:
            with named(gallery.name):
                await runtime.galleries.write(store.unneeded_files.add, [name])
                snapshot = await runtime.pools.files.run(copy)
                result["snapshot_id"] = snapshot_id
                try:
                    await runtime.galleries.write(store.snapshots.keep, snapshot)
                except (UnknownGallery, StorageFailed):
                    # Where the record does not answer it may have the snapshot.
                    await runtime.pools.files.run(_remove, path)
                    raise
            failpoint("snapshot.registered")
            # A person may have been forgotten while the gallery was copied.
            await _take_removed_out(runtime, gallery, snapshot)

    await runtime.sections.run(section, runtime.snapshot_lock)
    return await find_snapshot(runtime, gallery, snapshot_id)


async def list_snapshots(runtime: Runtime, gallery: Gallery) -> list[Snapshot]:
    """A gallery's snapshots, oldest first; raises `UnknownGallery`."""
    return await runtime.galleries.read(runtime.record.snapshots.all, gallery.gallery_id)


async def find_snapshot(runtime: Runtime, gallery: Gallery, snapshot_id: str) -> Snapshot:
    """One snapshot; raises `UnknownSnapshot`."""
    for snapshot in await list_snapshots(runtime, gallery):
        if snapshot.snapshot_id == snapshot_id:
            return snapshot
    raise UnknownSnapshot(gallery.name, snapshot_id)


async def delete_snapshot(runtime: Runtime, gallery: Gallery, snapshot_id: str) -> None:
    """Removes a snapshot and its file; raises `UnknownSnapshot`."""
    await find_snapshot(runtime, gallery, snapshot_id)

    async def section() -> None:
        async with runtime.audit.trail(
            "delete_snapshot", gallery=gallery.name, snapshot_id=snapshot_id
        ):
            # A file that is unneeded is removed later at the latest; a record without its file
            # would be listed for ever.
            remove = runtime.record.snapshots.remove
            await runtime.galleries.write(remove, gallery.gallery_id, snapshot_id)
            await runtime.pools.files.run(_remove, snapshot_path(runtime, gallery, snapshot_id))

    await runtime.sections.run(section, runtime.snapshot_lock)


async def restore_snapshot(
    runtime: Runtime, gallery: Gallery, snapshot_id: str
) -> RestoredSnapshot:
    """Makes a gallery what it was, but for what was deleted since: that stays deleted.

    Every crop of the file is checked before the record changes; searches see the old gallery until
    they see the restored one.

    Raises:
        UnknownGallery, UnknownSnapshot: there is nothing to restore.
        DamagedSnapshot, StorageFailed: nothing was changed.
    """
    snapshot = await find_snapshot(runtime, gallery, snapshot_id)
    require_free_disk(runtime.settings)
    store = runtime.record
    path = snapshot_path(runtime, gallery, snapshot_id)
    fingerprint = snapshot.embedding_fingerprint

    def crops() -> Iterator[ArchivedCrop]:
        yield from read_snapshot(path)
        failpoint("restore.file-read")

    def write() -> int:
        return store.crops.replace(gallery.gallery_id, fingerprint, crops())

    async def section() -> int:
        async with runtime.audit.trail(
            "restore_snapshot", gallery=gallery.name, snapshot_id=snapshot_id
        ) as result:
            version = await runtime.galleries.replace("restore", gallery, write)
            result["gallery_version"] = version
        return version

    version = await runtime.sections.run(section, runtime.snapshot_lock)
    return RestoredSnapshot(gallery_version=version, snapshot_id=snapshot_id, crops=gallery.crops)


async def take_removed_out_of_snapshots(
    runtime: Runtime, gallery: Gallery, identity: str | None = None
) -> dict[str, int]:
    """Rewrites every snapshot of a gallery that still holds deleted crops.

    To be called in a section that holds `runtime.snapshot_lock`.

    Args:
        identity: whose crops are removed too, also where the gallery has none of them any more.

    Returns:
        By snapshot id, how many crops were taken out of it.

    Raises:
        DamagedSnapshot: for a file that cannot be read.
    """
    taken: dict[str, int] = {}
    for snapshot in await list_snapshots(runtime, gallery):
        removed = await _take_removed_out(runtime, gallery, snapshot, identity)
        if removed:
            taken[snapshot.snapshot_id] = removed
    return taken


async def is_in_snapshots(runtime: Runtime, gallery: Gallery, identity: str) -> bool:
    """Whether any snapshot of a gallery holds a crop of an identity.

    To be called in a section that holds `runtime.snapshot_lock`.

    Raises:
        DamagedSnapshot: for a file that cannot be read.
    """
    for snapshot in await list_snapshots(runtime, gallery):
        path = snapshot_path(runtime, gallery, snapshot.snapshot_id)
        if await runtime.pools.files.run(snapshot_crop_ids, path, identity):
            return True
    return False


def snapshot_path(runtime: Runtime, gallery: Gallery, snapshot_id: str) -> Path:
    """Where a snapshot's file lies."""
    return runtime.settings.data_dir / snapshot_name(gallery.gallery_id, snapshot_id)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    if path.parent.is_dir():
        sync(path.parent)


async def _take_removed_out(
    runtime: Runtime, gallery: Gallery, snapshot: Snapshot, identity: str | None = None
) -> int:
    path = snapshot_path(runtime, gallery, snapshot.snapshot_id)
    store = runtime.record

    def rewrite() -> tuple[int, Snapshot]:
        gone = set(store.crops.removed_among(gallery.gallery_id, snapshot_crop_ids(path)))
        if identity is not None:
            gone.update(snapshot_crop_ids(path, identity))
        removed, content = remove_from_snapshot(path, sorted(gone))
        if removed:
            failpoint("snapshot-rewrite.written")
        # Kept also where a process was killed after it had rewritten the file.
        size = path.stat().st_size
        return removed, replace(snapshot, crops=content.crops, sha256=content.sha256, bytes=size)

    removed, rewritten = await runtime.pools.files.run(rewrite)
    if rewritten != snapshot:
        await runtime.galleries.write(runtime.record.snapshots.keep, rewritten)
    return removed
