"""Snapshot: copy a gallery while it is served, and put a copy back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Any

from gmn_client.models import RestoredSnapshot
from service.errors import (
    ServiceError,
    SnapshotsNotRewritten,
    StorageFailed,
    UnknownGallery,
    UnknownSnapshot,
)
from service.gallery.gallery import Gallery, naming_unknown_gallery
from service.lifecycle.pictures import with_picture
from service.ops.data_directory import require_free_disk, snapshot_name, sync
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


@dataclass
class Rewriting:
    """What became of a gallery's snapshots that had to be rewritten.

    Attributes:
        taken: by snapshot id, how many crops were taken out of it.
        of_identity: how many of them bore the identity that is forgotten.
        failed: by id, why a snapshot could not be rewritten.
    """

    taken: dict[str, int] = field(default_factory=dict)
    of_identity: int = 0
    failed: dict[str, ServiceError] = field(default_factory=dict)

    def require_all(self, gallery: Gallery, removed: int = 0) -> None:
        """Raises `SnapshotsNotRewritten` where any failed.

        Args:
            removed: how many crops were deleted from the gallery before.
        """
        if self.failed:
            whys = "; ".join(f"{name} ({error.why})" for name, error in self.failed.items())
            raise SnapshotsNotRewritten(gallery.name, removed, len(self.taken), whys)


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

    async def take(result: dict[str, Any]) -> None:
        with naming_unknown_gallery(gallery.name):
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

    lock = runtime.snapshot_lock(gallery.gallery_id)
    await runtime.audited("take_snapshot", take, lock, gallery=gallery.name)
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

    async def delete(_: dict[str, Any]) -> None:
        # A file that is unneeded is removed later at the latest; a record without its file would be
        # listed for ever.
        remove = runtime.record.snapshots.remove
        await runtime.galleries.write(remove, gallery.gallery_id, snapshot_id)
        await runtime.pools.files.run(_remove, snapshot_path(runtime, gallery, snapshot_id))

    await runtime.audited(
        "delete_snapshot",
        delete,
        runtime.snapshot_lock(gallery.gallery_id),
        gallery=gallery.name,
        snapshot_id=snapshot_id,
    )


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

    folder = runtime.pictures
    keep_picture = partial(folder.changes.wait, folder.put) if folder else None

    def write() -> int:
        return store.crops.replace(gallery.gallery_id, fingerprint, crops(), keep_picture)

    async def restore(result: dict[str, Any]) -> int:
        version = await runtime.galleries.replace("restore", gallery, write)
        result["gallery_version"] = version
        return version

    version = await runtime.audited(
        "restore_snapshot",
        restore,
        runtime.snapshot_lock(gallery.gallery_id),
        gallery=gallery.name,
        snapshot_id=snapshot_id,
    )
    return RestoredSnapshot(gallery_version=version, snapshot_id=snapshot_id, crops=gallery.crops)


async def take_removed_out_of_snapshots(
    runtime: Runtime, gallery: Gallery, identity: str | None = None
) -> Rewriting:
    """Rewrites every snapshot of a gallery that still holds deleted crops.

    One that cannot be rewritten keeps none of the others from it. To be called in a section that
    holds the gallery's `runtime.snapshot_lock`.

    Args:
        identity: whose crops are removed too, also where the gallery has none of them any more.
    """
    done = Rewriting()
    for snapshot in await list_snapshots(runtime, gallery):
        try:
            removed, theirs = await _take_removed_out(runtime, gallery, snapshot, identity)
        except ServiceError as error:
            done.failed[snapshot.snapshot_id] = error
            continue
        done.of_identity += theirs
        if removed:
            done.taken[snapshot.snapshot_id] = removed
    return done


def snapshot_path(runtime: Runtime, gallery: Gallery, snapshot_id: str) -> Path:
    """Where a snapshot's file lies."""
    return runtime.settings.data_dir / snapshot_name(gallery.gallery_id, snapshot_id)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    if path.parent.is_dir():
        sync(path.parent)


async def _take_removed_out(
    runtime: Runtime, gallery: Gallery, snapshot: Snapshot, identity: str | None = None
) -> tuple[int, int]:
    """Answers how many crops were removed, and how many of them were an identity's."""
    path = snapshot_path(runtime, gallery, snapshot.snapshot_id)
    store = runtime.record

    def rewrite() -> tuple[int, int, Snapshot]:
        gone = set(store.crops.removed_among(gallery.gallery_id, snapshot_crop_ids(path)))
        theirs = [] if identity is None else snapshot_crop_ids(path, identity)
        gone.update(theirs)
        removed, content = remove_from_snapshot(path, sorted(gone))
        if removed:
            failpoint("snapshot-rewrite.written")
        # Kept also where a process was killed after it had rewritten the file.
        size = path.stat().st_size
        kept = replace(snapshot, crops=content.crops, sha256=content.sha256, bytes=size)
        return removed, len(theirs), kept

    removed, theirs, kept = await runtime.pools.files.run(rewrite)
    if kept != snapshot:
        await runtime.galleries.write(runtime.record.snapshots.keep, kept)
    return removed, theirs
