"""Snapshot: copy a gallery while it is served, and put a copy back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
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
from service.gallery.gallery import Gallery
from service.lifecycle.strays import remove_unneeded
from service.ops.data_directory import require_free_disk, snapshot_name
from service.ops.failpoints import failpoint
from service.record.archive import (
    archived_ids,
    describe_snapshot,
    read_archive,
    remove_from_archive,
    write_archive,
)
from service.record.values import ArchivedCrop, Snapshot
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
        """Raises `SnapshotsNotRewritten` where any failed, after crops were removed elsewhere."""
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
    gallery_id = gallery.gallery_id
    snapshot_id = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{token_hex(4)}"
    path = snapshot_path(runtime, gallery, snapshot_id)

    def copy() -> Snapshot:
        write_archive(store.database, path, gallery_id)
        failpoint("snapshot.in-place")
        return describe_snapshot(path, datetime.now(UTC))

    async def take(result: dict[str, Any]) -> Snapshot:
        try:
            name = snapshot_name(gallery_id, snapshot_id)
            await runtime.galleries.write(store.unneeded_files.add, [name])
            snapshot = await runtime.pools.files.run(copy)
            result["snapshot_id"] = snapshot_id
            try:
                await runtime.galleries.write(store.snapshots.keep, snapshot)
            except (UnknownGallery, StorageFailed):
                # Where the record does not answer it may have the snapshot.
                with contextlib.suppress(ServiceError):
                    await runtime.pools.files.run(remove_unneeded, runtime, name)
                raise
        except UnknownGallery as error:
            raise UnknownGallery(gallery.name) from error
        failpoint("snapshot.registered")
        # A person may have been forgotten while the gallery was copied.
        return (await _take_removed_out(runtime, gallery, snapshot))[0]

    lock = runtime.snapshot_lock(gallery_id)
    return await runtime.audited("take_snapshot", take, lock, gallery=gallery.name)


async def list_snapshots(runtime: Runtime, gallery: Gallery) -> list[Snapshot]:
    """A gallery's snapshots, oldest first; raises `UnknownGallery`."""
    return await runtime.galleries.read(runtime.record.snapshots.all, gallery.gallery_id)


async def find_snapshot(runtime: Runtime, gallery: Gallery, snapshot_id: str) -> Snapshot:
    """One snapshot; raises `UnknownSnapshot`."""
    found = {one.snapshot_id: one for one in await list_snapshots(runtime, gallery)}
    if snapshot_id not in found:
        raise UnknownSnapshot(gallery.name, snapshot_id)
    return found[snapshot_id]


async def delete_snapshot(runtime: Runtime, gallery: Gallery, snapshot_id: str) -> None:
    """Removes a snapshot and its file; raises `UnknownSnapshot`."""
    await find_snapshot(runtime, gallery, snapshot_id)

    async def delete(_: dict[str, Any]) -> None:
        # First, as a record without its file would be listed for ever.
        remove = runtime.record.snapshots.remove
        await runtime.galleries.write(remove, gallery.gallery_id, snapshot_id)
        name = snapshot_name(gallery.gallery_id, snapshot_id)
        await runtime.pools.files.run(remove_unneeded, runtime, name)

    lock = runtime.snapshot_lock(gallery.gallery_id)
    what = {"gallery": gallery.name, "snapshot_id": snapshot_id}
    await runtime.audited("delete_snapshot", delete, lock, **what)


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
    path = snapshot_path(runtime, gallery, snapshot_id)

    def crops() -> Iterator[ArchivedCrop]:
        yield from read_archive(path)
        failpoint("restore.file-read")

    write = runtime.record.crops.replace
    embedder = snapshot.embedding_fingerprint

    async def restore(result: dict[str, Any]) -> int:
        version = await runtime.galleries.change("restore", gallery, write, embedder, crops())
        result["gallery_version"] = version
        return version

    lock = runtime.snapshot_lock(gallery.gallery_id)
    what = {"gallery": gallery.name, "snapshot_id": snapshot_id}
    version = await runtime.audited("restore_snapshot", restore, lock, **what)
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
            _, removed, theirs = await _take_removed_out(runtime, gallery, snapshot, identity)
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


async def _take_removed_out(
    runtime: Runtime, gallery: Gallery, snapshot: Snapshot, identity: str | None = None
) -> tuple[Snapshot, int, int]:
    """The snapshot as it is then, how many crops it has lost, and how many were an identity's."""
    path = snapshot_path(runtime, gallery, snapshot.snapshot_id)
    store = runtime.record

    def rewrite() -> tuple[Snapshot, int, int]:
        gone = set(store.crops.removed_among(gallery.gallery_id, archived_ids(path)))
        theirs = [] if identity is None else archived_ids(path, identity)
        gone.update(theirs)
        # Without ids it finishes a removal that was cut off.
        remove_from_archive(path, gallery.gallery_id, sorted(gone))
        failpoint("snapshot-rewrite.written")
        kept = describe_snapshot(path, snapshot.created_at)
        return kept, len(gone), len(theirs)

    kept, removed, theirs = await runtime.pools.files.run(rewrite)
    # Also where a process was killed after it had rewritten the file.
    if kept != snapshot:
        await runtime.galleries.write(store.snapshots.keep, kept)
    return kept, removed, theirs
