"""Enrol: decode, embed and store images; each lands or fails alone."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from model.crops.decode import CropProblem
from service.gallery.records import LandedCrop, NewCrop, Picture
from service.inference.pipeline import EmbeddedImage
from service.inference.quality_gate import QualityGate
from service.runtime import Runtime
from service.settings import Settings

# decode_crop has read the whole file by then: the first bytes only have to tell formats apart.
SIGNATURES = ((b"\x89PNG", "image/png"), (b"\xff\xd8", "image/jpeg"), (b"RIFF", "image/webp"))


@dataclass(frozen=True)
class ImageToEnroll:
    """One image and what is known of it."""

    image: bytes
    identity: str | None = None
    camera: str | None = None
    captured_at: datetime | None = None
    external_id: str | None = None
    metadata: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class EnrolmentAnswer:
    """What became of each image, in order."""

    gallery_version: int
    results: tuple[LandedCrop | CropProblem, ...]


async def enroll(
    runtime: Runtime, gallery: str, images: Sequence[ImageToEnroll]
) -> EnrolmentAnswer:
    """Enrols images; what the answer calls landed survives a power cut and is found at once.

    Raises:
        UnknownGallery, NeedsReindex, QueueFull, StorageFailed: nothing was stored.
    """
    target = runtime.galleries.get(gallery)
    target.require_comparable()
    with runtime.admission.places(len(images)):
        embedded = await runtime.pipeline.embed(
            [image.image for image in images], quality_gate(runtime.settings)
        )
        crops = [
            _new_crop(image, outcome)
            for image, outcome in zip(images, embedded, strict=True)
            if isinstance(outcome, EmbeddedImage)
        ]
        if not crops:
            refused = tuple(one for one in embedded if isinstance(one, CropProblem))
            return EnrolmentAnswer(target.version, refused)
        fingerprint = runtime.description.embedding_fingerprint
        enrolment = await runtime.galleries.enroll(gallery, fingerprint, crops)
    landed = iter(enrolment.landed)
    return EnrolmentAnswer(
        enrolment.version,
        tuple(
            one if isinstance(one, CropProblem) else _with_faults(next(landed), one)
            for one in embedded
        ),
    )


def quality_gate(settings: Settings) -> QualityGate | None:
    """What crops are held against before they are enrolled; None where that is switched off."""
    if settings.quality == "off":
        return None
    return QualityGate(settings.quality_limits, refuse=settings.quality == "refuse")


def _with_faults(landed: LandedCrop, embedded: EmbeddedImage) -> LandedCrop:
    warnings = (*landed.warnings, *(fault.detail for fault in embedded.faults))
    return replace(landed, warnings=warnings)


def _new_crop(image: ImageToEnroll, embedded: EmbeddedImage) -> NewCrop:
    return NewCrop(
        picture=Picture(image.image, _content_type(image.image)),
        sha256=hashlib.sha256(image.image).hexdigest(),
        vector=embedded.vector,
        identity=image.identity,
        camera=image.camera,
        captured_at=image.captured_at,
        external_id=image.external_id,
        metadata=image.metadata,
    )


def _content_type(image: bytes) -> str:
    for signature, content_type in SIGNATURES:
        if image.startswith(signature):
            return content_type
    return "image/bmp"
