"""The fields of the calls of crops: labels, boxes in a frame, and filters."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Annotated, Any, ClassVar, cast

from pydantic import Field

from gmn_client.models import Box, CropOrder
from model.crops.frames import ImageFile
from service.errors import InvalidField
from service.gallery.enroll import LABELS, ImageToEnroll
from service.http.forms import CURSOR_TEXT, Form, FrameForm
from service.record.crop_lists import CURSOR
from service.record.values import CropFields, CropFilter
from service.search.options import (
    MAX_METADATA_BYTES,
    MAX_MOMENT,
    Id,
    Moment,
    Text,
    Texts,
    require_order,
)
from service.settings import MAX_IMAGES

MOST_LABELS = Field(max_length=MAX_IMAGES)
Labels = Annotated[list[Text], MOST_LABELS]
MomentText = Annotated[str, Field(max_length=MAX_MOMENT)]
MetadataText = Annotated[str, Field(max_length=MAX_METADATA_BYTES)]
MetadataLabels = Annotated[list[MetadataText], MOST_LABELS]
FILTERS = frozenset(field.name for field in fields(CropFilter))


class LabelsForm(Form):
    """Base of forms with labels of crops, each a list, in which an empty text means unknown."""

    # The fields are called like the labels, after this.
    prefix: ClassVar[str] = ""

    def changes(self) -> CropFields:
        """Return the labels that were sent; raise `InvalidField` for one that was sent twice."""
        changes: dict[str, Any] = {}
        for name in LABELS:
            field = self.prefix + name
            if field in self.model_fields_set:
                values = getattr(self, field)
                if len(values) != 1:
                    raise InvalidField(f"{field}: was sent {len(values)} times; send it once")
                changes[name] = _label(name, values[0], field)
        return cast("CropFields", changes)


class EnrollFields(LabelsForm):
    """Labels of crops: in an enrollment once for all images, or once for each in order."""

    identity: Labels = Field([], examples=[["0042"]])
    """The identity."""
    camera: Labels = Field([], examples=[["east"]])
    """The camera."""
    captured_at: Annotated[list[MomentText], MOST_LABELS] = Field(
        [], examples=[["2026-03-01T09:30:00Z"]]
    )
    """RFC 3339, with zone."""
    external_id: Labels = Field([])
    """Your own id."""
    metadata: MetadataLabels = Field([], examples=[['{"shift": "night"}']])
    """A JSON object."""


class LabelledBox(Box):
    """A box with labels of its crop; the form's label counts if the box has none."""

    identity: Text | None = None
    camera: Text | None = None
    captured_at: MomentText | None = None
    external_id: Text | None = None
    metadata: dict[str, Any] | None = None


class EnrollForm(EnrollFields, FrameForm):
    """One or many images to enroll, or the crops in the boxes of one."""

    box_model = LabelledBox

    def for_images(self, crops: Sequence[ImageFile]) -> list[ImageToEnroll]:
        """Return images, or crops of boxes, with their labels; raise `InvalidField` for a label."""
        columns: list[Sequence[Any]] = []
        for name in LABELS:
            values = getattr(self, name)
            if len(values) not in (0, 1, len(crops)):
                raise InvalidField(
                    f"{name}: given {len(values)} times for {len(crops)} images; give it once for "
                    "all of them, or once for each in their order, empty where unknown"
                )
            labels = [_label(name, value) for value in values] or [None]
            columns.append(labels * len(crops) if len(labels) == 1 else labels)
        images = [ImageToEnroll(crop, *row) for crop, *row in zip(crops, *columns, strict=True)]
        for place, box in enumerate(self.read_boxes()):
            given = box.model_dump(include=set(LABELS), exclude_none=True)
            if "metadata" in given:
                given["metadata"] = json.dumps(given["metadata"])
            own_labels = {name: _label(name, value) for name, value in given.items()}
            images[place] = replace(images[place], **own_labels)
        return images


class CapturedCrops(Form):
    """Filters of crops by camera and time of capture."""

    camera: Text | None = None
    """Only of this camera."""
    captured_after: Moment | None = None
    """Only crops captured since this time."""
    captured_before: Moment | None = None
    """Only crops captured until this time."""

    def filter(self) -> CropFilter:
        """Return the filter; raise `InvalidField` for fields that no crop can pass."""
        if self.captured_after and self.captured_before:
            require_order(self.captured_after, self.captured_before)
        return CropFilter(**{name: value for name, value in self if name in FILTERS and value})


class GroupingForm(CapturedCrops):
    """Filters of the crops without a name that are grouped; all of them by default."""

    def filter(self) -> CropFilter:
        return replace(super().filter(), unnamed=True)


class CropsWanted(CapturedCrops):
    """Filters of crops, which have to pass every field that is sent."""

    identity: Text | None = None
    """Only of this identity."""
    unnamed: bool = False
    """Only crops without an identity."""
    external_id: Text | None = None
    """Only with this id of yours."""

    def filter(self) -> CropFilter:
        if self.unnamed and self.identity:
            raise InvalidField("unnamed, identity: no crop passes both; send one or the other")
        return super().filter()


class CropsQuery(CropsWanted):
    """Filters, order and page of the crops that are listed."""

    cursor: Id | None = Field(None, pattern=f"^{CURSOR.pattern}$", description=CURSOR_TEXT)
    limit: int = Field(100, ge=1, le=1000)
    """Results on one page."""
    include_vector: bool = False
    """Answer the crop's vector too."""
    order: CropOrder = "enrolled"
    """By enrollment, or by capture, with `-` the newest first."""


class CropsChosen(CropsWanted):
    """Filters of the crops that are deleted; at least one has to be sent."""

    crop_ids: Texts = ()
    """Only these."""
    dry_run: bool = False
    """Answers how many crops these are, and changes nothing."""
    # An empty variable of a script would otherwise change more crops than were meant.
    never_empty = FILTERS

    def filter(self) -> CropFilter:
        """Return the filter; raise `InvalidField` if every crop would pass it."""
        wanted = replace(super().filter(), crop_ids=frozenset(self.crop_ids))
        if wanted == CropFilter():
            raise InvalidField(
                "crop_ids: no field chooses crops; send crop_ids, identity, unnamed=true, "
                "camera, external_id, captured_after or captured_before"
            )
        return wanted


class CropsChanges(CropsChosen, LabelsForm):
    """Filters of the crops that are changed, and their new labels, which begin with `new_`."""

    prefix = "new_"

    new_identity: Labels = Field([], examples=[["0042"]])
    """The identity from now on; empty for unknown."""
    new_camera: Labels = Field([], examples=[["east"]])
    """The camera from now on; empty for unknown."""
    new_metadata: MetadataLabels = Field([], examples=[['{"shift": "night"}']])
    """A JSON object that takes the place of the former; empty for none."""


def _label(name: str, text: str, field: str | None = None) -> Any:
    """Parse a label, an empty text as None; raise an `InvalidField` that names `field`."""
    return LABELS[name](field or name, text) if text else None
