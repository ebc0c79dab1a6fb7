"""Forget: delete crops, or a person with all that is kept of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from service.gallery.gallery import Gallery
from service.operations.snapshot import take_removed_out_of_snapshots
from service.runtime import Runtime

CROPS_PER_SWEEP = 1000


@dataclass(frozen=True)
class Forgotten:
    """How many crops were removed, and the version from which on they are gone."""

    gallery_version: int
    removed: int


@dataclass(frozen=True)
class Remainder:
    """What is still kept of a forgotten person: where, what, and until when."""

    where: str
    what: str
    until: str


@dataclass(frozen=True)
class ForgottenIdentity(Forgotten):
    """What was removed of a person, and what is still kept of them.

    Attributes:
        snapshots: crops taken out, by snapshot.
    """

    snapshots: dict[str, int]
    remaining: tuple[Remainder, ...]


async def forget_crop(runtime: Runtime, gallery: str, crop_id: str) -> Forgotten:
    """Deletes one crop with its vector and picture.

    Raises:
        UnknownGallery, UnknownCrop: there is nothing to delete.
        StorageFailed: the crop is still there.
    """
    async with runtime.audit.trail("delete_crop", gallery=gallery, crop_ids=[crop_id]):
        removal = await runtime.galleries.remove_crop(gallery, crop_id)
    return Forgotten(removal.version, len(removal.row_ids))


async def forget_identity(runtime: Runtime, gallery: str, identity: str) -> ForgottenIdentity:
    """Deletes every crop of a person, from every snapshot too.

    Raises:
        UnknownGallery, UnknownIdentity: there is nothing to delete.
        StorageFailed: nothing was deleted.
        DamagedSnapshot: the person is gone from the gallery, and a snapshot cannot be rewritten.
    """
    target = runtime.galleries.get(gallery)
    async with runtime.audit.trail("forget_identity", gallery=gallery, identity=identity) as result:
        removal = await runtime.galleries.remove_identity(gallery, identity)
        result["count"] = len(removal.row_ids)
        taken = await take_removed_out_of_snapshots(runtime, target)
    remaining = await _remaining(runtime, target)
    return ForgottenIdentity(removal.version, len(removal.row_ids), taken, remaining)


async def forget_expired(runtime: Runtime, target: Gallery) -> int:
    """Deletes what a gallery's retention no longer allows; answers how many crops."""
    days = target.settings.retention_days
    if days is None:
        return 0
    oldest = datetime.now(UTC) - timedelta(days=days)
    total = 0
    while removed := await runtime.galleries.remove_older(target, oldest, CROPS_PER_SWEEP):
        total += removed
    if total:
        await runtime.audit.done("delete_expired", gallery=target.name, count=total)
    return total


async def _remaining(runtime: Runtime, target: Gallery) -> tuple[Remainder, ...]:
    store = runtime.galleries.store
    remaining = [
        Remainder(
            "record store",
            "the ids of the deleted crops, so that no restore brings them back",
            "the gallery is deleted",
        ),
        Remainder(
            "audit log",
            "a keyed hash of the identity, and the ids of crops deleted one by one",
            "you delete audit.key, which makes the hashes meaningless, or the log",
        ),
        Remainder(
            "answers to an Idempotency-Key",
            "ids of crops, no identity",
            "a day after the enrolment",
        ),
        Remainder(
            "copies of the data directory made by others, and the disk below it",
            "whatever they held",
            "whoever made them deletes them; this service does not know of them",
        ),
    ]
    job = await runtime.galleries.read(lambda: store.jobs.unfinished(target.gallery_id, "import"))
    if job is not None:
        remaining.append(
            Remainder(
                f"import job {job.job_id}",
                "images still to be enrolled, which may show this person again",
                "the job has ended",
            )
        )
    return tuple(remaining)
