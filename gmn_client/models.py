"""The models of the wire: the service returns these models, the client parses them.

Fields that a newer service adds are ignored. The OpenAPI document is generated from these models.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, timezone
from functools import partial
from operator import is_
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    WithJsonSchema,
    model_serializer,
)
from pydantic.json_schema import SkipJsonSchema

Item = TypeVar("Item")
Scoring = Literal["cosine", "mnet"]
JobKind = Literal["import", "reindex", "grouping"]
JobState = Literal["queued", "running", "done", "failed", "cancelled"]
Verdict = Literal["match", "uncertain", "no_match"]
Scope = Literal["query", "enroll", "sight", "delete", "metrics", "admin"]
CalibrationSource = Literal["artefact", "own", "frozen", "off"]
CalibrationReason = Literal[
    "not_fitted", "few_identities", "few_scored", "shallow_search", "extrapolated"
]
CropOrder = Literal["enrolled", "captured", "-captured"]
RetentionFrom = Literal["captured", "enrolled"]
IdentityOrder = Literal["name", "last_seen", "crops"]
Pixels = Annotated[int, Field(ge=-1_000_000, le=1_000_000)]
SearchVerdict = Literal["match", "uncertain", "no_match", "nothing_searched"]
Decision = Literal["confirmed", "rejected"]
AlertKind = Literal["visit", "late", "disarmed", "promise_broken"]
AlertState = Literal["open", "confirmed", "rejected"]
DeliveryState = Literal["waiting", "done", "dead"]
Milliseconds = Annotated[float, AfterValidator(partial(round, ndigits=2))]
# Codes of problems, of refused images, and of the lines of a job's report.
PROBLEM_CODES = (
    "answer_too_large",
    "bad_request",
    "blurred",
    "body_too_large",
    "body_too_slow",
    "box_outside",
    "captured_in_future",
    "crop_conflict",
    "cross_origin",
    "damaged_record",
    "damaged_snapshot",
    "dark",
    "device_full",
    "device_lost",
    "empty",
    "file_too_large",
    "forbidden",
    "gallery_conflict",
    "ignored",
    "index_unavailable",
    "internal_error",
    "invalid_field",
    "key_conflict",
    "low_resolution",
    "method_not_allowed",
    "needs_reindex",
    "not_an_image",
    "not_embedded",
    "not_found",
    "not_person_shaped",
    "not_ready",
    "not_unpacked",
    "overexposed",
    "queue_full",
    "record_unavailable",
    "request_conflict",
    "service_stopping",
    "snapshots_not_rewritten",
    "storage_failed",
    "too_costly",
    "too_many_exports",
    "too_many_parts",
    "too_many_pixels",
    "too_many_requests",
    "too_small",
    "truncated",
    "unauthorised",
    "unknown_alert",
    "unknown_case",
    "unknown_crop",
    "unknown_delivery",
    "unknown_gallery",
    "unknown_identity",
    "unknown_job",
    "unknown_key",
    "unknown_merge",
    "unknown_picture",
    "unknown_query",
    "unknown_snapshot",
    "unknown_track",
    "unknown_webhook",
    "unreadable",
    "unsupported_media_type",
    "unusable_images",
    "version_not_reached",
)
PROBLEM_TYPE = {"type": "string", "enum": [f"urn:gmn:problem:{code}" for code in PROBLEM_CODES]}
FINISHED: tuple[JobState, ...] = ("done", "failed", "cancelled")


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(timezone.utc).isoformat().replace("+00:00", "Z")


Moment = Annotated[datetime, PlainSerializer(_rfc3339, return_type=str)]
absent = partial(is_, None)


class WireModel(BaseModel):
    """Base of every answer."""

    model_config = ConfigDict(
        frozen=True, from_attributes=True, json_schema_serialization_defaults_required=True
    )


class Page(WireModel, Generic[Item]):
    """One page of a list; `next_cursor` is null on the last."""

    results: list[Item]
    next_cursor: str | None = None


class FieldProblem(WireModel):
    """A problem of one field of a request, which `detail` contains too."""

    field: str
    message: str


class Problem(WireModel):
    """An RFC 9457 problem document: `detail` names the input, the reason and the remedy.

    `type` is one of the listed ones; a newer service may have others. `errors` names the
    fields that cannot be used, and `results` has an entry for each image where none could be.
    """

    model_config = ConfigDict(
        extra="allow",
        json_schema_serialization_defaults_required=False,
        json_schema_extra={"required": ["type", "title", "status", "detail"]},
    )

    type: Annotated[str, WithJsonSchema({"anyOf": [PROBLEM_TYPE, {"type": "string"}]})] = (
        "about:blank"
    )
    title: str = ""
    status: int = 0
    detail: str = ""
    request_id: str | None = Field(default=None, exclude_if=absent)
    errors: list[FieldProblem] | None = Field(default=None, exclude_if=absent)
    results: list[dict[str, Any]] | None = Field(default=None, exclude_if=absent)

    @property
    def code(self) -> str:
        """The last part of `type`, such as `unknown_gallery`."""
        return self.type.rpartition(":")[2]


class RefusedImage(WireModel):
    """An image that could not be used; the attributes of a usable one are empty."""

    crop_id: ClassVar[None] = None
    identity: ClassVar[None] = None
    camera: ClassVar[None] = None
    duplicate: ClassVar[bool] = False
    kept: ClassVar[bool] = False
    warnings: ClassVar[tuple[str, ...]] = ()
    embedding: ClassVar[None] = None

    problem: Problem


class JobProgress(WireModel):
    """How far a job is, in items: `total` is 0 until they are counted.

    `done` counts the items that were handled; of an import `landed`, `duplicates` and `refused` are
    its parts, and `not_kept` with `keep_best`. `ignored` counts other files, images that the
    manifest does not name, and columns of it that have no meaning.
    """

    model_config = ConfigDict(extra="allow")

    total: int = 0
    done: int = 0
    landed: int = 0
    duplicates: int = 0
    not_kept: int = 0
    refused: int = 0
    ignored: int = 0

    @model_serializer(mode="wrap")
    def _noted(self, serialize: SerializerFunctionWrapHandler) -> dict[str, int]:
        """Omit the counts that this kind of job does not have."""
        return {name: n for name, n in serialize(self).items() if name in self.model_fields_set}


class Job(WireModel):
    """An import, a reindex or a grouping, and how far it is.

    `problems` counts the lines of its report. `detail` is why it failed, or a remark on its
    outcome.
    """

    job_id: str
    gallery: str
    kind: JobKind
    state: JobState
    progress: JobProgress
    problems: int
    detail: str | None
    created_at: Moment
    updated_at: Moment

    @property
    def finished(self) -> bool:
        """True once the job has ended."""
        return self.state in FINISHED


class Jobs(Page[Job]):
    """The newest jobs first."""


class CropGroup(WireModel):
    """Crops without a name that may be of one person; `cohesion`: the probability of their mean.

    The crop that is least like the others comes first.
    """

    crop_ids: list[str]
    cohesion: float


class CropGroups(WireModel):
    """The groups of the last grouping, without crops that were named or deleted since.

    The largest group comes first; `single` is the number of crops in no group. `job_id`,
    `created_at` and `gallery_version` are null before the first grouping.
    """

    job_id: str | None = None
    created_at: Moment | None = None
    gallery_version: int | None = None
    results: list[CropGroup] = []
    single: int = 0


class JobProblem(WireModel):
    """A problem of one item of a job: its `position` from 0, its name and the reason."""

    position: int
    source: str
    code: str
    detail: str


class Key(WireModel):
    """An API key without its secret; `gallery` is the only one that it is for, null for all.

    From `expires_at` on it is refused; until `former_until` the secret before its rotation is valid
    too. `learn`: whether its searches count for calibrations. `rate` is in requests a minute to
    each process, null for any number, and with `rate_images` in images a minute. A key with
    `in_file` is of GMN_API_KEYS_FILE: it is revoked there, its `created_at` is the time of the
    file, and its last use is not noted.
    """

    key_id: str
    scopes: list[Scope]
    gallery: str | None
    note: str
    learn: bool
    rate: int | None
    rate_images: bool = False
    created_at: Moment
    expires_at: Moment | None
    former_until: Moment | None
    last_used_at: Moment | None = None
    in_file: bool = False


class Keys(Page[Key]):
    """Every key, oldest first."""


class NewKey(Key):
    """A new key: `key` is its text, answered this once; `warnings` has what its maker must know."""

    key: str = Field(repr=False)
    warnings: list[str]


class Alive(WireModel):
    """Every stage of the process makes progress."""

    status: Literal["alive"] = "alive"


class RecordState(WireModel):
    """How far the index is behind the record.

    `state` is `in_step`; `catching_up` where changes of another process are not shown yet;
    `reading_again` where everything is read anew; `unreachable` where the record does not answer:
    searches are answered from memory, and a call that needs the record is 503. `lag` counts changes
    that are known and not shown, `lag_seconds` the time since they are known.
    """

    state: Literal["in_step", "catching_up", "reading_again", "unreachable"] = "in_step"
    lag: int = 0
    lag_seconds: Annotated[float, AfterValidator(partial(round, ndigits=3))] = 0.0

    @property
    def up(self) -> bool:
        """True while the record answers."""
        return self.state != "unreachable"


class Ready(WireModel):
    """The model answered a probe and every gallery is loaded, or known to need a reindex.

    `galleries` is how many are in each state; callers without a key see no names. `index` is
    `unavailable` where the last search found no Milvus, and the others are answered with 503.
    """

    status: Literal["ready"] = "ready"
    galleries: dict[Literal["ready", "needs_reindex"], int]
    record: RecordState
    index: Literal["ready", "unavailable"] = "ready"


class Box(BaseModel):
    """The box of one person in a frame, in pixels; `x` and `y` are of its left upper corner."""

    model_config = ConfigDict(extra="forbid")

    x: Pixels
    y: Pixels
    width: Pixels
    height: Pixels


class EnrolledImage(WireModel):
    """An image that is in the gallery; with `duplicate` it was there before, as `crop_id`.

    The `crop_id` of a duplicate is null for a key that has none of `query`, `delete` and `admin`.
    `kept` is false, and `crop_id` null, where `keep_best` keeps other crops of its track.
    """

    problem: ClassVar[None] = None

    crop_id: str | None
    identity: str | None
    camera: str | None
    duplicate: bool
    kept: bool = True
    warnings: list[str]


class Enrollment(WireModel):
    """One entry per image, in order."""

    # None where no image landed: that answer is a problem document, which has no version.
    # A factory, since the schema would show a default.
    gallery_version: int | SkipJsonSchema[None] = Field(default_factory=lambda: None)
    results: list[EnrolledImage | RefusedImage]
    # Sent as the header Idempotent-Replayed: the request happened before, with this answer.
    replayed: SkipJsonSchema[bool] = Field(default=False, exclude=True)


class Crop(WireModel):
    """A stored crop; its picture is at `image_url`, `sha256` is of the file that was sent.

    `vector`, with the `embedding_fingerprint` of its embedder, is there with `include_vector`, but
    of a crop that is removed at this moment.
    """

    crop_id: str
    identity: str | None
    camera: str | None
    captured_at: Moment | None
    external_id: str | None
    metadata: Mapping[str, Any] | None
    track: str | None = None
    sha256: str
    content_type: str | None
    created_at: Moment
    image_url: str | None
    vector: list[float] | None = Field(default=None, exclude_if=absent)
    embedding_fingerprint: str | None = Field(default=None, exclude_if=absent)


class Crops(Page[Crop]):
    """One page of crops; one that is not the last may have fewer than `limit`, also none."""


class Track(WireModel):
    """The crops of one person that a tracker joined in one camera.

    `crop_id` has its best picture, whose file is at `image_url`, null where none is kept.
    `cohesion` is the least cosine of a crop to the mean of the others, null for a single crop.
    Times are those of captures, or of enrollments where these are unknown.
    """

    track: str
    camera: str | None
    crops: int
    identities: list[str]
    first_seen: Moment
    last_seen: Moment
    crop_id: str
    image_url: str | None
    cohesion: float | None


class Tracks(Page[Track]):
    """One page of tracks, in the order of their ids and cameras; it may be empty with `camera`."""


class Removal(WireModel):
    """The number of removed crops; from `gallery_version` on they are never returned again."""

    gallery_version: int
    removed: int


class RemovedCrops(Removal):
    """How many crops passed the filter, and how many were removed: none by a `dry_run`."""

    matched: int


class ChangedCrops(WireModel):
    """How many crops passed the filter, and how many are others from `gallery_version` on.

    None change by a `dry_run`, nor crops that were so before.
    """

    gallery_version: int
    matched: int
    changed: int


class GalleryRemoval(WireModel):
    """The number of crops that were deleted with the gallery."""

    removed: int


class CalibrationState(WireModel):
    """The calibration behind verdicts and probabilities.

    `state`: `artefact`, its thresholds for the number of identities searched; `own`, fitted to this
    gallery; `frozen`, fitted, and no longer changed; `off`, the artefact's, and no search is kept.
    `basis` is one sentence for people: the basis of the thresholds. `reason` is why they are the
    artefact's: `not_fitted` (the first fit comes a few seconds after the 18th named identity),
    `few_identities` (the search covers fewer than 18), `few_scored` (it scored fewer than nine
    identities), `shallow_search` (a `rerank_depth` below the default); or that they are
    `extrapolated` to more than ten times as many identities as the fit covered. `identities` and
    `crops` are the numbers that the gallery held at the fit to its named crops, 0 without such a
    fit; `searches` is the number that the fit uses, or that is kept before the first fit. Equal
    `version`s give equal verdicts; null where no loaded model answers. `date` is that of the fit.
    """

    # A pair's answer leaves out null.
    model_config = ConfigDict(json_schema_serialization_defaults_required=False)

    state: CalibrationSource
    reason: CalibrationReason | None = None
    basis: str = ""
    identities: int = 0
    crops: int = 0
    searches: int = 0
    version: str | None = None
    date: Moment | None = None


class GalleryCalibration(CalibrationState):
    """The calibration of a search of a whole gallery, by the default `scoring`.

    `scorings` has that of each scoring which the gallery's artefact offers.
    """

    scoring: Scoring
    scorings: dict[Scoring, CalibrationState]


class Gallery(WireModel):
    """A gallery: its size, its settings, and whether it can be searched.

    `version` grows with every change; a query's `min_version` refers to it. `state` is
    `previous_model` where the model before answers for it and `needs_reindex` where no loaded one
    does. `recall` is the measured share of the true nearest that its index finds, null where the
    index is exact. `index_bytes` are of the vectors in memory, `image_bytes` of the kept images.
    Crops older than `retention_days` are deleted, counted from `retention_from`; null keeps all.
    """

    name: str
    crops: int
    identities: int
    embedding_fingerprint: str
    version: int
    index_kind: str
    dtype: str
    index_bytes: int
    image_bytes: int
    recall: float | None
    state: Literal["ready", "previous_model", "needs_reindex"]
    retention_days: int | None
    retention_from: RetentionFrom
    calibration: GalleryCalibration
    created_at: Moment


class Galleries(Page[Gallery]):
    """Every gallery; `audit_queries`: whether searches and views are in the audit log."""

    audit_queries: bool


class Identity(WireModel):
    """The number of crops of one identity, and of the cameras that took them.

    `crop_id` has its best picture, whose file is at `image_url`, null where none is kept.
    `last_seen` is the last capture of a crop, or enrollment where the time of capture is unknown.
    """

    identity: str
    crops: int
    cameras: int
    crop_id: str
    image_url: str | None
    last_seen: Moment


class Identities(Page[Identity]):
    """One page of identities, in the order of their names unless another one was asked for."""


class IdentityDetail(WireModel):
    """The number of crops of one identity, and the cameras that took them; see `Identity`.

    Forgetting the identity deletes `kept_searches` searches; `cases` counts them by case.
    """

    identity: str
    crops: int
    cameras: list[str]
    crop_id: str
    image_url: str | None
    first_seen: Moment
    last_seen: Moment
    kept_searches: int = 0
    cases: dict[str, int] = Field(default_factory=dict)


class SimilarIdentity(WireModel):
    """An identity that may be the same person: the result of a search by another one's best crops.

    `crop_id` is its crop with the highest score; `probability` and `verdict` are of that.
    """

    identity: str
    probability: float
    verdict: Verdict
    crop_id: str
    image_url: str
    crops: int


class SimilarIdentities(Page[SimilarIdentity]):
    """The most alike first."""


class RenamedIdentity(WireModel):
    """The number of crops with the new name; `merged` where others had it before.

    A merge can be undone for 30 days under its `merge_id`, null for none.
    """

    gallery_version: int
    identity: str
    changed: int
    merged: bool
    merge_id: str | None = None


class Merge(WireModel):
    """Two identities that were made one: `crops` of `identity` became crops of `into`."""

    merge_id: str
    identity: str
    into: str
    crops: int
    merged_at: Moment
    undo_until: Moment


class Merges(Page[Merge]):
    """The merges of the last 30 days, newest first."""


class ChangedCrop(WireModel):
    """A crop as it is known from `gallery_version` on."""

    gallery_version: int
    crop: Crop


class Remainder(WireModel):
    """A trace of a forgotten person that is still kept: where, what, and until when."""

    where: str
    what: str
    until: str


class ForgottenIdentity(Removal):
    """The removed data of a person, `snapshots` by their ids, and the remaining copies.

    `kept_searches` counts the searches whose picture showed the person; `cases` counts them by the
    id of the case that held them. `alerts` counts the alerts about the person.
    """

    snapshots: dict[str, int]
    kept_searches: int = 0
    cases: dict[str, int] = Field(default_factory=dict)
    alerts: int = 0
    remaining: list[Remainder]


class Snapshot(WireModel):
    """A copy of a gallery as of `version`; `sha256` is over its crops' checksums."""

    snapshot_id: str
    version: int
    embedding_fingerprint: str
    crops: int
    bytes: int
    sha256: str
    created_at: Moment


class Snapshots(Page[Snapshot]):
    """Every snapshot of a gallery, oldest first."""


class RestoredSnapshot(WireModel):
    """The content of a gallery after a restore."""

    gallery_version: int
    snapshot_id: str
    crops: int


class RankedCrop(WireModel):
    """One result.

    `probability` is that of the same person at even odds: it rises with the score within an answer,
    and `verdict` is an interval of it. Between answers of one `calibration_version` probabilities
    can be compared, scores cannot. Both are null where the scoring did not reach the crop, which is
    beyond `rerank_depth`; `pair_logit` is null there and with `scoring=cosine`. `vector`, with the
    `embedding_fingerprint` of its embedder, is there with `include_vector`; from Milvus it is of
    unit length. `crops`, `first_seen` and `last_seen` of the whole track are there with
    `group_by=track`, but of a crop without a track. `gallery` is there in a ranking of several
    galleries.
    """

    rank: int
    crop_id: str
    identity: str | None
    camera: str | None
    captured_at: Moment | None
    external_id: str | None
    metadata: Mapping[str, Any] | None
    track: str | None = None
    crops: int | None = Field(default=None, exclude_if=absent)
    first_seen: Moment | None = Field(default=None, exclude_if=absent)
    last_seen: Moment | None = Field(default=None, exclude_if=absent)
    cosine: float
    pair_logit: float | None
    probability: float | None
    verdict: Verdict | None
    image_url: str
    vector: list[float] | None = Field(default=None, exclude_if=absent)
    embedding_fingerprint: str | None = Field(default=None, exclude_if=absent)
    gallery: str | None = Field(default=None, exclude_if=absent)


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

    `scoring` is what orders the results: the one asked for, or the artefact's default; `fused`,
    which is withdrawn, in kept searches of versions before 0.5.0.
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
    scoring: Literal["cosine", "mnet", "fused"]
    verdict: SearchVerdict
    warnings: list[str]
    results: list[RankedCrop]
    candidates_scored: int
    timing_ms: Timing
    query_id: str | None = None


class SeparateAnswers(WireModel):
    """With `mode=separate`: one answer per image, in order."""

    results: list[QueryAnswer | RefusedImage]


class GalleryAnswer(QueryAnswer):
    """The answer of one of several galleries, as its own query would be at `gallery_far`."""

    gallery: str


class RefusedGallery(WireModel):
    """One of several galleries that could not be searched."""

    gallery: str
    problem: Problem


class GalleriesAnswer(WireModel):
    """A merged ranking of several galleries, and the answer or the problem of each, in order.

    `results` are in order of `probability`, then of the cosine, the galleries and age. `verdict` is
    the best one of a gallery. The false alarms of the galleries add up, so that each is asked at
    `gallery_far`: `far`, the rate of the whole answer, over the number of galleries. `warnings` has
    those of the images and a sentence for each gallery that was not searched; `timing_ms` is of the
    slowest gallery.
    """

    verdict: SearchVerdict
    far: float
    gallery_far: float
    warnings: list[str]
    results: list[RankedCrop]
    galleries: list[GalleryAnswer | RefusedGallery]
    timing_ms: Timing


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
    two. The unit is the score's own: that of `cosine`, or of M-Net's `logit`. The numbers do not
    add up to the score.
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
    kept; `crop_id` is of a search by crops the first. `confirmed` and `rejected` count the reviewed
    results.
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


class WatchSettings(WireModel):
    """How a gallery is watched, as a list of people whose sightings raise alerts.

    `budget` is the number of false alarms a day that are accepted, and `tracks_per_day` the tracks
    that are expected at all cameras; null takes the traffic that was counted. `cameras` and
    `hours`, such as `22:00-06:00` in `time_zone`, limit where and when, empty for no limit. A
    person's visit at a camera ends after `quiet_seconds`. Alerts are kept for `retention_days`.
    """

    budget: float = Field(gt=0, le=1000)
    tracks_per_day: float | None = Field(default=None, gt=0, le=10_000_000)
    cameras: list[str] = []
    hours: str = ""
    time_zone: str = "UTC"
    quiet_seconds: int = Field(default=300, ge=1, le=86_400)
    expires_at: Moment
    reason: str = Field(min_length=1, max_length=256)
    retention_days: int = Field(ge=1, le=365)


class Forecast(WireModel):
    """The expected alarms of a list by its threshold, and the share of visits that it finds.

    `false_alarms` is expected a day, which lies between `low` and `high` on nine days of ten; they
    are null where that is not known. `promised` is false where the budget is smaller than can be
    promised. `found` is the share of its people's tracks that raise an alarm, between `found_low`
    and `found_high`; of people whom one camera enrolled only the upper bound is known. `sentence`
    says all of it to people. `basis` names the data behind the threshold: the site's traffic of
    `traffic_tracks`, the artefact's reference, the list alone, or the artefact's own thresholds.
    """

    threshold: float
    people: int
    tracks_per_day: float
    traffic_tracks: int
    false_alarms: float | None
    low: float | None
    high: float | None
    promised: bool
    found: float | None
    found_low: float | None
    found_high: float | None
    found_basis: Literal["one_camera", "several_cameras", "not_known"]
    basis: Literal["traffic", "reference", "list", "artefact"]
    sentence: str


class WatchProposal(WireModel):
    """The forecast of a list that is to be armed: it is by the same settings with `confirm`."""

    settings: WatchSettings
    forecast: Forecast
    confirm: str
    confirm_until: Moment


class Watch(WireModel):
    """A gallery as a watch list: its state, its forecast, and its alarms so far.

    `settings` is null where it was never armed. `why` is why it was disarmed, or why an armed list
    is not compared with sightings. `promised` is the forecast by which it was armed, `forecast`
    that of now. `alerts` counts the visits since `armed_at`, over `days`;
    `false_alarms` are those a day of them, by the share of reviewed ones that were rejected, and
    null before a review.
    """

    gallery: str
    state: Literal["armed", "disarmed"]
    settings: WatchSettings | None = None
    armed_at: Moment | None = None
    key_id: str | None = None
    disarmed_at: Moment | None = None
    why: str | None = None
    promised: Forecast | None = None
    forecast: Forecast | None = None
    alerts: int = 0
    confirmed: int = 0
    rejected: int = 0
    days: float = 0.0
    false_alarms: float | None = None


class Alert(WireModel):
    """A visit of a list's person to a camera, or news of the list itself.

    `number` counts alerts in the order in which they were written. `kind`: `visit`; `late`, a visit
    that was sent too late to raise an alarm; `disarmed` and `promise_broken`, about a list, with a
    `detail` and without a person. `score` is that of the track which raised it, above `threshold`;
    `cohesion` is null without several crops of the track. `follows` is the person's alert before
    from another camera. `image_url` has the sighted crop, `reference_url` the list's nearest.
    """

    alert_id: str
    number: int
    kind: AlertKind
    gallery: str
    detail: str | None
    identity: str | None
    camera: str | None
    track: str | None
    first_seen: Moment
    last_seen: Moment
    crops: int
    score: float | None
    threshold: float | None
    probability: float | None
    cohesion: float | None
    calibration_version: str | None
    state: AlertState
    reviewed_by: str | None
    reviewed_at: Moment | None
    follows: str | None
    created_at: Moment
    image_url: str | None
    reference_url: str | None


class Alerts(Page[Alert]):
    """One page of alerts, the newest first."""


class Webhook(WireModel):
    """An address to which alerts are sent, of one `gallery` or, with null, of all.

    `why` is why it is not `enabled`. The secret before a rotation signs until `former_until`.
    `waiting` and `dead` count its deliveries; `dropped` alerts found too many waiting.
    """

    webhook_id: str
    gallery: str | None
    url: str
    enabled: bool
    why: str | None
    note: str
    key_id: str
    created_at: Moment
    former_until: Moment | None
    waiting: int
    dead: int
    dropped: int


class Webhooks(Page[Webhook]):
    """Every webhook, the oldest first."""


class NewWebhook(Webhook):
    """A webhook with its new `secret`, which is answered this once."""

    secret: str = Field(repr=False)


class TestedWebhook(WireModel):
    """The outcome of one test: the receiver's `status`, or in `error` why there was none."""

    # pytest would collect it by its name.
    __test__: ClassVar[bool] = False

    delivered: bool
    status: int | None
    error: str | None


class Delivery(WireModel):
    """One alert to one webhook; `webhook_id` is null where that was deleted.

    `status` and `error` are of the last of its `attempts`, `sent_to` is where that went.
    """

    delivery_id: str
    webhook_id: str | None
    alert_id: str
    state: DeliveryState
    attempts: int
    next_at: Moment | None
    status: int | None
    error: str | None
    sent_to: str | None
    created_at: Moment


class Deliveries(Page[Delivery]):
    """One page of deliveries, the newest first."""


class SightedMatch(WireModel):
    """A list's person in the track of a sighting; `alert_id` is the alert of the visit."""

    gallery: str
    identity: str
    probability: float
    alert_id: str


class SightedImage(WireModel):
    """A sighting that was accepted; with `wait` the matches of its track, else null.

    `matches` is empty for a key that has neither `query` nor `admin`.
    """

    problem: ClassVar[None] = None

    matches: list[SightedMatch] | None


class Sighted(WireModel):
    """One entry per image, in order; `accepted` counts the usable images."""

    accepted: int
    results: list[SightedImage | RefusedImage]
