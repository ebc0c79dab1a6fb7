"""Snapshots of a gallery taken while it is served, backups, and files without a record."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from secrets import token_hex
from typing import Any

from gmn_client.models import RestoredSnapshot, Snapshot
from service.errors import (
    DamagedSnapshot,
    ServiceError,
    SnapshotsNotRewritten,
    StorageFailed,
    UnknownGallery,
    UnknownSnapshot,
)
from service.gallery.gallery import Gallery
from service.ops.data_directory import (
    IMPORTS,
    SNAPSHOTS,
    STRAY,
    UNFINISHED,
    failpoint,
    hold,
    move_aside,
    remove_folder,
    require_free_disk,
    snapshot_name,
    sync,
)
from service.record.archive import (
    archived_ids,
    check_archive,
    describe_snapshot,
    remove_from_archive,
    write_archive,
)
from service.record.backup import kept_backups, taken_at
from service.record.replacing import replace_crops
from service.runtime import Runtime
from service.settings import Settings

log = logging.getLogger(__name__)
ID_MILLISECONDS_DIGITS = 12


@dataclass
class Rewriting:
    """The result of removing crops from a gallery's snapshots.

    Attributes:
        taken: number of removed crops by snapshot id.
        failed: errors by id of snapshots that could not be rewritten.
    """

    taken: dict[str, int] = field(default_factory=dict)
    failed: dict[str, ServiceError] = field(default_factory=dict)

    def require_all(self, gallery: Gallery, removed: int = 0) -> None:
        """Raise `SnapshotsNotRewritten` if any failed; `removed` crops were deleted elsewhere."""
        if self.failed:
            reasons = "; ".join(f"{name} ({error.why})" for name, error in self.failed.items())
            raise SnapshotsNotRewritten(gallery.name, removed, len(self.taken), reasons)


async def take_snapshot(runtime: Runtime, gallery: Gallery) -> Snapshot:
    """Copy the current state of a gallery while reads and writes continue.

    Raises:
        UnknownGallery: the gallery was deleted.
        StorageFailed: the disk is full or fails; nothing is left of the snapshot.
    """
    require_free_disk(runtime.settings)
    store = runtime.record
    gallery_id = gallery.gallery_id
    snapshot_id = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{token_hex(4)}"
    name = snapshot_name(gallery_id, snapshot_id)
    path = runtime.settings.data_dir / name

    def copy() -> Snapshot:
        store.unneeded_files.add([name])
        try:
            write_archive(store.database, path, gallery_id)
            failpoint("snapshot.in-place")
            snapshot = describe_snapshot(path, datetime.now(UTC))
            store.snapshots.keep(gallery_id, snapshot)
        except (UnknownGallery, StorageFailed) as error:
            with contextlib.suppress(ServiceError):
                remove_unneeded(runtime, name)
            if isinstance(error, UnknownGallery):
                raise UnknownGallery(gallery.name) from error
            raise
        return snapshot

    async def take(result: dict[str, Any]) -> Snapshot:
        snapshot = await runtime.pools.files.run(copy)
        result["snapshot_id"] = snapshot_id
        failpoint("snapshot.registered")
        # A person may have been forgotten during the copy.
        return (await _remove_deleted(runtime, gallery, snapshot))[0]

    lock = runtime.snapshot_lock(gallery_id)
    return await runtime.audited("take_snapshot", take, lock, gallery=gallery.name)


async def list_snapshots(runtime: Runtime, gallery: Gallery) -> list[Snapshot]:
    """Return a gallery's snapshots, oldest first; raises `UnknownGallery`."""
    return await runtime.galleries.read(runtime.record.snapshots.all, gallery.gallery_id)


async def find_snapshot(runtime: Runtime, gallery: Gallery, snapshot_id: str) -> Snapshot:
    for snapshot in await list_snapshots(runtime, gallery):
        if snapshot.snapshot_id == snapshot_id:
            return snapshot
    raise UnknownSnapshot(gallery.name, snapshot_id)


async def delete_snapshot(runtime: Runtime, gallery: Gallery, snapshot_id: str) -> None:
    """Delete a snapshot and its files; raises `UnknownSnapshot`."""
    await find_snapshot(runtime, gallery, snapshot_id)

    def remove() -> None:
        # Record first: a snapshot without files would be listed forever.
        runtime.record.snapshots.remove(gallery.gallery_id, snapshot_id)
        remove_unneeded(runtime, snapshot_name(gallery.gallery_id, snapshot_id))

    await runtime.audited(
        "delete_snapshot",
        lambda _: runtime.pools.files.run(remove),
        runtime.snapshot_lock(gallery.gallery_id),
        gallery=gallery.name,
        snapshot_id=snapshot_id,
    )


async def restore_snapshot(
    runtime: Runtime, gallery: Gallery, snapshot_id: str
) -> RestoredSnapshot:
    """Restore a gallery to a snapshot; crops deleted since then stay deleted.

    Every crop of the snapshot is verified before the gallery changes. Searches see either the
    former or the restored gallery.

    Raises:
        UnknownGallery, UnknownSnapshot: there is nothing to restore.
        DamagedSnapshot, StorageFailed: nothing was changed.
    """
    await find_snapshot(runtime, gallery, snapshot_id)
    require_free_disk(runtime.settings)
    path = snapshot_path(runtime, gallery, snapshot_id)

    def replace(gallery_id: int) -> int:
        check_archive(path)
        failpoint("restore.file-read")
        return runtime.record.database.write_from(path, replace_crops, gallery_id, path)

    async def restore(result: dict[str, Any]) -> int:
        version = await runtime.galleries.change("restore", gallery, replace)
        result["gallery_version"] = version
        return version

    lock = runtime.snapshot_lock(gallery.gallery_id)
    version = await runtime.audited(
        "restore_snapshot", restore, lock, gallery=gallery.name, snapshot_id=snapshot_id
    )
    return RestoredSnapshot(gallery_version=version, snapshot_id=snapshot_id, crops=gallery.crops)


async def find_archived(runtime: Runtime, gallery: Gallery, identity: str) -> list[str]:
    found: set[str] = set()
    for snapshot in await list_snapshots(runtime, gallery):
        path = snapshot_path(runtime, gallery, snapshot.snapshot_id)
        # Damaged snapshots are named when all are rewritten.
        with contextlib.suppress(DamagedSnapshot):
            found.update(await runtime.pools.files.run(archived_ids, path, identity))
    return sorted(found)


async def remove_deleted_from_snapshots(
    runtime: Runtime, gallery: Gallery, identity: str | None = None
) -> Rewriting:
    """Remove deleted crops from every snapshot of a gallery, and copies that were cut off.

    If a snapshot cannot be rewritten, the others still are. The caller must hold the gallery's
    `runtime.snapshot_lock`.

    Args:
        identity: also remove this person's crops, even if the gallery has them under another name.
    """
    rewriting = Rewriting()
    await runtime.pools.files.run(_remove_cut_off, runtime, gallery.gallery_id)
    for snapshot in await list_snapshots(runtime, gallery):
        try:
            _, removed = await _remove_deleted(runtime, gallery, snapshot, identity)
        except ServiceError as error:
            rewriting.failed[snapshot.snapshot_id] = error
            continue
        if removed:
            rewriting.taken[snapshot.snapshot_id] = removed
    return rewriting


def snapshot_path(runtime: Runtime, gallery: Gallery, snapshot_id: str) -> Path:
    return runtime.settings.data_dir / snapshot_name(gallery.gallery_id, snapshot_id)


async def _remove_deleted(
    runtime: Runtime, gallery: Gallery, snapshot: Snapshot, identity: str | None = None
) -> tuple[Snapshot, int]:
    path = snapshot_path(runtime, gallery, snapshot.snapshot_id)
    store = runtime.record

    def rewrite() -> tuple[Snapshot, int]:
        deleted = set(store.crops.removed_among(gallery.gallery_id, archived_ids(path)))
        if identity is not None:
            deleted.update(archived_ids(path, identity))
        # Call this even without ids: it finishes an interrupted removal.
        remove_from_archive(path, gallery.gallery_id, sorted(deleted))
        failpoint("snapshot-rewrite.written")
        rewritten = describe_snapshot(path, snapshot.created_at)
        # The description also changes if a process was killed after rewriting the files.
        if rewritten != snapshot:
            store.snapshots.keep(gallery.gallery_id, rewritten)
        return rewritten, len(deleted)

    return await runtime.pools.files.run(rewrite)


def backups_with(settings: Settings, crop_ids: Sequence[str]) -> list[tuple[Path, datetime]]:
    """Find backups with any of these crops, and when newer ones replace them; blocks."""
    if not settings.backup_dir or not crop_ids:
        return []
    # An id begins with the time of its crop's enrollment.
    first_enrolled = min(int(crop_id[:ID_MILLISECONDS_DIGITS], 16) for crop_id in crop_ids) / 1000
    backups = kept_backups(settings.backup_dir)
    interval = timedelta(hours=settings.backup_every)
    return [
        (
            backup,
            taken_at(backups[-1]) + interval * (place + 1 + settings.backup_keep - len(backups)),
        )
        for place, backup in enumerate(backups)
        if taken_at(backup).timestamp() + 1 >= first_enrolled
    ]


async def clear_files(runtime: Runtime) -> None:
    """Remove unneeded files, and move strays into a folder `stray` beside them.

    Call this before the first request, because files are created before their records. Other
    processes hold the snapshot lock in between.
    """
    try:
        await remove_unneeded_files(runtime)
        data_dir = runtime.settings.data_dir
        for folder in (data_dir / SNAPSHOTS).glob("*"):
            if folder.name.isdecimal():
                move = runtime.pools.files.run(_move_stray_snapshots, runtime, folder)
                await runtime.sections.run(move, runtime.snapshot_lock(int(folder.name)))
        await runtime.pools.files.run(_move_stray_imports, runtime)
    except (OSError, ServiceError) as error:
        log.error("files without a record could not be removed or moved: %s", error)


async def remove_unneeded_files(runtime: Runtime) -> None:
    """Remove files that the record lists as unneeded.

    This includes a snapshot being written, whose writer holds its gallery's lock.
    """
    for name in await runtime.pools.files.run(runtime.record.unneeded_files.all):
        gallery = Path(name).parent.name
        lock = runtime.snapshot_lock(int(gallery)) if gallery.isdecimal() else None
        remove = runtime.pools.files.run(remove_unneeded, runtime, name)
        await runtime.sections.run(remove, lock)


def remove_unneeded(runtime: Runtime, name: str) -> None:
    """Remove a file or folder, unless an upload holds it or a record has come to need it."""
    files = runtime.record.unneeded_files
    path = runtime.settings.data_dir / name
    try:
        with hold(path) if path.is_dir() else contextlib.nullcontext():
            if name not in files.all():
                return
            if path.is_dir():
                remove_folder(path)
            path.unlink(missing_ok=True)
        if path.parent.is_dir():
            sync(path.parent)
        files.forget([name])
    except BlockingIOError:
        log.debug("%s is being received", path)
    except OSError as error:
        log.error("%s is unneeded, and cannot be removed: %s", path, error)


def _move_stray_imports(runtime: Runtime) -> None:
    folder = runtime.settings.data_dir / IMPORTS
    unneeded = runtime.record.unneeded_files.all
    # List the folders before the record, to which another process may add one. The folder of an
    # upload is empty until the record lists it.
    folders = [path for path in folder.glob("*") if path.name != STRAY and any(path.iterdir())]
    for path in folders:
        name = f"{IMPORTS}/{path.name}"
        # Check twice: the job may be deleted between the checks.
        if not (name in unneeded() or runtime.record.jobs.get(path.name) or name in unneeded()):
            move_aside(path, folder / STRAY, path.name)


def _remove_cut_off(runtime: Runtime, gallery_id: int) -> None:
    # The caller holds the lock that the writers of these copies held until they were killed.
    folder = runtime.settings.data_dir / SNAPSHOTS / str(gallery_id)
    for part in folder.glob(f"*{UNFINISHED}"):
        try:
            shutil.rmtree(part)
            log.warning("removed %s, a copy that was cut off", part.name)
        except OSError as error:
            log.error("%s was cut off, and cannot be removed: %s", part, error)
    for name in runtime.record.unneeded_files.all():
        if (runtime.settings.data_dir / name).parent == folder:
            remove_unneeded(runtime, name)


def _move_stray_snapshots(runtime: Runtime, folder: Path) -> None:
    data_dir = runtime.settings.data_dir
    gallery_id = int(folder.name)
    _remove_cut_off(runtime, gallery_id)
    snapshots = runtime.record.snapshots.all(gallery_id)
    known = {snapshot_name(gallery_id, snapshot.snapshot_id) for snapshot in snapshots}
    for path in folder.glob("*"):
        if str(path.relative_to(data_dir)) not in known and path.suffix != UNFINISHED:
            move_aside(path, data_dir / SNAPSHOTS / STRAY, f"{path.parent.name}-{path.name}")
