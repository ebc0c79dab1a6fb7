"""Files without a record: unneeded ones are removed, those of unknown origin are moved aside."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from service.errors import ServiceError
from service.ops.data_directory import (
    IMPORTS,
    INDEXES,
    SNAPSHOTS,
    STRAY,
    hold_folder,
    move_aside,
    snapshot_name,
    sync,
)
from service.record.database import UNFINISHED
from service.runtime import Runtime

log = logging.getLogger(__name__)


async def clear_files(runtime: Runtime) -> None:
    """Remove unneeded files, and move strays into a folder `stray` beside them.

    To be called before the first request, since a file comes before its record; other processes
    hold the lock of snapshots in between.
    """
    try:
        await remove_unneeded_files(runtime)
        data_dir = runtime.settings.data_dir
        for folder in (data_dir / SNAPSHOTS).glob("*"):
            if folder.name.isdecimal():
                move = partial(runtime.pools.files.run, _move_stray_snapshots, runtime, folder)
                await runtime.sections.run(move, runtime.snapshot_lock(int(folder.name)))
        record = runtime.record
        run = runtime.pools.files.run
        await run(_move_stray_folders, runtime, IMPORTS, record.jobs.get)
        # Index files of version 0.5.0: vectors are searched where the record keeps them.
        await run(partial(shutil.rmtree, ignore_errors=True), data_dir / INDEXES)
    except (OSError, ServiceError) as error:
        log.error("files of which there is no record: %s", error)


async def remove_unneeded_files(runtime: Runtime) -> None:
    """Remove files that the record knows to be unneeded.

    A snapshot that is being written is one of them, and its writer holds its gallery's lock.
    """
    for name in await runtime.pools.files.run(runtime.record.unneeded_files.all):
        gallery = Path(name).parent.name
        lock = runtime.snapshot_lock(int(gallery)) if gallery.isdecimal() else None
        remove = partial(runtime.pools.files.run, remove_unneeded, runtime, name)
        await runtime.sections.run(remove, lock)


def remove_unneeded(runtime: Runtime, name: str) -> None:
    """Remove a file or folder, unless an upload holds it or a record names it by now."""
    files = runtime.record.unneeded_files
    path = runtime.settings.data_dir / name
    try:
        with hold_folder(path) if path.is_dir() else contextlib.nullcontext():
            if name not in files.all():
                return
            if path.is_dir():
                shutil.rmtree(path)
            path.unlink(missing_ok=True)
        if path.parent.is_dir():
            sync(path.parent)
        files.forget([name])
    except BlockingIOError:
        log.debug("%s is being received", path)
    except OSError as error:
        log.error("%s is unneeded, and cannot be removed: %s", path, error)


def _move_stray_folders(runtime: Runtime, kind: str, find: Callable[[str], object]) -> None:
    folder = runtime.settings.data_dir / kind
    unneeded = runtime.record.unneeded_files.all
    # First, as another process may note or fill one meanwhile. An upload has a file once noted.
    found = [path for path in folder.glob("*") if path.name != STRAY and any(path.iterdir())]
    for path in found:
        name = f"{kind}/{path.name}"
        # Asked again, as its job or its gallery may be deleted in between.
        if not (name in unneeded() or find(path.name) or name in unneeded()):
            move_aside(path, folder / STRAY, path.name)


def _move_stray_snapshots(runtime: Runtime, folder: Path) -> None:
    data_dir = runtime.settings.data_dir
    gallery_id = int(folder.name)
    snapshots = runtime.record.snapshots.all(gallery_id)
    known = {snapshot_name(gallery_id, snapshot.snapshot_id) for snapshot in snapshots}
    for path in folder.glob("*"):
        if path.name.endswith(UNFINISHED):
            log.warning("removed %s, a copy that was cut off", path.name)
            shutil.rmtree(path)
        elif str(path.relative_to(data_dir)) not in known:
            move_aside(path, data_dir / SNAPSHOTS / STRAY, f"{path.parent.name}-{path.name}")
