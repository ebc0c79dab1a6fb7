"""Enroll: check the labels of images, decode, embed and store them; each lands or fails alone."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from operator import attrgetter
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gmn_client.models import EnrolledImage, Enrollment, RefusedImage
from model.crops.decode import CropProblem
from model.crops.frames import ImageFile
from service.engine.batcher import Embedded, EmbeddedImage
from service.errors import InvalidField, NeedsReindex, refused_image
from service.gallery.gallery import Gallery
from service.lifecycle.pictures import keep_elsewhere
from service.ops.data_directory import require_free_disk
from service.ops.failpoints import failpoint
from service.record.crop_changes import RequestKey
from service.record.keys import new_crop_id
from service.record.records import (
    ArchivedCrop,
    Enrolment,
    GallerySettings,
    Picture,
    StoredCrop,
)
from service.runtime import Runtime
from service.search.options import MAX_METADATA_BYTES, MAX_TEXT, read_moment
from service.settings import KeepImages

CLOCKS_DIFFER_BY = timedelta(hours=1)
MAX_METADATA_DEPTH = 32
# decode_crop has read the whole file by then: its first bytes distinguish the formats.
SIGNATURES = ((b"\x89PNG", "image/png"), (b"\xff\xd8", "image/jpeg"), (b"RIFF", "image/webp"))
THUMBNAIL_HEIGHT = 256
THUMBNAIL_QUALITY = 90
PATH_SEGMENTS = (".", "..")
# Of an image its problem, or the warnings about it.
Outcome = CropProblem | Sequence[str]


@dataclass(frozen=True)
class ImageToEnroll:
    """An image to enroll and its labels."""

    image: ImageFile
    identity: str | None = None
    camera: str | None = None
    captured_at: datetime | None = None
    external_id: str | None = None
    metadata: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class ComputedVectors:
    """The vectors of images that were embedded elsewhere; the images themselves are empty.

    Attributes:
        embedder: fingerprint of the one that made them.
        embedded: one of each image.
    """

    embedder: str
    embedded: Sequence[EmbeddedImage]


async def enroll(
    runtime: Runtime,
    gallery: Gallery,
    images: Sequence[ImageToEnroll],
    request_name: str | None = None,
    computed: ComputedVectors | None = None,
) -> Enrollment:
    """Enrolls images; what the answer calls landed survives a power cut and is found at once.

    Args:
        request_name: under one name the same images are enrolled once, however often they come.
        computed: the images' vectors, where the service is not to compute them.

    Raises:
        RequestConflict: for a name that stood for other images.
        InvalidField: for vectors of another embedder than the gallery's.
        UnknownGallery, NeedsReindex, QueueFull, StorageFailed: nothing was stored.
    """
    require_free_disk(runtime.settings)
    files = [image.image for image in images]
    pipeline = runtime.models[gallery.embedder].pipeline
    cost = pipeline.cost([file for file in files if file])

    def prepare(
        _: ImageFile, file: bytes, pixels: NDArray[np.uint8], quality: float | None
    ) -> tuple[str, Picture | None, float | None]:
        return kept_picture(runtime.settings.keep_images, file, pixels, quality)

    async with runtime.admission.admit(cost):
        await pipeline.open_frame(files)
        while True:
            embedder = gallery.embedder
            quality = runtime.settings.quality
            pipeline = runtime.models[embedder].pipeline
            embedded: Sequence[Embedded]
            if computed:
                _require_embedder(runtime, gallery, computed)
                embedded = computed.embedded
            else:
                embedded = await pipeline.embed(files, quality, prepare)
            failpoint("enroll.embedded")
            outcomes, new = _outcomes(gallery.settings, images, embedded)
            request = None
            if request_name is not None:
                digest = _digest(images, embedded)
                request = RequestKey(request_name, digest, json.dumps(outcomes, default=vars))
            if not new:
                find = partial(runtime.record.crops.happened, gallery.gallery_id)
                past = await runtime.galleries.read(find, request) if request else None
                return _answer(images, outcomes, past or Enrolment(gallery.version, "", (), ()))
            section = partial(_store, runtime, gallery, embedder, new, request)
            try:
                enrolment = await runtime.sections.run(section)
                return _answer(images, outcomes, enrolment)
            except NeedsReindex:
                await runtime.galleries.catch_up()
                if gallery.embedder == embedder:
                    raise
                # The gallery went over to another embedder while these images were embedded.


def _require_embedder(runtime: Runtime, gallery: Gallery, computed: ComputedVectors) -> None:
    """Raises `InvalidField` for vectors that cannot be compared with the gallery's."""
    own = gallery.embedder
    model = runtime.models[gallery.embedder]
    dimension = model.networks.dimension
    if computed.embedder != own or computed.embedded[0].vector.shape != (dimension,):
        raise InvalidField(
            f"archive: its vectors are of embedder {computed.embedder[:12]}…, and gallery "
            f"{gallery.name!r} takes those of {own[:12]}… ({model.name}, {dimension} dimensions); "
            "run gmn embed with that artefact, or send them to a gallery that theirs has filled"
        )


def _outcomes(
    settings: GallerySettings, images: Sequence[ImageToEnroll], embedded: Sequence[Embedded]
) -> tuple[list[Outcome], list[ArchivedCrop]]:
    """Of each image its problem, or the answer's warnings; and the crops of the usable ones."""
    outcomes: list[Outcome] = []
    new: list[ArchivedCrop] = []
    now = datetime.now(UTC)
    days = settings.retention_days
    for image, one in zip(images, embedded, strict=True):
        captured = image.captured_at
        if captured is not None and captured > now + CLOCKS_DIFFER_BY:
            # Retention would keep it for too long.
            detail = (
                f"captured_at: {captured.isoformat()} is more than an hour in the future; "
                "set the camera's clock right, or leave the field out"
            )
            one = CropProblem("captured_in_future", detail)
        if isinstance(one, CropProblem):
            outcomes.append(one)
            continue
        warnings = list(map(attrgetter("detail"), one.faults))
        aging = captured if settings.retention_from == "captured" else None
        if aging is not None and days is not None and aging <= now - timedelta(days=days):
            warnings.append(
                f"captured_at: {aging.isoformat()} is past the {days} days that this gallery "
                "keeps crops, so the next maintenance deletes it; set retention_from=enrolled or a "
                "longer retention_days to keep it"
            )
        outcomes.append(warnings)
        sha256, picture, quality = one.prepared
        known = dict(vars(image))
        del known["image"]
        record = StoredCrop(
            row_id=0,
            crop_id=new_crop_id(),
            **known,
            sha256=sha256,
            content_type=picture.content_type if picture else None,
            image_bytes=len(picture.content) if picture else 0,
            quality=quality,
            created_at=now,
        )
        new.append(ArchivedCrop(record, one.vector, picture.content if picture else None))
    return outcomes, new


def kept_picture(
    keep: KeepImages, image: bytes, pixels: NDArray[np.uint8], quality: float | None
) -> tuple[str, Picture | None, float | None]:
    """A file's SHA-256, the picture that is kept of it, and its quality.

    Args:
        keep: `original` keeps the bytes as they came; `thumbnail` a JPEG of at most 256 pixels'
            height, without metadata, and the original where that is smaller; `none` nothing.
        image: the file.
        pixels: what it shows, `(height, width, 3)` RGB.
        quality: as it was measured.
    """
    sha256 = hashlib.sha256(image).hexdigest()
    if keep == "none":
        return sha256, None, quality
    content_type = "image/bmp"
    for signature, known in SIGNATURES:
        if image.startswith(signature):
            content_type = known
    original = Picture(image, content_type)
    if keep == "original":
        return sha256, original, quality
    picture = Image.fromarray(pixels)
    if picture.height > THUMBNAIL_HEIGHT:
        width = max(1, round(picture.width * THUMBNAIL_HEIGHT / picture.height))
        picture = picture.resize((width, THUMBNAIL_HEIGHT), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=THUMBNAIL_QUALITY, subsampling=0)
    smaller = Picture(file.getvalue(), "image/jpeg")
    return sha256, smaller if len(smaller.content) < len(image) else original, quality


def _digest(images: Iterable[ImageToEnroll], embedded: Iterable[Embedded]) -> str:
    """What distinguishes a request from another one under its name."""
    digest = hashlib.sha256()
    for image, one in zip(images, embedded, strict=True):
        fields = {
            **vars(image),
            "image": one.prepared[0]
            if isinstance(one, EmbeddedImage)
            else hashlib.sha256(_content(image.image, one)).hexdigest(),
            "captured_at": image.captured_at.isoformat() if image.captured_at else None,
            "metadata": dict(image.metadata or {}),
        }
        digest.update(json.dumps(fields, sort_keys=True).encode())
    return digest.hexdigest()


def _content(image: ImageFile, problem: CropProblem) -> bytes:
    return image if isinstance(image, bytes) else problem.detail.encode()


async def _store(
    runtime: Runtime,
    gallery: Gallery,
    embedder: str,
    new: Sequence[ArchivedCrop],
    request: RequestKey | None,
) -> Enrolment:
    folder = runtime.pictures
    crops = new if folder is None else await keep_elsewhere(runtime, folder, gallery, new)
    failpoint("enroll.pictures-kept")
    enrolment = await runtime.galleries.change(
        "enroll", gallery, runtime.record.crops.enroll, embedder, crops, request
    )
    if not enrolment.replayed:
        await runtime.audit.done(
            "enroll",
            gallery=gallery.name,
            count=len(enrolment.landed),
            duplicates=sum(map(attrgetter("duplicate"), enrolment.landed)),
        )
    return enrolment


def _answer(
    images: Sequence[ImageToEnroll], outcomes: Sequence[Outcome], enrolment: Enrolment
) -> Enrollment:
    """One result per image, in order: its problem, or the next landed crop with its warnings.

    Identities and cameras of a request that happened before are those that it names again.
    """
    if enrolment.replayed:
        outcomes = [
            # A program before this one kept null for an image without a problem.
            CropProblem(**one) if isinstance(one, dict) else one or ()
            for one in json.loads(enrolment.problems)
        ]
    crops = iter(enrolment.landed)
    results: list[EnrolledImage | RefusedImage] = []
    for image, one in zip(images, outcomes, strict=True):
        if isinstance(one, CropProblem):
            results.append(refused_image(one))
        else:
            crop = next(crops)
            warnings = [*crop.warnings, *one]
            named = {"identity": image.identity, "camera": image.camera, "warnings": warnings}
            results.append(crop.model_copy(update=named))
    return Enrollment(
        gallery_version=enrolment.version, results=results, replayed=enrolment.replayed
    )


def checked_text(field: str, value: str) -> str:
    """A name as it came; raises `InvalidField` for one that no call could name again."""
    # A query or a form that is not multipart has U+FFFD where it was not UTF-8.
    if len(value) > MAX_TEXT or not value.isprintable() or "\ufffd" in value:
        raise InvalidField(
            f"{field}: {value[:40]!r} is longer than {MAX_TEXT} characters, not printable, or was "
            "not sent as UTF-8; send a shorter, plain name in UTF-8"
        )
    if value in PATH_SEGMENTS:
        raise InvalidField(
            f"{field}: {value!r} would disappear from a URL's path, and the call would reach what "
            "lies above; send another name"
        )
    return value


def checked_camera(field: str, value: str) -> str:
    """A camera as it came; raises `InvalidField` for one that no list of cameras could name."""
    if "," in value or value != value.strip():
        raise InvalidField(
            f"{field}: {value[:40]!r} has a comma, or a space at an end, and no list of cameras "
            "could name it; send it without"
        )
    return checked_text(field, value)


def checked_metadata(name: str, value: str) -> dict[str, Any]:
    """A JSON object from its text; raises `InvalidField` for one that could not be written back."""
    read: Any = None
    try:
        read = json.loads(value) if len(value.encode()) <= MAX_METADATA_BYTES else None
        # What could not be written back as JSON: NaN, infinities, half of a surrogate pair.
        json.dumps(read, allow_nan=False, ensure_ascii=False).encode()
        usable = isinstance(read, dict) and _depth(read) <= MAX_METADATA_DEPTH
    except (ValueError, RecursionError):
        usable = False
    if not usable:
        raise InvalidField(
            f"{name}: {value[:40]!r} is no JSON object of at most {MAX_METADATA_BYTES:,} bytes and "
            f'{MAX_METADATA_DEPTH} levels; write it like {{"shift": "night"}}'
        )
    return dict(read)


def _depth(value: Any) -> int:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, parts), default=0)


def _checked_moment(name: str, value: str) -> datetime:
    try:
        return cast("datetime", read_moment(value))
    except ValueError as error:
        raise InvalidField(f"{name}: {error}") from error


# What is known of an image, by name, and what reads it from text; in the order of `ImageToEnroll`.
LABELS: Mapping[str, Callable[[str, str], Any]] = {
    "identity": checked_text,
    "camera": checked_camera,
    "captured_at": _checked_moment,
    "external_id": checked_text,
    "metadata": checked_metadata,
}
