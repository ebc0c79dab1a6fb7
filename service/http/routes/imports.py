"""`/v1/galleries/{gallery}/imports` and `/reindex`: what is done as a job."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request, Response
from fastapi.routing import APIRoute

from gmn_client.models import Job
from service.errors import InvalidField
from service.http.bodies import IMPORT_FIELD_BYTES, IMPORT_FIELDS
from service.http.dependencies import UNLISTED, GalleryName, RuntimeDep, TakesForm, refusals
from service.http.forms import ImportFields, ImportForm, merged
from service.http.routes.jobs import accepted
from service.http.security import needs
from service.jobs.imports import import_archive, import_folder
from service.jobs.reindex import begin_reindex


class _ImportRequest(Request):
    """A form of one file, which is written to the disk as it arrives, and a few short fields."""

    def form(self, **_: Any) -> Any:
        """The form; 400 is raised for one of more, which would be held in memory."""
        return super().form(max_files=1, max_fields=IMPORT_FIELDS, max_part_size=IMPORT_FIELD_BYTES)


class _ImportRoute(APIRoute):
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_import(request: Request) -> Response:
            return await handle(_ImportRequest(request.scope, request.receive))

        return handle_import


router = APIRouter(prefix="/v1/galleries/{gallery}", tags=["jobs"], route_class=_ImportRoute)


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
) -> Job:
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
async def reindex_gallery(runtime: RuntimeDep, gallery: GalleryName, response: Response) -> Job:
    """Embeds the gallery's kept crops with the loaded model, and switches once all are.

    Until then the model before answers, where it is loaded as GMN_PREVIOUS.
    """
    return accepted(runtime, response, await begin_reindex(runtime, gallery))
