"""Base classes of forms, and the fields of crops that several calls share."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Annotated, Any, ClassVar, TypeVar, get_args, get_origin

import fastapi
from fastapi import Query, UploadFile
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
)

from gmn_client.models import Box, CropOrder, SearchedFile
from gmn_client.zones import MAX_ZONE_NAME
from model.crops.decode import CropProblem
from model.crops.frames import Frame, FrameCrop, ImageFile
from model.crops.metadata import strip_metadata
from model.crops.texts import nfc
from model.wording import counted
from service.errors import InvalidField
from service.gallery.enroll import ComputedVectors, ImageToEnroll, as_computed
from service.gallery.labels import LABEL_PARSERS, MAX_METADATA_BYTES, MAX_MOMENT, checked_text
from service.http.fields import (
    MAX_ID,
    MAX_VECTOR,
    Id,
    Label,
    Moment,
    Text,
    Texts,
    Track,
    read_vector,
    require_order,
    without_empty,
)
from service.record.crop_rows import CURSOR
from service.record.values import CROP_ID, ListFilter
from service.settings import MAX_IMAGES, NAME, checked_name
from service.wording import describe_invalid

# Upper bound on the characters that are kept of a file's name.
MOST_FILE_NAME = 128
# Query parameters that select a page of a listing.
CURSOR_TEXT = "`next_cursor` of the previous page; not sent for the first."
Cursor = Annotated[
    str | None, Query(max_length=32, pattern=f"^{CROP_ID}$", description=CURSOR_TEXT)
]
Limit = Annotated[int, Query(ge=1, le=1000, description="Results on one page.")]


# `/docs` sends empty text for a file picker without a file and for a list without entries.
NoEmpty = BeforeValidator(without_empty)
# `/docs` shows a file picker for this format.
FILE: dict[str, Any] = {"type": "string", "format": "binary"}
Images = Annotated[
    list[UploadFile],
    NoEmpty,
    Field(max_length=MAX_IMAGES),
    WithJsonSchema({"type": "array", "items": FILE, "maxItems": MAX_IMAGES, "examples": [[""]]}),
    Field(description="Image files: JPEG, PNG, WebP or BMP, recognised by their bytes."),
]
# A box may contain the metadata of its crop, and JSON may escape a character with six.
BoxText = Annotated[str, Field(max_length=8 * MAX_METADATA_BYTES)]
GalleryName = Annotated[
    str,
    AfterValidator(checked_name),
    Field(json_schema_extra={"maxLength": MAX_ID, "pattern": NAME.pattern}),
]
Value = TypeVar("Value")
# A form as an argument of a route.
Sent = Annotated[Value, fastapi.Form(media_type="multipart/form-data")]


def _adapt_to_docs(schema: dict[str, Any]) -> None:
    """Remove null from a form's schema and make its fields start empty in `/docs`.

    `/docs` otherwise fills a field with its first example, its default, or made-up text.
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


def _takes_files(annotation: Any) -> bool:
    return annotation is UploadFile or any(_takes_files(part) for part in get_args(annotation))


def _takes_several(annotation: Any) -> bool:
    return get_origin(annotation) in (list, tuple)


class Form(BaseModel):
    """Base of all forms; unknown fields are errors."""

    model_config = ConfigDict(
        extra="forbid", use_attribute_docstrings=True, json_schema_extra=_adapt_to_docs
    )
    # An empty value of these fields is an error, unless all of them are sent.
    never_empty: ClassVar[frozenset[str]] = frozenset()
    # If set, the only file of the form is written to disk while it arrives.
    to_disk: ClassVar[bool] = False

    @classmethod
    @cache
    def file_fields(cls) -> frozenset[str]:
        """Return the fields whose values are files."""
        fields = cls.model_fields.items()
        return frozenset(name for name, field in fields if _takes_files(field.annotation))

    @classmethod
    @cache
    def single_fields(cls) -> frozenset[str]:
        """Return the fields that have one value."""
        fields = cls.model_fields.items()
        return frozenset(name for name, field in fields if not _takes_several(field.annotation))


class SomeImagesForm(Form):
    """One or many images."""

    images: Images = Field(json_schema_extra={"minItems": 1})
    # Fields that may be sent in place of images.
    instead: ClassVar[tuple[str, ...]] = ()

    def read_images(self) -> list[bytes]:
        """Return the image files; raises `InvalidField` if there are none."""
        for name in self.instead:
            if getattr(self, name):
                if self.images:
                    raise InvalidField(f"{name}: was sent with images; send one or the other")
                return []
        if not self.images:
            raise InvalidField("images: none was sent; send one or more image files in this field")
        return [image.file.read() for image in self.images]


class FrameForm(SomeImagesForm):
    """One or many images, or one frame with boxes."""

    boxes: Annotated[list[BoxText], NoEmpty] = Field(
        [], max_length=MAX_IMAGES, examples=[['{"x": 40, "y": 60, "width": 64, "height": 160}']]
    )
    """Of one image, a frame: a JSON object with x, y, width and height in pixels for each crop that
    is cut out of it. In an enrollment and a sighting it may have the labels of the crop, too."""
    box_model: ClassVar[type[Box]] = Box

    def read_boxes(self) -> list[Any]:
        """Return the boxes, parsed as `box_model`; raises `InvalidField` if one is malformed."""
        boxes = []
        for number, text in enumerate(self.boxes, 1):
            try:
                boxes.append(self.box_model.model_validate_json(text))
            except ValidationError as error:
                first = error.errors()[0]
                field = ".".join(str(part) for part in first["loc"]) or text[:40]
                raise InvalidField(
                    f"boxes: box {number}, {field}: {describe_invalid(first)}; write it like "
                    '{"x": 40, "y": 60, "width": 64, "height": 160}, in whole pixels'
                ) from error
        return boxes

    def read_crops(self) -> Sequence[ImageFile]:
        """Return the images, or the crops of a single image's boxes, not cut out yet.

        Raises:
            InvalidField: no image, several with boxes, or a malformed box.
        """
        images = self.read_images()
        if not self.boxes:
            return images
        boxes = self.read_boxes()
        if len(images) != 1:
            raise InvalidField(
                f"boxes: are of one frame, and {len(images)} images were sent; send one image with "
                "its boxes"
            )
        frame = Frame(images[0])
        return [FrameCrop(frame, box.x, box.y, box.width, box.height) for box in boxes]

    def describe_files(self, with_names: bool, keep_metadata: bool) -> list[SearchedFile]:
        """Return the digests of each image, or of the frame with each of its boxes; blocks."""
        files: list[SearchedFile] = []
        for image in self.images:
            image.file.seek(0)
            file = image.file.read()
            sent = hashlib.sha256(file).hexdigest()
            kept = sent
            # An image that cannot be used has no other digest.
            with contextlib.suppress(CropProblem):
                stripped = file if keep_metadata else strip_metadata(file)
                if stripped is not file:
                    kept = hashlib.sha256(stripped).hexdigest()
            name = _clean_name(image.filename) if with_names else None
            files.append(SearchedFile(sha256=kept, sent_sha256=sent, name=name, box=None))
        if boxes := self.read_boxes():
            (frame,) = files
            return [frame.model_copy(update={"box": box}) for box in boxes]
        return files


def _clean_name(file_name: str | None) -> str | None:
    """Return the printable end of a file's name, or None if nothing is left."""
    name = "".join(letter for letter in nfc(file_name or "") if letter.isprintable())
    return name[-MOST_FILE_NAME:] or None


# One value for all images, or one for each.
Several = Annotated[list[Value], Field(max_length=MAX_IMAGES)]
Labels = Several[Text]
VectorText = Annotated[str, Field(max_length=MAX_VECTOR)]
MomentText = Annotated[str, Field(max_length=MAX_MOMENT)]
ZoneName = Annotated[str, Field(max_length=MAX_ZONE_NAME)]
MetadataLabels = Several[Annotated[str, Field(max_length=MAX_METADATA_BYTES)]]
KeepBest = Annotated[int, Field(ge=1, le=32)]


class LabelsForm(Form):
    """Base of forms with labels of crops, each a list; empty text means unknown."""

    # The fields have the labels' names behind this prefix.
    prefix: ClassVar[str] = ""

    def changes(self) -> dict[str, Any]:
        """Return the labels that were sent; raises `InvalidField` if one was sent twice."""
        changes: dict[str, Any] = {}
        for name in LABEL_PARSERS:
            field = self.prefix + name
            if field in self.model_fields_set:
                values = getattr(self, field)
                if len(values) != 1:
                    raise InvalidField(f"{field}: was sent {len(values)} times; send it once")
                changes[name] = _parse_label(name, values[0], field)
        return changes


class SightedFields(Form):
    """Labels of crops that come from a camera."""

    camera: Labels = Field([], examples=[["east"]])
    """The camera."""
    captured_at: Several[MomentText] = Field([], examples=[["2026-03-01T09:30:00Z"]])
    """Time of capture, RFC 3339, with zone; default for sightings: the time of arrival."""
    track: Several[Track] = Field([], examples=[["17"]])
    """The tracker's id of the track within the camera."""


class EnrollFields(SightedFields, LabelsForm):
    """Labels of enrolled crops: one value for all images, or one per image in order."""

    identity: Labels = Field([], examples=[["0042"]])
    """The identity."""
    external_id: Labels = Field([])
    """Your own id."""
    metadata: MetadataLabels = Field([], examples=[['{"shift": "night"}']])
    """A JSON object."""


class CropFields(EnrollFields):
    """The labels of a crop that are changed, and whether searches may find it."""

    set_aside: bool | None = None
    """Keep the crop out of searches, groupings, thresholds and watch lists; `false` undoes that."""

    def changes(self) -> dict[str, Any]:
        changes = super().changes()
        if self.set_aside is not None:
            changes["set_aside"] = self.set_aside
        return changes


class SightedBox(Box):
    """A box with labels of its crop; missing labels are taken from the form."""

    camera: Text | None = None
    captured_at: MomentText | None = None
    track: Track | None = None
    still: bool | None = None
    zone: ZoneName | None = None

    def labels(self, box: str) -> dict[str, Any]:
        sent = self.model_dump(include=set(LABEL_PARSERS), exclude_none=True)
        if "metadata" in sent:
            # An escaped character would count as six towards the limit.
            sent["metadata"] = json.dumps(sent["metadata"], ensure_ascii=False)
        return {name: _parse_label(name, text, f"{box}, {name}") for name, text in sent.items()}


class LabelledBox(SightedBox):
    """A box that may have any label of a crop."""

    identity: Text | None = None
    external_id: Text | None = None
    metadata: dict[str, Any] | None = None


class LabelledForm(FrameForm):
    """Base of forms that send crops with some labels."""

    box_model = SightedBox

    still: Several[Annotated[bool, BeforeValidator(lambda value: value or False)]] = Field([])
    """Whether the person stays at the same place: the track then waits 90 instead of 10 seconds for
    its next crop. In an enrollment only with `watch`."""
    zone: Several[ZoneName] = Field([], examples=[["door"]])
    """The zone of the camera's picture in which the person stands; alerts name it. In an enrollment
    only with `watch`."""

    def for_images(self, crops: Sequence[ImageFile | None]) -> list[ImageToEnroll]:
        """Return images or crops of boxes with labels; raises `InvalidField` for a bad label."""
        # Each text is parsed once: one may be the metadata of all crops.
        sent = {
            name: [_parse_label(name, text, name) for text in texts]
            for name, texts in self
            if name in LABEL_PARSERS and texts
        }
        for name, values in sent.items():
            _require_count(name, values, crops)
        stills = self.still or [False]
        _require_count("still", stills, crops)
        zones = [_parse_zone(name, "zone") for name in self.zone] or [None]
        _require_count("zone", zones, crops)
        boxes = self.read_boxes()
        images = []
        for position, crop in enumerate(crops):
            labels = {name: values[position % len(values)] for name, values in sent.items()}
            still = stills[position % len(stills)]
            zone = zones[position % len(zones)]
            if boxes:
                box = boxes[position]
                in_boxes = f"boxes: box {position + 1}"
                labels |= box.labels(in_boxes)
                still = still if box.still is None else box.still
                zone = zone if box.zone is None else _parse_zone(box.zone, f"{in_boxes}, zone")
            images.append(ImageToEnroll(image=crop, still=still, zone=zone, **labels))
        return images


class EnrollForm(EnrollFields, LabelledForm):
    """One or many images to enroll, or the crops in the boxes of one, or vectors."""

    box_model = LabelledBox
    instead = ("vector",)

    images: Images = Field([])
    vector: Annotated[Several[VectorText], NoEmpty] = Field([])
    """In place of images their features: each a JSON array of numbers, or base64 of little-endian
    float32, as /v1/embeddings answers them."""
    embedding_fingerprint: Id | None = None
    """The embedder that made the vectors, as it was answered."""
    keep_best: KeepBest | None = None
    """How many crops each track keeps: the best by quality and distance from each other."""
    watch: bool = False
    """Also compare the crops with the armed watch lists of other galleries, as sightings; needs
    retention_days or retention_hours of the gallery."""

    def read_vectors(self) -> ComputedVectors:
        """Return the vectors; raises `InvalidField` for a bad one, or without their embedder."""
        if self.embedding_fingerprint is None:
            raise InvalidField(
                "embedding_fingerprint: is missing; send the one that the vectors were answered "
                "with"
            )
        vectors = [read_vector(text) for text in self.vector]
        return as_computed(vectors, self.embedding_fingerprint)


class SightingForm(SightedFields, LabelledForm):
    """Crops from a camera to compare with watch lists, or one frame with boxes."""

    wait: bool = False
    """Return the matches."""


class CapturedCrops(Form):
    """Filters of crops by camera and time of capture."""

    camera: Label | None = None
    """Only of this camera."""
    captured_after: Moment | None = None
    """Only crops captured since this time."""
    captured_before: Moment | None = None
    """Only crops captured until this time."""

    def filter(self) -> ListFilter:
        """Return the filter; raises `InvalidField` if no crop can pass it."""
        if self.captured_after and self.captured_before:
            require_order(self.captured_after, self.captured_before)
        return ListFilter(
            cameras=_one_or_any(self.camera),
            captured_after=self.captured_after,
            captured_before=self.captured_before,
        )


class GroupingForm(CapturedCrops):
    """Filters of the crops without a name that are grouped; all of them by default."""

    def filter(self) -> ListFilter:
        return replace(super().filter(), named=False, set_aside=False)


class CropsWanted(CapturedCrops):
    """Filters of crops, which have to pass every field that is sent."""

    identity: Label | None = None
    """Only of this identity."""
    unnamed: bool = False
    """Only crops without an identity."""
    track: Track | None = None
    """Only of this track; with `camera`, only in that camera."""
    external_id: Text | None = None
    """Only with this id of yours."""
    set_aside: bool | None = None
    """Only crops that are set aside, or with `false` only the others."""

    def filter(self) -> ListFilter:
        if self.unnamed and self.identity:
            raise InvalidField("unnamed, identity: no crop passes both; send one or the other")
        return replace(
            super().filter(),
            identities=_one_or_any(self.identity),
            named=False if self.unnamed else None,
            track=self.track or None,
            external_id=self.external_id or None,
            set_aside=self.set_aside,
        )


class CropsQuery(CropsWanted):
    """Filters, order and page of the crops that are listed."""

    cursor: Id | None = Field(None, pattern=f"^{CURSOR.pattern}$", description=CURSOR_TEXT)
    limit: Limit = 100
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
    # An empty variable in a script would otherwise select more crops than intended.
    never_empty = frozenset({"crop_ids", *CropsWanted.model_fields})

    def filter(self) -> ListFilter:
        """Return the filter; raises `InvalidField` if every crop would pass it."""
        wanted = replace(super().filter(), crop_ids=frozenset(self.crop_ids))
        if wanted == ListFilter():
            raise InvalidField(
                "crop_ids: no field chooses crops; send crop_ids, identity, unnamed=true, "
                "set_aside, camera, track, external_id, captured_after or captured_before"
            )
        return wanted


class CropsChanges(CropsChosen, LabelsForm):
    """Filters of the crops that are changed, and their new labels, which begin with `new_`."""

    prefix = "new_"

    new_identity: Labels = Field([], examples=[["0042"]])
    """The identity from now on; empty for unknown."""
    new_camera: Labels = Field([], examples=[["east"]])
    """The camera from now on; empty for unknown."""
    new_track: Several[Track] = Field([], examples=[["17"]])
    """The track from now on; empty for unknown."""
    new_metadata: MetadataLabels = Field([], examples=[['{"shift": "night"}']])
    """A JSON object that takes the place of the former; empty for none."""


def _one_or_any(name: str | None) -> frozenset[str]:
    return frozenset([name]) if name else frozenset()


def _require_count(name: str, values: Sequence[object], crops: Sequence[object]) -> None:
    if len(values) not in (1, len(crops)):
        raise InvalidField(
            f"{name}: given {len(values)} times for {counted(len(crops), 'image')}; give it once "
            "for all of them, or once for each in their order, empty where unknown"
        )


def _parse_zone(name: str, field: str) -> str | None:
    return checked_text(field, name, MAX_ZONE_NAME) if name else None


def _parse_label(name: str, text: str, field: str) -> Any:
    """Parse a label, empty text as None; raises an `InvalidField` that names `field`."""
    return LABEL_PARSERS[name](field, text) if text else None
