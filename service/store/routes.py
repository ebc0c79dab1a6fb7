"""`/v1/galleries/{gallery}/exports`: immutable copies of a gallery in a file, which expire."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Path, Response
from fastapi.responses import FileResponse
from pydantic import Field

from gmn_client.models import Export, Exports
from service.http.fields import Id
from service.http.forms import Form, Sent
from service.http.guard import Admin, guarded_router
from service.http.limits import hold_stream
from service.http.problems import content, problems
from service.store import exports

router = guarded_router("/v1/galleries/{gallery}/exports", "exports")
ExportId = Annotated[Id, Path(description="An export's id.")]


class ExportForm(Form):
    """An export to make."""

    expires_days: int = Field(7, ge=1, le=365)
    """Days until the service deletes it."""


OF_SEVEN_DAYS = ExportForm()


@router.post("", status_code=201, responses=problems("export_conflict", "gallery_conflict"))
async def make_export(
    call: Admin, response: Response, form: Sent[ExportForm] = OF_SEVEN_DAYS
) -> Export:
    """Writes all crops of the gallery, with their vectors and kept pictures, into a zip file.

    Reads and writes continue. A gallery has eight exports at most. Import the file, into any
    gallery, by `POST …/imports`.
    """
    export = await exports.make_export(call.runtime, call.gallery, form.expires_days)
    response.headers["Location"] = f"/v1/galleries/{call.gallery.name}/exports/{export.export_id}"
    return export


@router.get("")
async def list_exports(call: Admin) -> Exports:
    """Lists the exports of the gallery, oldest first."""
    found = await exports.list_exports(call.runtime, call.gallery)
    call.note_view("list_exports", count=len(found))
    return Exports(results=found)


@router.get("/{export_id}")
async def read_export(call: Admin, export_id: ExportId) -> Export:
    """Reads the description of an export."""
    export = await exports.find_export(call.runtime, call.gallery, export_id)
    call.note_view("read_export", export_id=export_id, count=export.crops)
    return export


@router.get(
    "/{export_id}/content",
    response_class=FileResponse,
    responses=content("application/zip", "The export."),
    dependencies=[Depends(hold_stream)],
)
async def download_export(call: Admin, export_id: ExportId) -> FileResponse:
    """Sends the zip file of an export; an interrupted download continues by `Range`."""
    export = await exports.find_export(call.runtime, call.gallery, export_id)
    details = {"gallery": call.gallery.name, "export_id": export_id, "count": export.crops}
    await call.runtime.audit.note("download_export", **details)
    path = exports.content_path(call.runtime.settings, call.gallery, export_id)
    name = f"{call.gallery.name}-{export_id}.zip"
    return FileResponse(path, media_type="application/zip", filename=name)


@router.delete("/{export_id}", status_code=204)
async def delete_export(call: Admin, export_id: ExportId) -> None:
    """Deletes an export."""
    await exports.delete_export(call.runtime, call.gallery, export_id)
