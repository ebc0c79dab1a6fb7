"""Enrol: decode, embed and store images; each lands or fails alone."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from model.crops.decode import CropProblem
from service.failpoints import Failpoint, passed
from service.gallery.gallery import Gallery
from service.gallery.pictures import kept_picture
from service.gallery.records import Enrolment, LandedCrop, NewCrop, RequestKey
from service.inference.pipeline import EmbeddedImage
from service.inference.quality_gate import QualityGate
from service.operations.pictures import keep_elsewhere
from service.problems import NeedsReindex
from service.runtime import Runtime
from service.settings import Settings

Outcome = LandedCrop | CropProblem


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
    """What became of each image, in order.

    Attributes:
        replayed: this request happened before, and the answer is what it did then.
    """

    gallery_version: int
    results: tuple[Outcome, ...]
    replayed: bool = False


async def enroll(
    runtime: Runtime,
    gallery: str,
    images: Sequence[ImageToEnroll],
    request_name: str | None = None,
) -> EnrolmentAnswer:
    """Enrols images; what the answer calls landed survives a power cut and is found at once.

    Args:
        runtime: of the service.
        gallery: by name.
        images: what to enrol.
        request_name: under one name the same images are enrolled once, however often they come.

    Raises:
        RequestConflict: for a name that stood for other images.
        UnknownGallery, NeedsReindex, QueueFull, StorageFailed: nothing was stored.
    """
    target = runtime.galleries.get(gallery)
    target.require_comparable()
    runtime.room.require()
    request = None
    if request_name is not None:
        request = RequestKey(request_name, await asyncio.to_thread(_digest, images))
        store, asked = runtime.galleries.store, request
        past = await runtime.galleries.read(lambda: store.crops.happened(target.gallery_id, asked))
        if past is not None:
            return _answer(images, past)
    with runtime.admission.places(len(images)):
        enrolment = await _enroll(runtime, target, images, request)
    landed = [one for one in enrolment.results if isinstance(one, LandedCrop)]
    if landed and not enrolment.replayed:
        await runtime.audit.done(
            "enroll",
            gallery=gallery,
            count=len(landed),
            details={"duplicates": sum(one.duplicate for one in landed)},
        )
    return enrolment


async def _enroll(
    runtime: Runtime,
    target: Gallery,
    images: Sequence[ImageToEnroll],
    request: RequestKey | None,
) -> EnrolmentAnswer:
    gate = quality_gate(runtime.settings)
    while True:
        model = runtime.model_of(target)
        embedded = await model.pipeline.embed([image.image for image in images], gate)
        passed(Failpoint.ENROLL__EMBEDDED)
        usable = [
            (image, outcome)
            for image, outcome in zip(images, embedded, strict=True)
            if isinstance(outcome, EmbeddedImage)
        ]
        problems = [one if isinstance(one, CropProblem) else None for one in embedded]
        if not usable:
            return EnrolmentAnswer(target.version, tuple(one for one in problems if one))
        new = await asyncio.to_thread(_new_crops, runtime.settings, usable)
        crops = await keep_elsewhere(runtime, target, new)
        passed(Failpoint.ENROLL__PICTURES_KEPT)
        if request is not None:
            request = replace(request, problems=_outcomes_as_text(embedded))
        try:
            enrolment = await runtime.galleries.enroll(target.name, model.embedder, crops, request)
        except NeedsReindex:
            await runtime.galleries.catch_up()
            if runtime.model_of(target).embedder == model.embedder:
                raise
            # The gallery went over to another embedder while these images were embedded.
            continue
        if enrolment.replayed:
            return _answer(images, enrolment)
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


def _answer(images: Sequence[ImageToEnroll], past: Enrolment) -> EnrolmentAnswer:
    """What a request that happened answered; who and where is what it says again now."""
    landed = iter(past.landed)
    results: list[Outcome] = []
    for image, outcome in zip(images, json.loads(past.problems), strict=True):
        if isinstance(outcome, dict):
            results.append(CropProblem(**outcome))
            continue
        one = next(landed)
        # A program before this one kept null in the place of what is wrong with a usable image.
        warnings = (*one.warnings, *(outcome or ()))
        results.append(
            replace(one, identity=image.identity, camera=image.camera, warnings=warnings)
        )
    return EnrolmentAnswer(past.version, tuple(results), replayed=True)


def _outcomes_as_text(embedded: Sequence[EmbeddedImage | CropProblem]) -> str:
    """Of each image its problem, or the faults that its answer warns of."""
    return json.dumps(
        [
            {"code": one.code, "detail": one.detail}
            if isinstance(one, CropProblem)
            else [fault.detail for fault in one.faults]
            for one in embedded
        ]
    )


def _digest(images: Sequence[ImageToEnroll]) -> str:
    """Of everything that a request says."""
    digest = hashlib.sha256()
    for image in images:
        said = asdict(replace(image, image=b"", metadata=dict(image.metadata or {})))
        said["captured_at"] = image.captured_at.isoformat() if image.captured_at else None
        said["image"] = hashlib.sha256(image.image).hexdigest()
        digest.update(json.dumps(said, sort_keys=True).encode())
    return digest.hexdigest()


def _with_faults(landed: LandedCrop, embedded: EmbeddedImage) -> LandedCrop:
    warnings = (*landed.warnings, *(fault.detail for fault in embedded.faults))
    return replace(landed, warnings=warnings)


def _new_crops(
    settings: Settings, usable: Sequence[tuple[ImageToEnroll, EmbeddedImage]]
) -> list[NewCrop]:
    return [
        NewCrop(
            picture=kept_picture(image.image, settings.keep_images),
            sha256=hashlib.sha256(image.image).hexdigest(),
            vector=embedded.vector,
            identity=image.identity,
            camera=image.camera,
            captured_at=image.captured_at,
            external_id=image.external_id,
            metadata=image.metadata,
        )
        for image, embedded in usable
    ]
