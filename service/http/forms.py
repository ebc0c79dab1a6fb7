"""The base of the forms of all calls, and the field types that they share.

The fields of a call stand beside its route, those of crops in `crop_forms`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

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

from gmn_client.models import Box
from model.crops.frames import Frame, FrameCrop, ImageFile
from service.errors import InvalidField
from service.gallery.enroll import checked_text
from service.record.values import CROP_ID
from service.search.options import MAX_ID, MAX_METADATA_BYTES, Text
from service.settings import MAX_IMAGES, NAME, checked_name

# The query parameters that choose a page of a listing.
CURSOR_TEXT = "`next_cursor` of the previous page; not sent for the first."
Cursor = Annotated[
    str | None, Query(max_length=32, pattern=f"^{CROP_ID}$", description=CURSOR_TEXT)
]
Limit = Annotated[int, Query(ge=1, le=1000, description="Results on one page.")]


def _without_empty(value: Any) -> Any:
    # `/docs` sends an empty text for a picker in which no file was chosen, and for a list without
    # an entry.
    return [item for item in value if item] if isinstance(value, list) else value


# `/docs` shows a file picker for this format.
FILE: dict[str, Any] = {"type": "string", "format": "binary"}
Images = Annotated[
    list[UploadFile],
    BeforeValidator(_without_empty),
    Field(max_length=MAX_IMAGES),
    WithJsonSchema({"type": "array", "items": FILE, "maxItems": MAX_IMAGES, "examples": [[""]]}),
    Field(description="Image files: JPEG, PNG, WebP or BMP, recognised by their bytes."),
]
# A box may hold the metadata of its crop, and JSON may escape each character with six.
BoxText = Annotated[str, Field(max_length=8 * MAX_METADATA_BYTES)]
# The name of an identity, a case, or the holder of a key.
Name = Annotated[
    Text, AfterValidator(lambda text, info: checked_text(info.field_name or "identity", text))
]
GalleryName = Annotated[
    str,
    AfterValidator(checked_name),
    Field(json_schema_extra={"maxLength": MAX_ID, "pattern": NAME.pattern}),
]
MULTIPART = fastapi.Form(media_type="multipart/form-data")


def _as_the_docs_show_it(schema: dict[str, Any]) -> None:
    """Remove null from a form's schema, and let its fields begin empty in `/docs`.

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
    """Base of every form; an unknown field is an error."""

    model_config = ConfigDict(
        extra="forbid", use_attribute_docstrings=True, json_schema_extra=_as_the_docs_show_it
    )
    # An empty one of these fields is an error, unless all of them are sent.
    never_empty: ClassVar[frozenset[str]] = frozenset()
    # The form's one file is written to the disk as it arrives.
    to_disk: ClassVar[bool] = False


class SomeImagesForm(Form):
    """One or many images."""

    images: Images = Field(json_schema_extra={"minItems": 1})
    # Fields that may be sent in place of images.
    instead: ClassVar[tuple[str, ...]] = ()
    # Fields to which the limit on the images of a request applies.
    limited: ClassVar[tuple[str, ...]] = ("images",)

    async def read_images(self, limit: int) -> list[bytes]:
        """Return the bytes of the images; raise `InvalidField` for none, or more than the limit."""
        for name in self.instead:
            if getattr(self, name) is not None:
                if self.images:
                    raise InvalidField(f"{name}: was sent with images; send one or the other")
                return []
        if not self.images:
            raise InvalidField("images: none was sent; send one or more image files in this field")
        for name in self.limited:
            sent = len(getattr(self, name))
            if sent > limit:
                raise InvalidField(
                    f"{name}: {sent} were sent, a request may have {limit}; send several requests, "
                    "or raise GMN_MAX_IMAGES_PER_REQUEST"
                )
        return [await image.read() for image in self.images]


class FrameForm(SomeImagesForm):
    """One or many images, or one frame with boxes."""

    boxes: Annotated[list[BoxText], BeforeValidator(_without_empty)] = Field(
        [], max_length=MAX_IMAGES, examples=[['{"x": 40, "y": 60, "width": 64, "height": 160}']]
    )
    """Of one image, a frame: a JSON object with x, y, width and height in pixels for each crop that
    is cut out of it. In an enrollment it may have the labels of the crop, too."""
    limited = ("images", "boxes")
    box_model: ClassVar[type[Box]] = Box

    def read_boxes(self) -> list[Any]:
        """Return the boxes, each a `box_model`; raise `InvalidField` for one that is none."""
        return [self._box(number, text) for number, text in enumerate(self.boxes, 1)]

    async def read_crops(self, limit: int) -> Sequence[ImageFile]:
        """Return the images, or the crops in the boxes of the one image, which are not cut yet.

        Raises:
            InvalidField: for the number of images or boxes, or a box.
        """
        images = await self.read_images(limit)
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

    def _box(self, number: int, text: str) -> Box:
        try:
            return self.box_model.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"]) or text[:40]
            raise InvalidField(
                f"boxes: box {number}, {field}: {first['msg']}; write it like "
                '{"x": 40, "y": 60, "width": 64, "height": 160}, in whole pixels'
            ) from error
