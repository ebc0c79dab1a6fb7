"""Enrol: decode, embed and store images; each lands or fails alone."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from model.crops.decode import CropProblem
from service.engine.pipeline import EmbeddedImage, Pipeline
from service.engine.quality_gate import QualityGate
from service.errors import NeedsReindex
from service.gallery.gallery import Gallery
from service.lifecycle.pictures import keep_elsewhere
from service.ops.failpoints import failpoint
from service.record.pictures import kept_picture
from service.record.records import Enrolment, GallerySettings, LandedCrop, NewCrop, RequestKey
from service.runtime import Runtime
from service.settings import Settings

Outcome = LandedCrop | CropProblem
CLOCKS_DIFFER_BY = timedelta(hours=1)


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
        return await _enroll(runtime, target, images, request)


async def _enroll(
    runtime: Runtime,
    target: Gallery,
    images: Sequence[ImageToEnroll],
    request: RequestKey | None,
) -> EnrolmentAnswer:
    gate = quality_gate(runtime.settings)
    while True:
        model = runtime.model_of(target)
        embedded = await _embed(model.pipeline, images, gate)
        failpoint("enroll.embedded")
        usable = [
            (image, outcome)
            for image, outcome in zip(images, embedded, strict=True)
            if isinstance(outcome, EmbeddedImage)
        ]
        # Of each image its problem, or what the answer warns of.
        outcomes = [
            one if isinstance(one, CropProblem) else _warnings(target.settings, image, one)
            for image, one in zip(images, embedded, strict=True)
        ]
        if not usable:
            problems = tuple(one for one in outcomes if isinstance(one, CropProblem))
            return EnrolmentAnswer(target.version, problems)
        new = await asyncio.to_thread(_new_crops, runtime.settings, usable)
        if request is not None:
            request = replace(request, problems=_outcomes_as_text(outcomes))
        try:
            enrolment = await runtime.sections.run(
                partial(_store, runtime, target, model.embedder, new, request)
            )
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
                one if isinstance(one, CropProblem) else _with_warnings(next(landed), one)
                for one in outcomes
            ),
        )


async def _embed(
    pipeline: Pipeline, images: Sequence[ImageToEnroll], gate: QualityGate | None
) -> list[EmbeddedImage | CropProblem]:
    """One outcome per image, in order; an image from the future is not embedded."""
    early = [_in_the_future(image) for image in images]
    timely = [image.image for image, problem in zip(images, early, strict=True) if problem is None]
    embedded = iter(await pipeline.embed(timely, gate))
    return [next(embedded) if problem is None else problem for problem in early]


def _in_the_future(image: ImageToEnroll) -> CropProblem | None:
    """The problem of an image that is captured later than clocks may differ; retention keeps it."""
    captured = image.captured_at
    if captured is None or captured <= datetime.now(UTC) + CLOCKS_DIFFER_BY:
        return None
    return CropProblem(
        "captured_in_future",
        f"captured_at: {captured.isoformat()} is more than an hour in the future; set the camera's "
        "clock right, or leave the field out",
    )


def _warnings(
    settings: GallerySettings, image: ImageToEnroll, embedded: EmbeddedImage
) -> tuple[str, ...]:
    """What the answer warns of in a usable image: faults, and that it will be deleted soon."""
    warnings = tuple(fault.detail for fault in embedded.faults)
    days, captured = settings.retention_days, image.captured_at
    if days is None or captured is None or settings.retention_from == "enrolled":
        return warnings
    if captured > datetime.now(UTC) - timedelta(days=days):
        return warnings
    return (
        *warnings,
        f"captured_at: {captured.isoformat()} is past the {days} days that this gallery keeps "
        "crops, so the next maintenance deletes it; set retention_from=enrolled or a longer "
        "retention_days to keep it",
    )


async def _store(
    runtime: Runtime,
    target: Gallery,
    embedder: str,
    new: Sequence[NewCrop],
    request: RequestKey | None,
) -> Enrolment:
    crops = await keep_elsewhere(runtime, target, new)
    failpoint("enroll.pictures-kept")
    enrolment = await runtime.galleries.enroll(target.name, embedder, crops, request)
    if not enrolment.replayed:
        await runtime.audit.done(
            "enroll",
            gallery=target.name,
            count=len(enrolment.landed),
            details={"duplicates": sum(one.duplicate for one in enrolment.landed)},
        )
    return enrolment


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
        one = replace(one, identity=image.identity, camera=image.camera)
        # A program before this one kept null for an image without a problem.
        results.append(_with_warnings(one, outcome or ()))
    return EnrolmentAnswer(past.version, tuple(results), replayed=True)


def _outcomes_as_text(outcomes: Sequence[CropProblem | tuple[str, ...]]) -> str:
    return json.dumps(
        [
            {"code": one.code, "detail": one.detail} if isinstance(one, CropProblem) else one
            for one in outcomes
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


def _with_warnings(landed: LandedCrop, warnings: Sequence[str]) -> LandedCrop:
    return replace(landed, warnings=(*landed.warnings, *warnings))


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
