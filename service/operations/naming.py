"""What an identity, a camera or another name of a client's may be."""

from __future__ import annotations

from service.problems import InvalidField

MAX_TEXT = 256
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
