"""What an identity, a camera, another name of a client's, or its metadata may be."""

from __future__ import annotations

import json
from typing import Any

from service.errors import InvalidField

MAX_TEXT = 256
MAX_METADATA_BYTES = 16 * 1024
MAX_METADATA_DEPTH = 32
PATH_SEGMENTS = (".", "..")


def checked_text(field: str, value: str) -> str:
    """A name as it came; raises `InvalidField` for one that no call could name again."""
    if len(value) > MAX_TEXT or not value.isprintable():
        raise InvalidField(
            f"{field}: {value[:40]!r} is longer than {MAX_TEXT} characters or not printable; "
            "send a shorter, plain name"
        )
    if value in PATH_SEGMENTS:
        raise InvalidField(
            f"{field}: {value!r} would disappear from a URL's path, and the call would reach what "
            "lies above; send another name"
        )
    return value


def checked_camera(field: str, value: str) -> str:
    """A camera as it came; raises `InvalidField` for one that no list of cameras could name."""
    if "," in value or value != value.strip():
        raise InvalidField(
            f"{field}: {value[:40]!r} has a comma, or a space at an end, and no list of cameras "
            "could name it; send it without"
        )
    return checked_text(field, value)


def checked_metadata(name: str, value: str) -> dict[str, Any]:
    """A JSON object from its text; raises `InvalidField` for one that could not be written back."""
    read: Any = None
    try:
        read = json.loads(value) if len(value.encode()) <= MAX_METADATA_BYTES else None
        # What could not be written back as JSON: NaN, infinities, half of a surrogate pair.
        json.dumps(read, allow_nan=False, ensure_ascii=False).encode()
        usable = isinstance(read, dict) and _depth(read) <= MAX_METADATA_DEPTH
    except (ValueError, RecursionError):
        usable = False
    if not usable:
        raise InvalidField(
            f"{name}: {value[:40]!r} is no JSON object of at most {MAX_METADATA_BYTES:,} bytes and "
            f'{MAX_METADATA_DEPTH} levels; write it like {{"shift": "night"}}'
        )
    return dict(read)


def _depth(value: Any) -> int:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, parts), default=0)
