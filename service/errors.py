"""The errors of the service; service/http/problems.py maps each `code` to an HTTP status."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from model.crops.decode import CropProblem
from model.problems import InputProblem


class ServiceError(InputProblem):
    """A request that cannot be answered.

    Attributes:
        detail: which input, why, and what to do.
        retry_after_s: seconds after which the same request may succeed; None where it will not.
    """

    code: ClassVar[str] = "invalid_request"

    def __init__(self, detail: str, retry_after_s: int | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after_s = retry_after_s


class Unauthorised(ServiceError):
    """A request without a key, or with an unknown one, where one is asked for."""

    code = "unauthorised"


class Forbidden(ServiceError):
    """A key that may not do this."""

    code = "forbidden"


class InvalidField(ServiceError):
    """A field whose value cannot be used.

    Args:
        detail: begins with the field's name and a colon.
        also: further fields that the problem concerns.
    """

    code = "invalid_field"

    def __init__(self, detail: str, *also: str) -> None:
        super().__init__(detail)
        field, _, message = detail.partition(": ")
        self.errors = [{"field": one, "message": message} for one in (field, *also)]


class UnusableImages(ServiceError):
    """Images without which the question cannot be answered; `outcomes` has one entry per image."""

    code = "unusable_images"

    def __init__(self, outcomes: Sequence[CropProblem | None]) -> None:
        refused = [(number, one) for number, one in enumerate(outcomes, 1) if one]
        number, first = refused[0]
        super().__init__(
            f"{len(refused)} of {len(outcomes)} images cannot be used; image {number}: "
            f"{first.detail}"
        )
        self.outcomes = tuple(outcomes)


class UnknownGallery(ServiceError):
    """No gallery of that name."""

    code = "unknown_gallery"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"there is no gallery {name!r}; create it with POST /v1/galleries or list those there "
            "are with GET /v1/galleries"
        )


class UnknownCrop(ServiceError):
    """No crop of that id in the gallery; deleted ones are unknown too."""

    code = "unknown_crop"

    def __init__(self, gallery: str, crop_id: str) -> None:
        super().__init__(
            f"gallery {gallery!r} holds no crop {crop_id!r}; it was never enrolled there or has "
            "been deleted"
        )


class UnknownPicture(ServiceError):
    """A crop whose picture was not kept."""

    code = "unknown_picture"

    def __init__(self, gallery: str, crop_id: str) -> None:
        super().__init__(
            f"the picture of crop {crop_id!r} in gallery {gallery!r} was not kept; set "
            "GMN_KEEP_IMAGES to keep those that are enrolled from now on"
        )


class UnknownIdentity(ServiceError):
    """No crop under that identity."""

    code = "unknown_identity"

    def __init__(self, gallery: str, identity: str) -> None:
        super().__init__(
            f"gallery {gallery!r} holds no crop of identity {identity!r}; list those there are "
            f"with GET /v1/galleries/{gallery}/identities"
        )


class UnknownJob(ServiceError):
    """No job of that id."""

    code = "unknown_job"

    def __init__(self, job_id: str) -> None:
        super().__init__(
            f"there is no job {job_id!r}; it belonged to a gallery that was deleted, or never was"
        )


class UnknownSnapshot(ServiceError):
    """No snapshot of that id."""

    code = "unknown_snapshot"

    def __init__(self, gallery: str, snapshot_id: str) -> None:
        super().__init__(
            f"gallery {gallery!r} has no snapshot {snapshot_id!r}; list those there are with "
            f"GET /v1/galleries/{gallery}/snapshots"
        )


class RequestConflict(ServiceError):
    """An idempotency key that stood for another request."""

    code = "request_conflict"

    def __init__(self, key: str) -> None:
        super().__init__(
            f"Idempotency-Key {key!r} came with another request within the last day; send a new "
            "key with a new request"
        )


class CropConflict(ServiceError):
    """A change that would make two crops of one image alike."""

    code = "crop_conflict"

    def __init__(self, crop_id: str, other: str) -> None:
        super().__init__(
            f"crop {crop_id} has the same image as crop {other}, which bears this identity and "
            "camera already; delete one of the two"
        )


class UnknownMerge(ServiceError):
    """No merge of that id, or not any more."""

    code = "unknown_merge"

    def __init__(self, gallery: str, merge_id: str) -> None:
        super().__init__(
            f"gallery {gallery!r} has no merge {merge_id!r} that can be undone: it is undone "
            "already, older than 30 days, or one of its identities was forgotten; list those "
            f"there are with GET /v1/galleries/{gallery}/merges"
        )


class GalleryConflict(ServiceError):
    """A gallery that is there already, or that cannot be deleted."""

    code = "gallery_conflict"


class NeedsReindex(ServiceError):
    """A gallery whose vectors another embedder made."""

    code = "needs_reindex"

    def __init__(self, gallery: str, filled_by: str, loaded: str) -> None:
        super().__init__(
            f"gallery {gallery!r} was filled by the embedder {filled_by[:12]}, but {loaded[:12]} "
            f"is loaded and their vectors cannot be compared; POST /v1/galleries/{gallery}/reindex "
            "embeds its kept images anew, or serve with the artefact that filled it; its crops can "
            "still be read and deleted"
        )


class QueueFull(ServiceError):
    """More images are waiting than the service accepts."""

    code = "queue_full"

    def __init__(self, waiting: int, asked: int, limit: int, retry_after_s: int) -> None:
        super().__init__(
            f"{waiting} images are waiting and {asked} more would exceed the limit of {limit}; "
            f"send the request again in {retry_after_s} s, or raise GMN_MAX_QUEUED_IMAGES",
            retry_after_s,
        )


class VersionNotReached(ServiceError):
    """A gallery that does not show the version that was asked for, yet."""

    code = "version_not_reached"

    def __init__(self, gallery: str, shown: int, asked: int, retry_after_s: int) -> None:
        super().__init__(
            f"gallery {gallery!r} shows version {shown} and not {asked} yet; ask again in "
            f"{retry_after_s} s, or send a min_version that a write has answered",
            retry_after_s,
        )


class StorageFailed(ServiceError):
    """The record store could not write: a full disk, mostly. Nothing was stored."""

    code = "storage_failed"


class RecordUnavailable(ServiceError):
    """The record store does not answer, or is not ready to; a write may have happened or not."""

    code = "record_unavailable"

    def __init__(self, why: str, retry_after_s: int) -> None:
        super().__init__(
            f"the record store cannot be used at the moment: {why}; ask again in {retry_after_s} s,"
            " a write best under an Idempotency-Key, as it may have happened",
            retry_after_s,
        )
        self.why = why


class DamagedSnapshot(ServiceError):
    """A snapshot that is not what was written; nothing was restored of it."""

    code = "damaged_snapshot"

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"snapshot {path.stem} is damaged or gone: {reason}; nothing was changed, restore "
            f"another snapshot, or put a copy of {path.name} back in its place"
        )
        self.reason = reason


class DeviceFull(ServiceError):
    """The device has no memory left for this, however little is asked of it at once."""

    code = "device_full"

    def __init__(self, what: str, retry_after_s: int = 5) -> None:
        super().__init__(
            f"the device has too little memory left for {what}; send the request again in "
            f"{retry_after_s} s, lower GMN_MAX_BATCH, or see what else runs on the device",
            retry_after_s,
        )


class DeviceLost(ServiceError):
    """The device answers nothing any more in this process, which is about to end."""

    code = "device_lost"

    def __init__(self, why: str, retry_after_s: int = 10) -> None:
        super().__init__(
            f"the device failed and the service restarts; send the request again in "
            f"{retry_after_s} s, a write best under an Idempotency-Key",
            retry_after_s,
        )
        self.why = why


class DamagedRecord(ServiceError):
    """A record store of which something is not what was written."""

    code = "damaged_record"

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(
            f"{path} is damaged: {what}; stop the service, see what is whole with gmn store verify "
            f"--data-dir {path.parent}, and get it back with gmn store recover --data-dir "
            f"{path.parent} --into NEW"
        )
        self.what = what


class DamagedRedisRecord(ServiceError):
    """A record in Redis of which something is not what was written."""

    code = "damaged_record"

    def __init__(self, what: str) -> None:
        super().__init__(
            f"the record in Redis is damaged: {what}; stop the service, see what is whole with gmn "
            "store verify, and go on with that by gmn store recover, both with its GMN_REDIS_URL"
        )
        self.what = what


class ServiceStopping(ServiceError):
    """The service is shutting down, or its device thread has stopped."""

    code = "service_stopping"
