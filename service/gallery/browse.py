"""Browse: describe and list galleries, crops and identities."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import fields
from typing import Any

from gmn_client import models
from service.errors import UnknownCrop, UnknownGallery, UnknownIdentity, UnknownPicture
from service.gallery.gallery import Gallery
from service.gallery.pictures import stored_picture
from service.record.people import Person
from service.record.tracks import Track
from service.record.values import CropFilter, GalleryRecord, Picture, StoredCrop, count_by_case
from service.runtime import Runtime

CROPS_AT_ONCE = 1000


async def describe_gallery(runtime: Runtime, gallery: Gallery) -> models.Gallery:
    """Describe a gallery; raise `UnknownGallery` if it was just deleted."""

    def described() -> models.Gallery:
        record = runtime.record.galleries.get(gallery.gallery_id)
        if record is None:
            raise UnknownGallery(gallery.name)
        # On the reader thread, because this counts the identities of a changed gallery.
        return _describe(runtime, record, gallery)

    return await runtime.galleries.read(described)


async def list_galleries(runtime: Runtime) -> list[models.Gallery]:
    galleries = {gallery.name: gallery for gallery in runtime.galleries.all()}

    def described() -> list[models.Gallery]:
        records = runtime.record.galleries.all()
        return [
            _describe(runtime, record, galleries[record.name])
            for record in records
            if record.name in galleries
        ]

    return await runtime.galleries.read(described)


async def read_crop(
    runtime: Runtime, gallery: Gallery, crop_id: str, vector: bool = False
) -> models.Crop:
    """Describe a crop; raise `UnknownCrop`."""
    crop = await _stored(runtime, gallery, crop_id)
    (shown,) = await runtime.galleries.read(described_crops, runtime, gallery, [crop], vector)
    return shown


async def read_picture(runtime: Runtime, gallery: Gallery, crop_id: str) -> Picture:
    """Read a crop's picture; raise `UnknownCrop` or `UnknownPicture`."""
    crop = await _stored(runtime, gallery, crop_id)
    picture = await stored_picture(runtime, gallery.gallery_id, crop)
    if picture is None:
        remedy = "set GMN_KEEP_IMAGES to keep those that are enrolled from now on"
        raise UnknownPicture(gallery.name, "crop", crop_id, remedy)
    return picture


async def matching(
    runtime: Runtime, gallery: Gallery, wanted: CropFilter
) -> AsyncIterator[StoredCrop]:
    order: models.CropOrder = "captured" if wanted.of_time else "enrolled"
    cursor: str | None = ""
    while cursor is not None:
        page = await runtime.galleries.read(
            runtime.record.crops.page, gallery.gallery_id, wanted, cursor, CROPS_AT_ONCE, order
        )
        for crop in page.crops:
            yield crop
        cursor = page.cursor


async def list_identities(
    runtime: Runtime,
    gallery: Gallery,
    cursor: str | None,
    limit: int,
    query: str,
    sort: models.IdentityOrder,
) -> models.Identities:
    """Return a page of identities; raise `InvalidField` for a cursor of another order."""

    def read() -> models.Identities:
        people = runtime.record.people.page(
            gallery.gallery_id, cursor or "", limit + 1, query, sort
        )
        more = people[limit - 1].place if len(people) > limit else None
        results = [
            models.Identity(**_described(gallery, person) | {"cameras": len(person.cameras)})
            for person in people[:limit]
        ]
        return models.Identities(results=results, next_cursor=more)

    return await runtime.galleries.read(read)


async def list_tracks(
    runtime: Runtime, gallery: Gallery, cursor: str | None, limit: int, camera: str | None
) -> models.Tracks:
    """Return a page of tracks."""

    def read() -> models.Tracks:
        tracks, next_cursor = runtime.record.tracks.page(
            gallery.gallery_id, cursor or "", limit, camera
        )
        results = [models.Track.model_validate(_described(gallery, track)) for track in tracks]
        return models.Tracks(results=results, next_cursor=next_cursor)

    return await runtime.galleries.read(read)


async def read_identity(runtime: Runtime, gallery: Gallery, identity: str) -> models.IdentityDetail:
    """Describe an identity; raise `UnknownIdentity`."""
    detail = await runtime.galleries.read(runtime.record.people.get, gallery.gallery_id, identity)
    if detail is None:
        raise UnknownIdentity(gallery.name, identity)
    person, first_seen, searches = detail
    return models.IdentityDetail(
        **_described(gallery, person),
        first_seen=first_seen,
        kept_searches=len(searches),
        cases=count_by_case(searches),
    )


def described_crops(
    runtime: Runtime, gallery: Gallery, crops: Sequence[StoredCrop], vectors: bool
) -> list[models.Crop]:
    """Describe crops, with their vectors if these are asked for; blocks."""
    described = []
    for crop in crops:
        columns = {field.name: getattr(crop, field.name) for field in fields(crop)}
        url = gallery.image_url(crop.crop_id) if crop.content_type else None
        described.append(models.Crop.model_validate(columns | {"image_url": url}))
    if vectors and crops:
        slots = [crop.row_id for crop in crops]
        embedder, stored = runtime.record.crops.vectors_of(gallery.gallery_id, slots)
        by_id = {crop.label.crop_id: crop.vector.tolist() for crop in stored}
        for place, crop in enumerate(crops):
            if crop.crop_id in by_id:
                changes = {"vector": by_id[crop.crop_id], "embedding_fingerprint": embedder}
                described[place] = described[place].model_copy(update=changes)
    return described


def _described(gallery: Gallery, shown: Person | Track) -> dict[str, Any]:
    url = gallery.image_url(shown.crop_id) if shown.pictured else None
    return {**vars(shown), "image_url": url}


async def _stored(runtime: Runtime, gallery: Gallery, crop_id: str) -> StoredCrop:
    crop = await runtime.galleries.read(runtime.record.crops.get, gallery.gallery_id, crop_id)
    if crop is None:
        raise UnknownCrop(gallery.name, crop_id)
    return crop


def _describe(runtime: Runtime, record: GalleryRecord, gallery: Gallery) -> models.Gallery:
    index = None if gallery.needs_reindex else gallery.index
    state = "previous_model" if gallery.outdated else "ready"
    return models.Gallery.model_validate(
        {
            **vars(record),
            **vars(record.settings),
            "index_kind": index.kind if index else "flat_ip",
            "dtype": index.dtype if index else "float32",
            "index_bytes": index.bytes if index else 0,
            "recall": index.recall if index else None,
            "state": state if index else "needs_reindex",
            "calibration": _calibration(runtime, gallery),
        }
    )


def _calibration(runtime: Runtime, gallery: Gallery) -> models.GalleryCalibration:
    model = runtime.model if gallery.needs_reindex else runtime.models[gallery.embedder]
    default = model.description.default_scoring
    if gallery.needs_reindex:
        unfitted = models.CalibrationState(state="artefact")
        states = dict.fromkeys(model.description.scorings, unfitted)
    else:
        identities = gallery.index.identities()
        states = {
            current.scoring: current.as_state(identities)
            for current in runtime.calibrations.of(gallery)
        }
    return models.GalleryCalibration(**vars(states[default]), scoring=default, scorings=states)
