"""Crops and what became of those enrolled, as they go over the wire."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict

from service.api.schemas.base import CROP_ID, Moment, RefusedOut, Schema, image_url
from service.gallery.records import LandedCrop, StoredCrop


class CropOut(Schema):
    """A stored crop; its picture is at `image_url`."""

    crop_id: str
    identity: str | None
    camera: str | None
    captured_at: Moment | None
    external_id: str | None
    metadata: dict[str, Any] | None
    sha256: str
    content_type: str | None
    created_at: Moment
    image_url: str | None

    @classmethod
    def of(cls, gallery: str, crop: StoredCrop) -> CropOut:
        """From what the record holds."""
        return cls(
            crop_id=crop.crop_id,
            identity=crop.identity,
            camera=crop.camera,
            captured_at=crop.captured_at,
            external_id=crop.external_id,
            metadata=dict(crop.metadata) if crop.metadata is not None else None,
            sha256=crop.sha256,
            content_type=crop.content_type,
            created_at=crop.created_at,
            image_url=image_url(gallery, crop.crop_id) if crop.content_type else None,
        )


class CropsOut(Schema):
    """One page of crops, in the order of their enrolment."""

    results: list[CropOut]
    next_cursor: str | None


class LandedOut(Schema):
    """An image that is in the gallery; with `duplicate` it was there before, as `crop_id`."""

    crop_id: str
    identity: str | None
    camera: str | None
    duplicate: bool
    warnings: list[str]

    @classmethod
    def of(cls, landed: LandedCrop) -> LandedOut:
        """From what the operation answers."""
        return cls.model_validate(landed)


class EnrolmentOut(Schema):
    """One entry per image, in order."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "gallery_version": 7,
                "results": [
                    {
                        "crop_id": CROP_ID,
                        "identity": "0042",
                        "camera": "east",
                        "duplicate": False,
                        "warnings": [],
                    },
                    {
                        "problem": {
                            "type": "urn:gmn:problem:truncated",
                            "title": "Truncated",
                            "status": 422,
                            "detail": "the image data is cut off or damaged; send the whole file",
                        }
                    },
                ],
            }
        }
    )

    gallery_version: int
    results: list[LandedOut | RefusedOut]


class RemovalOut(Schema):
    """What was removed; from `gallery_version` on it is never returned again."""

    gallery_version: int
    removed: int
