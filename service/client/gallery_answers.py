"""What the service answers about galleries, the identities in them, and their snapshots."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import ConfigDict, Field

from service.client.answers import Answer, CalibrationState

CalibrationMode = Literal["on", "frozen", "off", "reset"]
RetentionFrom = Literal["captured", "enrolled"]


class GalleryCalibration(CalibrationState):
    """What a gallery's verdicts are made by: by the default `scoring`, in `scorings` by each."""

    scoring: str | None = None
    scorings: dict[str, CalibrationState] = Field(default_factory=dict)


class Gallery(Answer):
    """A gallery's description, with every field that the service gives.

    Attributes:
        version: grows with every change; what a query's `min_version` can ask for.
        embedding_fingerprint: of the embedder that made its vectors.
        state: `ready`; `previous_model` where the model before answers for it; `needs_reindex`
            where neither does.
        recall: share of the true nearest that its index finds, 0 to 1; None where it is exact.
        index_bytes, image_bytes: of its vectors in memory, and of the images that are kept.
        retention_days: older crops are deleted; None keeps all.
        retention_from: whether their age counts from their capture (`captured`) or from their
            enrolment (`enrolled`).
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str
    crops: int = 0
    identities: int = 0
    version: int = 0
    embedding_fingerprint: str | None = None
    state: str | None = None
    index_kind: str | None = None
    dtype: str | None = None
    recall: float | None = None
    index_bytes: int = 0
    image_bytes: int = 0
    retention_days: int | None = None
    retention_from: str | None = None
    calibration: GalleryCalibration | None = None
    created_at: datetime | None = None


class Identity(Answer):
    """How many crops, under how many cameras, one identity has."""

    identity: str
    crops: int
    cameras: int


class IdentityDetail(Answer):
    """How many crops one identity has, and which cameras took them."""

    identity: str
    crops: int
    cameras: list[str]


class Relabelling(Answer):
    """How many crops bear the new name; `merged` where others bore it before."""

    gallery_version: int
    identity: str
    changed: int
    merged: bool


class Remainder(Answer):
    """What is still kept of a forgotten person: where, what, and until when."""

    where: str
    what: str
    until: str


class Forgetting(Answer):
    """What was removed of a person, and what remains.

    Attributes:
        removed: crops of the gallery.
        snapshots: crops taken out, by snapshot.
        remaining: what is still kept elsewhere.
    """

    gallery_version: int
    removed: int
    snapshots: dict[str, int]
    remaining: list[Remainder]


class Snapshot(Answer):
    """A copy of a gallery.

    Attributes:
        version: the gallery's when it was taken.
        bytes: of its file.
        sha256: over its crops' checksums.
    """

    snapshot_id: str
    version: int
    embedding_fingerprint: str
    crops: int
    bytes: int
    sha256: str
    created_at: datetime


class Restoration(Answer):
    """What a gallery holds after a restore."""

    gallery_version: int
    snapshot_id: str
    crops: int
