"""The base of every answer, and the models of problems, jobs and the state of the service.

Fields that a newer service adds are ignored. The OpenAPI document is generated from these models.
"""

from __future__ import annotations

from datetime import datetime, timezone
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

Item = TypeVar("Item")
Scoring = Literal["cosine", "mnet", "fused"]
JobKind = Literal["import", "reindex", "grouping"]
JobState = Literal["queued", "running", "done", "failed", "cancelled"]
Verdict = Literal["match", "uncertain", "no_match"]
Scope = Literal["query", "enroll", "delete", "metrics", "admin"]
# Codes of problems, of refused images, and of the lines of a job's report.
PROBLEM_CODES = (
    *("answer_too_large", "bad_request", "blurred", "body_too_large", "body_too_slow"),
    *("box_outside", "captured_in_future", "crop_conflict", "cross_origin", "damaged_record"),
    *("damaged_snapshot", "dark", "device_full", "device_lost", "empty", "file_too_large"),
    *("forbidden", "gallery_conflict", "ignored", "index_unavailable", "internal_error"),
    *("invalid_field", "key_conflict", "low_resolution", "method_not_allowed", "needs_reindex"),
    *("not_an_image", "not_embedded", "not_found", "not_person_shaped", "not_ready"),
    *("not_unpacked", "overexposed", "queue_full", "record_unavailable", "request_conflict"),
    *("service_stopping", "snapshots_not_rewritten", "storage_failed", "too_costly"),
    *("too_many_exports", "too_many_parts", "too_many_pixels", "too_many_requests", "too_small"),
    *("truncated", "unauthorised"),
    *("unknown_case", "unknown_crop", "unknown_gallery", "unknown_identity", "unknown_job"),
    *("unknown_key", "unknown_merge", "unknown_picture", "unknown_query", "unknown_snapshot"),
    *("unreadable", "unsupported_media_type", "unusable_images", "version_not_reached"),
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
    warnings: ClassVar[tuple[str, ...]] = ()
    embedding: ClassVar[None] = None

    problem: Problem


class JobProgress(WireModel):
    """How far a job is, in items: `total` is 0 until they are counted.

    `done` counts the items that were handled; of an import `landed`, `duplicates` and `refused` are
    its parts. `ignored` counts other files, images that the manifest does not name, and columns of
    it that have no meaning.
    """

    model_config = ConfigDict(extra="allow")

    total: int = 0
    done: int = 0
    landed: int = 0
    duplicates: int = 0
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
