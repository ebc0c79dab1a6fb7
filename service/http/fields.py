"""Types of the fields of forms and query parameters, and how their texts are parsed."""

from __future__ import annotations

import base64
from datetime import datetime
from typing import Annotated, Any

import numpy as np
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BeforeValidator,
    FailFast,
    Field,
    TypeAdapter,
    ValidationInfo,
)

from model.arrays import Floats
from model.crops.texts import nfc
from service.errors import InvalidField
from service.gallery.labels import (
    MAX_MOMENT,
    MAX_TEXT,
    MAX_TRACK,
    checked_camera,
    checked_text,
    read_moment,
)

# Limits in characters of an id and a vector.
MAX_ID = 64
MAX_VECTOR = 131_072
# Limit on the names in one list.
MAX_NAMES = 1000
NUMBERS = TypeAdapter(Annotated[list[float], FailFast()])


def read_vector(text: str) -> Floats:
    """Parse a vector `(d,)` sent in place of an image; raises `InvalidField`."""
    try:
        if text.lstrip().startswith("["):
            # NumPy would take its time for nested lists, and convert texts and booleans.
            vector = np.array(NUMBERS.validate_json(text, strict=True))
        else:
            vector = np.frombuffer(base64.b64decode(text, validate=True), "<f4")
    except ValueError:
        vector = np.zeros(0, np.float32)
    # Beyond these lengths float32 does not tell directions apart.
    if not 1e-6 < np.linalg.norm(vector) < 1e12:
        raise InvalidField(
            f"vector: {text[:40]!r} is not a vector; send a JSON array of finite numbers that are "
            "not all 0, of a length between 1e-6 and 1e12, or their float32 bytes, "
            "little-endian, in base64"
        )
    return vector.astype(np.float32)


def split_names(value: Any, info: ValidationInfo) -> Any:
    """Split texts at commas; raises `InvalidField` for more than `MAX_NAMES`.

    Commas are counted first, because splitting megabytes would block the event loop.
    """
    parts = [value] if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
        return value
    count = sum(part.count(",") + 1 for part in parts)
    if count > MAX_NAMES:
        raise InvalidField(
            f"{info.field_name}: has {count:,} names, more than {MAX_NAMES:,}; send fewer"
        )
    names = (name.strip() for part in parts for name in part.split(","))
    return [name for name in names if name]


def without_empty(value: Any) -> Any:
    return [item for item in value if item != ""] if isinstance(value, list) else value


def require_order(after: datetime, before: datetime) -> None:
    """Raise `InvalidField` if bounds on the time of capture exclude every crop."""
    if after > before:
        raise InvalidField(
            "captured_after, captured_before: the first is later than the second, so no "
            "crop can pass; swap them"
        )


# Pydantic alone would also accept a bare number, such as a year, as seconds since 1970.
Moment = Annotated[
    AwareDatetime, BeforeValidator(read_moment), Field(json_schema_extra={"maxLength": MAX_MOMENT})
]
Text = Annotated[str, Field(max_length=MAX_TEXT)]
Id = Annotated[str, Field(max_length=MAX_ID)]
# Labels are stored, and so compared, in NFC.
Label = Annotated[Text, AfterValidator(nfc)]
Track = Annotated[str, Field(max_length=MAX_TRACK), AfterValidator(nfc)]
Names = Annotated[tuple[Label, ...], Field(max_length=MAX_NAMES), BeforeValidator(split_names)]
# Each text may contain a comma.
Texts = Annotated[tuple[Label, ...], Field(max_length=MAX_NAMES), BeforeValidator(without_empty)]
# Type of names of identities, cases and key holders; type of cameras.
Name = Annotated[
    Text, AfterValidator(lambda value, info: checked_text(info.field_name or "identity", value))
]
Camera = Annotated[
    Text, AfterValidator(lambda value, info: checked_camera(info.field_name or "camera", value))
]
