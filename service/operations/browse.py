"""Browse: what galleries there are and what they hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Generic, Literal, TypeVar

from model.calibration import Scoring
from service.calibrations import CalibrationState
from service.gallery.gallery import Gallery
from service.gallery.index_kinds import HOST_KINDS
from service.gallery.records import (
    CropFilter,
    GalleryRecord,
    IdentityCount,
    IdentityRecord,
    Picture,
    RetentionFrom,
    StoredCrop,
)
from service.operations.pictures import stored_picture
from service.problems import UnknownCrop, UnknownIdentity, UnknownPicture
from service.runtime import Runtime

Item = TypeVar("Item")


@dataclass(frozen=True)
class GalleryCalibration(CalibrationState):
    """That of the default scoring, `scoring`, and in `scorings` that of each that is offered."""

    scoring: Scoring = "cosine"
    scorings: Mapping[Scoring, CalibrationState] = field(default_factory=dict)


@dataclass(frozen=True)
class GalleryDescription:
    """A gallery as it is now.

    Attributes:
        version: the record's; a search that follows sees at least this one, or one that another
            process answers where it is asked for by `min_version`.
        recall: share of the true nearest that its index finds, measured; None where it is exact.
        state: `previous_model` where the model before answers for it, `needs_reindex` where none
            does.
        retention_days: crops older than that are deleted; None keeps them.
        retention_from: whether their age counts from capture or from enrolment.
        index_bytes: memory of its vectors; 0 where it is not searchable.
        image_bytes: of the stored image files.
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
    created_at: datetime


@dataclass(frozen=True)
class Page(Generic[Item]):
    """Part of a listing; `next_after` continues it and is None at its end."""

    items: tuple[Item, ...]
    next_after: str | None


async def describe_gallery(runtime: Runtime, name: str) -> GalleryDescription:
    """One gallery; raises `UnknownGallery`."""
    record, gallery = await runtime.galleries.record(name), runtime.galleries.get(name)
    # On a reader thread: where a gallery has changed its identities are counted.
    return await runtime.galleries.read(lambda: _describe(runtime, record, gallery))


async def list_galleries(runtime: Runtime) -> list[GalleryDescription]:
    """Every gallery, by name."""
    held = {gallery.name: gallery for gallery in runtime.galleries.all()}

    def described() -> list[GalleryDescription]:
        records = runtime.galleries.store.galleries.all()
        return [_describe(runtime, one, held[one.name]) for one in records if one.name in held]

    return await runtime.galleries.read(described)


async def list_crops(
    runtime: Runtime,
    gallery: str,
    wanted: CropFilter,
    after: str | None,
    limit: int,
) -> Page[StoredCrop]:
    """Crops in the order of their enrolment."""
    target, store = runtime.galleries.get(gallery), runtime.galleries.store
    crops = await runtime.galleries.read(
        lambda: store.crops.page(target.gallery_id, wanted, int(after or 0), limit + 1)
    )
    more = len(crops) > limit
    return Page(tuple(crops[:limit]), str(crops[limit - 1].row_id) if more else None)


async def list_identities(
    runtime: Runtime, gallery: str, after: str | None, limit: int, query: str = ""
) -> Page[IdentityCount]:
    """Identities that contain `query`, in any case, in the order of their names."""
    target, store = runtime.galleries.get(gallery), runtime.galleries.store
    identities = await runtime.galleries.read(
        lambda: store.crops.identities(target.gallery_id, after or "", limit + 1, query)
    )
    more = len(identities) > limit
    return Page(tuple(identities[:limit]), identities[limit - 1].identity if more else None)


async def read_identity(runtime: Runtime, gallery: str, identity: str) -> IdentityRecord:
    """One identity with its cameras; raises `UnknownIdentity`."""
    target, store = runtime.galleries.get(gallery), runtime.galleries.store
    found = await runtime.galleries.read(lambda: store.crops.identity(target.gallery_id, identity))
    if found is None:
        raise UnknownIdentity(gallery, identity)
    return found


async def read_crop(runtime: Runtime, gallery: str, crop_id: str) -> StoredCrop:
    """One crop's record; raises `UnknownCrop`."""
    target, store = runtime.galleries.get(gallery), runtime.galleries.store
    crop = await runtime.galleries.read(lambda: store.crops.get(target.gallery_id, crop_id))
    if crop is None:
        raise UnknownCrop(gallery, crop_id)
    return crop


async def read_picture(runtime: Runtime, gallery: str, crop_id: str) -> Picture:
    """One crop's image file; raises `UnknownCrop` or `UnknownPicture`."""
    crop = await read_crop(runtime, gallery, crop_id)
    number = runtime.galleries.get(gallery).gallery_id
    picture = await runtime.galleries.read(lambda: stored_picture(runtime, number, crop))
    if picture is None:
        raise UnknownPicture(gallery, crop_id)
    return picture


def _describe(runtime: Runtime, record: GalleryRecord, gallery: Gallery) -> GalleryDescription:
    index = None if gallery.needs_reindex else gallery.index
    return GalleryDescription(
        name=record.name,
        crops=record.crops,
        identities=record.identities,
        embedding_fingerprint=record.embedding_fingerprint,
        version=record.version,
        index_kind=index.kind if index else HOST_KINDS[0].name,
        dtype=index.dtype if index else HOST_KINDS[0].dtype,
        index_bytes=index.bytes if index else 0,
        image_bytes=record.image_bytes,
        recall=index.recall if index else None,
        state=_state(gallery),
        retention_days=record.settings.retention_days,
        retention_from=record.settings.retention_from,
        calibration=_calibration(runtime, gallery),
        created_at=record.created_at,
    )


def _state(gallery: Gallery) -> Literal["ready", "previous_model", "needs_reindex"]:
    if gallery.needs_reindex:
        return "needs_reindex"
    return "previous_model" if gallery.outdated else "ready"


def _calibration(runtime: Runtime, gallery: Gallery) -> GalleryCalibration:
    model = runtime.model if gallery.needs_reindex else runtime.model_of(gallery)
    default, offered = model.description.default_scoring, model.description.scorings
    if gallery.needs_reindex:
        states = dict.fromkeys(offered, CalibrationState("artefact"))
    else:
        identities = gallery.index.table.identities
        states = {
            scoring: runtime.calibrations.of(gallery, scoring).for_search(identities)
            for scoring in offered
        }
    return GalleryCalibration(**vars(states[default]), scoring=default, scorings=states)
