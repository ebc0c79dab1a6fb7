"""Jobs: long work that survives a restart; one process works on a job, under a lease."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from secrets import token_hex
from typing import Any, NoReturn, TypeVar

from gmn_client.models import JobKind, JobProblem, JobState
from model.problems import InputProblem
from service.errors import (
    DeviceFull,
    DeviceLost,
    QueueFull,
    RecordUnavailable,
    ServiceError,
    StorageFailed,
    UnknownJob,
)
from service.gallery.gallery import Gallery, naming_unknown_gallery
from service.ops.failpoints import failpoint
from service.record.jobs import Job
from service.runtime import Runtime

log = logging.getLogger(__name__)
# The lease is renewed three times as often; after a crash another process takes over this late.
LEASE_SECONDS = 30.0
IDLE_SECONDS = 5.0
POLL_SECONDS = 0.25
BUSY_SECONDS = 0.05
PROBLEMS_PER_PAGE = 1000
Result = TypeVar("Result")

DoJob = Callable[[Runtime, Gallery, Job, "Progress"], Awaitable[str | None]]
"""Does one job, in its gallery, saves its progress, and returns a remark on its outcome or None."""


class Cancelled(Exception):
    """A client cancelled the job, or its gallery was deleted."""


class LeaseLost(Exception):
    """Another process works on the job: this one did not renew its lease in time."""


# A job that ends in one of these keeps its files: this process or another one resumes it.
RETRYABLE = (asyncio.CancelledError, RecordUnavailable, StorageFailed, DeviceLost, LeaseLost)


class Progress:
    """Saves the progress of one job and renews its lease."""

    def __init__(self, runtime: Runtime, job: Job) -> None:
        self._runtime = runtime
        self._job_id = job.job_id
        self._saved = json.dumps(dict(job.progress))

    async def save(self, progress: Mapping[str, Any], problems: Sequence[JobProblem] = ()) -> None:
        """Saves progress and problems, durably.

        Raises:
            Cancelled: the job is to stop.
            LeaseLost: another process works on it.
            RecordUnavailable: the record does not answer.
        """
        self._saved = json.dumps(dict(progress))
        if (await self.update("running", problems)).cancelling:
            raise Cancelled

    async def update(
        self, state: JobState, problems: Sequence[JobProblem] = (), detail: str | None = None
    ) -> Job:
        """Renews the lease, and saves state and problems; raises as `save` does."""
        jobs, worker = self._runtime.record.jobs, self._runtime.worker

        def update() -> Job:
            job = jobs.update(self._job_id, state, self._saved, problems, detail, worker)
            if job is None:
                raise Cancelled if jobs.get(self._job_id) is None else LeaseLost
            return job

        return await self._runtime.galleries.write(update)

    async def renew_lease(self) -> NoReturn:
        """Renews the lease until it is lost or this is cancelled."""
        while True:
            await asyncio.sleep(LEASE_SECONDS / 3)
            try:
                await self.update("running")
            except ServiceError as error:
                # A record that takes no writes lets no other process take the job over either.
                log.warning("the lease of job %s was not renewed: %s", self._job_id, error.detail)


def new_job_id() -> str:
    """Unguessable, and in order of time."""
    return f"{datetime.now(UTC):%Y%m%d%H%M%S}{token_hex(8)}"


async def create_job(
    runtime: Runtime,
    gallery: Gallery,
    kind: JobKind,
    parameters: Mapping[str, Any],
    job_id: str,
    key_id: str | None = None,
) -> Job:
    """Stores a job that an API key begins, and wakes the runner; raises `UnknownGallery`."""
    now = datetime.now(UTC)
    job = Job(
        job_id, gallery.gallery_id, kind, dict(parameters), now, updated_at=now, key_id=key_id
    )
    with naming_unknown_gallery(gallery.name):
        await runtime.galleries.write(runtime.record.jobs.create, job)
    failpoint("job.created")
    runtime.jobs_wanted.set()
    return job


async def find_job(runtime: Runtime, job_id: str) -> Job:
    """One job; raises `UnknownJob`."""
    job = await runtime.galleries.read(runtime.record.jobs.get, job_id)
    if job is None:
        raise UnknownJob(job_id)
    await _load_galleries(runtime, [job])
    return job


async def list_jobs(
    runtime: Runtime, gallery: str | None, limit: int, key_id: str | None = None
) -> list[Job]:
    """The newest jobs, of one gallery or all, which one API key or any began."""
    gallery_id = (await runtime.galleries.find(gallery)).gallery_id if gallery else None
    found = await runtime.galleries.read(runtime.record.jobs.page, gallery_id, limit, key_id)
    await _load_galleries(runtime, found)
    return found


async def _load_galleries(runtime: Runtime, found: Sequence[Job]) -> None:
    # Another process may have created one of the galleries just now.
    if any(runtime.galleries.by_id(job.gallery_id) is None for job in found):
        await runtime.galleries.catch_up()


async def cancel_job(runtime: Runtime, job_id: str) -> Job:
    """Asks a job to stop; what it has enrolled stays. Raises `UnknownJob`."""
    job = await runtime.galleries.write(runtime.record.jobs.cancel, job_id)
    if job is None:
        raise UnknownJob(job_id)
    return job


async def watch_job(runtime: Runtime, job_id: str) -> AsyncIterator[Job]:
    """The job now and at every change, until it has ended; raises `UnknownJob`."""
    seen = None
    while True:
        job = await find_job(runtime, job_id)
        if job != seen:
            yield job
        if job.finished:
            return
        seen = job
        await asyncio.sleep(POLL_SECONDS)


async def read_problems(runtime: Runtime, job_id: str) -> AsyncIterator[JobProblem]:
    """Every problem of a job, in the order of its items; raises `UnknownJob`."""
    await find_job(runtime, job_id)
    read = partial(runtime.galleries.read, runtime.record.jobs.problems, job_id)
    after = -1
    while page := await read(after, PROBLEMS_PER_PAGE):
        for problem in page:
            yield problem
        after = page[-1].position


async def work_on_jobs(runtime: Runtime, kinds: Mapping[JobKind, DoJob]) -> None:
    """Works on one job after another until it is cancelled."""
    jobs, cut_off = runtime.record.jobs, set[str]()
    while True:
        runtime.jobs_wanted.clear()
        what = "the search for a job"
        try:
            job = await runtime.galleries.write(jobs.claim, runtime.worker, LEASE_SECONDS, cut_off)
            if job is not None:
                what = f"job {job.job_id}"
                if job.job_id in cut_off:
                    cut_off.clear()
                # Where this one does not end others come first.
                cut_off.add(job.job_id)
                await _work_on(runtime, job, kinds)
                cut_off.remove(job.job_id)
                continue
        except (ServiceError, LeaseLost, Cancelled) as error:
            # Without the message, which may name a file of the import.
            why = error.code if isinstance(error, ServiceError) else type(error).__name__
            log.warning("%s was cut off: %s", what, why)
        except Exception:
            log.exception("%s was cut off", what)
        # Disk space, another process or the record takes a while.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(runtime.jobs_wanted.wait(), IDLE_SECONDS)


async def _work_on(runtime: Runtime, job: Job, kinds: Mapping[JobKind, DoJob]) -> None:
    """Works on a job to its end; raises what cuts it off."""
    await _load_galleries(runtime, [job])
    gallery = runtime.galleries.by_id(job.gallery_id)
    if gallery is None:
        raise Cancelled
    progress = Progress(runtime, job)
    state: JobState = "done"
    detail: str | None = None
    try:
        if job.cancelling:
            raise Cancelled
        work = kinds[job.kind](runtime, gallery, job, progress)
        detail = await _run_under_lease(progress, work)
    except RETRYABLE:
        raise
    except Cancelled:
        state = "cancelled"
    except InputProblem as problem:
        state, detail = "failed", str(problem)
    except Exception:
        log.exception("job %s failed", job.job_id)
        state, detail = "failed", "the service failed at this job; see its log"

    async def end() -> None:
        await progress.update(state, (), detail)
        failpoint("job.ended")
        await runtime.audit.done(job.kind, gallery=gallery.name, job_id=job.job_id, state=state)

    await runtime.sections.run(end)


async def _run_under_lease(progress: Progress, work: Awaitable[Result]) -> Result:
    """Awaits `work` while its lease is renewed; raises what either raises first."""
    working = asyncio.ensure_future(work)
    renewing = asyncio.create_task(progress.renew_lease())
    try:
        await asyncio.wait({working, renewing}, return_when=asyncio.FIRST_COMPLETED)
        return await (working if working.done() else renewing)
    finally:
        for task in (working, renewing):
            task.cancel()
        await asyncio.gather(working, renewing, return_exceptions=True)


async def wait_while_busy(call: Callable[[], Awaitable[Result]]) -> Result:
    """Repeats a call that a client would get 429 for, until queue and device have room."""
    while True:
        try:
            return await call()
        except (QueueFull, DeviceFull):
            await asyncio.sleep(BUSY_SECONDS)
