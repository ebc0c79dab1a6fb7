"""Jobs: long work that survives restarts; one process at a time runs them.

What an import reads lies on the machine that accepted it, and a process of this machine runs it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from secrets import token_hex
from typing import Any, TypeVar

from gmn_client.models import JobKind, JobProblem, JobState
from model.problems import InputProblem
from service import errors
from service.errors import (
    DeviceLost,
    MachineFull,
    RecordUnavailable,
    ServiceError,
    ServiceStopping,
    StorageFailed,
    machine_error,
)
from service.gallery.files import remove_unneeded
from service.gallery.gallery import Gallery
from service.gallery.registry import GalleryRegistry
from service.ops.audit import act_as
from service.ops.critical_sections import repeat_alone
from service.ops.data_directory import IMPORTS, failpoint
from service.ops.locks import FileWorkLock
from service.ops.memory import return_free_memory
from service.ops.shared import SharedRedis
from service.ops.threads import heartbeat
from service.record.jobs import Job, Jobs
from service.runtime import Runtime

log = logging.getLogger(__name__)
# Interval between two looks for jobs of other processes, and for the end of the process that runs
# the jobs.
IDLE_SECONDS = 1.0
# Pause after an interruption: a full disk or the record may need some time.
RETRY_SECONDS = 5.0
# After this time an import, a reindex or a removal yields to a waiting job of another key.
TURN_SECONDS = 5.0
# Pause before a call that found the queue or the device full is repeated.
BUSY_SECONDS = 0.05
# Interval at which long work looks in the record for its cancellation and for waiting jobs.
LOOK_WITHIN_SECONDS = 0.25
Result = TypeVar("Result")

DoJob = Callable[[Runtime, Gallery, Job], Awaitable[str | None]]
"""Runs a job in its gallery and saves its progress; returns a remark on its outcome, or None."""


class Cancelled(Exception):
    """A client cancelled the job, or its gallery was deleted."""


class TurnOver(Exception):
    """A job yields to one of another key and continues in its next turn."""


# After one of these errors a job keeps its files, and this or another process resumes it.
RETRYABLE = (
    asyncio.CancelledError,
    RecordUnavailable,
    StorageFailed,
    DeviceLost,
    MachineFull,
    ServiceStopping,
    TurnOver,
)


async def save_job(
    runtime: Runtime,
    job: Job,
    progress: Mapping[str, Any] | None = None,
    problems: Sequence[JobProblem] = (),
    state: JobState = "running",
    detail: str | None = None,
) -> None:
    """Save progress, problems and state of a job durably.

    Args:
        progress: counts of the job; None leaves them unchanged and ignores a cancellation.

    Raises:
        Cancelled: the job was cancelled or deleted; its progress is saved.
        RecordUnavailable: the record does not answer.
    """
    saved = await runtime.galleries.write(
        runtime.record.jobs.update, job.job_id, state, progress, problems, detail
    )
    if saved is None or (saved.cancelling and progress is not None):
        raise Cancelled


def new_job_id() -> str:
    """Return an unguessable id that sorts by time."""
    return f"{datetime.now(UTC):%Y%m%d%H%M%S}{token_hex(8)}"


async def create_job(
    runtime: Runtime,
    gallery: Gallery,
    kind: JobKind,
    parameters: Mapping[str, Any],
    key_id: str,
    job_id: str | None = None,
    worker: str | None = None,
) -> Job:
    """Store a job for an API key and wake the runner; raise `UnknownGallery`."""
    now = datetime.now(UTC)
    job = Job(
        job_id=job_id or new_job_id(),
        gallery_id=gallery.gallery_id,
        kind=kind,
        parameters=dict(parameters),
        created_at=now,
        updated_at=now,
        key_id=key_id,
        worker=worker,
    )
    try:
        await runtime.galleries.write(runtime.record.jobs.create, job)
    except errors.UnknownGallery as error:
        raise errors.UnknownGallery(gallery.name) from error
    failpoint("job.created")
    announce_job(runtime.shared, gallery.name, job, job.state)
    runtime.jobs_wanted.set()
    return job


def announce_job(shared: SharedRedis | None, gallery: str, job: Job, state: JobState) -> None:
    if shared:
        shared.announce(gallery, "job", job_id=job.job_id, kind=job.kind, state=state)


async def find_job(jobs: Jobs, galleries: GalleryRegistry, job_id: str) -> Job:
    job = await galleries.read(jobs.get, job_id)
    if job is None:
        raise errors.UnknownJob(job_id)
    await load_galleries(galleries, [job])
    return job


async def load_galleries(galleries: GalleryRegistry, jobs: Sequence[Job]) -> None:
    # Another process may have just created one of the galleries.
    if any(galleries.by_id(job.gallery_id) is None for job in jobs):
        await galleries.catch_up()


async def work_on_jobs(runtime: Runtime, kinds: Mapping[JobKind, DoJob]) -> None:
    """Run jobs until cancelled, one after another; the keys that created them take turns."""
    lock = runtime.record.database.work_lock("jobs")
    await repeat_alone(
        lock, runtime.pools.locks, IDLE_SECONDS, lambda: _run_jobs(runtime, kinds, None)
    )


async def work_on_jobs_of_machine(
    runtime: Runtime, kinds: Mapping[JobKind, DoJob], machine: str
) -> None:
    """Run the jobs that only this machine can run, beside those of `work_on_jobs`."""
    lock = FileWorkLock(runtime.settings.data_dir / "imports.lock")
    await repeat_alone(
        lock, runtime.pools.locks, IDLE_SECONDS, lambda: _run_jobs(runtime, kinds, machine)
    )


async def _run_jobs(runtime: Runtime, kinds: Mapping[JobKind, DoJob], worker: str | None) -> None:
    jobs = runtime.record.jobs
    # The last turn of each key, and of each interrupted job.
    turns: dict[str, float] = {}
    while True:
        runtime.jobs_wanted.clear()
        work = "the search for a job"
        try:
            job = None
            # Claiming writes to the record, so it is not tried without an open job.
            if await runtime.galleries.read(jobs.open_for, worker):
                job = await runtime.galleries.write(jobs.claim, worker, turns)
            if job is not None:
                work = f"job {job.job_id}"
                now = time.monotonic()
                turns[job.key_id] = now
                # If this job is interrupted, others come first.
                turns[job.job_id] = now
                try:
                    await _work_on(runtime, job, kinds)
                except TurnOver:
                    await save_job(runtime, job, state="queued")
                del turns[job.job_id]
                # The C library keeps the memory that large pictures have taken.
                await runtime.pools.files.run(return_free_memory)
                continue
        except (ServiceError, Cancelled) as error:
            # Omit the message, which may name a file of the import.
            reason = error.code if isinstance(error, ServiceError) else type(error).__name__
            # A record that is away is logged once; only a job that was under way is worth a line.
            is_away = job is None and isinstance(error, RecordUnavailable)
            level = logging.DEBUG if is_away else logging.WARNING
            log.log(level, "%s was cut off: %s", work, reason)
        except Exception:
            log.exception("%s was cut off", work)
        with contextlib.suppress(TimeoutError):
            seconds = RETRY_SECONDS if job else IDLE_SECONDS
            await asyncio.wait_for(runtime.jobs_wanted.wait(), seconds)


async def _work_on(runtime: Runtime, job: Job, kinds: Mapping[JobKind, DoJob]) -> None:
    """Run a job to its end; raise one of `RETRYABLE` if it is interrupted."""
    act_as(job.key_id)
    await load_galleries(runtime.galleries, [job])
    gallery = runtime.galleries.by_id(job.gallery_id)
    if gallery is None:
        raise Cancelled
    announce_job(runtime.shared, gallery.name, job, "running")
    state: JobState = "done"
    detail: str | None = None
    try:
        if job.cancelling:
            raise Cancelled
        detail = await kinds[job.kind](runtime, gallery, job)
    except RETRYABLE:
        raise
    except Cancelled:
        state = "cancelled"
    except InputProblem as problem:
        state = "failed"
        detail = str(problem)
    except Exception as error:
        if failure := machine_error(error):
            raise failure from error
        log.exception("job %s failed", job.job_id)
        state = "failed"
        detail = "the service failed at this job; see its log"

    async def end() -> None:
        try:
            await save_job(runtime, job, state=state, detail=detail)
            runtime.metrics.jobs_ended.labels(state).inc()
            announce_job(runtime.shared, gallery.name, job, state)
        finally:
            await remove_files(runtime, job.job_id)
        failpoint("job.ended")
        await runtime.audit.done(job.kind, gallery=gallery.name, job_id=job.job_id, state=state)

    await runtime.sections.run(end())


async def remove_files(runtime: Runtime, job_id: str) -> None:
    """Remove the files of an import, which the record lists as unneeded once it has ended."""
    try:
        files = runtime.record.unneeded_files
        data_dir = runtime.settings.data_dir
        await runtime.pools.files.run(remove_unneeded, files, data_dir, f"{IMPORTS}/{job_id}")
    except ServiceError as error:
        # Maintenance removes them later.
        log.warning("the files of job %s stay for now: %s", job_id, error.code)
    failpoint("job.files-removed")


def require_turn(jobs: Jobs, job: Job, began: float) -> None:
    """Raise `TurnOver` if a job began its turn some time ago and one of another key waits; blocks.

    Args:
        began: by `time.monotonic`.
    """
    if time.monotonic() - began > TURN_SECONDS and jobs.others_wait(job):
        raise TurnOver


async def yield_turn(runtime: Runtime, job: Job, began: float) -> None:
    """Call `require_turn` between the steps of a job."""
    if time.monotonic() - began > TURN_SECONDS:
        await runtime.galleries.read(require_turn, runtime.record.jobs, job, began)


def make_turn_check(jobs: Jobs, job: Job) -> Callable[[], None]:
    """Return a function to be called between the steps of a job on a thread of its own.

    It raises `TurnOver` as `require_turn` does. The turn begins with the first call, so that each
    turn gets further however long its preparation takes.
    """
    began: float | None = None
    looked_at = 0.0

    def require() -> None:
        nonlocal began, looked_at
        now = time.monotonic()
        if began is None:
            began = now
        if now - looked_at > LOOK_WITHIN_SECONDS:
            looked_at = now
            with contextlib.suppress(RecordUnavailable):
                require_turn(jobs, job, began)

    return require


def make_check(jobs: Jobs, galleries: GalleryRegistry, job: Job) -> Callable[[], None]:
    """Return a function to be called between the steps of long work for a job.

    It raises `Cancelled` or `ServiceStopping` once the work has to end.
    """
    checked_at = time.monotonic()

    def between() -> None:
        nonlocal checked_at
        heartbeat()
        if time.monotonic() - checked_at > LOOK_WITHIN_SECONDS:
            with contextlib.suppress(RecordUnavailable):
                current = jobs.get(job.job_id)
                if current is None or current.cancelling:
                    raise Cancelled
            if galleries.by_id(job.gallery_id) is None:
                raise Cancelled
            checked_at = time.monotonic()

    return between


async def wait_while_busy(call: Callable[[], Awaitable[Result]]) -> Result:
    """Repeat a call until the queue and the device have room for it, and return its result."""
    while True:
        try:
            return await call()
        except (errors.QueueFull, errors.DeviceFull):
            await asyncio.sleep(BUSY_SECONDS)
