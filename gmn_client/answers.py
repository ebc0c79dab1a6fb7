"""What goes over the wire about images: rankings, pairs, features; and about the service itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, ConfigDict, Field

from gmn_client.models import CalibrationState, Moment, RefusedImage, Scoring, WireModel

Verdict = Literal["match", "uncertain", "no_match"]
SearchVerdict = Literal["match", "uncertain", "no_match", "nothing_searched"]
Milliseconds = Annotated[float, AfterValidator(lambda value: round(value, 2))]


class RankedCrop(WireModel):
    """One result.

    `probability` is that of the same person at even odds: it rises with the score alone, and
    `verdict` is an interval of it, the same for all results of a search. Both are null where the
    asked scoring did not reach the crop, which is beyond `rerank_depth`; `pair_logit` is null there
    and with `scoring=cosine`.
    """

    rank: int
    crop_id: str
    identity: str | None
    camera: str | None
    captured_at: Moment | None
    external_id: str | None
    metadata: Mapping[str, Any] | None
    cosine: float
    pair_logit: float | None
    probability: float | None
    verdict: Verdict | None
    image_url: str


class Timing(WireModel):
    """Milliseconds of each stage; of several images the slowest counts."""

    decode: Milliseconds
    queue: Milliseconds
    embed: Milliseconds
    search: Milliseconds
    rerank: Milliseconds
    total: Milliseconds


class QueryAnswer(WireModel):
    """A ranking with its verdict.

    `scoring` is what orders the results: the one asked for, or the artefact's default.
    `verdict` is `nothing_searched` where no crop passed the filter, as in an empty gallery.
    `warnings` has a sentence for each fault of an image that was sent, as an enrollment's has, and
    for each of several images that could not be used and was left out; of several images each is
    named by its place, from 1.

    `stale` is there, and true, only where the record did not answer or is being read again: the
    ranking is of what this process knew before, and deletions since may be missing from it.
    """

    gallery_version: int
    calibration_version: str
    calibration: CalibrationState
    model: str
    scoring: Scoring
    verdict: SearchVerdict
    warnings: list[str]
    results: list[RankedCrop]
    candidates_scored: int
    timing_ms: Timing
    stale: bool = Field(default=False, exclude_if=lambda stale: not stale)


class SeparateAnswers(WireModel):
    """With `mode=separate`: one answer per image, in order."""

    results: list[QueryAnswer | RefusedImage]


class Embedding(WireModel):
    """A feature as the embedder gives it, not of unit length."""

    problem: ClassVar[None] = None

    embedding: list[float]


class Embeddings(WireModel):
    """One entry per image, in order; only features of one `embedding_fingerprint` compare."""

    embedding_fingerprint: str
    dimension: int
    results: list[Embedding | RefusedImage]


class Explanation(WireModel):
    """The contribution of each region of two images to the asked `score`, with `explain=true`.

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


class PairScore(WireModel):
    """The likeness of two images; `explanation` is there where it was asked for.

    `logit` is M-Net's score, and not there where the artefact has no M-Net.
    `judged_as` is what `probability` and `verdict` are of: `pair`, two images without a search, at
    even odds and by the rates of pairs of different people; with a `gallery` `search`, as if one
    were a result of a search of the whole gallery by the other. `calibration` is there with a
    gallery.
    """

    model_config = ConfigDict(json_schema_serialization_defaults_required=False)

    cosine: float
    logit: float | None = None
    probability: float
    verdict: Verdict
    judged_as: Literal["pair", "search"]
    calibration_version: str
    calibration: CalibrationState | None = None
    model: str
    explanation: Explanation | None = None


class ModelInfo(WireModel):
    """The served artefact's own description, and what it runs on.

    `previous` names the artefacts that answer for galleries until they are reindexed.
    `provenance` has the terms, the training data, and in `sources` the starting weights and
    teachers with what is known of their data.
    """

    model_config = ConfigDict(extra="allow")

    artefact: str
    artefact_fingerprint: str
    embedding_fingerprint: str
    provenance: dict[str, Any]
    previous: list[str]
    scorings: list[Scoring]
    default_scoring: Scoring
    calibration_version: str
    operating_points: dict[str, Any]
    device: str
    runtime: str
    dtype: str
    crops_per_second: dict[str, float]


class Alive(WireModel):
    """Every stage of the process makes progress."""

    status: Literal["alive"] = "alive"


class RecordState(WireModel):
    """How far the index is behind the record.

    `state` is `in_step`; `catching_up` where another process has changed what is not shown yet;
    `reading_again` where everything is read anew; `unreachable` where the record does not answer:
    searches are answered from memory, and a call that needs the record is 503. `lag` counts changes
    that are known and not shown, `lag_seconds` the time since they are known.
    """

    state: Literal["in_step", "catching_up", "reading_again", "unreachable"] = "in_step"
    lag: int = 0
    lag_seconds: Annotated[float, AfterValidator(lambda value: round(value, 3))] = 0.0

    @property
    def up(self) -> bool:
        """Whether the record answers."""
        return self.state != "unreachable"

    @property
    def stale(self) -> bool:
        """Whether an answer from memory may lack what the record has, for longer than a moment."""
        return self.state in ("unreachable", "reading_again")


class Ready(WireModel):
    """The model answered a probe and every gallery is loaded, or known to need a reindex."""

    status: Literal["ready"] = "ready"
    galleries: dict[str, Literal["ready", "needs_reindex"]]
    record: RecordState
