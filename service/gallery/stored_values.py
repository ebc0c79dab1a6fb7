"""How values of a record are stored, whichever database it is built on."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from service.gallery.records import NewCrop

log = logging.getLogger(__name__)


def as_text(moment: datetime) -> str:
    """A time as it is stored; texts of UTC times sort as the times do."""
    return moment.astimezone(UTC).isoformat()


def now() -> str:
    """This moment as it is stored, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def as_time(text: str | None) -> datetime | None:
    """The time that a stored text says."""
    return datetime.fromisoformat(text) if text else None


def contains_text(text: str, part: str) -> bool:
    """Whether a text contains another, in any case and any script."""
    return part.casefold() in text.casefold()


def vector_bytes(vector: NDArray[np.float32]) -> bytes:
    """A vector as it is stored: float32, little-endian."""
    return np.asarray(vector, "<f4").tobytes()


def said_of(crop: NewCrop) -> dict[str, str | None]:
    """What a client said of a crop beside identity and camera, as it is stored."""
    return {
        "captured_at": as_text(crop.captured_at) if crop.captured_at else None,
        "external_id": crop.external_id,
        "metadata": json.dumps(crop.metadata) if crop.metadata is not None else None,
    }


def log_dropped_calibrations(galleries: int) -> None:
    """Logs that a migration dropped what galleries had learned; nothing where none had."""
    if galleries:
        log.warning(
            "the calibration that %d galleries had learned was dropped; they answer by the "
            "artefact's and learn anew from their next searches",
            galleries,
        )


def kept_already(names: Sequence[str]) -> tuple[str, ...]:
    """Warnings that a crop that is there already keeps what it says under these names."""
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
