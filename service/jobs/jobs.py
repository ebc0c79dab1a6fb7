"""Jobs: long work that goes on after a restart, one piece at a time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from secrets import token_hex
from typing import Any, TypeVar

from gmn_client.models import JobKind, JobProblem, JobState
from model.problems import InputProblem
from service.errors import (
    DeviceLost,
    RecordUnavailable,
    ServiceError,
    StorageFailed,
    UnknownJob,
)
from service.gallery.galleries import named
from service.gallery.gallery import Gallery
from service.ops.failpoints import Failpoint, passed
from service.ops.pulse import Pulse, beat
from service.record.job_records import Job
from service.runtime import Runtime

log = logging.getLogger(__name__)
# Renewed three times as often: where a process dies, another one goes on this much later.
LEASE_SECONDS = 30.0
IDLE_SECONDS = 5.0
WATCHED_EVERY_SECONDS = 0.25
PROBLEMS_PER_PAGE = 1000
Result = TypeVar("Result")

DoJob = Callable[[Runtime, Gallery, Job, "Progress"], Awaitable[str | None]]
"""Does one job: of the service, in a gallery, the job, and where to note how far it is. Answers
what to know of its outcome."""


class Cancelled(Exception):
    """Somebody asked the job to stop, or its gallery was deleted."""


class TakenOver(Exception):
    """Another process works on the job now: this one did not renew its lease in time."""


# Whatever ends a job so leaves its files: it goes on where it was cut off, here or elsewhere.
CUT_OFF = (asyncio.CancelledError, RecordUnavailable, StorageFailed, DeviceLost, TakenOver)


class Progress:
    """Notes how far one job is, and holds it meanwhile."""

    def __init__(self, runtime: Runtime, job: Job) -> None:
        self._runtime = runtime
        self._job_id = job.job_id
        self._text = json.dumps(dict(job.progress))

    async def note(self, progress: Mapping[str, Any], problems: Sequence[JobProblem] = ()) -> None:
        """Keeps progress and problems, durably.

        Raises:
            Cancelled: where the job should go no further.
            TakenOver: where it is another's.
            RecordUnavailable: nobody can say.
        """
        beat()
        self._text = json.dumps(dict(progress))
        job = await self._update("running", problems)
        if job.cancelling:
            raise Cancelled

    async def end(self, state: JobState, detail: str | None) -> None:
        """Notes how it ended; raises as `note` does."""
        await self._update(state, (), detail)

    async def hold(self) -> None:
        """Renews the lease again and again, until it is lost or this is cancelled."""
        while True:
            await asyncio.sleep(LEASE_SECONDS / 3)
            try:
                await self._update("running")
            except ServiceError as error:
                # Where the record takes nothing, the others cannot take it over either.
                log.warning("the lease of job %s was not renewed: %s", self._job_id, error.detail)

    async def _update(
        self, state: JobState, problems: Sequence[JobProblem] = (), detail: str | None = None
    ) -> Job:
        jobs, worker = self._runtime.galleries.store.jobs, self._runtime.worker

        def update() -> tuple[Job | None, bool]:
            job = jobs.update(self._job_id, state, self._text, problems, detail, worker)
            return job, job is not None or jobs.get(self._job_id) is not None

        job, there = await self._runtime.galleries.write(update)
        if job is None:
            raise TakenOver if there else Cancelled
        return job


async def create_job(
    runtime: Runtime, gallery: Gallery, kind: JobKind, parameters: Mapping[str, Any], job_id: str
) -> Job:
    """Keeps a job and wakes whoever works on jobs; raises `UnknownGallery`."""
    now = datetime.now(UTC)
    job = Job(
        job_id=job_id,
        gallery_id=gallery.gallery_id,
        kind=kind,
        state="queued",
        parameters=parameters,
        progress={},
        problems=0,
        cancelling=False,
        worker=None,
        detail=None,
        created_at=now,
        updated_at=now,
    )
    with named(gallery):
        await runtime.galleries.write(lambda: runtime.galleries.store.jobs.create(job))
    passed(Failpoint.JOB__CREATED)
    runtime.jobs_wanted.set()
    return job


def new_job_id() -> str:
    """Unguessable, and in order of time."""
    return f"{datetime.now(UTC):%Y%m%d%H%M%S}{token_hex(8)}"


async def find_job(runtime: Runtime, job_id: str) -> Job:
    """One job; raises `UnknownJob`."""
    job = await runtime.galleries.read(lambda: runtime.galleries.store.jobs.get(job_id))
    if job is None:
        raise UnknownJob(job_id)
    await _wait_for_galleries(runtime, [job])
    return job


async def _wait_for_galleries(runtime: Runtime, found: Sequence[Job]) -> None:
    """Waits for galleries that another process has just created."""
    if any(runtime.galleries.by_id(job.gallery_id) is None for job in found):
        await runtime.galleries.catch_up()


async def list_jobs(runtime: Runtime, gallery: str | None, limit: int) -> list[Job]:
    """The newest jobs, of one gallery or of all, whose gallery is still there."""
    store = runtime.galleries.store
    gallery_id = runtime.galleries.get(gallery).gallery_id if gallery else None
    found = await runtime.galleries.read(lambda: store.jobs.page(gallery_id, limit))
    await _wait_for_galleries(runtime, found)
    return [job for job in found if runtime.galleries.by_id(job.gallery_id) is not None]


async def cancel_job(runtime: Runtime, job_id: str) -> Job:
    """Asks a job to stop; what it has enrolled stays. Raises `UnknownJob`."""
    store = runtime.galleries.store
    job = await runtime.galleries.write(lambda: store.jobs.cancel(job_id))
    if job is None:
        raise UnknownJob(job_id)
    return job


async def watch_job(runtime: Runtime, job_id: str) -> AsyncIterator[Job]:
    """A job whenever it has changed, until it has ended; raises `UnknownJob`."""
    job, seen = await find_job(runtime, job_id), None
    while True:
        if job != seen:
            yield job
            seen = job
        if job.finished:
            return
        job = await _read_again(runtime, job_id)


async def _read_again(runtime: Runtime, job_id: str) -> Job:
    """A job as it is a moment later; one reading serves everyone who watches it."""
    reading = runtime.watched_jobs.get(job_id)
    if reading is None:

        async def read() -> Job:
            await asyncio.sleep(WATCHED_EVERY_SECONDS)
            return await find_job(runtime, job_id)

        def forget(done: asyncio.Task[Job]) -> None:
            del runtime.watched_jobs[job_id]
            # Its watchers may all have left.
            if not done.cancelled():
                done.exception()

        reading = runtime.watched_jobs[job_id] = asyncio.create_task(read())
        reading.add_done_callback(forget)
    return await asyncio.shield(reading)


async def read_problems(runtime: Runtime, job_id: str) -> AsyncIterator[JobProblem]:
    """Every problem of a job, in the order of its items; raises `UnknownJob`."""
    await find_job(runtime, job_id)
    jobs, after = runtime.galleries.store.jobs, -1
    while True:
        page = await runtime.galleries.read(
            partial(jobs.problems, job_id, after, PROBLEMS_PER_PAGE)
        )
        for problem in page:
            yield problem
        if len(page) < PROBLEMS_PER_PAGE:
            return
        after = page[-1].position


async def work_on_jobs(
    runtime: Runtime, kinds: Mapping[JobKind, DoJob], pulse: Pulse | None = None
) -> None:
    """Works on one job after another until it is cancelled.

    Args:
        runtime: of the service.
        kinds: by kind of job, what does it.
        pulse: rests while there is no job.
    """
    pulse = pulse or Pulse()
    jobs = runtime.galleries.store.jobs
    while True:
        runtime.jobs_wanted.clear()
        try:
            job = await runtime.galleries.write(lambda: jobs.claim(runtime.worker, LEASE_SECONDS))
        except ServiceError as error:
            log.warning("no job can be taken up: %s", error.detail)
            job = None
        except Exception:
            log.exception("no job can be taken up")
            job = None
        if job is None:
            with pulse.resting(), contextlib.suppress(TimeoutError):
                await asyncio.wait_for(runtime.jobs_wanted.wait(), IDLE_SECONDS)
            continue
        try:
            await _work_on(runtime, job, kinds)
        except Exception:
            # The next job is another matter; this one goes on when its lease has run out.
            log.exception("job %s was cut off", job.job_id)
            with pulse.resting():
                await asyncio.sleep(IDLE_SECONDS)


async def _work_on(runtime: Runtime, job: Job, kinds: Mapping[JobKind, DoJob]) -> None:
    gallery = runtime.galleries.by_id(job.gallery_id)
    if gallery is None:
        # Created elsewhere and not shown here yet, or just deleted.
        await asyncio.sleep(WATCHED_EVERY_SECONDS)
        return
    progress = Progress(runtime, job)
    try:
        state, detail = await _outcome(runtime, gallery, job, kinds[job.kind], progress)
        await runtime.sections.run(partial(_end, runtime, gallery, job, progress, state, detail))
    except (TakenOver, RecordUnavailable, StorageFailed, DeviceLost, Cancelled) as cut_off:
        # Its detail may name a file of the import.
        why = cut_off.code if isinstance(cut_off, ServiceError) else type(cut_off).__name__
        log.warning("job %s was cut off: %s", job.job_id, why)
        if isinstance(cut_off, StorageFailed | DeviceLost):
            # It goes on once there is room or another process, which takes a while.
            await asyncio.sleep(IDLE_SECONDS)


async def _end(
    runtime: Runtime,
    gallery: Gallery,
    job: Job,
    progress: Progress,
    state: JobState,
    detail: str | None,
) -> None:
    await progress.end(state, detail)
    passed(Failpoint.JOB__ENDED)
    await runtime.audit.done(
        job.kind, gallery=gallery.name, details={"job_id": job.job_id, "state": state}
    )


async def _outcome(
    runtime: Runtime, gallery: Gallery, job: Job, do_job: DoJob, progress: Progress
) -> tuple[JobState, str | None]:
    """Does a job; raises one of `CUT_OFF` where it has not ended."""
    state: JobState = "done"
    detail: str | None = None
    try:
        if job.cancelling:
            raise Cancelled
        detail = await while_held(progress, do_job(runtime, gallery, job, progress))
    except CUT_OFF:
        raise
    except Cancelled:
        state = "cancelled"
    except InputProblem as problem:
        state, detail = "failed", str(problem)
    except Exception:
        log.exception("job %s failed", job.job_id)
        state, detail = "failed", "the service failed at this job; its log tells why"
    return state, detail


async def while_held(progress: Progress, work: Awaitable[Result]) -> Result:
    """Does work as long as its job is this process's; raises what either raises first."""
    working = asyncio.ensure_future(work)
    holding = asyncio.create_task(progress.hold())
    try:
        await asyncio.wait({working, holding}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            await holding
        return await working
    finally:
        for task in (working, holding):
            task.cancel()
        await asyncio.gather(working, holding, return_exceptions=True)
