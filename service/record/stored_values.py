"""How values of a record are stored, whichever database it is built on."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

log = logging.getLogger(__name__)


def as_text(moment: datetime) -> str:
    """A time as it is stored; texts of UTC times sort as the times do."""
    return moment.astimezone(UTC).isoformat()


def now() -> str:
    """This moment as it is stored, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def as_time(text: str | None) -> datetime | None:
    """The time of a stored text."""
    return datetime.fromisoformat(text) if text else None


def contains_text(text: str, part: str) -> bool:
    """Whether a text contains another, in any case and any script."""
    return part.casefold() in text.casefold()


def vector_bytes(vector: NDArray[np.float32]) -> bytes:
    """A vector as it is stored: float32, little-endian."""
    return np.asarray(vector, "<f4").tobytes()


def kept_already(names: Sequence[str]) -> tuple[str, ...]:
    """Warnings that a crop that is there already keeps the values of these fields."""
    return tuple(
        f"the crop is enrolled already and keeps its {name}; delete it first to change that"
        for name in names
    )


def same_image(crop_id: str) -> str:
    """The warning that a new crop's bytes are those of another one.

    It names neither that crop's identity nor its camera: a key that may only enroll must not learn
    them, and they are not kept with a request's answer, where forgetting would not find them.
    """
    return f"the same image is already enrolled as crop {crop_id} under another identity or camera"


def new_crop_id() -> str:
    """48 bits of milliseconds, then 80 random ones: unguessable, and roughly in order of time."""
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"
