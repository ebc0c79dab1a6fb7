"""`/v1/jobs`: how far long work is, what went wrong in it, and stopping it."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Path, Query, Response
from fastapi.responses import StreamingResponse
from sse_starlette import EventSourceResponse

from gmn_client.models import Job, Jobs
from service.errors import UnknownJob
from service.http.forms import JobsQuery
from service.http.guard import Call, guarded_router, needs
from service.http.problems import error_responses
from service.jobs import runner
from service.record.jobs import Job as JobRecord
from service.runtime import Runtime

router = guarded_router("/v1/jobs", "jobs")
JobId = Annotated[str, Path(description="A job's id.")]
Reader = Annotated[Call, needs("query", "enroll")]
FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n")
# Proxies close a connection on which nothing is sent for a minute or so.
KEEP_ALIVE_SECONDS = 15.0
REPORT_COLUMNS = ("position", "source", "code", "detail")


@router.get("", responses=error_responses(404))
async def list_jobs(call: Reader, asked: Annotated[JobsQuery, Query()]) -> Jobs:
    """Lists the jobs of the key's galleries, newest first."""
    if asked.gallery is not None:
        call.caller.require_gallery(asked.gallery)
    found = await runner.list_jobs(call.runtime, asked.gallery, asked.limit)
    shown = [(gallery_name(call.runtime, job), job) for job in found]
    return Jobs(results=[_as_sent(name, job) for name, job in shown if call.caller.may_see(name)])


@router.get("/{job_id}", responses=error_responses(404))
async def read_job(call: Reader, job_id: JobId) -> Job:
    """Reads the state and progress of a job."""
    return await _shown(call, job_id)


@router.get(
    "/{job_id}/events",
    response_class=StreamingResponse,
    responses=error_responses(404)
    | {200: {"content": {"text/event-stream": {}}, "description": "The job, at every change."}},
)
async def watch_job(call: Reader, job_id: JobId) -> EventSourceResponse:
    """Server-sent events named `progress`, each the job as JSON, until it has ended."""
    await _shown(call, job_id)

    async def events() -> AsyncIterator[dict[str, str]]:
        try:
            async for job in runner.watch_job(call.runtime, job_id):
                shown = _as_sent(gallery_name(call.runtime, job), job)
                yield {"event": "progress", "data": shown.model_dump_json()}
        except UnknownJob as error:
            yield {"event": "gone", "data": error.detail}

    return EventSourceResponse(events(), ping=KEEP_ALIVE_SECONDS, sep="\n")


@router.get(
    "/{job_id}/report",
    response_class=StreamingResponse,
    responses=error_responses(404)
    | {200: {"content": {"text/csv": {}}, "description": "A line for every item with a problem."}},
)
async def read_job_report(call: Reader, job_id: JobId) -> StreamingResponse:
    """The files that could not be used, with the reasons, as CSV."""
    await _shown(call, job_id)

    async def lines() -> AsyncIterator[str]:
        yield _line(*REPORT_COLUMNS)
        async for one in runner.read_problems(call.runtime, job_id):
            yield _line(str(one.position), one.source, one.code, one.detail)

    name = f'attachment; filename="{job_id}.csv"'
    return StreamingResponse(lines(), media_type="text/csv", headers={"Content-Disposition": name})


@router.delete("/{job_id}", responses=error_responses(404, 507))
async def cancel_job(call: Annotated[Call, needs("enroll")], job_id: JobId) -> Job:
    """Cancels a job; stored crops stay. A job that has ended is answered unchanged.

    Cancelling a reindex needs `admin`.
    """
    shown = await _shown(call, job_id)
    if shown.kind == "reindex":
        call.caller.require(["admin"])
    job = await runner.cancel_job(call.runtime, job_id)
    return _as_sent(gallery_name(call.runtime, job), job)


def gallery_name(runtime: Runtime, job: JobRecord) -> str:
    """The gallery a job works on; raises `UnknownJob` where it was deleted."""
    gallery = runtime.galleries.by_id(job.gallery_id)
    if gallery is None:
        raise UnknownJob(job.job_id)
    return gallery.name


def accepted(runtime: Runtime, response: Response, job: JobRecord) -> Job:
    """The answer to the request that began a job, with its location."""
    response.headers["Location"] = f"/v1/jobs/{job.job_id}"
    return _as_sent(gallery_name(runtime, job), job)


def _as_sent(gallery: str, job: JobRecord) -> Job:
    return Job.model_validate(vars(job) | {"gallery": gallery})


async def _shown(call: Call, job_id: str) -> Job:
    job = await runner.find_job(call.runtime, job_id)
    name = gallery_name(call.runtime, job)
    call.caller.require_gallery(name)
    return _as_sent(name, job)


def _line(*values: str) -> str:
    # A spreadsheet runs what begins like a formula, some of them after a tab or a line's end.
    safe = [f"'{value}" if value.startswith(FORMULAS) else value for value in values]
    line = io.StringIO()
    csv.writer(line).writerow(safe)
    return line.getvalue()
