"""Files without a record: unneeded ones are removed, those of unknown origin are moved aside."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from secrets import token_hex

from service.errors import ServiceError
from service.ops.data_directory import (
    IMPORTS,
    SNAPSHOTS,
    STRAY,
    hold_folder,
    make_folder,
    snapshot_name,
    sync,
)
from service.runtime import Runtime

log = logging.getLogger(__name__)
# Where the rewriting of a snapshot was cut off, the journal alone makes the file whole again.
JOURNAL = "-journal"


async def clear_files(runtime: Runtime) -> None:
    """Removes unneeded files, and moves strays into `snapshots/stray` and `imports/stray`.

    To be called before the first request, since a file comes before its record; other processes
    hold the lock of snapshots in between.
    """
    try:
        await remove_unneeded_files(runtime)
        for folder in (runtime.settings.data_dir / SNAPSHOTS).glob("*"):
            if folder.name.isdecimal():
                move = partial(runtime.pools.files.run, _move_stray_snapshots, runtime, folder)
                await runtime.sections.run(move, runtime.snapshot_lock(int(folder.name)))
        await runtime.pools.files.run(_move_stray_imports, runtime)
    except (OSError, ServiceError) as error:
        log.error("files of which there is no record: %s", error)


async def remove_unneeded_files(runtime: Runtime) -> None:
    """Removes files that the record knows to be unneeded, and those of imports that have ended.

    A snapshot that is being written is one of them, and its writer holds its gallery's lock.
    """
    files, data_dir = runtime.record.unneeded_files, runtime.settings.data_dir

    def remove(below: str) -> None:
        unneeded = [name for name in files.all() if Path(name).parent == Path(below)]
        files.forget(_removed(data_dir, unneeded, lambda name: name in files.all()))

    for folder in {str(Path(name).parent) for name in await runtime.pools.files.run(files.all)}:
        gallery = Path(folder).name
        lock = runtime.snapshot_lock(int(gallery)) if gallery.isdecimal() else None
        await runtime.sections.run(partial(runtime.pools.files.run, remove, folder), lock)
    await runtime.pools.files.run(_remove_ended_imports, runtime)


def _removed(
    data_dir: Path, paths: Sequence[str], unneeded: Callable[[str], bool] = bool
) -> list[str]:
    """Removes files and folders, and answers which of them are gone.

    Args:
        unneeded: whether a folder still is, once it is held: that of an upload may have its job.
    """
    gone = []
    for name in paths:
        path = data_dir / name
        try:
            if path.is_dir():
                with hold_folder(path):
                    if not unneeded(name):
                        continue
                    shutil.rmtree(path)
            path.unlink(missing_ok=True)
            if path.parent.is_dir():
                sync(path.parent)
            gone.append(name)
        except BlockingIOError:
            log.debug("%s is being received", path)
        except OSError as error:
            log.error("%s is unneeded, and cannot be removed: %s", path, error)
    return gone


def _remove_ended_imports(runtime: Runtime) -> None:
    data_dir = runtime.settings.data_dir
    for spool in (data_dir / IMPORTS).glob("*"):
        job = runtime.record.jobs.get(spool.name)
        if job is not None and job.finished:
            log.warning("removed the files of import %s, which has ended", spool.name)
            _removed(data_dir, [f"{IMPORTS}/{spool.name}"])


def _move_stray_imports(runtime: Runtime) -> None:
    folder, store = runtime.settings.data_dir / IMPORTS, runtime.record
    # Read first: what gets its job meanwhile is unneeded until then.
    unneeded = set(store.unneeded_files.all())
    for spool in folder.glob("*"):
        known = f"{IMPORTS}/{spool.name}" in unneeded or store.jobs.get(spool.name) is not None
        # One that another process has just made is empty.
        if spool.name != STRAY and not known and any(spool.iterdir()):
            _move_aside(spool, folder / STRAY, spool.name)


def _move_stray_snapshots(runtime: Runtime, folder: Path) -> None:
    data_dir, gallery_id = runtime.settings.data_dir, int(folder.name)
    found = runtime.record.snapshots.all(gallery_id)
    known = {snapshot_name(gallery_id, one.snapshot_id) for one in found}
    for file in folder.glob("*"):
        if file.name.removesuffix(JOURNAL).endswith(".part"):
            log.warning("removed %s, a copy that was cut off", file.name)
            file.unlink(missing_ok=True)
        elif str(file.relative_to(data_dir)).removesuffix(JOURNAL) not in known:
            _move_aside(file, data_dir / SNAPSHOTS / STRAY, f"{file.parent.name}-{file.name}")


def _move_aside(path: Path, folder: Path, name: str) -> None:
    try:
        make_folder(folder)
        target = folder / name
        if target.exists():
            target = folder / f"{token_hex(4)}-{name}"
        path.rename(target)
        log.warning("%s is in no record; moved to %s, look at it and delete it", path, target)
    except OSError as error:
        log.error("%s is in no record, and cannot be moved to %s: %s", path, folder, error)
