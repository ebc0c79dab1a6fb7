"""Browse: describe galleries and crops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gmn_client import models
from service.errors import UnknownGallery, UnknownPicture
from service.gallery.gallery import Gallery
from service.gallery.pictures import stored_picture
from service.links import crop_image
from service.record.record import Record
from service.record.values import GalleryRecord, Picture, StoredCrop
from service.runtime import Runtime


async def describe_gallery(runtime: Runtime, gallery: Gallery) -> models.Gallery:
    """Describe a gallery; raise `UnknownGallery` if it was just deleted."""

    def describe() -> models.Gallery:
        record = runtime.record.galleries.get(gallery.gallery_id)
        if record is None:
            raise UnknownGallery(gallery.name)
        # Describe it on the reader thread: this may count the identities of a large gallery.
        return _describe(runtime, record, gallery)

    return await runtime.galleries.read(describe)


async def list_galleries(runtime: Runtime) -> list[models.Gallery]:
    galleries = {gallery.name: gallery for gallery in runtime.galleries.all()}

    def describe() -> list[models.Gallery]:
        records = runtime.record.galleries.all()
        return [
            _describe(runtime, record, galleries[record.name])
            for record in records
            if record.name in galleries
        ]

    return await runtime.galleries.read(describe)


async def read_crop(
    runtime: Runtime, gallery: Gallery, crop_id: str, vector: bool = False
) -> models.Crop:

    def read() -> models.Crop:
        crop = runtime.record.crops.get(gallery.gallery_id, crop_id)
        return described_crops(runtime.record, gallery, [crop], vector)[0]

    return await runtime.galleries.read(read)


async def read_picture(runtime: Runtime, gallery: Gallery, crop_id: str) -> Picture:
    crop = await runtime.galleries.read(runtime.record.crops.get, gallery.gallery_id, crop_id)
    picture = await stored_picture(runtime, gallery.gallery_id, crop)
    if picture is None:
        remedy = "set GMN_KEEP_IMAGES to keep those that are enrolled from now on"
        raise UnknownPicture(gallery.name, "crop", crop_id, remedy)
    return picture


def described_crops(
    record: Record, gallery: Gallery, crops: Sequence[StoredCrop], vectors: bool
) -> list[models.Crop]:
    vector_fields: dict[str, dict[str, Any]] = {}
    if vectors and crops:
        slots = [crop.slot for crop in crops]
        embedder, stored = record.crops.vectors_of(gallery.gallery_id, slots)
        vector_fields = {
            crop.record.crop_id: {"vector": crop.vector.tolist(), "embedding_fingerprint": embedder}
            for crop in stored
        }
    described = []
    for crop in crops:
        url = crop_image(gallery.name, crop.crop_id) if crop.content_type else None
        # `asdict` would copy the metadata, which may be thousands of objects.
        fields = vars(crop) | {"image_url": url} | vector_fields.get(crop.crop_id, {})
        described.append(models.Crop.model_validate(fields))
    return described


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
            "calibration": _describe_calibration(runtime, gallery),
        }
    )


def _describe_calibration(runtime: Runtime, gallery: Gallery) -> models.GalleryCalibration:
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
