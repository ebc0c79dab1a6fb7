"""The fields of every call: of forms, which query parameters of the same names complete."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields, replace
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, cast

import fastapi
from fastapi import UploadFile
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from gmn_client.models import CropOrder, IdentityOrder, RetentionFrom, Scope
from service.desk.reviews import ReviewOptions
from service.errors import InvalidField
from service.gallery.enroll import (
    LABELS,
    ImageToEnroll,
    checked_camera,
    checked_metadata,
    checked_text,
)
from service.gallery.frames import Box, ImageFile
from service.http.keys import chosen_scopes
from service.record.cases import CaseFields
from service.record.crop_lists import CURSOR
from service.record.engine import CROP_ID
from service.record.records import (
    CalibrationMode,
    CropFields,
    CropFilter,
    SettingsChanges,
)
from service.search.options import Moment, PairOptions, QueryOptions, require_order
from service.settings import NAME, checked_name

# Characters of the notes on a case, and on a search in it.
MOST_NOTES = 4000
# Pixels of a small picture's width.
NARROWEST, WIDEST = 16, 512


def _without_empty(value: Any) -> Any:
    # `/docs` sends an empty text for a picker in which no file was chosen, and for a list without
    # an entry.
    return list(filter(None, value)) if isinstance(value, list) else value


# `/docs` takes for a file what has this format.
FILE: dict[str, Any] = {"type": "string", "format": "binary"}
Images = Annotated[
    list[UploadFile],
    BeforeValidator(_without_empty),
    WithJsonSchema({"type": "array", "items": FILE, "examples": [[""]]}),
    Field(description="Image files: JPEG, PNG, WebP or BMP, recognised by their bytes."),
]
Metadata = Annotated[
    dict[str, Any],
    BeforeValidator(partial(checked_metadata, "metadata")),
    WithJsonSchema({"type": "string"}),
]
Texts = Annotated[list[str], BeforeValidator(_without_empty)]
MULTIPART = fastapi.Form(media_type="multipart/form-data")


def _as_the_docs_show_it(schema: dict[str, Any]) -> None:
    """Leaves null out of a form's schema, and lets its fields begin empty in `/docs`.

    `/docs` starts a field with its first example or its default, else with made-up text.
    """
    for field in schema["properties"].values():
        field |= field.pop("anyOf", [{}])[0]
        field["description"] = " ".join(field["description"].split())
        items = field.get("items")
        if items and items != FILE:
            field["examples"] = [[], *field.get("examples", [])]
            field["items"] = {**items, "examples": [""]}
        elif not items and field.get("format") != "binary" and field.get("default") is None:
            field["examples"] = ["", *field.get("examples", [])]


class Form(BaseModel):
    """Base of every form: a field that it does not know is an error."""

    model_config = ConfigDict(
        extra="forbid", use_attribute_docstrings=True, json_schema_extra=_as_the_docs_show_it
    )
    # Fields that do not count as left out where they are empty and others are not sent.
    never_empty: ClassVar[frozenset[str]] = frozenset()


class ImagesForm(Form):
    """One or many images."""

    images: Images = []
    # Fields that may be sent in place of images.
    instead: ClassVar[tuple[str, ...]] = ()

    async def read_images(self, limit: int) -> list[bytes]:
        """The bytes of the images; raises `InvalidField` for none, or for more than the limit."""
        for name in self.instead:
            if getattr(self, name) is not None:
                if self.images:
                    raise InvalidField(f"{name}: was sent with images; send one or the other")
                return []
        if not self.images:
            raise InvalidField("images: none was sent; send one or more image files in this field")
        if len(self.images) > limit:
            raise InvalidField(
                f"images: {len(self.images)} were sent, a request may have {limit}; send several "
                "requests, or raise GMN_MAX_IMAGES_PER_REQUEST"
            )
        return [await one.read() for one in self.images]


class FrameForm(ImagesForm):
    """One or many images, or one frame with boxes."""

    boxes: Texts = Field([], examples=[['{"x": 40, "y": 60, "width": 64, "height": 160}']])
    """Of one image, a frame: a JSON object with x, y, width and height in pixels for each crop that
    is cut out of it. In an enrollment it may have the labels of the crop, too."""
    box_model: ClassVar[type[Box]] = Box

    def read_boxes(self, limit: int) -> list[Box]:
        """The boxes; raises `InvalidField`."""
        if len(self.boxes) > limit:
            raise InvalidField(
                f"boxes: {len(self.boxes)} were sent, a request may have {limit}; send several "
                "requests, or raise GMN_MAX_IMAGES_PER_REQUEST"
            )
        return [self._box(number, text) for number, text in enumerate(self.boxes, 1)]

    def _box(self, number: int, text: str) -> Box:
        try:
            return self.box_model.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"])) or text[:40]
            raise InvalidField(
                f"boxes: box {number}, {field}: {first['msg']}; write it like "
                '{"x": 40, "y": 60, "width": 64, "height": 160}, in whole pixels'
            ) from error


class EnrollFields(Form):
    """What is known of crops; in an enrollment once for all images, or once for each in order."""

    identity: list[str] = Field([], examples=[["0042"]])
    """The identity."""
    camera: list[str] = Field([], examples=[["east"]])
    """The camera."""
    captured_at: list[str] = Field([], examples=[["2026-03-01T09:30:00Z"]])
    """RFC 3339, with zone."""
    external_id: list[str] = []
    """Your own id."""
    metadata: list[str] = Field([], examples=[['{"shift": "night"}']])
    """A JSON object."""

    def for_images(self, images: Sequence[ImageFile]) -> list[ImageToEnroll]:
        """The images with the fields of each; raises `InvalidField`."""
        columns: list[Sequence[Any]] = []
        for name in LABELS:
            values = getattr(self, name)
            if len(values) not in (0, 1, len(images)):
                raise InvalidField(
                    f"{name}: given {len(values)} times for {len(images)} images; give it once for "
                    "all of them, or once for each in their order, empty where unknown"
                )
            values = [_label(name, value) for value in values] or [None]
            columns.append(values * len(images) if len(values) == 1 else values)
        return list(map(ImageToEnroll, images, *columns))

    def for_crop(self) -> CropFields:
        """The changes of one crop: the fields that were sent; raises `InvalidField`."""
        return _changes(self)


class SomeImagesForm(ImagesForm):
    """One or many images, and no other way to ask."""

    images: Images = Field(json_schema_extra={"minItems": 1})


class LabelledBox(Box):
    """A box with what is known of its crop; where a field is missing, that of the form counts."""

    identity: str | None = None
    camera: str | None = None
    captured_at: str | None = None
    external_id: str | None = None
    metadata: dict[str, Any] | None = None


class EnrollForm(EnrollFields, SomeImagesForm, FrameForm):
    """One or many images to enroll, or the crops in the boxes of one."""

    box_model = LabelledBox

    def for_crops(self, crops: Sequence[ImageFile]) -> list[ImageToEnroll]:
        """The crops with the fields of each; raises `InvalidField`."""
        images = self.for_images(crops)
        for place, box in enumerate(self.read_boxes(len(crops))):
            given = box.model_dump(include=set(LABELS), exclude_none=True)
            if "metadata" in given:
                given["metadata"] = json.dumps(given["metadata"])
            labels = {name: _label(name, value) for name, value in given.items()}
            images[place] = replace(images[place], **labels)
        return images


class QueryForm(QueryOptions, FrameForm):
    """One or several images, or `crop_id`, or `vector`."""

    instead = ("crop_id", "vector")
    metadata: Metadata | None = Field(None, examples=['{"shift": "night"}'])
    """A JSON object; only crops whose metadata has each of its keys with its value."""


class PairForm(PairOptions, ImagesForm):
    """Exactly two images."""

    images: Images = Field(json_schema_extra={"minItems": 2, "maxItems": 2, "examples": [["", ""]]})


class GallerySettingsFields(Form):
    """The settings of a gallery; one that is left out stays as it is."""

    retention_days: int | None = Field(None, ge=0, le=36_500)
    """Age in days at which crops are deleted; 0 keeps all."""
    retention_from: RetentionFrom | None = None
    """Whether a crop's age counts from its capture (if known), or always from its enrollment."""
    calibration: Literal[CalibrationMode, "reset"] | None = None
    """Whether thresholds are fitted to this gallery's named crops and its searches (on), stay fixed
    (frozen), or are the artefact's (off); reset and off delete the fit and the stored searches, and
    reset fits again."""

    def changes(self) -> SettingsChanges:
        """The settings that were sent."""
        changes = self.model_dump(exclude={"name"}, exclude_none=True)
        if self.retention_days == 0:
            changes["retention_days"] = None
        if self.calibration == "reset":
            changes["calibration"] = "on"
        return cast("SettingsChanges", changes)


class NewGalleryFields(GallerySettingsFields):
    """A gallery to be created, and its settings."""

    name: Annotated[str, AfterValidator(checked_name)] = Field(
        examples=["lobby"], json_schema_extra={"pattern": NAME.pattern}
    )
    """Letters, digits, dot, dash and underscore, 64 at most."""


class NewKeyForm(Form):
    """An API key to be made."""

    scopes: Annotated[tuple[Scope, ...], BeforeValidator(chosen_scopes)] = Field(
        examples=[["query"]], json_schema_extra={"minItems": 1}
    )
    """What it may do; `admin` may do everything. Repeated or comma-separated."""
    gallery: Annotated[str, AfterValidator(checked_name)] | None = None
    """The only gallery that it is for."""
    note: Annotated[str, AfterValidator(partial(checked_text, "note"))] = ""
    """Whom it is for; listed, never sent."""
    learn: bool = True
    """Whether its searches count for the calibration of the galleries."""
    expires_days: int | None = Field(None, ge=1, le=36_500)
    """It is refused after so many days; never unless sent."""
    rate: int | None = Field(None, ge=1, le=1_000_000)
    """Requests a minute that each process answers; any number unless sent."""
    # A variable that is empty by mistake would widen what the key may do.
    never_empty = frozenset({"gallery", "expires_days", "rate"})


class IdentityFields(Form):
    """An identity's new name."""

    new_identity: Annotated[str, AfterValidator(partial(checked_text, "new_identity"))]
    """The new name; an existing identity of that name is merged with."""


class ImportForm(Form):
    """An archive to import, or a folder that the service can read."""

    archive: Annotated[UploadFile | None, WithJsonSchema(FILE)] = None
    """A zip or tar file of images, or features of the gallery's artefact, of which no picture is
    kept: a .npz file of `gmn embed`, or a .parquet file of `gmn gallery export`."""
    folder: str | None = None
    """A folder below GMN_IMPORT_DIR, instead of an archive."""
    manifest: Annotated[str, AfterValidator(partial(checked_text, "manifest"))] | None = None
    """A CSV file in it with the column `path` and any of `identity`, `camera`, `captured_at`,
    `external_id`, `metadata`; `manifest.csv` unless named."""
    identity: Annotated[str, AfterValidator(partial(checked_text, "identity"))] | None = None
    """Applies to every image; refused where the manifest, or without one the folder of each person,
    names people."""
    camera: Annotated[str, AfterValidator(partial(checked_camera, "camera"))] | None = None
    """Applies to every image; refused where the manifest names cameras."""


class Parameters(Form):
    """Base of what a query string names; as of a form an empty value counts as left out."""

    @model_validator(mode="before")
    @classmethod
    def _left_out(cls, sent: Any) -> Any:
        return {name: one for name, one in sent.items() if one != ""}


class GroupingForm(Form):
    """Which crops without a name are grouped; all of them by default."""

    camera: str | None = None
    """Only of this camera."""
    captured_after: Moment | None = None
    """Only crops captured since this time."""
    captured_before: Moment | None = None
    """Only crops captured until this time."""

    def filter(self) -> CropFilter:
        """Which crops; raises `InvalidField` for bounds that no crop can be within."""
        if self.captured_after and self.captured_before:
            require_order(self.captured_after, self.captured_before)
        return CropFilter(
            camera=self.camera,
            unnamed=True,
            captured_after=self.captured_after,
            captured_before=self.captured_before,
        )


class JobsQuery(Parameters):
    """Which jobs are listed."""

    gallery: str | None = None
    """Only of this gallery."""
    limit: int = Field(100, ge=1, le=1000)
    """How many of the newest."""


class PageQuery(Parameters):
    """Which page of a listing."""

    cursor: str | None = Field(None, pattern=f"^{CROP_ID}$")
    """`next_cursor` of the previous page; not sent for the first."""
    limit: int = Field(100, ge=1, le=1000)
    """Results on one page."""


class IdentitiesQuery(PageQuery):
    """Which identities are listed."""

    cursor: str | None = None
    """`next_cursor` of the previous page; not sent for the first."""
    query: str = Field("", max_length=256)
    """Only identities that contain this text, in any case."""
    sort: IdentityOrder = "name"
    """In natural order (7 before 10), the last seen first, or those with the most crops first."""


class CropQuery(Parameters):
    """What is answered of a crop."""

    include_vector: bool = False
    """Answer the crop's vector too."""


class CropsWanted(Form):
    """Which crops: those that pass every field that is sent."""

    identity: str | None = None
    """Only of this identity."""
    unnamed: bool = False
    """Only crops without an identity."""
    camera: str | None = None
    """Only of this camera."""
    external_id: str | None = None
    """Only with this id of yours."""
    captured_after: Moment | None = None
    """Only crops captured since this time."""
    captured_before: Moment | None = None
    """Only crops captured until this time."""

    def filter(self) -> CropFilter:
        """Which crops; raises `InvalidField` for what no crop can be."""
        given = {one.name: getattr(self, one.name, None) for one in fields(CropFilter)}
        given["crop_ids"] = frozenset(given["crop_ids"] or ())
        wanted = CropFilter(**{name: value for name, value in given.items() if value})
        if wanted.unnamed and wanted.identity is not None:
            raise InvalidField("unnamed, identity: no crop passes both; send one or the other")
        if wanted.captured_after and wanted.captured_before:
            require_order(wanted.captured_after, wanted.captured_before)
        return wanted


class CropsQuery(CropsWanted, PageQuery, CropQuery):
    """Which crops are listed."""

    cursor: str | None = Field(None, pattern=f"^{CURSOR.pattern}$")
    """`next_cursor` of the previous page; not sent for the first."""
    order: CropOrder = "enrolled"
    """By enrollment, or by capture, with `-` the newest first."""


class SimilarQuery(Parameters):
    """Whose likes are listed."""

    identity: Annotated[str, AfterValidator(partial(checked_text, "identity"))]
    """The identity."""
    limit: int = Field(10, ge=1, le=100)
    """How many at most."""


class ImageQuery(Parameters):
    """How a picture is sent."""

    width: int | None = Field(None, ge=NARROWEST, le=WIDEST)
    """For a JPEG of this many pixels' width at most, in place of the file; never enlarged."""


class CropsChosen(CropsWanted):
    """Which crops are deleted: those that pass every field that is sent, of which one has to be."""

    crop_ids: Texts = []
    """Only these."""
    dry_run: bool = False
    """Answers how many crops these are, and changes nothing."""
    # A variable that is empty by mistake would widen what is changed.
    never_empty = frozenset(one.name for one in fields(CropFilter))

    def filter(self) -> CropFilter:
        """Which crops; raises `InvalidField` where that would be all of them."""
        if (wanted := super().filter()) == CropFilter():
            raise InvalidField(
                "crop_ids: no field chooses crops; send crop_ids, identity, unnamed=true, "
                "camera, external_id, captured_after or captured_before"
            )
        return wanted


class CropsChanges(CropsChosen):
    """Which crops are changed, by the fields without `new_`, and what they become."""

    new_identity: list[str] = Field([], examples=[["0042"]])
    """The identity from now on; empty for unknown."""
    new_camera: list[str] = Field([], examples=[["east"]])
    """The camera from now on; empty for unknown."""
    new_metadata: list[str] = Field([], examples=[['{"shift": "night"}']])
    """A JSON object that takes the place of the former; empty for none."""

    def changes(self) -> CropFields:
        """The fields that were sent; raises `InvalidField`."""
        return _changes(self, "new_")


class ReviewForm(ReviewOptions, Form):
    """A decision on results of a kept search."""


class EveryoneQuery(Parameters):
    """Whose searches are listed."""

    everyone: bool = False
    """Those of all keys, for scope admin; else of the caller's own."""


class ReviewsQuery(EveryoneQuery, PageQuery):
    """Which reviews are listed."""


class KeptSearchesQuery(ReviewsQuery):
    """Which kept searches are listed."""

    case_id: str | None = None
    """Those of a case, of every key."""


class CaseForm(Form):
    """What a case is called, and notes on it; one that is left out stays as it is."""

    name: Annotated[str, AfterValidator(partial(checked_text, "name"))] | None = None
    """The name."""
    notes: list[Annotated[str, Field(max_length=MOST_NOTES)]] = Field([], max_length=1)
    """Any text; empty for none."""

    def changes(self) -> CaseFields:
        """The fields that were sent."""
        changes: CaseFields = {} if self.name is None else {"name": self.name}
        return changes | {"notes": self.notes[0]} if self.notes else changes


class NewCaseForm(CaseForm):
    """A new case."""

    name: Annotated[str, AfterValidator(partial(checked_text, "name"))] = Field(
        examples=["Bag at gate 3"]
    )
    """The name."""


class CaseSearchForm(Form):
    """A search in a case."""

    note: str = Field("", max_length=MOST_NOTES)
    """Any text on the search."""


class ModelQuery(Parameters):
    """The gallery size that the thresholds are computed for."""

    gallery_size: int = Field(1000, ge=1, le=10**9)
    """Crops searched; thresholds of searches depend on it."""


def _label(name: str, value: str) -> Any:
    return LABELS[name](name, value) if value else None


def _changes(form: Form, prefix: str = "") -> CropFields:
    """The labels that were sent, by fields of their names after a prefix."""
    changes: dict[str, Any] = {}
    for name in LABELS:
        field = prefix + name
        if field in form.model_fields_set:
            values = getattr(form, field)
            if len(values) != 1:
                raise InvalidField(f"{field}: was sent {len(values)} times; send it once")
            changes[name] = LABELS[name](field, values[0]) if values[0] else None
    return cast("CropFields", changes)
