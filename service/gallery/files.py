"""Files beside the record: unneeded ones are removed, and unknown ones moved aside."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

from service.errors import ServiceError
from service.ops.data_directory import (
    IMPORTS,
    STRAY,
    hold,
    move_aside,
    remove_folder,
    sync,
)
from service.ops.threads import MonitoredThreadPool
from service.record.files import UnneededFiles
from service.record.record import Record

log = logging.getLogger(__name__)


async def clear_files(record: Record, data_dir: Path, threads: MonitoredThreadPool) -> None:
    """Remove unneeded files, and move unknown ones into a folder `stray` beside them.

    Call this before the first request, because files are created before their records.
    """
    try:
        await remove_unneeded_files(record, data_dir, threads)
        await threads.run(_move_stray_imports, record, data_dir)
    except (OSError, ServiceError) as error:
        log.error("files without a record could not be removed or moved: %s", error)


async def remove_unneeded_files(
    record: Record, data_dir: Path, threads: MonitoredThreadPool
) -> None:
    """Remove files that the record lists as unneeded."""
    files = record.unneeded_files
    names = await threads.run(files.all)
    if record.database.machine is not None:
        # The notes are those of all machines.
        names = [name for name in names if (data_dir / name).exists()]
    for name in names:
        await threads.run(remove_unneeded, files, data_dir, name)


def remove_unneeded(files: UnneededFiles, data_dir: Path, name: str) -> None:
    """Remove a file or folder, unless an upload holds it or a record has come to need it."""
    path = data_dir / name
    try:
        with hold(path) if path.is_dir() else contextlib.nullcontext():
            if name not in files.all():
                return
            if path.is_dir():
                remove_folder(path)
            path.unlink(missing_ok=True)
        if path.parent.is_dir():
            sync(path.parent)
        files.note_removed([name])
    except BlockingIOError:
        log.debug("%s is being received", path)
    except OSError as error:
        log.error("%s is unneeded, and cannot be removed: %s", path, error)


def _move_stray_imports(record: Record, data_dir: Path) -> None:
    folder = data_dir / IMPORTS
    unneeded = record.unneeded_files.all
    # List the folders before the record, to which another process may add one. The folder of an
    # upload is empty until the record lists it.
    folders = [path for path in folder.glob("*") if path.name != STRAY and any(path.iterdir())]
    for path in folders:
        name = f"{IMPORTS}/{path.name}"
        # Check twice: the job may be deleted between the checks.
        if not (name in unneeded() or record.jobs.get(path.name) or name in unneeded()):
            move_aside(path, folder / STRAY, path.name)
