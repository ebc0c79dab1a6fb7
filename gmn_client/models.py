"""The models of the wire: the service returns these models, the client parses them.

Fields that a newer service adds are ignored. The OpenAPI document is generated from these models.
Those of searches, reviews and cases are here; all others can be imported from here too.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, ConfigDict, Field

from gmn_client.gallery_models import *  # noqa: F403
from gmn_client.gallery_models import CalibrationState
from gmn_client.wire import *  # noqa: F403
from gmn_client.wire import (
    Moment,
    Page,
    RefusedImage,
    Scoring,
    Verdict,
    WireModel,
    absent,
)

SearchVerdict = Literal["match", "uncertain", "no_match", "nothing_searched"]
Decision = Literal["confirmed", "rejected"]
Milliseconds = Annotated[float, AfterValidator(partial(round, ndigits=2))]


class RankedCrop(WireModel):
    """One result.

    `probability` is that of the same person at even odds: it rises with the score within an answer,
    and `verdict` is an interval of it. Between answers of one `calibration_version` probabilities
    can be compared, scores cannot. Both are null where the scoring did not reach the crop, which is
    beyond `rerank_depth`; `pair_logit` is null there and with `scoring=cosine`. `vector`, with the
    `embedding_fingerprint` of its embedder, is there with `include_vector`; from Milvus it is of
    unit length.
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
    vector: list[float] | None = Field(default=None, exclude_if=absent)
    embedding_fingerprint: str | None = Field(default=None, exclude_if=absent)


class Timing(WireModel):
    """Milliseconds of each stage; of several images the slowest counts.

    `decode` begins with the form, once the request is there, `queue` is waiting for a thread, and
    `rerank` ends with the verdicts.
    """

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

    `query_id` names the kept search; null where `keep` was not sent, or it could not be kept, which
    `warnings` then explains.
    """

    problem: ClassVar[None] = None

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
    query_id: str | None = None


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
    """The served artefact's own description, and its runtime.

    `previous` names the artefacts that answer for galleries until they are reindexed.
    `provenance` has the terms, the training data, and in `sources` the starting weights and
    teachers with the known facts of their data.
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


class BestResult(WireModel):
    """The first result under its name of now; null where its crop was deleted."""

    crop_id: str
    identity: str | None
    probability: float | None
    image_url: str


class KeptSearch(WireModel):
    """A search that is kept, to be opened again.

    `expires_at` is null while a case holds it. `key_id` is the API key that asked. `count` is of
    the kept results, at most 100. `image_url` is that of the query's picture, null where none is
    kept; `crop_id` is of a search by a crop. `confirmed` and `rejected` count the reviewed results.
    """

    query_id: str
    created_at: Moment
    expires_at: Moment | None
    key_id: str
    purpose: str | None
    verdict: SearchVerdict
    count: int
    best: BestResult | None
    image_url: str | None
    crop_id: str | None
    confirmed: int
    rejected: int
    case_ids: list[str]


class KeptSearches(Page[KeptSearch]):
    """One page of kept searches, the newest first."""


class ReviewedResult(WireModel):
    """A decision on one result: whether it shows the person that was searched for.

    `identity` is the crop's name of now; null also for a crop that was deleted.
    """

    crop_id: str
    decision: Decision
    identity: str | None
    reviewed_at: Moment
    key_id: str


class OpenedSearch(KeptSearch):
    """A kept search with its answer and reviews.

    `request` has the fields that were sent, but for the ones that name people, and the number of
    `images`, of which one is kept at most. Scores, verdicts and ranks of `answer` are those of the
    search, labels those of now; `removed` counts results whose crops were deleted since.
    """

    request: dict[str, Any]
    answer: QueryAnswer
    removed: int
    reviews: list[ReviewedResult]


class AnsweredReview(OpenedSearch):
    """The search after a review; `enrolled_crop_id` is the crop that its picture became."""

    enrolled_crop_id: str | None


class Review(WireModel):
    """A decision on a result of a kept search: a label for training.

    A `confirmed` crop and the search's picture show one person, whose name of now is `identity`; a
    `rejected` crop shows another person. `query_image_url` is null where no picture is kept.
    """

    query_id: str
    crop_id: str
    identity: str | None
    decision: Decision
    reviewed_at: Moment
    key_id: str
    query_image_url: str | None
    image_url: str


class Reviews(Page[Review]):
    """One page of reviews, those of the newest searches first; `limit` counts searches."""


class CaseSearch(WireModel):
    """A kept search in a case, and the note on it."""

    query_id: str
    note: str
    added_at: Moment


class Case(WireModel):
    """Kept searches that are held together beyond their days; `count` is how many.

    `deleted_searches` counts its searches that were deleted, by day in UTC.
    """

    case_id: str
    name: str
    notes: str
    created_at: Moment
    changed_at: Moment
    key_id: str
    count: int
    deleted_searches: dict[date, int] = Field(default_factory=dict)


class CaseDetail(Case):
    """A case with the ids of its searches and the notes on them, in the order they were added."""

    queries: list[CaseSearch]


class Cases(Page[Case]):
    """One page of cases, the newest first."""


class CaseRemoval(WireModel):
    """The number of kept searches that were deleted with the case."""

    removed: int
