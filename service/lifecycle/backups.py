"""Scheduled backups, each made by a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from filelock import Timeout

from service.errors import RecordUnavailable
from service.ops.critical_sections import file_lock
from service.record.restoring import Backup, kept_backups, own_backups
from service.runtime import Runtime
from service.settings import Settings

log = logging.getLogger(__name__)
LOOKED_AFTER_SECONDS = 10.0
# After one that failed, as where the disk is full.
PAUSE_SECONDS = 600.0
ID_MILLISECONDS_DIGITS = 12


async def run_backups(runtime: Runtime) -> None:
    settings = runtime.settings
    folder = settings.backup_dir
    every = timedelta(hours=settings.backup_every)
    while folder:
        pause = LOOKED_AFTER_SECONDS
        # One of the processes that share a data directory makes it.
        with contextlib.suppress(Timeout, RecordUnavailable):
            async with file_lock(settings.data_dir / "backup.lock", blocking=False):
                newest = await runtime.pools.files.run(_newest, runtime, folder)
                if not newest or datetime.now(UTC) - newest.taken_at >= every:
                    pause = PAUSE_SECONDS if await _failed(settings, folder) else pause
        await asyncio.sleep(pause)


def _newest(runtime: Runtime, folder: Path) -> Backup | None:
    return next(own_backups(folder, runtime.record.database), None)


async def _failed(settings: Settings, folder: Path) -> bool:
    # Reading a copy through would hold the interpreter, and with it every answer.
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gmn", "backup", str(folder)),
        *("--keep", str(settings.backup_keep), "--data-dir", str(settings.data_dir)),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        _, why = await process.communicate()
    except asyncio.CancelledError:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
        raise
    if process.returncode:
        log.error("no backup was made: %s", why.decode(errors="replace").strip())
    return bool(process.returncode)


def backups_with(settings: Settings, crop_ids: Sequence[str]) -> list[tuple[Backup, datetime]]:
    """Find the backups that hold one of these crops, and when newer ones replace them; blocks."""
    if not settings.backup_dir or not crop_ids:
        return []
    # An id begins with the time at which its crop was enrolled.
    first = min(int(crop_id[:ID_MILLISECONDS_DIGITS], 16) for crop_id in crop_ids) / 1000
    kept = kept_backups(settings.backup_dir)
    every = timedelta(hours=settings.backup_every)
    return [
        (backup, kept[-1].taken_at + every * (place + 1 + settings.backup_keep - len(kept)))
        for place, backup in enumerate(kept)
        if backup.taken_at.timestamp() + 1 >= first
    ]
