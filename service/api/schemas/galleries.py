"""Galleries and their snapshots, as they go over the wire."""

from __future__ import annotations

from typing import Literal

from model.calibration import Scoring
from service.api.schemas.base import CalibrationOut, Moment, Schema
from service.gallery.records import RetentionFrom
from service.operations.browse import GalleryDescription


class GalleryCalibrationOut(CalibrationOut):
    """What a search of a whole gallery is judged by: the default's, `scoring`, and each one's.

    `scorings` has those that the gallery's artefact offers.
    """

    scoring: Scoring
    scorings: dict[Scoring, CalibrationOut]


class GalleryOut(Schema):
    """A gallery: what it holds, and whether it can be searched."""

    name: str
    crops: int
    identities: int
    embedding_fingerprint: str
    version: int
    index_kind: str
    dtype: str
    index_bytes: int
    image_bytes: int
    recall: float | None = None
    state: Literal["ready", "previous_model", "needs_reindex"]
    retention_days: int | None
    retention_from: RetentionFrom
    calibration: GalleryCalibrationOut
    created_at: Moment

    @classmethod
    def of(cls, gallery: GalleryDescription) -> GalleryOut:
        """From what the operation answers."""
        return cls.model_validate(gallery)


class GalleriesOut(Schema):
    """Every gallery; `audit_queries`: whether searches and views are in the audit log."""

    results: list[GalleryOut]
    next_cursor: str | None = None
    audit_queries: bool


class GalleryRemovalOut(Schema):
    """How many crops went with the gallery."""

    removed: int


class SnapshotOut(Schema):
    """A copy of a gallery; `sha256` is over its crops' checksums."""

    snapshot_id: str
    version: int
    embedding_fingerprint: str
    crops: int
    bytes: int
    sha256: str
    created_at: Moment


class SnapshotsOut(Schema):
    """Every snapshot of a gallery, oldest first."""

    results: list[SnapshotOut]
    next_cursor: str | None = None


class RestoredOut(Schema):
    """What a gallery holds after a restore."""

    gallery_version: int
    snapshot_id: str
    crops: int
