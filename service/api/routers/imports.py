"""`/v1/galleries/{gallery}/imports` and `/reindex`: what is done as a job."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Response

from service.api.dependencies import UNLISTED, GalleryName, RuntimeDep, TakesForm, refusals
from service.api.forms import ImportFields, ImportForm, merged
from service.api.routers.jobs import accepted
from service.api.schemas.jobs import JobOut
from service.api.security import needs
from service.operations.import_crops import import_archive, import_folder
from service.operations.reindex import begin_reindex
from service.problems import InvalidField

router = APIRouter(prefix="/v1/galleries/{gallery}", tags=["jobs"])


@router.post(
    "/imports",
    status_code=202,
    responses=refusals(400, 404, 409, 413, 415, 429, 507),
    dependencies=[needs("enroll"), TakesForm],
)
async def import_crops(
    runtime: RuntimeDep,
    gallery: GalleryName,
    response: Response,
    form: Annotated[ImportForm, Form(media_type="multipart/form-data")],
    query: Annotated[ImportFields, UNLISTED],
) -> JobOut:
    """Enrols an archive of images, or a folder that the service can read, as a job.

    The job is at `Location`; a file that cannot be used is a line of its report, and the others
    are enrolled.
    """
    fields = merged(ImportFields, form, query)
    options = fields.options()
    if (form.archive is None) == (fields.folder is None):
        raise InvalidField("archive: send one as a file, or name a folder in its place")
    if form.archive is not None:
        job = await import_archive(runtime, gallery, form.archive.file, options)
    else:
        job = await import_folder(runtime, gallery, fields.folder or "", options)
    return accepted(runtime, response, job)


@router.post(
    "/reindex",
    status_code=202,
    responses=refusals(404, 409, 507),
    dependencies=[needs("admin")],
)
async def reindex_gallery(runtime: RuntimeDep, gallery: GalleryName, response: Response) -> JobOut:
    """Embeds the gallery's kept crops with the loaded model, and switches once all are.

    Until then the model before answers, where it is loaded as GMN_PREVIOUS.
    """
    return accepted(runtime, response, await begin_reindex(runtime, gallery))
