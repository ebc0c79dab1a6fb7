"""Labels of crops in texts: what an enrollment accepts in forms, manifests and exports."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, cast

from pydantic_core import to_json

from model.crops.texts import JOINERS, REPLACEMENT, describe, find_unfit, is_space, nfc
from model.times import read_time
from service.errors import InvalidField
from service.record.values import JsonObject

# Limits in characters of a name, a track and a time.
MAX_TEXT = 256
MAX_TRACK = 64
MAX_MOMENT = 64
# Limits on the metadata of one crop.
MAX_METADATA_BYTES = 16 * 1024
MAX_METADATA_DEPTH = 32
PATH_SEGMENTS = (".", "..")


def require_plain_text(field: str, value: str, most: int = MAX_TEXT) -> None:
    """Raise `InvalidField` if a text could not be shown, or not be used in later calls."""
    shown = repr(value[:40])
    if len(value) > most:
        raise InvalidField(
            f"{field}: {shown} has {len(value):,} characters, so it is longer than {most} "
            "characters; send a shorter text"
        )
    if value in PATH_SEGMENTS:
        raise InvalidField(
            f"{field}: {shown} has a special meaning in a URL's path, which would lead to "
            "another resource; send another name"
        )
    position = find_unfit(value)
    if position is None:
        return
    character = value[position]
    if character == REPLACEMENT:
        # Invalid UTF-8 in a query string or a URL-encoded form is decoded to it.
        rule = "so the text was not sent as UTF-8; send it in UTF-8"
    elif character in JOINERS:
        rule = (
            "which is invisible and may only stand between two letters of a script that uses it, "
            "such as Arabic or Devanagari; leave it out"
        )
    elif is_space(character):
        rule = "which looks like a space and is another character; send an ordinary space"
    else:
        rule = "which is not printable; leave it out"
    raise InvalidField(
        f"{field}: {shown} has the character {describe(character)} at position {position + 1}, "
        f"{rule}"
    )


def checked_text(field: str, value: str, most: int = MAX_TEXT) -> str:
    """Return a name in NFC; raise `InvalidField` if it could not be used in later calls."""
    require_plain_text(field, value, most)
    value = nfc(value)
    if len(value) > most:
        raise InvalidField(
            f"{field}: {value[:40]!r} has {len(value):,} characters in the Unicode normal form "
            f"NFC, so it is longer than {most} characters; send a shorter text"
        )
    return value


def checked_camera(field: str, value: str) -> str:
    """Return a camera in NFC; raise `InvalidField` if it could not occur in a list."""
    value = checked_text(field, value)
    if "," in value or value != value.strip():
        raise InvalidField(
            f"{field}: {value[:40]!r} has a comma or a space at an end, which a list of cameras "
            "cannot contain; send it without"
        )
    return value


def _checked_external_id(field: str, value: str) -> str:
    """Return an external id unchanged: it is compared in any form, and returned as sent."""
    require_plain_text(field, value)
    return value


def checked_metadata(name: str, value: object) -> dict[str, Any]:
    """Parse a JSON object; raise `InvalidField` if it cannot be serialized again."""
    if not isinstance(value, str):
        raise InvalidField(f"{name}: is a file; send its text as a field of the form")
    try:
        usable = len(value.encode()) <= MAX_METADATA_BYTES
        metadata = json.loads(value)
        # NaN, infinities and lone surrogates cannot be serialized.
        json.dumps(metadata, allow_nan=False, ensure_ascii=False).encode()
        usable &= isinstance(metadata, dict) and _measure_depth(metadata) <= MAX_METADATA_DEPTH
    except (ValueError, RecursionError):
        usable = False
    if not usable:
        raise InvalidField(
            f"{name}: {value[:40]!r} is not a JSON object of at most {MAX_METADATA_BYTES:,} bytes "
            f'and {MAX_METADATA_DEPTH} levels; write it like {{"shift": "night"}}'
        )
    return dict(metadata)


def _measure_depth(value: Any) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    parts = value if isinstance(value, list) else []
    return 1 + max((_measure_depth(part) for part in parts), default=0)


def read_moment(value: Any) -> Any:
    """Parse an RFC 3339 text to UTC; return other values unchanged.

    Raises:
        ValueError: the text is not an RFC 3339 time, or is too long.
    """
    if not isinstance(value, str):
        return value
    if len(value) > MAX_MOMENT:
        raise ValueError(
            f"{value[:40]!r} is longer than {MAX_MOMENT} characters; write the time with fewer "
            "digits"
        )
    try:
        return read_time(value)
    except ValueError as error:
        raise ValueError(f"{value[:40]!r} {error}") from error


def _parse_moment(name: str, value: str) -> datetime:
    try:
        return cast("datetime", read_moment(value))
    except ValueError as error:
        raise InvalidField(f"{name}: {error}") from error


# Parsers of labels from text.
LABEL_PARSERS: Mapping[str, Callable[[str, str], Any]] = {
    "identity": checked_text,
    "camera": checked_camera,
    "captured_at": _parse_moment,
    "external_id": _checked_external_id,
    "metadata": lambda name, value: JsonObject(to_json(checked_metadata(name, value)).decode()),
    "track": lambda name, value: checked_text(name, value, MAX_TRACK),
}
