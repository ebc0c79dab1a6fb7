"""Long work: `/v1/jobs`, and the imports and reindexing that start jobs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, Path, Query, Response, UploadFile
from fastapi.responses import StreamingResponse
from pydantic import Field, WithJsonSchema
from sse_starlette import EventSourceResponse

from gmn_client.models import ImportedCrops, Job, JobProblem, Jobs, Scope
from service.errors import InvalidField, Unauthorised, UnknownJob
from service.gallery.registry import GalleryRegistry
from service.http.fields import Camera, Id, Name
from service.http.forms import FILE, Form, KeepBest, Sent
from service.http.guard import Admin, Enroller, guarded_router, needs
from service.http.limits import KEEP_ALIVE_SECONDS, hold_stream
from service.http.problems import content, csv_header, csv_lines, problems
from service.jobs import runner
from service.jobs.imports import begin_import
from service.jobs.reindex import begin_reindex
from service.jobs.removals import begin_removal, count_imported
from service.record.jobs import Job as JobRecord
from service.runtime import Call, GalleryCall

router = guarded_router("/v1", "jobs")
JobId = Annotated[Id, Path(description="A job's id.")]
Reader = Annotated[Call, needs("query", "enroll")]
MAX_FOLDER = 1024
POLL_SECONDS = 0.25
PROBLEMS_PER_PAGE = 1000
REPORT_COLUMNS = tuple(JobProblem.model_fields)


class ImportForm(Form):
    """An archive to import, or a folder that the service can read."""

    to_disk = True

    archive: Annotated[UploadFile | None, WithJsonSchema(FILE)] = None
    """A zip file of images, an export of a gallery, or features of the gallery's artefact: a .npz
    file of `gmn embed`, of which no picture is kept."""
    folder: Annotated[str, Field(max_length=MAX_FOLDER)] | None = None
    """A folder below GMN_IMPORT_DIR, instead of an archive; for a key of one gallery the folder of
    that gallery's name, or one in it."""
    manifest: Name | None = None
    """A CSV file in it with the column `path` and any of `identity`, `camera`, `captured_at`,
    `external_id`, `metadata`, `track`; `manifest.csv` unless named."""
    identity: Name | None = None
    """Applies to every image; refused where the manifest, or without one the folder of each person,
    names people."""
    camera: Camera | None = None
    """Applies to every image; refused where the manifest names cameras."""
    keep_best: KeepBest | None = None
    """How many crops each track keeps, as in an enrollment."""
    accept_undeleted: bool = False
    """Import an export that is older than the known deletions, which are those of 400 days. Who was
    forgotten before may come back."""


class RemovalForm(Form):
    """How to remove the crops of an import."""

    dry_run: bool = False
    """Only count the crops."""


AT_ONCE = RemovalForm()


@router.get("/jobs", responses=problems("unknown_gallery"))
async def list_jobs(
    call: Reader,
    gallery: Annotated[Id | None, Query(description="Only of this gallery.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="How many of the newest.")] = 100,
) -> Jobs:
    """Lists the jobs of the key's galleries, newest first."""
    runtime = call.runtime
    gallery_id = await call.gallery_id(gallery)
    # Only jobs that the key may see count towards the limit.
    key_id = None if call.caller.may("query") else call.caller.key_id
    jobs = await runtime.galleries.read(runtime.record.jobs.page, gallery_id, limit, key_id)
    await runner.load_galleries(runtime.galleries, jobs)
    return Jobs(
        results=[
            _describe_job(runtime.galleries, job)
            for job in jobs
            if runtime.galleries.by_id(job.gallery_id)
        ]
    )


@router.get("/jobs/{job_id}")
async def read_job(call: Reader, job_id: JobId) -> Job:
    """Reads the state and progress of a job."""
    return await _find_job(call, job_id)


@router.get(
    "/jobs/{job_id}/events",
    response_class=StreamingResponse,
    responses=content("text/event-stream", "The job, at every change."),
    dependencies=[Depends(hold_stream)],
)
async def watch_job(call: Reader, job_id: JobId) -> EventSourceResponse:
    """Sends server-sent events named `progress`, each with the job as JSON, until the job ends.

    The stream ends with `gone` if the job is deleted, or the key is revoked or expires. A key may
    hold eight streams.
    """
    await _find_job(call, job_id)

    async def events() -> AsyncIterator[dict[str, str]]:
        last_sent = None
        try:
            while True:
                call.runtime.keys.require_valid(call.caller)
                job = await _find_job(call, job_id)
                if job != last_sent:
                    yield {"event": "progress", "data": job.model_dump_json()}
                if job.finished:
                    return
                last_sent = job
                await asyncio.sleep(POLL_SECONDS)
        except (UnknownJob, Unauthorised) as error:
            yield {"event": "gone", "data": error.detail}

    return EventSourceResponse(events(), ping=KEEP_ALIVE_SECONDS, sep="\n")


@router.get(
    "/jobs/{job_id}/report",
    response_class=StreamingResponse,
    responses=content("text/csv", "A line for every item with a problem."),
)
async def read_job_report(call: Reader, job_id: JobId) -> StreamingResponse:
    """Lists the files that could not be used, with the reasons, as CSV.

    An apostrophe is put before text that a spreadsheet would run as a formula, and before text that
    begins with an apostrophe.
    """
    job = await _find_job(call, job_id)
    runtime = call.runtime
    runtime.audit.note_view("read_job_report", gallery=job.gallery, job_id=job_id)

    def read(after: int) -> tuple[str, int | None]:
        page = runtime.record.jobs.problems(job_id, after, PROBLEMS_PER_PAGE)
        return csv_lines(page), page[-1].position if page else None

    async def lines() -> AsyncIterator[str]:
        yield csv_header(*REPORT_COLUMNS)
        after: int | None = -1
        while after is not None:
            text, after = await runtime.galleries.read(read, after)
            yield text

    return StreamingResponse(
        lines(),
        media_type="text/csv",
        headers={"Content-Disposition": f'attachment; filename="{job_id}.csv"'},
    )


@router.delete("/jobs/{job_id}")
async def cancel_job(call: Annotated[Call, needs("enroll")], job_id: JobId) -> Job:
    """Cancels a job; stored crops stay. A job that has ended is answered unchanged.

    Cancelling a reindex, or an import that another key started, needs `admin`.
    """
    former = await _find_job(call, job_id, "admin")
    runtime = call.runtime
    job = await runtime.galleries.write(runtime.record.jobs.cancel, job_id)
    if job.state != former.state:
        runner.announce_job(runtime.shared, former.gallery, job, job.state)
    if job.finished:
        await runtime.sections.run(runner.remove_files(runtime, job_id))
    await runtime.audit.done("cancel_job", gallery=former.gallery, job_id=job_id)
    return _describe_job(runtime.galleries, job)


def _describe_job(galleries: GalleryRegistry, job: JobRecord) -> Job:
    gallery = galleries.by_id(job.gallery_id)
    if gallery is None:
        raise UnknownJob(job.job_id)
    return Job.model_validate(vars(job) | {"gallery": gallery.name})


async def _find_job(call: Call, job_id: str, others_need: Scope = "query") -> Job:
    galleries = call.runtime.galleries
    stored = await runner.find_job(call.record.jobs, galleries, job_id)
    job = _describe_job(galleries, stored)
    call.caller.require_gallery(job.gallery)
    if stored.key_id != call.caller.key_id:
        # Reports and details name files and people.
        call.caller.require(others_need)
    return job


@router.post("/galleries/{gallery}/imports", status_code=202, responses=problems("needs_reindex"))
async def import_crops(call: Enroller, response: Response, form: Sent[ImportForm]) -> Job:
    """Enrolls an archive of images, an export, or a folder that the service can read, as a job.

    The job is at `Location`. Files that cannot be used are listed in its report; the others are
    enrolled. Crops of an export keep their ids, and those deleted from this service are left out; a
    damaged export changes nothing. A key may have eight imports that wait or run, and send as many
    archives at once.
    """
    if (form.archive is None) == (form.folder is None):
        raise InvalidField("archive: send one as a file, or name a folder in its place")
    if form.keep_best is not None:
        call.caller.require("delete")
    archive = form.archive.file if form.archive else None
    parameters = form.model_dump(exclude={"archive"})
    if form.folder is not None:
        # The job reads the folder later, limited to what its key may read.
        parameters["gallery"] = call.caller.gallery
    job = await begin_import(call.runtime, call.gallery, parameters, archive, call.caller.key_id)
    return answer_accepted(call, response, job)


@router.delete(
    "/galleries/{gallery}/imports/{job_id}/crops",
    status_code=202,
    responses=problems("job_unfinished"),
)
async def remove_import(
    call: Admin,
    response: Response,
    job_id: JobId,
    form: Sent[RemovalForm] = AT_ONCE,
) -> ImportedCrops:
    """Removes the crops that an import stored, as a job; with `dry_run` it only counts them.

    Images that the gallery had before the import stay. An import that waits or runs is answered
    with 409.
    """
    imported = await count_imported(call.runtime, call.gallery, job_id)
    if form.dry_run:
        call.note_view("count_imported", import_job=job_id, count=imported.crops)
        return imported
    job = await begin_removal(call.runtime, call.gallery, job_id, call.caller.key_id)
    return imported.model_copy(update={"job": answer_accepted(call, response, job)})


@router.post(
    "/galleries/{gallery}/reindex", status_code=202, responses=problems("gallery_conflict")
)
async def reindex_gallery(call: Admin, response: Response) -> Job:
    """Embeds the gallery's stored images with the loaded model, then switches to the new vectors.

    Until then the previous model answers, if it is loaded as GMN_PREVIOUS.
    """
    job = await begin_reindex(call.runtime, call.gallery, call.caller.key_id)
    return answer_accepted(call, response, job)


def answer_accepted(call: GalleryCall, response: Response, job: JobRecord) -> Job:
    response.headers["Location"] = f"/v1/jobs/{job.job_id}"
    return _describe_job(call.runtime.galleries, job)
