"""Housekeeping: what has to be done now and then, and at the start, without being asked."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import time
from datetime import UTC, datetime, timedelta
from functools import partial

from filelock import Timeout

from service.errors import ServiceError
from service.jobs.imports import FOLDER as IMPORTS
from service.lifecycle.forget import forget_expired
from service.lifecycle.pictures import remove_strays as remove_stray_pictures
from service.lifecycle.snapshots import (
    FOLDER,
    SUFFIX,
    list_snapshots,
    take_removed_out_of_snapshots,
)
from service.ops.critical_sections import file_lock
from service.ops.health import heartbeat, idle
from service.runtime import Runtime

log = logging.getLogger(__name__)
LOCK = "housekeeping.lock"
RECEIVED_WITHIN_SECONDS = 3600.0
KEPT_TOMBSTONES = timedelta(days=1)


async def run_maintenance(runtime: Runtime) -> None:
    """Does everything that is due, again and again, until it is cancelled.

    Of several processes on one data directory one does it at a time.
    """
    drop_tombstones_at = 0.0
    while True:
        try:
            async with file_lock(runtime.settings.data_dir / LOCK, blocking=False):
                await _run_once(runtime)
                if time.monotonic() >= drop_tombstones_at:
                    await drop_tombstones(runtime)
                    drop_tombstones_at = time.monotonic() + KEPT_TOMBSTONES.total_seconds()
        except Timeout:
            log.debug("another process runs the maintenance")
        except Exception:
            # What is not kept today is kept next time; requests do not wait for it.
            log.exception("maintenance failed")
        with idle():
            await asyncio.sleep(runtime.settings.housekeeping_seconds)


async def remove_strays(runtime: Runtime) -> None:
    """Removes files of which there is no record: cut copies, and what belonged to galleries gone.

    To be called before the first request, since a file comes before its record; other processes
    hold the lock of snapshots in between.
    """
    try:
        await runtime.sections.run(
            lambda: asyncio.to_thread(_remove_stray_snapshots, runtime), runtime.snapshot_lock
        )
        shared = runtime.settings.shares_record
        await asyncio.to_thread(_remove_stray_spools, runtime, receiving=shared)
    except ServiceError as error:
        log.error("maintenance of files that belong to nothing: %s", error.detail)


async def _run_once(runtime: Runtime) -> None:
    for gallery in runtime.galleries.all():
        heartbeat()
        try:
            await forget_expired(runtime, gallery)
            remove = partial(runtime.record.merges.remove_expired, gallery.gallery_id)
            await runtime.galleries.write(remove)
            # Deleted crops are removed from snapshots too, also where a process was killed between
            # the two steps.
            await runtime.sections.run(
                partial(take_removed_out_of_snapshots, runtime, gallery), runtime.snapshot_lock
            )
        except ServiceError as error:
            log.error("maintenance of gallery %s: %s", gallery.name, error.detail)
    try:
        # Jobs are deleted with their gallery.
        await asyncio.to_thread(_remove_stray_spools, runtime, receiving=True)
        await remove_stray_pictures(runtime)
    except (OSError, ServiceError) as error:
        log.error("maintenance of imports and of images kept elsewhere: %s", error)


async def drop_tombstones(runtime: Runtime) -> None:
    """Forgets the ids of deleted crops that no snapshot of their gallery can hold any more.

    Those of the last day stay: other processes may still search the crops, or copy the gallery.
    """
    for gallery in runtime.galleries.all():
        try:
            snapshots = await list_snapshots(runtime, gallery)
            moments = [datetime.now(UTC), *(one.created_at for one in snapshots)]
            before = min(moments) - KEPT_TOMBSTONES
            drop = runtime.record.crops.drop_tombstones
            await asyncio.to_thread(drop, gallery.gallery_id, before)
        except ServiceError as error:
            log.error("ids of deleted crops of gallery %s: %s", gallery.name, error.detail)


def _remove_stray_snapshots(runtime: Runtime) -> None:
    store = runtime.record
    known = {
        f"{record.gallery_id}/{snapshot.snapshot_id}{suffix}"
        for record in store.galleries.all()
        for snapshot in store.snapshots.all(record.gallery_id)
        # Where a rewrite was cut off the journal alone makes the file whole again.
        for suffix in (SUFFIX, f"{SUFFIX}-journal")
    }
    folder = runtime.settings.data_dir / FOLDER
    for file in folder.glob("*/*"):
        if str(file.relative_to(folder)) not in known:
            log.warning("removed %s, a snapshot that belongs to nothing", file.name)
            file.unlink(missing_ok=True)


def _remove_stray_spools(runtime: Runtime, receiving: bool) -> None:
    store = runtime.record
    for spool in (runtime.settings.data_dir / IMPORTS).glob("*"):
        job = store.jobs.get(spool.name)
        # An archive may be received now, by this process or another, and has no job yet.
        with contextlib.suppress(FileNotFoundError):
            young = receiving and time.time() - spool.stat().st_mtime < RECEIVED_WITHIN_SECONDS
            if not young if job is None else job.finished:
                log.warning("removed the files of import %s, which has ended", spool.name)
                shutil.rmtree(spool, ignore_errors=True)
