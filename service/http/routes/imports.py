"""`/v1/galleries/{gallery}/imports` and `/reindex`: what is done as a job."""

from __future__ import annotations

from typing import Annotated

from fastapi import Response

from gmn_client.models import Job
from service.errors import InvalidField
from service.http.forms import MULTIPART, ImportForm
from service.http.guard import GalleryCall, guarded_router, needs
from service.http.problems import error_responses
from service.http.routes.jobs import accepted
from service.jobs.imports import begin_import
from service.jobs.reindex import begin_reindex

router = guarded_router("/v1/galleries/{gallery}", "jobs")


@router.post(
    "/imports", status_code=202, responses=error_responses(400, 404, 409, 413, 415, 429, 507)
)
async def import_crops(
    call: Annotated[GalleryCall, needs("enroll")],
    response: Response,
    form: Annotated[ImportForm, MULTIPART],
) -> Job:
    """Enrolls an archive of images, or a folder that the service can read, as a job.

    The job is at `Location`; a file that cannot be used is a line of its report, and the others
    are enrolled.
    """
    if (form.archive is None) == (form.folder is None):
        raise InvalidField("archive: send one as a file, or name a folder in its place")
    archive = form.archive.file if form.archive else None
    parameters = form.model_dump(exclude={"archive"})
    job = await begin_import(call.runtime, call.gallery, parameters, archive)
    return accepted(call.runtime, response, job)


@router.post("/reindex", status_code=202, responses=error_responses(404, 409, 507))
async def reindex_gallery(call: Annotated[GalleryCall, needs("admin")], response: Response) -> Job:
    """Embeds the gallery's stored images with the loaded model, then switches to the new vectors.

    Until then the previous model answers, if it is loaded as GMN_PREVIOUS.
    """
    job = await begin_reindex(call.runtime, call.gallery)
    return accepted(call.runtime, response, job)
