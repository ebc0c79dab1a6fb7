"""Rankings, as they go over the wire."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field

from model.calibration import Scoring, Verdict
from service.api.schemas.base import CROP_ID, CalibrationOut, Moment, RefusedOut, Schema, image_url
from service.operations.query import QueryAnswer
from service.operations.ranking import RankedCrop, SearchVerdict


class RankedOut(Schema):
    """One result.

    `probability` is that of the same person at even odds: it rises with the score alone, and
    `verdict` is an interval of it, the same for all results of a search. Both are null where the
    asked scoring did not reach the crop, which is beyond `rerank_depth`; `pair_logit` is null there
    and with `scoring=cosine`. `external_id` and `metadata` are those of the enrolment, and null in
    an answer that is `stale`.
    """

    rank: int
    crop_id: str
    identity: str | None
    camera: str | None
    captured_at: Moment | None
    external_id: str | None
    metadata: dict[str, Any] | None
    cosine: float
    pair_logit: float | None
    probability: float | None
    verdict: Verdict | None
    image_url: str

    @classmethod
    def of(cls, gallery: str, rank: int, ranked: RankedCrop) -> RankedOut:
        """From what the operation answers."""
        record = ranked.record
        return cls(
            rank=rank,
            crop_id=ranked.label.crop_id,
            identity=ranked.label.identity,
            camera=ranked.label.camera,
            captured_at=ranked.label.captured_at,
            external_id=record.external_id if record else None,
            metadata=dict(record.metadata) if record and record.metadata is not None else None,
            cosine=ranked.cosine,
            pair_logit=ranked.pair_logit,
            probability=ranked.probability,
            verdict=ranked.verdict,
            image_url=image_url(gallery, ranked.label.crop_id),
        )


Milliseconds = Annotated[float, AfterValidator(lambda value: round(value, 2))]


class TimingOut(Schema):
    """Where the time went, milliseconds."""

    decode: Milliseconds
    queue: Milliseconds
    embed: Milliseconds
    search: Milliseconds
    rerank: Milliseconds
    total: Milliseconds


class QueryOut(Schema):
    """A ranking, and how sure it is.

    `scoring` is what orders the results: the one asked for, or the artefact's default.
    `verdict` is `nothing_searched` where no crop passed the filter, as in an empty gallery.
    `warnings` has a sentence for each fault of an image that was sent, as an enrolment's has, and
    for each of several images that could not be used and was left out; of several images each is
    named by its place, from 1.

    `stale` is there, and true, only where the record did not answer or is being read again: the
    ranking is of what this process knew before, and deletions since may be missing from it.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "gallery_version": 7,
                "calibration_version": "9c1e5d0f7ab2+5b0c61fe",
                "calibration": {
                    "state": "own",
                    "reason": None,
                    "searches": 64,
                    "version": "9c1e5d0f7ab2+5b0c61fe",
                    "date": "2026-03-01T09:00:00Z",
                },
                "model": "9c1e5d0f7ab2",
                "scoring": "mnet",
                "verdict": "match",
                "warnings": [],
                "results": [
                    {
                        "rank": 1,
                        "crop_id": CROP_ID,
                        "identity": "0042",
                        "camera": "east",
                        "captured_at": "2026-03-01T09:30:00Z",
                        "external_id": "track-17",
                        "metadata": {"shift": "night"},
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
    calibration: CalibrationOut
    model: str
    scoring: Scoring
    verdict: SearchVerdict
    warnings: list[str]
    results: list[RankedOut]
    candidates_scored: int
    timing_ms: TimingOut
    stale: bool = Field(default=False, exclude_if=lambda stale: not stale)

    @classmethod
    def of(cls, gallery: str, answer: QueryAnswer) -> QueryOut:
        """From what the operation answers."""
        return cls(
            gallery_version=answer.gallery_version,
            calibration_version=str(answer.calibration.version),
            calibration=CalibrationOut.model_validate(answer.calibration),
            model=answer.model,
            scoring=answer.ranking.scoring,
            verdict=answer.ranking.verdict,
            warnings=list(answer.warnings),
            results=[
                RankedOut.of(gallery, rank, one)
                for rank, one in enumerate(answer.ranking.results, 1)
            ],
            candidates_scored=answer.ranking.candidates_scored,
            timing_ms=TimingOut.model_validate(answer.timing),
            stale=answer.stale,
        )


class SeparateOut(Schema):
    """With `mode=separate`: one answer per image, in order."""

    results: list[QueryOut | RefusedOut]
