"""Work in the background: jobs, maintenance, calibration, and the watchdog."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from concurrent.futures import CancelledError
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from gmn_client.models import JobKind
from service.checks import FAILED_BACKUP
from service.desk.kept_searches import expire_searches
from service.doubtful.checking import keep_checked
from service.engine.device import retry_out_of_memory
from service.errors import ServiceError
from service.gallery.files import clear_files, remove_unneeded_files
from service.gallery.gallery import Gallery
from service.gallery.registry import GalleryRegistry
from service.index.gallery_index import GalleryIndex
from service.jobs.imports import run_import
from service.jobs.reindex import run_reindex
from service.jobs.removals import run_removal
from service.jobs.runner import DoJob, work_on_jobs, work_on_jobs_of_machine
from service.ops.critical_sections import attempt, log_failure, repeat, repeat_alone
from service.ops.data_directory import hold_reserve
from service.ops.locks import FileWorkLock
from service.ops.threads import STOPPED, HealthCheck, Heartbeat, Watchdog, heartbeat
from service.record.deletions import KEPT_FOR
from service.record.record import Record
from service.runtime import Runtime
from service.store.backup import own_backups, taken_at
from service.store.exports import clear_exports, delete_expired_exports
from service.visits import learned_times
from service.visits.grouping import run_grouping
from service.watch.camera_health import keep_cameras
from service.watch.following import keep_lists
from service.watch.sightings import keep_tracks
from service.watch.webhooks import send_deliveries

log = logging.getLogger(__name__)
JOBS: Mapping[JobKind, DoJob] = {
    "import": run_import,
    "reindex": run_reindex,
    "grouping": run_grouping,
    "removal": run_removal,
}
# Writes wait for seconds while an index of a large record is built anew: this is done once, after
# this hour of the local time.
NIGHT_HOUR = 3
# Upper bound on the pause between heartbeats of the event loop, which a stalled one exceeds.
LONGEST_BEAT_SECONDS = 5.0
# A new or revoked key takes effect within a second.
KEYS_PAUSE_SECONDS = 0.8
REDIS_PAUSE_SECONDS = 2.0
# A log that another process was reading during a deletion is emptied this soon after the read,
# and a process that stands still and keeps others from writing is noticed within seconds.
TEND_PAUSE_SECONDS = 1.0
# Interval at which the space for deletions is taken again, and the pause after a failure.
RESERVE_PAUSE_SECONDS = 0.5
RESERVE_REST_SECONDS = 60.0
# A large record is checked in the background, piece by piece, with a pause after each.
CHECK_PAUSE_SECONDS = 0.05
BACKUP_POLL_SECONDS = 10.0
# Pause after a failed backup, for example on a full disk.
BACKUP_PAUSE_SECONDS = 600.0
COMPACTION_POLL_SECONDS = 2.0
# Retrying a failed compaction at once would cost more than a new segment gains.
COMPACTION_PAUSE_SECONDS = 300.0


async def maintain_record(runtime: Runtime) -> None:
    record = runtime.record
    watch = runtime.watch
    for gallery in runtime.galleries.all():
        name = gallery.name
        await attempt(
            f"retention of gallery {name}", runtime.crop_deletions.forget_expired(gallery)
        )
        await attempt(f"kept searches of gallery {name}", expire_searches(runtime, gallery))
        for kind, remove_some in {
            "merges": record.people.remove_expired_merges,
            "alerts": watch.alerts.expire,
            "jobs": record.jobs.remove_old,
        }.items():
            removal = _remove_all(runtime.galleries, remove_some, gallery)
            await attempt(f"{kind} of gallery {name}", removal)
        drop = runtime.pools.files.run(
            record.crops.drop_tombstones,
            gallery.gallery_id,
            datetime.now(UTC) - KEPT_FOR,
        )
        await attempt(f"deletions of gallery {name}", drop)
        release = runtime.pools.files.run(record.crops.release_space, gallery.gallery_id)
        await attempt(f"disk space of gallery {name}", release)
    forget_cameras = runtime.galleries.write(watch.cameras.remove_old, watch.contacts.clock())
    await attempt("cameras", forget_cameras)
    await attempt("counted tracks", runtime.galleries.write(watch.traffic.forget_tracks))
    await attempt("passages", runtime.galleries.write(watch.passages.remove_old))
    # A killed process may have left rows of a deleted gallery.
    run = runtime.pools.files.run
    await attempt("deleted galleries", run(record.galleries.finish_deletions))
    await attempt("indexes of the record", _rebuild_indexes_nightly(runtime))
    await attempt("images kept elsewhere", runtime.pictures.remove_strays())


async def maintain_data_directory(runtime: Runtime) -> None:
    record = runtime.record
    for gallery in runtime.galleries.all():
        expire = delete_expired_exports(runtime, gallery)
        await attempt(f"exports of gallery {gallery.name}", expire)
    run = runtime.pools.files.run
    await attempt("log of deletions", run(record.database.trim_deletions))
    remove_unneeded = remove_unneeded_files(record, runtime.settings.data_dir, runtime.pools.files)
    await attempt("unneeded files", remove_unneeded)


async def _remove_all(
    galleries: GalleryRegistry, remove_some: Callable[[int], int | None], gallery: Gallery
) -> None:
    while await galleries.write(remove_some, gallery.gallery_id):
        pass


async def _rebuild_indexes_nightly(runtime: Runtime) -> None:
    database = runtime.record.database
    rebuilt_at = await runtime.galleries.read(database.indexes_rebuilt_at)
    now = datetime.now().astimezone()
    night = now.replace(hour=NIGHT_HOUR, minute=0, second=0, microsecond=0)
    if night > now:
        night -= timedelta(days=1)
    if rebuilt_at is None or rebuilt_at < night:
        await runtime.pools.files.run(database.rebuild_indexes)


@asynccontextmanager
async def background_work(runtime: Runtime) -> AsyncIterator[None]:
    """Run jobs, maintenance, calibration and the watchdog while the block runs.

    Interrupted work is resumed at the next start.
    """
    settings = runtime.settings
    await clear_files(runtime.record, settings.data_dir, runtime.pools.files)
    await attempt("exports that were cut off", clear_exports(runtime))
    database = runtime.record.database
    locks = runtime.pools.locks
    keys = runtime.keys
    record = runtime.record
    galleries = runtime.galleries
    watchdog = runtime.watchdog
    loop = Heartbeat()
    watchdog.checks.append(HealthCheck("event loop", loop.silent_seconds))
    work = {
        "heartbeat": _send_heartbeats(settings.stall_seconds, loop),
        "audit lines": runtime.audit.write_lines(),
        "key reader": repeat(KEYS_PAUSE_SECONDS, lambda: keys.threads.run(keys.read)),
        "log of the record": repeat(TEND_PAUSE_SECONDS, lambda: _tend_record(record, galleries)),
        "job runner": work_on_jobs(runtime, JOBS),
        "maintenance": repeat_alone(
            database.work_lock("housekeeping"),
            locks,
            settings.housekeeping_seconds,
            lambda: maintain_record(runtime),
        ),
        "data directory": repeat_alone(
            FileWorkLock(settings.data_dir / "files.lock"),
            locks,
            settings.housekeeping_seconds,
            lambda: maintain_data_directory(runtime),
        ),
        "space for deletions": _keep_reserve(runtime),
        "calibration": runtime.fitter.refit_calibrations(),
        "gallery fits": runtime.fitter.fit_galleries(),
        "centring": runtime.centring.keep_centred(),
        "doubtful crops": keep_checked(runtime),
        "travel times": repeat_alone(
            database.work_lock("travel-times"),
            locks,
            learned_times.LOOK_EVERY_SECONDS,
            lambda: repeat(learned_times.LOOK_EVERY_SECONDS, runtime.learner.learn_all),
        ),
        "compaction": compact_indexes(runtime),
        "watch lists": keep_lists(runtime),
        "tracks": keep_tracks(runtime),
        "cameras": keep_cameras(runtime),
        "webhooks": send_deliveries(runtime),
    }
    if folder := settings.backup_dir:
        work["backups"] = repeat_alone(
            database.work_lock("backup"),
            locks,
            BACKUP_POLL_SECONDS,
            lambda: repeat(BACKUP_POLL_SECONDS, lambda: back_up_if_due(runtime, folder)),
        )
    if machine := database.machine:
        work["jobs of this machine"] = work_on_jobs_of_machine(runtime, JOBS, machine)
    if shared := runtime.shared:
        work["redis"] = repeat(REDIS_PAUSE_SECONDS, lambda: shared.threads.run(shared.check))
    tasks = [_start_watched(watchdog, name, coroutine) for name, coroutine in work.items()]
    tasks.append(asyncio.create_task(check_record(runtime), name="check of the record"))
    watchdog.start()
    try:
        yield
    finally:
        watchdog.stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _start_watched(
    watchdog: Watchdog, name: str, work: Coroutine[Any, Any, None]
) -> asyncio.Task[None]:
    """Start a task that should never end; if it does, log that and end the process."""

    def log_end(ended: asyncio.Task[None]) -> None:
        if not ended.cancelled():
            log.error("%s has ended", name, exc_info=ended.exception())

    task = asyncio.create_task(work, name=name)
    task.add_done_callback(log_end)
    watchdog.checks.append(HealthCheck(name, lambda: STOPPED if task.done() else 0.0))
    return task


async def _tend_record(record: Record, galleries: GalleryRegistry) -> None:
    tend = galleries.read(record.database.tend)
    await attempt("emptying of the log", tend)


async def _keep_reserve(runtime: Runtime) -> None:
    """Take the space for deletions again as soon as a full disk has room."""
    while True:
        await asyncio.sleep(RESERVE_PAUSE_SECONDS)
        is_writable = False
        try:
            is_writable = await runtime.pools.files.run(hold_reserve, runtime.settings)
        except Exception as error:
            log_failure("space for deletions", error)
        if not is_writable:
            await asyncio.sleep(RESERVE_REST_SECONDS)


async def check_record(runtime: Runtime) -> None:
    """Check the crops of a large record, and the pages of every record, in the background.

    Damaged crops are left out; `/readyz`, the metrics and gmn doctor show the damage.
    """
    stopped = threading.Event()
    record = runtime.record

    def pause() -> bool:
        return stopped.wait(CHECK_PAUSE_SECONDS)

    try:
        if not runtime.checked:
            await runtime.pools.files.run(record.check, pause)
        await runtime.pools.files.run(record.check_pages, pause)
        await runtime.pools.files.run(runtime.galleries.leave_out_damaged)
    except ServiceError as error:
        log.error("the record could not be checked: %s", error.detail)
    finally:
        stopped.set()
        record.end_check()


async def _send_heartbeats(stall_seconds: float, loop: Heartbeat) -> None:
    while True:
        loop.last = time.monotonic()
        await asyncio.sleep(min(LONGEST_BEAT_SECONDS, stall_seconds / 8))


async def back_up_if_due(runtime: Runtime, folder: Path) -> None:
    settings = runtime.settings
    backups = own_backups(folder, runtime.record.database)
    newest = await runtime.pools.files.run(next, backups, None)
    interval = timedelta(hours=settings.backup_every)
    if newest and datetime.now(UTC) - taken_at(newest) < interval:
        return
    # Verifying the copy in this process would hold the interpreter and delay every answer.
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gmn", "backup", str(folder)),
        *("--keep", str(settings.backup_keep), "--data-dir", str(settings.data_dir)),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        _, output = await process.communicate()
    except asyncio.CancelledError:
        # A backup that is cut off has no name yet. SIGTERM would wait for a process that was
        # stopped.
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise
    failed = settings.data_dir / FAILED_BACKUP
    if process.returncode:
        message = output.decode(errors="replace").strip()
        log.error("no backup was made: %s", message)
        # The disk may be full, and the log has the message.
        with contextlib.suppress(OSError):
            failed.write_text(message, encoding="utf-8")
        await asyncio.sleep(BACKUP_PAUSE_SECONDS)
    else:
        failed.unlink(missing_ok=True)


async def compact_indexes(runtime: Runtime) -> None:
    """Rebuild the segments of indexes without deleted crops, one at a time, until cancelled.

    A segment is planned on the device thread, built on a separate thread, and adopted on the device
    thread. The columns stay readable: crops are appended and vectors erased in place. After a
    failure an index keeps its segment, with the deleted crops masked, and stays correct.
    """
    rests_until: dict[int, float] = {}
    while True:
        on_device = _choose_for_device(runtime)
        for gallery in runtime.galleries.all():
            if time.monotonic() < rests_until.get(gallery.gallery_id, 0.0):
                continue
            try:
                if gallery.own_index:
                    may_use_device = gallery.gallery_id in on_device
                    await _compact(runtime, gallery.own_index, may_use_device)
            except Exception:
                log.exception("gallery %s: its index stays as it is", gallery.name)
                rests_until[gallery.gallery_id] = time.monotonic() + COMPACTION_PAUSE_SECONDS
        await asyncio.sleep(COMPACTION_POLL_SECONDS)


def _choose_for_device(runtime: Runtime) -> set[int]:
    if runtime.placement is None:
        return set()
    galleries = runtime.galleries.all()
    indexes = {gallery.gallery_id: gallery.own_index for gallery in galleries if gallery.own_index}
    return runtime.placement.choose(indexes)


async def _compact(runtime: Runtime, index: GalleryIndex, may_use_device: bool) -> None:
    device = runtime.model.networks.device if may_use_device else None
    make = await runtime.device.run(index.next_segment, device)
    if make is None:
        return
    stopped = threading.Event()

    def between() -> None:
        heartbeat()
        if stopped.is_set():
            raise CancelledError

    try:
        segment = await runtime.pools.compaction.run(retry_out_of_memory, make, between)
        await runtime.device.run(index.adopt, segment)
    finally:
        stopped.set()
