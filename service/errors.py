"""Errors of the service: code, HTTP status, and a message that states the remedy."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, cast

from gmn_client.models import Problem, RefusedImage
from model.crops.decode import CropProblem
from model.problems import InputProblem, is_of_the_machine

STATUS_OF_IMAGE = {"not_embedded": 500, "file_too_large": 413}
"""Statuses of the problems of images that are not 422."""
MAX_ANSWER_BYTES = 32 * 1024 * 1024
TOO_MUCH_METADATA = (
    f"the answer would have more than {MAX_ANSWER_BYTES:,} bytes, most of them metadata of its "
    "results; ask for fewer by top_k or limit"
)


class ServiceError(InputProblem):
    """A request that cannot be answered.

    Attributes:
        code: stable name in the problem document.
        status: HTTP status of the answer.
        retry_after_s: seconds after which the same request may succeed; None if it will not.
        sentence: template of the message (which input, why, and what to do), filled by
            `str.format`.
        detail: the complete message.
        more: additional fields of the problem document.
        why: the last value filled into `sentence`, as text.
    """

    code: ClassVar[str]
    status: int = 422
    retry_after_s: int | None = None
    sentence: ClassVar[str] = "{}"

    def __init__(self, *values: object, retry_after_s: int | None = None) -> None:
        self.why = str(values[-1])
        self.retry_after_s = self.retry_after_s if retry_after_s is None else retry_after_s
        self.detail = self.sentence.format(*values, seconds=self.retry_after_s)
        self.more: dict[str, Any] = {}
        super().__init__(self.detail)

    def document(self) -> Problem:
        return problem(self.code, self.detail, self.status, **self.more)


class InvalidField(ServiceError):
    """A field whose value cannot be used.

    Args:
        detail: begins with the field's name and a colon; several names are separated by commas.
    """

    code = "invalid_field"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        fields, _, message = detail.partition(": ")
        self.more["errors"] = [{"field": field, "message": message} for field in fields.split(", ")]


class AnswerTooLarge(InvalidField):
    """A search whose answer would be too large."""

    code = "answer_too_large"


class UnusableImages(ServiceError):
    """Too few usable images to answer the request; `outcomes` has one entry per image."""

    code = "unusable_images"
    sentence = "{0} of {1} images cannot be used; image {2}: {3}"

    def __init__(self, outcomes: Sequence[object]) -> None:
        images = [
            refused_image(outcome) if isinstance(outcome, CropProblem) else None
            for outcome in outcomes
        ]
        refused = {number: image.problem for number, image in enumerate(images, 1) if image}
        number = min(refused)
        super().__init__(len(refused), len(outcomes), number, refused[number].detail)
        self.status = status_of(refused.values())
        self.more["results"] = [image.model_dump(mode="json") if image else {} for image in images]


class IndexUnavailable(ServiceError):
    """An external index that cannot be searched or written."""

    code = "index_unavailable"
    status = 503
    retry_after_s = 2
    sentence = (
        "Milvus cannot be searched at the moment: {0}; ask again in {seconds} s, writes and reads "
        "go on"
    )


class CollectionUnavailable(IndexUnavailable):
    """The index server answers but does not have a complete collection of the gallery yet."""


class RecordUnavailable(ServiceError):
    """The record, or the store of images, that does not answer; a write may have happened."""

    code = "record_unavailable"
    status = 503
    retry_after_s = 2
    sentence = (
        "the record store cannot be used at the moment: {0}; ask again in {seconds} s, a write "
        "best under an Idempotency-Key, as it may have happened"
    )


class RecordLacksCommits(RecordUnavailable):
    """The record, which lacks commits that this machine has acknowledged or shown."""

    def __init__(self) -> None:
        super().__init__(
            "PostgreSQL lacks commits that were acknowledged: a standby that lagged was promoted, "
            "an earlier state was restored, or a former primary takes writes; start this service "
            "anew, which says what to do"
        )


class RecordWaits(RecordUnavailable):
    """A write that waits for another process, which holds a lock and stands still.

    Nothing was written. The log names the process, which does not concern a client.

    Args:
        lock: name of the lock.
    """

    retry_after_s = 5

    def __init__(self, lock: str) -> None:
        super().__init__(lock)
        self.detail = (
            f"another process holds {lock} and stands still, so that this could not be written; "
            f"nothing was stored, send the request again in {self.retry_after_s} s; the log and "
            "gmn doctor name the process"
        )
        self.args = (self.detail,)


class TurnWaits(RecordWaits):
    """A write that waits for those of other threads and machines; nothing was written.

    Args:
        seconds: time that the write has waited.
    """

    def __init__(self, seconds: int) -> None:
        super().__init__("the turn of the writers")
        self.detail = (
            f"other writes have kept this one waiting for {seconds} s, as while a synchronous "
            "standby of PostgreSQL is away; nothing was stored, send the request again in "
            f"{self.retry_after_s} s"
        )
        self.args = (self.detail,)


def _define_error(
    code: str, status: int, sentence: str = "{}", retry_after_s: int | None = None
) -> type[ServiceError]:
    values = {
        "code": code,
        "status": status,
        "sentence": sentence,
        "retry_after_s": retry_after_s,
    }
    name = code.title().replace("_", "")
    return cast("type[ServiceError]", type(name, (ServiceError,), values))


Unauthorised = _define_error("unauthorised", 401)
Forbidden = _define_error("forbidden", 403)
UnsupportedMediaType = _define_error("unsupported_media_type", 415)
UnknownGallery = _define_error(
    "unknown_gallery",
    404,
    "there is no gallery {0!r}; create it with POST /v1/galleries or list those there are with GET "
    "/v1/galleries",
)
UnknownCrop = _define_error(
    "unknown_crop",
    404,
    "gallery {0!r} holds no crop {1!r}; it was never enrolled there or has been deleted",
)
UnknownPicture = _define_error(
    "unknown_picture", 404, "the picture of {1} {2!r} in gallery {0!r} was not kept; {3}"
)
UnknownQuery = _define_error(
    "unknown_query",
    404,
    "gallery {0!r} keeps no search {1!r}: its days are over, it was deleted, or a person it showed "
    "was forgotten; list those there are with GET /v1/galleries/{0}/queries",
)
UnknownCase = _define_error(
    "unknown_case",
    404,
    "gallery {0!r} has no case {1!r}; list those there are with GET /v1/galleries/{0}/cases",
)
UnknownIdentity = _define_error(
    "unknown_identity",
    404,
    "gallery {0!r} holds no crop of identity {1!r}; list those there are with GET "
    "/v1/galleries/{0}/identities",
)
UnknownTrack = _define_error(
    "unknown_track",
    404,
    "gallery {0!r} holds no crop of track {1!r} in this camera; list those there are with GET "
    "/v1/galleries/{0}/tracks",
)
UnknownGroup = _define_error(
    "unknown_group",
    404,
    "gallery {0!r} has no group {1!r}: a later grouping joined other crops, or its crops were "
    "named or deleted; list those there are with GET /v1/galleries/{0}/groups",
)
UnknownJob = _define_error(
    "unknown_job",
    404,
    "there is no job {0!r}: its gallery was deleted, or has 1,000 newer ones; list those there are "
    "with GET /v1/jobs",
)
UnknownKey = _define_error(
    "unknown_key",
    404,
    "there is no such key {0!r} in the record; see GET /v1/keys or gmn keys list, and remove one "
    "of GMN_API_KEYS_FILE from that file",
)
UnknownCamera = _define_error(
    "unknown_camera",
    404,
    "the key {1} has no camera {0!r}: it was not heard for 7 days, or never; list those there are "
    "with GET /v1/cameras",
)
UnknownStill = _define_error(
    "unknown_still",
    404,
    "there is no still of camera {0!r}: nobody has asked for one in the last 10 minutes (POST "
    "/v1/cameras/{0}/still), or it is gone",
)
UnknownAlert = _define_error(
    "unknown_alert",
    404,
    "there is no alert {0!r}: its days are over, or its person was forgotten; list those there are "
    "with GET /v1/alerts",
)
UnknownWebhook = _define_error(
    "unknown_webhook",
    404,
    "there is no webhook {0!r}; list those there are with GET /v1/webhooks",
)
UnknownDelivery = _define_error(
    "unknown_delivery",
    404,
    "there is no delivery {0!r}: it went with its alert; list those there are with GET "
    "/v1/webhooks/deliveries",
)
UnknownExport = _define_error(
    "unknown_export",
    404,
    "gallery {0!r} has no export {1!r}: it has expired or was deleted; list those there are with "
    "GET /v1/galleries/{0}/exports",
)
UnknownMerge = _define_error(
    "unknown_merge",
    404,
    "gallery {0!r} has no merge {1!r} that can be undone: it is undone already, older than 30 "
    "days, or one of its identities was forgotten; list those there are with GET "
    "/v1/galleries/{0}/merges",
)
RequestConflict = _define_error(
    "request_conflict",
    422,
    "Idempotency-Key {0!r} came with another request within the last day; send a new key with a "
    "new request",
)
CropConflict = _define_error(
    "crop_conflict",
    409,
    "crop {0} has the same image as crop {1}, which bears this identity and camera already; delete "
    "one of the two",
)
GalleryConflict = _define_error("gallery_conflict", 409)
JobUnfinished = _define_error(
    "job_unfinished",
    409,
    "job {0} is {1}; wait until it has ended, or cancel it with DELETE /v1/jobs/{0}",
)
ExportConflict = _define_error(
    "export_conflict",
    409,
    "gallery {0!r} has {1} exports, which is the most; delete one with DELETE "
    "/v1/galleries/{0}/exports/ID, or wait until one expires",
)
KeyConflict = _define_error(
    "key_conflict",
    409,
    "{0}: no valid key would have the scope admin for every gallery, so that no call could make a "
    "gallery or a key; make one that has it first, or use gmn keys on the machine",
)
NeedsReindex = _define_error(
    "needs_reindex",
    409,
    "gallery {0!r} was filled by the embedder {1:.12}, but {2:.12} is loaded and their vectors "
    "cannot be compared; POST /v1/galleries/{0}/reindex embeds its kept images again, or serve "
    "with the artefact that filled it; its crops can still be read and deleted",
)
NoDetector = _define_error(
    "no_detector",
    501,
    "this service has no detector of people: {0}; draw the boxes yourself, and send them with the "
    "photo as boxes",
)
NeedsRedis = _define_error(
    "needs_redis",
    501,
    "{0} are held in memory alone, and the processes of this service share none; name a Redis with "
    "GMN_REDIS_URL",
)
RedisAway = _define_error(
    "redis_away",
    503,
    "Redis, which holds {0}, does not answer; send the request again in {seconds} s",
    retry_after_s=2,
)
QueueFull = _define_error(
    "queue_full",
    429,
    "the service computes earlier requests, with a queue of {0} before this one; send it again in "
    "{seconds} s, and if this goes on, send less or add a machine",
    retry_after_s=1,
)
TooCostly = _define_error(
    "too_costly",
    422,
    "{0}: cost {1:,.1f} together, and one request may cost {2:,.1f} (a megapixel costs 1, see "
    "docs/reference.md); send {3}, or raise GMN_MAX_COST",
)
TooManyRequests = _define_error(
    "too_many_requests", 429, "the key {0} may {1}; send the request again in {seconds} s, or {2}"
)
TooManyExports = _define_error(
    "too_many_exports",
    429,
    "exports of cases are under way: at most {0} run at once, of which one key has {1}; send the "
    "request again in {seconds} s, or end another export",
    retry_after_s=5,
)
VersionNotReached = _define_error(
    "version_not_reached",
    503,
    "gallery {0!r} shows version {1} and not {2} yet; ask again in {seconds} s, or send a "
    "min_version that a write has answered",
    retry_after_s=1,
)
# Usually the disk is full; nothing was stored.
StorageFailed = _define_error("storage_failed", 507)
DamagedRecord = _define_error(
    "damaged_record",
    500,
    "{0} is damaged: {1}; see what is whole with gmn store verify --data-dir {0.parent}, restore "
    "the newest backup with gmn restore, and look at the disk",
)
DeviceFull = _define_error(
    "device_full",
    503,
    "the device has too little memory left for {0}; send the request again in {seconds} s, lower "
    "GMN_MAX_BATCH, or see what else runs on the device",
    retry_after_s=5,
)
DeviceLost = _define_error(
    "device_lost",
    503,
    "the device failed and the service restarts; send the request again in {seconds} s, a write "
    "best under an Idempotency-Key",
    retry_after_s=10,
)
MachineFull = _define_error(
    "machine_full",
    503,
    "{0} at the moment; send the request again in {seconds} s, a write best under an "
    "Idempotency-Key, or {1}",
    retry_after_s=5,
)
ServiceStopping = _define_error("service_stopping", 503)


def problem(code: str, detail: str, status: int = 422, **more: Any) -> Problem:
    return Problem(
        type=f"urn:gmn:problem:{code}",
        title=code.replace("_", " ").capitalize(),
        status=status,
        detail=detail,
        **more,
    )


def machine_error(error: BaseException | None) -> ServiceError | None:
    """Return the answer for an error that the machine causes; None for any other error."""
    if not is_of_the_machine(error):
        return None
    if not isinstance(error, OSError) or error.errno == errno.ENOMEM:
        return MachineFull(
            "the machine has too little memory left for this", "give the service more memory"
        )
    if error.errno == errno.EIO:
        return RecordUnavailable(f"a disk fails ({error.strerror})")
    return MachineFull(
        "the service has too many files open for this", "raise its limit of open files, ulimit -n"
    )


def refused_image(refused: CropProblem) -> RefusedImage:
    status = STATUS_OF_IMAGE.get(refused.code, 422)
    return RefusedImage(problem=problem(refused.code, refused.detail, status))


def status_of(refused: Iterable[Problem]) -> int:
    """Return the status of an answer in which every image was refused."""
    return 413 if all(problem.status == 413 for problem in refused) else 422
