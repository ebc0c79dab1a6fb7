"""Jobs: long work that goes on after a restart, one piece at a time."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from secrets import token_hex
from typing import Any

from model.problems import InputProblem
from service.gallery.gallery import Gallery
from service.gallery.job_records import Job, JobKind, JobProblem, JobState
from service.problems import UnknownJob
from service.runtime import Runtime

log = logging.getLogger(__name__)
# The lock on the data directory sees to it that there is one such process: its successor need not
# wait for a lease to run out.
WORKER = "embedded"
LEASE_SECONDS = 60.0
IDLE_SECONDS = 5.0
WATCHED_EVERY_SECONDS = 0.25
PROBLEMS_PER_PAGE = 1000


DoJob = Callable[[Runtime, Gallery, Job, "Progress"], Awaitable[str | None]]
"""Does one job: of the service, in a gallery, the job, and where to note how far it is. Answers
what to know of its outcome."""


class Cancelled(Exception):
    """Somebody asked the job to stop, or its gallery was deleted."""


@dataclass(frozen=True)
class Progress:
    """Notes how far one job is."""

    runtime: Runtime
    job_id: str

    async def note(self, progress: Mapping[str, Any], problems: Sequence[JobProblem] = ()) -> None:
        """Keeps progress and problems, durably.

        Raises:
            Cancelled: where the job should go no further.
        """
        store = self.runtime.galleries.store
        text = json.dumps(dict(progress))
        job = await self.runtime.galleries.write(
            lambda: store.jobs.update(self.job_id, "running", text, problems)
        )
        if job is None or job.cancelling:
            raise Cancelled


async def create_job(
    runtime: Runtime, gallery: Gallery, kind: JobKind, parameters: Mapping[str, Any], job_id: str
) -> Job:
    """Keeps a job and wakes whoever works on jobs."""
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
    await runtime.galleries.write(lambda: runtime.galleries.store.jobs.create(job))
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
    return job


async def list_jobs(runtime: Runtime, gallery: str | None, limit: int) -> list[Job]:
    """The newest jobs, of one gallery or of all."""
    store = runtime.galleries.store
    gallery_id = runtime.galleries.get(gallery).gallery_id if gallery else None
    return await runtime.galleries.read(lambda: store.jobs.page(gallery_id, limit))


async def cancel_job(runtime: Runtime, job_id: str) -> Job:
    """Asks a job to stop; what it has enrolled stays. Raises `UnknownJob`."""
    store = runtime.galleries.store
    job = await runtime.galleries.write(lambda: store.jobs.cancel(job_id))
    if job is None:
        raise UnknownJob(job_id)
    return job


async def watch_job(runtime: Runtime, job_id: str) -> AsyncIterator[Job]:
    """A job whenever it has changed, until it has ended; raises `UnknownJob`."""
    seen: Job | None = None
    while True:
        job = await find_job(runtime, job_id)
        if job != seen:
            yield job
            seen = job
        if job.finished:
            return
        await asyncio.sleep(WATCHED_EVERY_SECONDS)


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


async def work_on_jobs(runtime: Runtime, kinds: Mapping[JobKind, DoJob]) -> None:
    """Works on one job after another until it is cancelled.

    Args:
        runtime: of the service.
        kinds: by kind of job, what does it.
    """
    jobs = runtime.galleries.store.jobs
    while True:
        runtime.jobs_wanted.clear()
        job = await runtime.galleries.write(
            lambda: jobs.claim(WORKER, datetime.now(UTC), LEASE_SECONDS)
        )
        if job is None:
            try:
                await asyncio.wait_for(runtime.jobs_wanted.wait(), IDLE_SECONDS)
            except TimeoutError:
                continue
        else:
            await _work_on(runtime, job, kinds)


async def _work_on(runtime: Runtime, job: Job, kinds: Mapping[JobKind, DoJob]) -> None:
    gallery = runtime.galleries.by_id(job.gallery_id)
    if gallery is None:
        return
    state: JobState = "done"
    detail: str | None = None
    try:
        if job.cancelling:
            raise Cancelled
        detail = await kinds[job.kind](runtime, gallery, job, Progress(runtime, job.job_id))
    except Cancelled:
        state = "cancelled"
    except InputProblem as problem:
        state, detail = "failed", str(problem)
    except Exception:
        log.exception("job %s failed", job.job_id)
        state, detail = "failed", "the service failed at this job; its log tells why"
    store = runtime.galleries.store
    latest = await runtime.galleries.read(lambda: store.jobs.get(job.job_id))
    if latest is None:
        return
    progress = json.dumps(dict(latest.progress))
    await runtime.galleries.write(
        lambda: store.jobs.update(job.job_id, state, progress, (), detail)
    )
    await runtime.audit.done(
        job.kind, gallery=gallery.name, details={"job_id": job.job_id, "state": state}
    )
