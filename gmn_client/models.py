"""Models of all answers: the service returns them, the client parses them.

Unknown fields from a newer service are ignored. The OpenAPI document is generated from these
models.
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
    InstanceOf,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    WithJsonSchema,
    model_serializer,
)
from pydantic.json_schema import SkipJsonSchema
from typing_extensions import TypedDict

Item = TypeVar("Item")
Scoring = Literal["cosine", "mnet"]
Permission = Literal["yes", "by licence", "no", "see terms"]
JobKind = Literal["import", "reindex", "grouping", "removal"]
JobState = Literal["queued", "running", "done", "failed", "cancelled"]
Verdict = Literal["match", "uncertain", "no_match"]
Scope = Literal["query", "enroll", "sight", "delete", "metrics", "admin"]
CalibrationSource = Literal["artefact", "own", "frozen", "off"]
CentringStage = Literal[
    "on", "off", "artefact", "needs_own_index", "not_fitted", "not_enough", "no_gain"
]
CalibrationReason = Literal[
    "not_fitted", "few_identities", "few_scored", "shallow_search", "extrapolated"
]
CalibrationNote = Literal["rule_changed", "pictures_together", "one_picture", "counts_all"]
CropOrder = Literal["enrolled", "captured", "-captured"]
RetentionFrom = Literal["captured", "enrolled"]
IdentityOrder = Literal["name", "last_seen", "crops"]
Pixels = Annotated[int, Field(ge=-1_000_000, le=1_000_000)]
SearchVerdict = Literal[Verdict, "nothing_searched"]
KeptKind = Literal["query", "visits"]
Decision = Literal["confirmed", "rejected"]
AlertKind = Literal["visit", "late", "disarmed", "promise_broken", "silent", "heard"]
QuietScope = Literal["camera", "list"]
Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
AlertState = Literal["open", Decision]
DeliveryState = Literal["waiting", "done", "dead"]
Milliseconds = Annotated[float, AfterValidator(partial(round, ndigits=2))]
# Codes of problems, of refused images, and of entries of a job's report.
PROBLEM_CODES = (
    "answer_too_large",
    "bad_request",
    "blurred",
    "body_too_large",
    "body_too_slow",
    "box_outside",
    "captured_in_future",
    "captured_long_ago",
    "crop_conflict",
    "cross_origin",
    "damaged_record",
    "dark",
    "device_full",
    "device_lost",
    "empty",
    "export_conflict",
    "file_too_large",
    "forbidden",
    "gallery_conflict",
    "ignored",
    "index_unavailable",
    "internal_error",
    "invalid_field",
    "job_unfinished",
    "key_conflict",
    "low_resolution",
    "machine_full",
    "method_not_allowed",
    "needs_redis",
    "needs_reindex",
    "no_detector",
    "not_an_image",
    "not_embedded",
    "not_found",
    "not_person_shaped",
    "not_ready",
    "not_unpacked",
    "overexposed",
    "queue_full",
    "record_unavailable",
    "redis_away",
    "request_conflict",
    "service_stopping",
    "storage_failed",
    "too_costly",
    "too_many_exports",
    "too_many_parts",
    "too_many_pixels",
    "too_many_requests",
    "too_small",
    "transparent",
    "truncated",
    "unauthorised",
    "unknown_alert",
    "unknown_camera",
    "unknown_case",
    "unknown_crop",
    "unknown_delivery",
    "unknown_export",
    "unknown_gallery",
    "unknown_group",
    "unknown_identity",
    "unknown_job",
    "unknown_key",
    "unknown_merge",
    "unknown_picture",
    "unknown_query",
    "unknown_still",
    "unknown_track",
    "unknown_webhook",
    "unreadable",
    "unsupported",
    "unsupported_media_type",
    "unusable_images",
    "version_not_reached",
)
PROBLEM_TYPE = {"type": "string", "enum": [f"urn:gmn:problem:{code}" for code in PROBLEM_CODES]}
FindingState = Literal["ok", "warning", "error"]
FINISHED: tuple[JobState, ...] = ("done", "failed", "cancelled")


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(timezone.utc).isoformat().replace("+00:00", "Z")


# The service passes on metadata as the text that it stored, and parses it here, crop by crop.
Metadata = Annotated[
    InstanceOf[Mapping[str, Any]],
    PlainSerializer(lambda metadata: dict(metadata.items()), return_type=dict[str, Any]),
]
Moment = Annotated[datetime, PlainSerializer(_rfc3339, return_type=str)]
# A field that is left out of an answer if it is None.
OMITTED: Any = Field(default=None, exclude_if=partial(is_, None))


class WireModel(BaseModel):
    """Base of all answers."""

    model_config = ConfigDict(
        frozen=True, from_attributes=True, json_schema_serialization_defaults_required=True
    )


class Page(WireModel, Generic[Item]):
    """One page of a list; `next_cursor` is null on the last page."""

    results: list[Item]
    next_cursor: str | None = None


class FieldProblem(WireModel):
    """A problem of one field of a request; `detail` contains it too."""

    field: str
    message: str


class Problem(WireModel):
    """An RFC 9457 problem document: `detail` names the input, the reason and the remedy.

    `type` is one of the listed ones; a newer service may have others. `errors` names the fields
    that cannot be used; `results` has one entry per image if no image could be used.
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
    request_id: str | None = OMITTED
    errors: list[FieldProblem] | None = OMITTED
    results: list[dict[str, Any]] | None = OMITTED

    @property
    def code(self) -> str:
        """The last part of `type`, such as `unknown_gallery`."""
        return self.type.rpartition(":")[2]


class RefusedImage(WireModel):
    """An image that could not be used; all attributes of usable images are null."""

    crop_id: ClassVar[None] = None
    identity: ClassVar[None] = None
    camera: ClassVar[None] = None
    duplicate: ClassVar[bool] = False
    kept: ClassVar[bool] = False
    warnings: ClassVar[tuple[str, ...]] = ()
    embedding: ClassVar[None] = None

    problem: Problem


class JobProgress(WireModel):
    """Progress of a job, in items: `total` is 0 until they are counted.

    `done` counts processed items; for an import it is the sum of `landed`, `duplicates`, `refused`
    and `deleted`, and of `not_kept` with `keep_best`. `ignored` counts other and hidden files,
    by-products of storage systems, images missing from the manifest, and its unknown columns.
    `deleted` counts the crops of an export that were deleted from this service and are left out;
    `unchecked`, those of an export that is older than the known deletions. A grouping that is done
    has `groups` of several crops, with `grouped` crops in all.
    """

    model_config = ConfigDict(extra="allow")

    total: int = 0
    done: int = 0
    landed: int = 0
    duplicates: int = 0
    not_kept: int = 0
    refused: int = 0
    ignored: int = 0
    deleted: int = 0
    unchecked: int = 0
    groups: int = 0
    grouped: int = 0

    @model_serializer(mode="wrap")
    def _omit_missing(self, serialize: SerializerFunctionWrapHandler) -> dict[str, int]:
        """Omit counts that do not apply to this kind of job."""
        return {name: n for name, n in serialize(self).items() if name in self.model_fields_set}


class Job(WireModel):
    """An import, reindex, grouping or removal of imported crops, with its progress.

    `problems` counts the entries of its report. `detail` says why the job failed, or comments on
    its outcome. `worker` is the machine with the files of an import, if several machines share a
    record.
    """

    job_id: str
    gallery: str
    kind: JobKind
    state: JobState
    progress: JobProgress
    problems: int
    detail: str | None
    worker: str | None = None
    created_at: Moment
    updated_at: Moment

    @property
    def finished(self) -> bool:
        """True once the job has ended."""
        return self.state in FINISHED


class Jobs(Page[Job]):
    """The newest jobs first."""


class ImportedCrops(WireModel):
    """The crops that an import stored and the gallery still has, with their use since then.

    `renamed` crops got another identity, `reviewed` ones were confirmed or rejected, and `in_cases`
    are shown by searches of cases. `duplicates` were there before the import and stay. `job`
    removes the crops; it is null for a dry run.
    """

    crops: int
    renamed: int
    reviewed: int
    in_cases: int
    duplicates: int
    job: Job | None = None


class CropGroup(WireModel):
    """Unnamed crops that may show one person, of one or several tracks.

    `probability` is that of all showing one person, by their weakest link. A crop without a track
    counts as one. The crop least similar to the others comes first. `group_id` lasts as long as a
    later grouping joins the same crops.
    """

    group_id: str
    crop_ids: list[str]
    tracks: int
    probability: float


class CropGroups(WireModel):
    """The groups of the last grouping, without crops named or deleted since.

    The largest group comes first; `single` counts crops in no group. `job_id`, `created_at` and
    `gallery_version` are null before the first grouping.
    """

    job_id: str | None = None
    created_at: Moment | None = None
    gallery_version: int | None = None
    results: list[CropGroup] = []
    single: int = 0


class PeopleCount(WireModel):
    """The number of people whose crops are of a time, and its interval at 90%.

    `named` people have a name. The others are estimated from the last grouping, which knows nothing
    of `ungrouped_crops`: those enrolled since, or left out by its filters. A person who has a name
    on some crops and none on others is counted twice.
    """

    people: int
    fewest: int
    most: int
    named: int
    ungrouped_crops: int


class Visit(WireModel):
    """One person at one camera, for a while.

    Without a name, `group_id` is that of the last grouping, if it has the crops. Times are those of
    capture, null if unknown. `tracks` are the ids that trackers gave. The best of `crop_ids` comes
    first, at `image_url`. In the answer to a query, `probability` is that of the best crop, and
    `needed` that from which it would be a match in its gallery. In the visits of a person,
    `gap_seconds` is the time since the visit before, and `link_probability` that of both showing
    one person, by their pictures at even odds. In a kept search the digests are those of the best
    crop.
    """

    gallery: str
    camera: str | None
    identity: str | None
    group_id: str | None
    first_seen: Moment | None
    last_seen: Moment | None
    tracks: list[str]
    crops: int
    crop_ids: list[str]
    image_url: str
    verdict: Verdict | None = OMITTED
    probability: float | None = OMITTED
    needed: float | None = OMITTED
    gap_seconds: float | None = OMITTED
    link_probability: float | None = OMITTED
    sha256: str | None = OMITTED
    sent_sha256: str | None = OMITTED


class PersonVisits(WireModel):
    """The visits of a person or a group in the order of time, those of unknown times last."""

    results: list[Visit]


class JobProblem(WireModel):
    """A problem of one item of a job: its `position` from 0, its name and the reason."""

    position: int
    source: str
    code: str
    detail: str


class Key(WireModel):
    """An API key without its secret; `gallery` limits it to one gallery, null means all.

    It is refused from `expires_at` on; until `former_until` the secret before its rotation is valid
    too. `learn` says whether its searches are used for calibration. `rate` is in requests per
    minute over all processes, or in images with `rate_images`; null means unlimited. Keys with
    `in_file` come from GMN_API_KEYS_FILE: they are revoked there, their `created_at` is the time of
    the file, and their last use is not recorded.
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
    """All keys, oldest first."""


class NewKey(Key):
    """A new key: `key` is its text, answered only once; `warnings` are notes for its creator."""

    key: str = Field(repr=False)
    warnings: list[str]


class Alive(WireModel):
    """All threads and tasks of the process make progress."""

    status: Literal["alive"] = "alive"


RecordCondition = Literal[
    "in_step", "catching_up", "writes_wait", "reading_again", "unreachable", "lacks_commits"
]


class RecordState(WireModel):
    """The delay of the index behind the record.

    `state` is `in_step`; `catching_up` if changes of another process are not shown yet;
    `writes_wait` if another process that holds the record stands still: searches and reads go on,
    and writes are answered with 503; `reading_again` if everything is being read again;
    `unreachable` if the record does not respond: searches are then answered from memory, and calls
    that need the record with 503; `lacks_commits` as well, because the record that responds lacks
    what this machine has acknowledged, until the newer one is back or the service is started anew.
    `lag` counts commits that are not shown yet, and
    `lag_seconds` is the time since the first of them.
    """

    state: RecordCondition = "in_step"
    lag: int = 0
    lag_seconds: Annotated[float, AfterValidator(partial(round, ndigits=3))] = 0.0

    @property
    def up(self) -> bool:
        """True while the record responds."""
        return self.state not in ("unreachable", "lacks_commits")


class Ready(WireModel):
    """The model answered a probe, and every gallery is loaded or known to need a reindex.

    `galleries` counts galleries by state. `index` is `unavailable` if the last search could not
    reach Milvus; searches are then answered with 503. `audit_log` is `unavailable` while searches
    are refused because they cannot be logged. `damaged_crops` were found damaged and are left out
    of every answer; `record_problems` counts other damage of the record's file. `watch_lists` is
    `impaired` if an armed list is compared with nothing, or not as it should be; gmn doctor names
    it.
    """

    status: Literal["ready"] = "ready"
    galleries: dict[Literal["ready", "needs_reindex"], int]
    record: RecordState
    index: Literal["ready", "unavailable"] = "ready"
    audit_log: Literal["ready", "unavailable"] = "ready"
    watch_lists: Literal["ready", "impaired"] = "ready"
    damaged_crops: int = 0
    record_problems: int = 0


class Finding(WireModel):
    """A finding: an `error` keeps the service from working, a `warning` may do so later.

    `part` names its subject, such as `disk` or `keys`; `text` names the fault and the remedy.
    """

    part: str
    state: FindingState
    text: str


class Diagnosis(WireModel):
    """The state of a running service; `ok` is false if there is an error.

    `settings` has the values by the names of their variables, without passwords.
    """

    ok: bool
    settings: dict[str, Any]
    findings: list[Finding]


class Box(BaseModel):
    """The box of one person in a frame, in pixels; `x` and `y` are its top left corner."""

    model_config = ConfigDict(extra="forbid")

    x: Pixels
    y: Pixels
    width: Pixels
    height: Pixels


class BoxOfPerson(TypedDict):
    """The box of a person as the calls with `boxes` take it, in whole pixels of the frame."""

    x: int
    y: int
    width: int
    height: int


class PersonBox(WireModel):
    """The box of a person on a photo in pixels, and how certain the detector is, from 0 to 1.

    `number` counts the people of the photo from left to right, as the page and the commands do.
    """

    number: int
    x: int
    y: int
    width: int
    height: int
    score: float

    @property
    def box(self) -> BoxOfPerson:
        """Return the box alone, as `boxes` of a query takes it."""
        return {"x": self.x, "y": self.y, "width": self.width, "height": self.height}


class People(WireModel):
    """The people on a photo of `width` × `height` pixels, the most certain first.

    Boxes have a margin of 4% of their height, and refer to the upright photo, after its EXIF
    orientation.
    """

    width: int
    height: int
    people: Annotated[list[PersonBox], Field(max_length=128)]


class EnrolledImage(WireModel):
    """An image that is now in the gallery; a `duplicate` was there before, as `crop_id`.

    The `crop_id` of a duplicate is null unless the key has the scope `query`, `delete` or `admin`.
    `kept` is false, and `crop_id` null, if `keep_best` keeps other crops of the track instead.
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

    # None if no image landed: that answer is a problem document, which has no version.
    gallery_version: int | SkipJsonSchema[None] = Field(default_factory=lambda: None)
    results: list[EnrolledImage | RefusedImage]
    # Sent as the header Idempotent-Replayed: this is the answer to an earlier identical request.
    replayed: SkipJsonSchema[bool] = Field(default=False, exclude=True)


class Crop(WireModel):
    """A stored crop.

    Its picture is at `image_url` and has the digest `sha256`; `sent_sha256` is that of the file
    that was sent. They differ where the file had metadata, or a smaller picture is kept, and are
    equal if no picture is kept.

    No search, grouping or watch list finds a crop that is `set_aside`.
    With `include_vector` it has `vector` and its `embedding_fingerprint`, unless the crop is being
    removed at this moment.
    """

    crop_id: str
    identity: str | None
    camera: str | None
    captured_at: Moment | None
    external_id: str | None
    metadata: Metadata | None
    track: str | None = None
    sha256: str
    sent_sha256: str
    content_type: str | None
    created_at: Moment
    set_aside: bool = False
    image_url: str | None
    vector: list[float] | None = OMITTED
    embedding_fingerprint: str | None = OMITTED


class Crops(Page[Crop]):
    """One page of crops; pages before the last may have fewer than `limit`, even none."""


class DoubtfulCrop(WireModel):
    """A named crop that agrees too little with its person, or too well with another one.

    `other` is the crop of another person that it resembles. `own_cosine` and `other_cosine` are
    the means of its cosines to the three nearest crops of either person, or to as many as its own
    person has; the probabilities are those that pairs with these cosines show one person. Those of
    its own person are null if the person has no other crop.
    """

    crop: Crop
    other: Crop
    own_cosine: float | None
    own_probability: float | None
    other_cosine: float
    other_probability: float


class DoubtfulCrops(Page[DoubtfulCrop]):
    """One page of doubtful crops; `checked` if all changes of the gallery were checked."""

    checked: bool


class Track(WireModel):
    """The crops of one person that a tracker joined within one camera.

    `crop_id` has the best picture, at `image_url`, which is null if none is kept. `cohesion` is the
    lowest cosine of a crop to the mean of the others, null for a single crop. Times are times of
    capture or, if unknown, of enrollment.
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
    """One page of tracks, sorted by id and camera; it may be empty with `camera`."""


class Removal(WireModel):
    """The number of removed crops, which are never returned again from `gallery_version` on."""

    gallery_version: int
    removed: int


class RemovedCrops(Removal):
    """The number of crops that passed the filter, and of the removed ones; 0 for a `dry_run`."""

    matched: int


class ChangedCrops(WireModel):
    """The number of crops that passed the filter, and of the ones changed in `gallery_version`.

    Crops that already had the labels do not count as changed; a `dry_run` changes none.
    """

    gallery_version: int
    matched: int
    changed: int


class GalleryRemoval(WireModel):
    """The number of crops deleted with the gallery."""

    removed: int


class CalibrationState(WireModel):
    """The calibration behind verdicts and probabilities.

    `state`: `artefact`, the artefact's thresholds for the number of identities searched; `own`,
    fitted to this gallery; `frozen`, fitted and no longer updated; `off`, the artefact's, and no
    searches are stored. `basis` explains the thresholds in one sentence. `reason` says why they are
    the artefact's: `not_fitted` (the first fit follows a few seconds after the 18th named
    identity), `few_identities` (the search covers fewer than 18), `few_scored` (it scored fewer
    than nine identities), `shallow_search` (`rerank_depth` below the default); or that they are
    `extrapolated` to more than ten times the identities of the fit. If cosines are centred, few
    identities are judged by the gallery's own thresholds. `identities` and `crops` are
    those of the gallery at the fit to its named crops, 0 without such a fit, and `identities_now`
    is the number of its named people now, null in an answer that was kept by an earlier version;
    `searches` counts the searches used by the fit, or stored before the first fit. Equal `version`s
    give equal verdicts; null if no loaded model answers. `date` is that of the fit. `notes` say
    more about the thresholds: an update of the service has changed them within 30 days
    (`rule_changed`); they are for the search's pictures together (`pictures_together`), or still
    for `one_picture`; they count the people of the whole gallery, as its index does not know how
    many pass the filter (`counts_all`).
    """

    # The answer to a pair omits null.
    model_config = ConfigDict(json_schema_serialization_defaults_required=False)

    state: CalibrationSource
    reason: CalibrationReason | None = None
    basis: str = ""
    identities: int = 0
    identities_now: int | None = None
    crops: int = 0
    searches: int = 0
    version: str | None = None
    date: Moment | None = None
    notes: list[CalibrationNote] = []


class GalleryCalibration(CalibrationState):
    """The calibration of searches of a whole gallery by the default `scoring`.

    `scorings` has the calibration of each scoring that the artefact offers.
    """

    scoring: Scoring
    scorings: dict[Scoring, CalibrationState]


class GalleryCentring(WireModel):
    """The centring of a gallery: searches subtract from vectors what those of one camera share.

    `state` is `on` if they do so. Otherwise it says why not: this or the calibration is `off`; the
    `artefact` was trained by this project; vectors are searched in another program
    (`needs_own_index`); nothing was fitted yet, or searches will use it in a moment
    (`not_fitted`); too few people were seen, or too few under two cameras (`not_enough`); or people
    did not rank clearly better (`no_gain`). `gain` is by how much the mean average precision of
    `people` was higher, from -1 to 1; null if it was not measured. `cameras` counts those with a
    mean of their own.

    Unless the state is `off`, `artefact` or `needs_own_index`, thresholds also follow the spread of
    the scores of each camera that has shown 50 people or tracks.
    """

    state: CentringStage
    gain: float | None = None
    standard_error: float | None = None
    people: int = 0
    cameras: int = 0


class Gallery(WireModel):
    """A gallery: its size, its settings, and whether it can be searched.

    `version` grows with every change; a query's `min_version` refers to it. `state` is
    `previous_model` if the previous model answers for it, and `needs_reindex` if no loaded model
    does. `unnamed` counts the crops without an identity, `set_aside` those that no search finds.
    `recall` is the measured share of true nearest neighbours that the index finds, null for an
    exact index. `index_bytes` counts the vectors in memory, `image_bytes` the stored images.
    With `time_evidence` results follow times of capture too.
    Crops older than `retention_days` or `retention_hours`, counted from `retention_from`, are
    deleted; if both are null, all are kept.
    """

    name: str
    crops: int
    identities: int
    unnamed: int
    set_aside: int
    embedding_fingerprint: str
    version: int
    index_kind: str
    dtype: str
    index_bytes: int
    image_bytes: int
    recall: float | None
    state: Literal["ready", "previous_model", "needs_reindex"]
    retention_days: int | None
    retention_hours: int | None = None
    retention_from: RetentionFrom
    calibration: GalleryCalibration
    time_evidence: bool = False
    centring: GalleryCentring = GalleryCentring(state="off")
    created_at: Moment


class Galleries(Page[Gallery]):
    """All galleries; `audit_queries` says whether searches and views are in the audit log."""

    audit_queries: bool


class Identity(WireModel):
    """An identity with the number of its crops, and of the cameras that took them.

    `crop_id` has the best picture, at `image_url`, which is null if none is kept. `last_seen` is
    the latest time of capture or, if unknown, of enrollment.
    """

    identity: str
    crops: int
    cameras: int
    crop_id: str
    image_url: str | None
    last_seen: Moment


class Identities(Page[Identity]):
    """One page of identities, sorted by name unless another order was requested."""


class IdentityDetail(WireModel):
    """An identity with the number of its crops and the cameras that took them; see `Identity`.

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
    """An identity that may be the same person, found by a search with the other's best crops.

    `crop_id` is its crop with the highest score, to which `probability` and `verdict` refer.
    """

    identity: str
    probability: float
    verdict: Verdict
    crop_id: str
    image_url: str
    crops: int


class SimilarIdentities(Page[SimilarIdentity]):
    """The most similar identity comes first."""


class RenamedIdentity(WireModel):
    """The number of crops with the new name; `merged` if the name existed before.

    A merge can be undone for 30 days by its `merge_id`, which is null for a rename.
    """

    gallery_version: int
    identity: str
    changed: int
    merged: bool
    merge_id: str | None = None


class Merge(WireModel):
    """A merge of two identities: `crops` of `identity` became crops of `into`."""

    merge_id: str
    identity: str
    into: str
    crops: int
    merged_at: Moment
    undo_until: Moment


class Merges(Page[Merge]):
    """The merges of the last 30 days, newest first."""


class ChangedCrop(WireModel):
    """A crop as it is from `gallery_version` on."""

    gallery_version: int
    crop: Crop


class Remainder(WireModel):
    """A remaining copy of a forgotten person's data: where, what, and until when."""

    where: str
    what: str
    until: str


class ForgottenIdentity(Removal):
    """The removed data of a person, and the remaining copies.

    `kept_searches` counts the deleted searches that showed the person; `cases` counts them by the
    id of their case. `alerts` counts the deleted alerts about the person.
    """

    kept_searches: int = 0
    cases: dict[str, int] = Field(default_factory=dict)
    alerts: int = 0
    remaining: list[Remainder]


class Export(WireModel):
    """A copy of a gallery at `version`, in a file of size `bytes` that never changes.

    It is deleted at `expires_at`. `pictures` counts the crops whose picture is kept.
    """

    export_id: str
    version: int
    embedding_fingerprint: str
    crops: int
    pictures: int
    bytes: int
    created_at: Moment
    expires_at: Moment


class Exports(Page[Export]):
    """The exports of a gallery, oldest first."""


class RankedCrop(WireModel):
    """One result.

    `probability` is that of showing the same person, at even prior odds: it rises with the score
    within an answer, and `verdict` is an interval of it. Probabilities, unlike scores, can be
    compared between answers of the same `calibration_version`. Both are null if the scoring did not
    reach the crop, which is beyond `rerank_depth`; then, and with `scoring=cosine`, `pair_logit` is
    null too. In a gallery whose `centring` is `on`, `cosine` is one of centred vectors. With
    `include_vector` there are `vector`, which Milvus returns at unit length, and its
    `embedding_fingerprint`. `likelihood_ratio` says how many times as probable the score is if both
    crops show one person than if they show two of the gallery's named people under two cameras. It
    is no probability of identity, and times do not change it. It is null if the answer's
    `likelihood_people` is, if there is no score, and for a crop of the query's own camera.
    `time_log_odds` is present if times moved the results: the log of the odds by which they speak
    for the same person; above 0 they have raised `probability`, below 0 lowered it. With
    `group_by=track` there are `crops`, `first_seen` and `last_seen` of the whole track, as in
    `Track`, unless the crop has none. `gallery` is present in a ranking of several galleries.
    """

    rank: int
    crop_id: str
    identity: str | None
    camera: str | None
    captured_at: Moment | None
    external_id: str | None
    metadata: Metadata | None
    track: str | None = None
    crops: int | None = OMITTED
    first_seen: Moment | None = OMITTED
    last_seen: Moment | None = OMITTED
    cosine: float
    pair_logit: float | None
    time_log_odds: float | None = OMITTED
    probability: float | None
    verdict: Verdict | None
    likelihood_ratio: float | None = None
    image_url: str
    vector: list[float] | None = OMITTED
    embedding_fingerprint: str | None = OMITTED
    gallery: str | None = OMITTED


class Timing(WireModel):
    """Milliseconds of each stage; the slowest image counts if there are several.

    `decode` starts with the form once the request has arrived, `queue` is the time waiting for a
    thread, and `rerank` ends with the verdicts.
    """

    decode: Milliseconds
    queue: Milliseconds
    embed: Milliseconds
    search: Milliseconds
    rerank: Milliseconds
    total: Milliseconds


class QueryAnswer(WireModel):
    """A ranking with its verdict.

    `scoring` orders the results: the requested one, or the artefact's default. `verdict` is
    `nothing_searched` if no crop passed the filter, for example in an empty gallery. `needed` is
    the probability from which a result of this search is a `match`. `crops_searched` passed the
    filter, and `people_searched` is the number of named people among them, of the whole gallery
    with an index that counts no other way. `warnings` has a sentence for each fault of a query
    image, as in an enrollment, and for each image that could not be used; several images are named
    by their position, from 1. `likelihood_people` is the number of named people under two cameras
    whose pairs of crops the likelihood ratios were fitted to; it is null below 100, and in a search
    by several pictures. `query_id` names the kept search; it is null without `keep`, or if the
    search could not be kept: then `warnings` says why.
    """

    problem: ClassVar[None] = None

    gallery_version: int
    calibration_version: str
    calibration: CalibrationState
    model: str
    scoring: Scoring
    verdict: SearchVerdict
    needed: float
    warnings: list[str]
    results: list[RankedCrop]
    crops_searched: int
    people_searched: int
    candidates_scored: int
    likelihood_people: int | None = None
    timing_ms: Timing
    query_id: str | None = None

    def is_likelihood_bound(self, likelihood_ratio: float) -> bool:
        """Return whether a ratio is only a bound: no ratio is above the number of people.

        Such a ratio reads "at least n times" for n people, or "at most 1/n" below 1.
        """
        people = self.likelihood_people
        if people is None:
            return False
        return likelihood_ratio >= people or likelihood_ratio <= 1.0 / people


class SeparateAnswers(WireModel):
    """With `mode=separate`: one answer per image, in order."""

    results: list[QueryAnswer | RefusedImage]


class GalleryAnswer(QueryAnswer):
    """The answer of one of several galleries, equal to that of a query at `gallery_far`."""

    gallery: str


class RefusedGallery(WireModel):
    """One of several galleries that could not be searched."""

    gallery: str
    problem: Problem


class GalleriesAnswer(WireModel):
    """A merged ranking of several galleries, with the answer or problem of each, in order.

    `results` are sorted by `probability`, then by cosine, gallery and age. `verdict` is the best of
    all galleries. False alarms of the galleries add up, so each is searched at `gallery_far`:
    `far`, the rate of the whole answer, divided by the number of galleries. `warnings` has the
    warnings about images, and a sentence for each gallery that was not searched; `timing_ms` is
    that of the slowest gallery.
    """

    verdict: SearchVerdict
    far: float
    gallery_far: float
    warnings: list[str]
    results: list[RankedCrop]
    galleries: list[GalleryAnswer | RefusedGallery]
    timing_ms: Timing


class VisitsAnswer(WireModel):
    """The visits of the person that was searched for, newest first, those of unknown times last.

    The crops of `results` are of tracks with the verdict `match` that show one person, as far as
    their pictures say. Each of `uncertain` is one other track that may show the person; it neither
    lengthens a visit nor counts as one. `incomplete` names the galleries that may have
    more visits: only their crops most like the person were compared. `query_ids` has the kept
    search of each gallery by its name; it is empty without `keep`, and lacks a gallery whose search
    could not be kept: then `warnings` says why.
    """

    verdict: SearchVerdict
    far: float
    gallery_far: float
    warnings: list[str]
    results: list[Visit]
    uncertain: list[Visit]
    incomplete: list[str]
    query_ids: dict[str, str] = Field(default_factory=dict)


class SeparateGalleriesAnswers(WireModel):
    """With `mode=separate`: one answer of several galleries per image, in order."""

    results: list[GalleriesAnswer | RefusedImage]


class Embedding(WireModel):
    """A feature as computed by the embedder, not of unit length."""

    problem: ClassVar[None] = None

    embedding: list[float]


class Embeddings(WireModel):
    """One entry per image, in order; compare only features of equal `embedding_fingerprint`."""

    embedding_fingerprint: str
    dimension: int
    results: list[Embedding | RefusedImage]


class Explanation(WireModel):
    """The contribution of each region of two images to the requested `score`, with `explain=true`.

    Each image, upright, is divided into `grid` = [rows, columns] equal cells. `first` and `second`
    have a number per cell, row by row from the top left: the increase of the score compared with
    hiding this cell under the image's mean colour. Positive numbers speak for the same person,
    negative ones against. The unit is that of the score, `cosine` or M-Net's `logit`. The numbers
    do not add up to the score.
    """

    scoring: Scoring
    score: float
    grid: tuple[int, int]
    first: list[list[float]]
    second: list[list[float]]


class PairScore(WireModel):
    """The similarity of two images; `explanation` is present if it was requested.

    `logit` is the score of M-Net, missing if the artefact has none. `judged_as` says what
    `probability`, `verdict` and `needed`, the probability of a match, refer to: `pair`, two images
    without a search, at even prior odds and at the error rates of pairs of different people;
    `search`, with a `gallery`, as if one image were a result of searching the whole gallery with
    the other. `calibration` is present with a gallery.
    """

    model_config = ConfigDict(json_schema_serialization_defaults_required=False)

    cosine: float
    logit: float | None = None
    probability: float
    verdict: Verdict
    needed: float
    judged_as: Literal["pair", "search"]
    calibration_version: str
    calibration: CalibrationState | None = None
    model: str
    explanation: Explanation | None = None


class PermittedUse(WireModel):
    """The uses that an artefact's licence and the terms of its training data permit.

    `business` is use in a company's own work or for its customers, `resale` passing the weights on.
    With `see terms` the terms of the data decide, which their owner knows. `data` says what is
    known and unknown about the training data, and `beyond_copyright` which other law applies.
    """

    research: Permission
    business: Permission
    resale: Permission
    data: str
    beyond_copyright: str


class ModelInfo(WireModel):
    """The description of the served artefact, and its runtime.

    `previous` names the artefacts that answer for galleries until these are reindexed. `provenance`
    has the terms, the training data and, in `sources`, the starting weights and teachers with the
    known facts about their data. `permitted_use` says what these permit. `crops_per_second` has the
    crops that each candidate for the runtime embedded per second of processor time at the choice;
    empty if there was only one. `people_detector` names the network that finds people on photos;
    null if there is none.
    """

    model_config = ConfigDict(extra="allow")

    artefact: str
    artefact_fingerprint: str
    embedding_fingerprint: str
    permitted_use: PermittedUse
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
    people_detector: str | None = None


class BestResult(WireModel):
    """The first result with its current name; null if its crop was deleted."""

    crop_id: str
    identity: str | None
    probability: float | None
    image_url: str


class KeptSearch(WireModel):
    """A kept search, which can be opened again.

    `expires_at` is null while a case contains it. `key_id` is the API key that searched. `count` is
    the number of kept results, at most 100. `image_url` is that of the query's picture, null if
    none is kept; `crop_id` is the first crop of a search by crops. `confirmed` and `rejected` count
    the reviewed results. A search of `kind` `visits` has visits besides its results.
    """

    query_id: str
    kind: KeptKind
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
    """One page of kept searches, newest first."""


class ReviewedResult(WireModel):
    """A decision on one result: whether it shows the person that was searched for.

    `identity` is the current name of the crop, null if it is unnamed or deleted. `sha256` and
    `sent_sha256` are those of the crop, null if it is deleted. `key_note` is the note of the key at
    the time of the decision.
    """

    crop_id: str
    decision: Decision
    identity: str | None
    reviewed_at: Moment
    key_id: str
    key_note: str
    sha256: str | None
    sent_sha256: str | None


class SearchedFile(WireModel):
    """A picture that was sent with a search.

    `sent_sha256` is the digest of its file, and `sha256` that of the file without its metadata.
    `name` is null unless the search was sent with `keep_picture`. `box` is the part of the picture
    that was searched by, null for the whole.
    """

    sha256: str
    sent_sha256: str
    name: str | None
    box: Box | None


class KeptVisits(WireModel):
    """The visits of a kept search, as in the answer of its time, with current names.

    Each has at most 20 of its crops; its times, its `tracks` and its number of `crops` are those of
    the answer. `removed` counts the visits of whose crops none is left.
    """

    results: list[Visit]
    uncertain: list[Visit]
    removed: int


class OpenedSearch(KeptSearch):
    """A kept search with its answer and reviews.

    `request` has the fields that were sent, without names of people, and the number of
    `images`; at most one of them is kept. `left_out` names `identities` and `metadata` if they were
    sent, as they are not kept. `files` are the pictures that were sent. Scores, verdicts and ranks
    of `answer` are unchanged since the search, labels are current; `removed` counts results whose
    crops were deleted since. `visits` is null for a search of the `kind` `query`.
    """

    request: dict[str, Any]
    files: list[SearchedFile]
    answer: QueryAnswer
    removed: int
    reviews: list[ReviewedResult]
    visits: KeptVisits | None


class AnsweredReview(OpenedSearch):
    """A search after a review; `enrolled_crop_id` is the crop made of its picture."""

    enrolled_crop_id: str | None


class Review(WireModel):
    """A decision on a result of a kept search, as a training label.

    A `confirmed` crop shows the same person as the search's picture, whose current name is
    `identity`; a `rejected` crop shows another person. The digests and `key_note` are those of a
    `ReviewedResult`. `query_image_url` is null if no picture is kept.
    """

    query_id: str
    crop_id: str
    identity: str | None
    decision: Decision
    reviewed_at: Moment
    key_id: str
    key_note: str
    sha256: str
    sent_sha256: str
    query_image_url: str | None
    image_url: str


class Reviews(Page[Review]):
    """One page of reviews, those of the newest searches first; `limit` counts searches."""


class CaseSearch(WireModel):
    """A kept search in a case, with the note on it."""

    query_id: str
    note: str
    added_at: Moment


class Case(WireModel):
    """Kept searches that are retained together; `count` is their number.

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
    """One page of cases, newest first."""


class CaseRemoval(WireModel):
    """The number of kept searches deleted with the case."""

    removed: int


class WatchSettings(WireModel):
    """Settings of a gallery as a watch list: sightings of its people raise alerts.

    `cameras`, `hours`, such as `22:00-06:00`, and `weekdays` restrict where and when; empty means
    no restriction, and equal times of `hours` mean the whole day. Times and days are those of
    `time_zone`. A night belongs to the day on which it begins.
    """

    model_config = ConfigDict(use_attribute_docstrings=True)

    budget: float = Field(ge=1e-6, le=1000, examples=[3])
    """False alarms a day that you accept."""
    tracks_per_day: float | None = Field(default=None, gt=0, le=10_000_000, examples=[3000])
    """Tracks that all cameras see in a day; default: the counted traffic."""
    cameras: list[str] = []
    hours: str = ""
    weekdays: list[Weekday] = []
    time_zone: str = "UTC"
    quiet_seconds: int = Field(default=300, ge=1, le=86_400)
    """A visit ends after this time without the person."""
    quiet_scope: QuietScope = "camera"
    """Whether a visit is to one camera, or to all cameras of the list (`list`)."""
    expires_at: Moment
    reason: str = Field(min_length=1, max_length=256, examples=["case 7/2026"])
    """Why these people are watched; for the audit log."""
    retention_days: int = Field(ge=1, le=365, examples=[30])
    """Days that its alerts are kept."""
    silent: str | None = None
    """A gallery of silent people, such as staff; default: nobody is kept silent. A track that one
    of them explains better than the listed person raises no alert."""
    explain_passages: bool = False
    """Keep for a day why tracks raised no alert, without pictures and names."""


class ForecastFigures(WireModel):
    """The figures of a forecast that depend on the silent people, as in `Forecast`."""

    false_alarms: float | None
    low: float | None
    high: float | None
    found: float | None
    found_low: float | None
    found_high: float | None


class Forecast(WireModel):
    """The expected false alarms of a list at its threshold, and the share of visits it finds.

    `false_alarms` are expected per day; with a probability of 90% they are between `low` and
    `high`, which are null if unknown. `promised` is false if the budget is lower than what can be
    promised. `found` is the share of its people's tracks that raise an alarm, between `found_low`
    and `found_high`; for people enrolled by a single camera only the upper bound is known.
    `sentence` says all of this in words. `basis` names the data behind the threshold: the site's
    traffic of `traffic_tracks` tracks, the artefact's reference, the list alone, or the artefact's
    own thresholds. `own_tracks` of the traffic passed the cameras that the list watches, the others
    other or unknown ones. `rests_on` says this in words. `trial` is true
    before the list is armed, and as long as it is on trial at one of its cameras. All figures hold
    with the silent people of the list; `without_silent` has those without them, and is null if
    nobody is kept silent.
    """

    threshold: float
    people: int
    tracks_per_day: float
    traffic_tracks: int
    own_tracks: int = 0
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
    rests_on: str = ""
    trial: bool = False
    without_silent: ForecastFigures | None = None


class Trial(WireModel):
    """The trial of a list at one camera, as crops sent with one key name it.

    `tracks` counts the camera's tracks since the list was armed, and `alerts` its alerts during the
    trial. The trial is over with `tracks_needed` tracks if none of its first 20 alerts is
    `unreviewed`, and 14 days after arming in any case.
    """

    key_id: str
    camera: str | None
    tracks: int
    tracks_needed: int
    alerts: int
    unreviewed: int
    is_over: bool


class CameraThreshold(WireModel):
    """The threshold of a list at one camera, as crops sent with one key name it.

    `own_camera` is true if crops of the list come from it. `basis` is that of `Forecast`, and
    `rests_on` says it in words. `tracks` counts the camera's traffic, and `confirmed` and
    `rejected` the reviews of its alerts since the list was armed. Reviews move the threshold at an
    own camera unless they are ignored.
    """

    key_id: str
    camera: str | None
    threshold: float
    own_camera: bool
    basis: Literal["traffic", "reference", "list", "artefact"]
    tracks: int
    confirmed: int
    rejected: int
    reviews_ignored: bool
    rests_on: str


class SilentPeople(WireModel):
    """The silent people of an armed list.

    `people` counts those that its tracks are compared with; who is on the list as well, by name, is
    not among them. If it is 0, `why` says why nobody is kept silent at the moment. `tracks` counts
    the tracks that were kept silent since the list was armed.
    """

    gallery: str
    people: int
    tracks: int
    why: str | None = None


class WatchProposal(WireModel):
    """The forecast for a list; arm it by sending the same settings with `confirm`."""

    settings: WatchSettings
    forecast: Forecast
    confirm: str
    confirm_until: Moment


class Watch(WireModel):
    """A gallery as a watch list: its state, its forecast, and its alarms so far.

    `settings` is null if it was never armed. `compares` is true if the process that answers
    compares sightings with it. `why` says why it was disarmed, or why an armed list is compared
    with nothing or not as it should be, such as by its former thresholds. `promised` is the
    forecast at the time of arming, `forecast` the current one. `alerts` counts the visits since
    `armed_at`, over `days`, at most `retention_days`; `false_alarms` estimates the false ones per
    day from the share of reviewed alerts that were rejected, and is null before a review. `trials`
    has the trial of an armed list at each camera whose tracks it counts; all are over at
    `trial_until`. `thresholds` has its threshold at each of these cameras; at others the threshold
    of `forecast` holds, or a stricter one at a camera from which crops of the list come. `silent`
    is null if it was armed without silent people. From `paused_at` on it is compared with nothing,
    until it is resumed.
    """

    gallery: str
    state: Literal["armed", "disarmed"]
    settings: WatchSettings | None = None
    armed_at: Moment | None = None
    key_id: str | None = None
    disarmed_at: Moment | None = None
    paused_at: Moment | None = None
    compares: bool = False
    why: str | None = None
    promised: Forecast | None = None
    forecast: Forecast | None = None
    alerts: int = 0
    confirmed: int = 0
    rejected: int = 0
    days: float = 0.0
    false_alarms: float | None = None
    trials: list[Trial] = []
    thresholds: list[CameraThreshold] = []
    trial_until: Moment | None = None
    silent: SilentPeople | None = None


class Passage(WireModel):
    """A track that raised no alert of a list, by its best crop.

    `margin` is `score` minus `threshold`. `probability` is known where the score exceeds the
    threshold: it was below 0.5, which an alert needs as well. `height` is that of the crop in
    pixels, and null if a vector was sent in its place; `faults` are the limits of quality that it
    exceeds. `sentence` says all of this in words. `zone` is as in an alert.
    """

    captured_at: Moment
    camera: str | None
    zone: str | None = None
    track: str | None
    score: float
    threshold: float
    margin: float
    probability: float | None
    height: int | None
    faults: list[str]
    sentence: str


class Passages(Page[Passage]):
    """The newest tracks of a list that raised no alert."""


class CameraHeartbeat(WireModel):
    """The last heartbeat of a camera: its `state`, frames a second, and lag in seconds."""

    received_at: Moment
    state: str
    fps: float | None
    lag: float | None


class Camera(WireModel):
    """A camera as the API key `key_id` names it, with its figures of the last 24 hours.

    `camera` is null for crops without a camera, and for cameras beyond the limit of a key.
    `tracks` counts the tracks that began, `refused` the images that could not be used. `heartbeat`
    is null if the camera sends none; only a camera with heartbeats can become `silent`.
    `clock_ahead` is the number of seconds by which the newest times of capture were ahead of the
    service's clock when they arrived. Above zero the clock of the camera is fast. Below zero it is
    slow, or crops arrive late. It is null for a camera that sends no times. `zones` are those that
    an administrator drew for it, and take the place of the zones in the settings of its program.
    """

    camera: str | None
    key_id: str
    last_heard_at: Moment
    last_crop_at: Moment | None
    crops: int
    tracks: int
    refused: int
    heartbeat: CameraHeartbeat | None
    silent: bool
    clock_ahead: float | None = None
    zones: list[str] = []


class HeartbeatAnswer(WireModel):
    """The answer to a heartbeat: zones and wishes of an administrator for the camera's program.

    `zones` are polygons, one of which has to contain a person's feet; each has its corners `X,Y` in
    shares of the frame, with spaces between them, and before them its name with a colon, if it has
    one. Without any, those in the settings of the program hold. `still_wanted` asks for a still of
    the camera.
    """

    zones: list[str]
    still_wanted: bool


class Cameras(Page[Camera]):
    """One page of cameras, by key and name."""


class Alert(WireModel):
    """A visit of a listed person to a camera, or news about the list or a camera of it.

    `number` grows in the order in which alerts were written. `kind` is `visit`; `late`, a visit
    sent too late to raise an alarm; `disarmed` and `promise_broken`, about a list; `silent` and
    `heard`, about a camera that was not heard from `first_seen` to `last_seen`. An alert about no
    person has a `detail`. `track`, `score` (above `threshold`), `probability` (at least `needed`),
    `captured_at` and the picture at `image_url` are those of the visit's best crop, until a review;
    `cohesion` is null unless its track has several crops. `follows` is the person's previous visit
    to another camera, unless it was rejected. `reference_url` has the nearest crop of the list.
    `trial` is true if the list was on trial at the camera when it was raised, or when it took the
    crop that it shows. `zone` names the zone of the camera's picture in which the person stood at
    the visit's best crop, if its program said one.
    """

    alert_id: str
    number: int
    kind: AlertKind
    gallery: str
    detail: str | None
    identity: str | None
    camera: str | None
    zone: str | None = None
    track: str | None
    first_seen: Moment
    last_seen: Moment
    captured_at: Moment | None = None
    crops: int
    score: float | None
    threshold: float | None
    probability: float | None
    needed: float | None
    cohesion: float | None
    calibration_version: str | None
    state: AlertState
    reviewed_by: str | None
    reviewed_at: Moment | None
    follows: str | None
    created_at: Moment
    image_url: str | None
    reference_url: str | None
    trial: bool = False


class Alerts(Page[Alert]):
    """One page of alerts, newest first."""


class Webhook(WireModel):
    """An address to which alerts are sent, of one `gallery` or, if that is null, of all.

    `why` says why it is not `enabled`. The secret before a rotation also signs until
    `former_until`. `waiting` and `dead` count its deliveries; `dropped` counts alerts that were not
    queued because too many were waiting.
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
    """All webhooks, oldest first."""


class NewWebhook(Webhook):
    """A webhook with its new `secret`, answered only once."""

    secret: str = Field(repr=False)


class TestedWebhook(WireModel):
    """The outcome of one test: the receiver's `status`, or an `error` if it did not answer."""

    # Keeps pytest from collecting it because of its name.
    __test__: ClassVar[bool] = False

    delivered: bool
    status: int | None
    error: str | None


class Delivery(WireModel):
    """The delivery of one alert to one webhook; `webhook_id` is null if that was deleted.

    `status` and `error` are the outcome of the last of its `attempts`, and `sent_to` its address.
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
    """One page of deliveries, newest first."""


class SightedMatch(WireModel):
    """A listed person in the track of a sighting; `alert_id` is the alert of the visit."""

    gallery: str
    identity: str
    probability: float
    alert_id: str


class SightedImage(WireModel):
    """An accepted sighting; with `wait` it has the matches of its track, otherwise null.

    `matches` is empty for a key that has neither the scope `query` nor `admin`. `warnings` says if
    the time of capture tells of a wrong clock.
    """

    problem: ClassVar[None] = None

    matches: list[SightedMatch] | None
    warnings: list[str] = []


class Sighted(WireModel):
    """One entry per image, in order; `accepted` counts the usable images."""

    accepted: int
    results: list[SightedImage | RefusedImage]
