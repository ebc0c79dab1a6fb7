"""Browse: describe galleries and crops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gmn_client import models
from service.errors import UnknownGallery, UnknownPicture
from service.gallery.gallery import Calibrations, Gallery
from service.gallery.pictures import CropPictures
from service.gallery.registry import GalleryRegistry
from service.links import crop_image
from service.record.record import Record
from service.record.values import GalleryRecord, Picture, StoredCrop


@dataclass(frozen=True)
class GalleryBrowser:
    """Reads descriptions of galleries and crops, and pictures."""

    record: Record
    galleries: GalleryRegistry
    calibrations: Calibrations
    pictures: CropPictures

    async def describe_gallery(self, gallery: Gallery) -> models.Gallery:
        """Describe a gallery; raise `UnknownGallery` if it was just deleted."""

        def describe() -> models.Gallery:
            record = self.record.galleries.get(gallery.gallery_id)
            if record is None:
                raise UnknownGallery(gallery.name)
            # Describe it on the reader thread: this may count the identities of a large gallery.
            return self._describe(record, gallery)

        return await self.galleries.read(describe)

    async def list_galleries(self) -> list[models.Gallery]:
        galleries = {gallery.name: gallery for gallery in self.galleries.all()}

        def describe() -> list[models.Gallery]:
            records = self.record.galleries.all()
            return [
                self._describe(record, galleries[record.name])
                for record in records
                if record.name in galleries
            ]

        return await self.galleries.read(describe)

    async def read_crop(self, gallery: Gallery, crop_id: str, vector: bool = False) -> models.Crop:

        def read() -> models.Crop:
            crop = self.record.crops.get(gallery.gallery_id, crop_id)
            return described_crops(self.record, gallery, [crop], vector)[0]

        return await self.galleries.read(read)

    async def read_picture(self, gallery: Gallery, crop_id: str) -> Picture:
        crop = await self.galleries.read(self.record.crops.get, gallery.gallery_id, crop_id)
        picture = await self.pictures.read(gallery.gallery_id, crop)
        if picture is None:
            remedy = "set GMN_KEEP_IMAGES to keep those that are enrolled from now on"
            raise UnknownPicture(gallery.name, "crop", crop_id, remedy)
        return picture

    def _describe(self, record: GalleryRecord, gallery: Gallery) -> models.Gallery:
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
                "calibration": self.calibrations.describe(gallery),
                "centring": self.calibrations.describe_centring(gallery),
            }
        )


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
