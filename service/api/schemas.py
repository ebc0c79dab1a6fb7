"""What goes over the wire, with examples; the OpenAPI document is made from these."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, PlainSerializer

from model.calibration import Scoring, Verdict
from service.gallery.job_records import Job
from service.gallery.records import LandedCrop, StoredCrop
from service.operations.browse import GalleryDescription
from service.operations.query import QueryAnswer
from service.operations.ranking import RankedCrop


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


Moment = Annotated[datetime, PlainSerializer(_rfc3339, return_type=str)]
CROP_ID = "0198f2c6a1b27d1c3e5f9a0b4c6d8e2f"


class Schema(BaseModel):
    """Base of every answer."""

    model_config = ConfigDict(frozen=True, from_attributes=True)


class Problem(BaseModel):
    """An RFC 9457 problem document."""

    model_config = ConfigDict(
        frozen=True,
        extra="allow",
        json_schema_extra={
            "example": {
                "type": "urn:gmn:problem:unknown_gallery",
                "title": "Unknown gallery",
                "status": 404,
                "detail": "there is no gallery 'lobby'; create it with POST /v1/galleries or list "
                "those there are with GET /v1/galleries",
                "request_id": "5f0c2b7d9e1a4c38",
            }
        },
    )

    type: str
    title: str
    status: int
    detail: str
    request_id: str | None = None


class CalibrationOut(Schema):
    """What a gallery's verdicts are made by.

    `artefact`: by the artefact's own thresholds, corrected for the gallery's size; `learning`: the
    same, until there are enough searches; `own`: by the impostor tail of its own searches.
    """

    version: str | None
    state: Literal["artefact", "learning", "own"]
    searches: int


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
    calibration: CalibrationOut
    created_at: Moment

    @classmethod
    def of(cls, gallery: GalleryDescription) -> GalleryOut:
        """From what the operation answers."""
        return cls.model_validate(gallery)


class GalleriesOut(Schema):
    """Every gallery."""

    results: list[GalleryOut]
    next_cursor: str | None = None


class CropOut(Schema):
    """A stored crop; its picture is at `image_url`."""

    crop_id: str
    identity: str | None
    camera: str | None
    captured_at: Moment | None
    external_id: str | None
    metadata: dict[str, Any] | None
    sha256: str
    content_type: str | None
    created_at: Moment
    image_url: str | None

    @classmethod
    def of(cls, gallery: str, crop: StoredCrop) -> CropOut:
        """From what the record holds."""
        return cls(
            crop_id=crop.crop_id,
            identity=crop.identity,
            camera=crop.camera,
            captured_at=crop.captured_at,
            external_id=crop.external_id,
            metadata=dict(crop.metadata) if crop.metadata is not None else None,
            sha256=crop.sha256,
            content_type=crop.content_type,
            created_at=crop.created_at,
            image_url=image_url(gallery, crop.crop_id) if crop.content_type else None,
        )


class CropsOut(Schema):
    """One page of crops, in the order of their enrolment."""

    results: list[CropOut]
    next_cursor: str | None


class IdentityOut(Schema):
    """How many crops, under how many cameras, one identity has."""

    identity: str
    crops: int
    cameras: int


class IdentitiesOut(Schema):
    """One page of identities, in the order of their names."""

    results: list[IdentityOut]
    next_cursor: str | None


class LandedOut(Schema):
    """An image that is in the gallery; with `duplicate` it was there before, as `crop_id`."""

    crop_id: str
    identity: str | None
    camera: str | None
    duplicate: bool
    warnings: list[str]

    @classmethod
    def of(cls, landed: LandedCrop) -> LandedOut:
        """From what the operation answers."""
        return cls.model_validate(landed)


class RefusedOut(Schema):
    """An image that could not be used."""

    problem: Problem


class EnrolmentOut(Schema):
    """One entry per image, in order."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "gallery_version": 7,
                "results": [
                    {
                        "crop_id": CROP_ID,
                        "identity": "0042",
                        "camera": "east",
                        "duplicate": False,
                        "warnings": [],
                    },
                    {
                        "problem": {
                            "type": "urn:gmn:problem:truncated",
                            "title": "Truncated",
                            "status": 422,
                            "detail": "the image data is cut off or damaged; send the whole file",
                        }
                    },
                ],
            }
        }
    )

    gallery_version: int
    results: list[LandedOut | RefusedOut]


class RemovalOut(Schema):
    """What was removed; from `gallery_version` on it is never returned again."""

    gallery_version: int
    removed: int


class RelabelledOut(Schema):
    """How many crops bear the new name; `merged` where others bore it before."""

    gallery_version: int
    identity: str
    changed: int
    merged: bool


class RemainderOut(Schema):
    """What is still kept of a forgotten person: where, what, and until when."""

    where: str
    what: str
    until: str


class ForgottenOut(Schema):
    """What was removed of a person, crops by snapshot too, and what remains."""

    gallery_version: int
    removed: int
    snapshots: dict[str, int]
    remaining: list[RemainderOut]


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


class JobOut(Schema):
    """Long work, and how far it is; `problems` counts the items that had one."""

    job_id: str
    gallery: str
    kind: Literal["import", "reindex"]
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    progress: dict[str, int]
    problems: int
    detail: str | None
    created_at: Moment
    updated_at: Moment

    @classmethod
    def of(cls, gallery: str, job: Job) -> JobOut:
        """From what the record holds."""
        return cls(
            job_id=job.job_id,
            gallery=gallery,
            kind=job.kind,
            state=job.state,
            progress=dict(job.progress),
            problems=job.problems,
            detail=job.detail,
            created_at=job.created_at,
            updated_at=job.updated_at,
        )


class JobsOut(Schema):
    """The newest jobs."""

    results: list[JobOut]
    next_cursor: str | None = None


class GalleryRemovalOut(Schema):
    """How many crops went with the gallery."""

    removed: int


class RankedOut(Schema):
    """One result.

    `probability` is that this crop shows the person asked for, where that person was as likely as
    not among the crops searched. It and `verdict` are null where the asked scoring did not reach
    the crop, which is beyond `rerank_depth`; `pair_logit` is null there and with `scoring=cosine`.
    """

    rank: int
    crop_id: str
    identity: str | None
    camera: str | None
    captured_at: Moment | None
    cosine: float
    pair_logit: float | None
    probability: float | None
    verdict: Verdict | None
    image_url: str

    @classmethod
    def of(cls, gallery: str, rank: int, ranked: RankedCrop) -> RankedOut:
        """From what the operation answers."""
        return cls(
            rank=rank,
            crop_id=ranked.label.crop_id,
            identity=ranked.label.identity,
            camera=ranked.label.camera,
            captured_at=ranked.label.captured_at,
            cosine=ranked.cosine,
            pair_logit=ranked.pair_logit,
            probability=ranked.probability,
            verdict=ranked.verdict,
            image_url=image_url(gallery, ranked.label.crop_id),
        )


class TimingOut(Schema):
    """Where the time went, milliseconds."""

    decode: float
    queue: float
    embed: float
    search: float
    rerank: float
    total: float


class QueryOut(Schema):
    """A ranking, and how sure it is."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "gallery_version": 7,
                "calibration_version": "9c1e5d0f7ab2",
                "model": "9c1e5d0f7ab2",
                "verdict": "match",
                "results": [
                    {
                        "rank": 1,
                        "crop_id": CROP_ID,
                        "identity": "0042",
                        "camera": "east",
                        "captured_at": "2026-03-01T09:30:00Z",
                        "cosine": 0.83,
                        "pair_logit": 4.1,
                        "probability": 0.97,
                        "verdict": "match",
                        "image_url": f"/v1/galleries/default/crops/{CROP_ID}/image",
                    }
                ],
                "candidates_scored": 100,
                "timing_ms": {
                    "decode": 0.6,
                    "queue": 0.3,
                    "embed": 11.0,
                    "search": 0.4,
                    "rerank": 2.1,
                    "total": 15.2,
                },
            }
        }
    )

    gallery_version: int
    calibration_version: str
    model: str
    verdict: Verdict
    results: list[RankedOut]
    candidates_scored: int
    timing_ms: TimingOut

    @classmethod
    def of(cls, gallery: str, answer: QueryAnswer) -> QueryOut:
        """From what the operation answers."""
        return cls(
            gallery_version=answer.gallery_version,
            calibration_version=answer.calibration_version,
            model=answer.model,
            verdict=answer.ranking.verdict,
            results=[
                RankedOut.of(gallery, rank, one)
                for rank, one in enumerate(answer.ranking.results, 1)
            ],
            candidates_scored=answer.ranking.candidates_scored,
            timing_ms=TimingOut.model_validate(answer.timing),
        )


class SeparateOut(Schema):
    """With `mode=separate`: one answer per image, in order."""

    results: list[QueryOut | RefusedOut]


class EmbeddingOut(Schema):
    """A feature as the embedder gives it, not of unit length."""

    embedding: list[float]


class EmbeddingsOut(Schema):
    """One entry per image, in order."""

    embedding_fingerprint: str
    dimension: int
    results: list[EmbeddingOut | RefusedOut]


class ExplanationOut(Schema):
    """What each region of two images did to the asked `score`, with `explain=true`.

    Every image, upright, is divided into `grid` = [rows, columns] equal cells. `first` and `second`
    hold a number for each, row by row from the top left: how much higher the score is than with
    this cell hidden under the image's mean colour. Positive spoke for one person, negative for
    two. The unit is the score's own: that of `cosine`, of M-Net's `logit`, or of fused log-odds.
    The numbers do not add up to the score.
    """

    scoring: Scoring
    score: float
    grid: tuple[int, int]
    first: list[list[float]]
    second: list[list[float]]


class PairOut(Schema):
    """How alike two images are; `explanation` is there where it was asked for."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "cosine": 0.83,
                "logit": 4.1,
                "probability": 0.97,
                "verdict": "match",
                "calibration_version": "9c1e5d0f7ab2",
                "model": "9c1e5d0f7ab2",
            }
        }
    )

    cosine: float
    logit: float
    probability: float
    verdict: Verdict
    calibration_version: str
    model: str
    explanation: ExplanationOut | None = None


class AliveOut(Schema):
    """The process works: its device thread shows signs of life."""

    status: Literal["alive"]


class ReadyOut(Schema):
    """The model answered a probe and every gallery is loaded, or known to need a reindex."""

    status: Literal["ready"]
    galleries: dict[str, Literal["ready", "needs_reindex"]]


def image_url(gallery: str, crop_id: str) -> str:
    """Where a crop's picture is, below the service's address."""
    return f"/v1/galleries/{gallery}/crops/{crop_id}/image"
