"""`/v1/galleries`: create, list, read, change and delete galleries."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from fastapi import Response
from pydantic import Field, model_validator

from gmn_client.models import (
    Galleries,
    Gallery,
    GalleryRemoval,
    RetentionFrom,
)
from service.errors import InvalidField
from service.http.forms import Form, GalleryName, Sent
from service.http.guard import Admin, guarded_router, needs
from service.http.problems import problems
from service.record.values import CalibrationMode, CentringMode, GallerySettings
from service.runtime import Call, GalleryCall

router = guarded_router("/v1/galleries", "galleries")


class GallerySettingsFields(Form):
    """Settings of a gallery; omitted ones stay unchanged."""

    retention_days: int | None = Field(None, ge=0, le=36_500)
    """Age in days at which crops are deleted; 0 keeps all."""
    retention_hours: int | None = Field(None, ge=0, le=876_000)
    """The same in hours, in place of days."""
    retention_from: RetentionFrom | None = None
    """Whether a crop's age counts from its capture (if known), or always from its enrollment."""
    calibration: Literal[CalibrationMode, "reset"] | None = None
    """Whether thresholds are fitted to this gallery's named crops and its searches (on), stay fixed
    (frozen), or are the artefact's (off); reset and off delete the fit and the stored searches, and
    reset fits again."""
    time_evidence: bool | None = None
    """Whether results of queries with `camera` and `captured_at` also follow how long people take
    between the cameras, which is learned from the gallery's own crops."""
    centring: CentringMode | None = None
    """Whether searches may subtract what the vectors of a camera have in common, once people rank
    better with it (auto), or never do (off)."""

    @model_validator(mode="after")
    def _require_one_retention(self) -> Self:
        if self.retention_days is not None and self.retention_hours is not None:
            raise InvalidField(
                "retention_days, retention_hours: both were sent; send one, as it takes the place "
                "of the other"
            )
        return self

    def changes(self) -> dict[str, Any]:
        changes = self.model_dump(exclude={"name"}, exclude_none=True)
        if self.retention_days is not None or self.retention_hours is not None:
            changes["retention_days"] = self.retention_days or None
            changes["retention_hours"] = self.retention_hours or None
        if self.calibration == "reset":
            changes["calibration"] = "on"
        return changes


class NewGalleryFields(GallerySettingsFields):
    """A gallery to create, with its settings."""

    name: GalleryName = Field(examples=["lobby"])
    """Letters, digits, dot, dash and underscore, 64 at most."""


UNCHANGED = GallerySettingsFields()


@router.post("", status_code=201, responses=problems("gallery_conflict"))
async def create_gallery(
    call: Annotated[Call, needs("admin")],
    response: Response,
    form: Sent[NewGalleryFields],
) -> Gallery:
    """Creates an empty gallery."""
    call.caller.require_gallery(form.name)
    runtime = call.runtime
    await runtime.gallery_changes.create(form.name, GallerySettings(**form.changes()))
    created = await runtime.browser.describe_gallery(runtime.galleries.get(form.name))
    response.headers["Location"] = f"/v1/galleries/{form.name}"
    return created


@router.get("")
async def list_galleries(call: Annotated[Call, needs("query", "enroll")]) -> Galleries:
    """Lists the galleries of the key, by name."""
    galleries = await call.runtime.browser.list_galleries()
    visible = [gallery for gallery in galleries if call.caller.may_see(gallery.name)]
    return Galleries(results=visible, audit_queries=call.runtime.settings.audit_queries)


@router.get("/{gallery}")
async def read_gallery(call: Annotated[GalleryCall, needs("query", "enroll")]) -> Gallery:
    """Reads the description of a gallery."""
    return await call.runtime.browser.describe_gallery(call.gallery)


@router.patch("/{gallery}")
async def change_gallery(call: Admin, form: Sent[GallerySettingsFields] = UNCHANGED) -> Gallery:
    """Changes the settings of a gallery; omitted fields stay unchanged."""
    reset = form.calibration == "reset"
    await call.runtime.gallery_changes.change(call.gallery, form.changes(), reset)
    return await call.runtime.browser.describe_gallery(call.gallery)


@router.delete("/{gallery}", responses=problems("gallery_conflict"))
async def delete_gallery(call: Admin) -> GalleryRemoval:
    """Deletes a gallery with all crops and exports; `default` cannot be deleted."""
    runtime = call.runtime
    removed = await runtime.gallery_changes.delete(call.gallery)
    # Keys limited to this gallery are revoked too, so they cannot open a later one of its name.
    await runtime.keys.threads.run(runtime.keys.read)
    return GalleryRemoval(removed=removed)
