"""Enrollment: check labels, decode, embed and store images; each succeeds or fails separately."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Annotated

from pydantic import AwareDatetime, Field

from gmn_client.models import EnrolledImage, Enrollment, RefusedImage
from model.arrays import Floats
from model.crops.decode import CropProblem
from model.crops.frames import FrameCrop, ImageFile
from service.engine.admission import Admission
from service.engine.device import Embedded, EmbeddedImage, PreparedImage
from service.engine.images import PicturePolicy
from service.engine.networks import LoadedModel
from service.errors import InvalidField, NeedsReindex, refused_image
from service.gallery.clocks import in_future, is_in_future, warning_of_fast_clock
from service.gallery.gallery import Gallery
from service.gallery.pictures import CropPictures
from service.gallery.registry import GalleryRegistry
from service.ops.audit import AuditLog
from service.ops.critical_sections import CriticalSections, attempt
from service.ops.data_directory import failpoint, require_free_disk
from service.record.deletions import DeletedCrops
from service.record.values import (
    CROP_ID,
    ArchivedCrop,
    CommittedEnrollment,
    CropLabels,
    GallerySettings,
    RequestKey,
    StoredCrop,
    as_dict,
    labels_of,
    new_crop_id,
)
from service.settings import Settings

Outcome = CropProblem | Sequence[str]
"""The problem of an image, or its warnings."""


Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


@dataclass(frozen=True, slots=True)
class ExportedCrop:
    """A crop as an export describes it, besides its labels; see `StoredCrop`."""

    crop_id: Annotated[str, Field(pattern=f"^{CROP_ID}$")]
    sha256: Sha256
    sent_sha256: Sha256
    quality: Annotated[float, Field(allow_inf_nan=False)] | None
    created_at: AwareDatetime
    set_aside: bool


@dataclass(frozen=True, kw_only=True)
class ImageToEnroll(CropLabels):
    """An image to enroll with its labels; without an image if its vector is given.

    Attributes:
        still: whether its person stays at the same place; for watch lists only, and not stored.
        zone: the zone of the camera's picture in which it stands; for watch lists only.
        exported: the crop in the export, if it is one; its picture is then not reduced.
    """

    image: ImageFile | None
    still: bool = False
    zone: str | None = None
    exported: ExportedCrop | None = None


@dataclass(frozen=True)
class ComputedVectors:
    """Vectors of images that were embedded elsewhere.

    Attributes:
        embedder: fingerprint of the embedder that made them.
        embedded: the vector of each image, or the problem of an image that cannot be used.
        field: the request field that contains them.
    """

    embedder: str
    embedded: Sequence[Embedded]
    field: str = "archive"


@dataclass(frozen=True)
class EmbeddedImages:
    """The result of embedding each image of an enrollment with its gallery's embedder."""

    gallery: Gallery
    embedder: str
    embedded: Sequence[Embedded]


@dataclass(frozen=True)
class CropEnrollment:
    """Enrolls images in the galleries of a service."""

    settings: Settings
    models: Mapping[str, LoadedModel]
    admission: Admission
    galleries: GalleryRegistry
    pictures: CropPictures
    sections: CriticalSections
    audit: AuditLog

    async def enroll(
        self,
        gallery: Gallery,
        images: Sequence[ImageToEnroll],
        request_name: str | None = None,
        computed: ComputedVectors | None = None,
        keep_best: int | None = None,
        import_job: str | None = None,
        deletions: DeletedCrops | None = None,
    ) -> tuple[Enrollment, EmbeddedImages]:
        """Enroll images; stored crops then survive a power cut, and every search finds them.

        Args:
            request_name: repeating a request with the same name and images enrolls nothing again.
            computed: vectors of the images, if they were embedded elsewhere; None embeds them.
            keep_best: number of crops to keep for each track; None keeps all.
            import_job: id of the import to which the images belong, if any.
            deletions: for crops of an export, the deletions that none of them may undo.

        Raises:
            RequestConflict: the name belongs to different images.
            InvalidField: the vectors are from another embedder than the gallery's, no image has a
                track to keep the best of, or a track has too many crops.
            UnknownGallery, NeedsReindex, QueueFull, StorageFailed, TooCostly: nothing was stored.
        """
        if keep_best is not None and not any(image.track for image in images):
            raise InvalidField("keep_best: needs track; send the tracker's own id too")
        settings = self.settings
        require_free_disk(settings)
        files = [image.image for image in images if not computed and image.image is not None]
        pipeline = self.models[gallery.embedder].pipeline
        cost = pipeline.cost(files)
        if import_job is None:
            is_of_frame = any(isinstance(file, FrameCrop) for file in files)
            # The client sends fewer images at a time if a refusal names only this field.
            field = "boxes" if is_of_frame else "images"
            self.admission.require_affordable(cost, field, "fewer or smaller ones")
        async with self.admission.admit(cost):
            await pipeline.open_frame(files)
            while True:
                embedder = gallery.embedder
                embedded: Sequence[Embedded]
                if computed:
                    vectors = [
                        image.vector
                        for image in computed.embedded
                        if isinstance(image, EmbeddedImage)
                    ]
                    self.models[embedder].require_vectors(
                        computed.field, computed.embedder, vectors, gallery.name
                    )
                    embedded = computed.embedded
                else:
                    pipeline = self.models[embedder].pipeline
                    # An export has pictures as its service kept them, which may be thumbnails.
                    keep = settings.keep_images if deletions is None else "original"
                    policy = PicturePolicy(keep, settings.keep_metadata)
                    embedded = await pipeline.embed(files, settings.quality, policy)
                failpoint("enroll.embedded")
                outcomes, crops = _split_outcomes(gallery.settings, images, embedded)
                key = None
                if request_name is not None:
                    digest_request = partial(_digest_request, images, embedded, keep_best)
                    if _takes_long(images, embedded):
                        digest = await pipeline.threads.run(digest_request)
                    else:
                        digest = digest_request()
                    key = RequestKey(request_name, digest, json.dumps(outcomes, default=vars))
                committed = CommittedEnrollment(gallery.version)
                try:
                    # Without crops, a repeated request still gets its first answer.
                    if crops or key:
                        commit = partial(
                            self.galleries.enroll,
                            gallery,
                            embedder,
                            key=key,
                            keep_best=keep_best,
                            import_job=import_job,
                            deletions=deletions,
                        )
                        store = self._store_crops(gallery, crops, commit)
                        committed = await self.sections.run(store)
                    answer = _answer(images, outcomes, committed)
                    return answer, EmbeddedImages(gallery, embedder, embedded)
                except NeedsReindex:
                    await self.galleries.catch_up()
                    if gallery.embedder == embedder:
                        raise
                    # The gallery changed its embedder in the meantime: embed the images again.

    async def _store_crops(
        self,
        gallery: Gallery,
        crops: Sequence[ArchivedCrop],
        commit: Callable[[Sequence[ArchivedCrop]], Awaitable[CommittedEnrollment]],
    ) -> CommittedEnrollment:
        """Store crops with their pictures, and note that in the audit log.

        Args:
            commit: commits and shows the crops, whose pictures may have been stored elsewhere.
        """
        folder = self.pictures.folder
        if folder is not None:
            crops = await self.pictures.keep_in(folder, gallery, crops)
        failpoint("enroll.pictures-kept")
        committed = await commit(crops)
        if crops and not committed.replayed:
            await self.audit.done(
                "enroll",
                gallery=gallery.name,
                count=sum(crop.kept for crop in committed.landed),
                duplicates=sum(crop.duplicate for crop in committed.landed),
            )
        if committed.removal:
            await self.audit.done(
                "keep_best",
                gallery=gallery.name,
                count=committed.removal.count,
                crop_ids=list(committed.removal.crop_ids),
            )
        if folder is not None:
            # Forgetting would not find images of duplicates, and of crops that a track does not
            # keep.
            stored = set(committed.crop_ids)
            unused = [crop.record.crop_id for crop in crops if crop.record.crop_id not in stored]
            if committed.removal:
                unused += committed.removal.crop_ids
            removal = self.pictures.remove(gallery.gallery_id, unused)
            await attempt("removal of unused images", removal)
        return committed


def as_computed(vectors: Iterable[Floats], embedder: str) -> ComputedVectors:
    """Return the vectors that a request sends instead of images."""
    embedded: list[Embedded] = []
    for vector in vectors:
        prepared = PreparedImage(hashlib.sha256(vector.astype("<f4").tobytes()).hexdigest())
        embedded.append(EmbeddedImage(vector, decode=0.0, embed=0.0, prepared=prepared))
    return ComputedVectors(embedder, embedded, "vector, embedding_fingerprint")


def _split_outcomes(
    settings: GallerySettings, images: Sequence[ImageToEnroll], embedded: Sequence[Embedded]
) -> tuple[list[Outcome], list[ArchivedCrop]]:
    outcomes: list[Outcome] = []
    crops: list[ArchivedCrop] = []
    now = datetime.now(UTC)
    kept_since = None
    if settings.retention_from == "captured" and settings.retention is not None:
        kept_since = now - settings.retention
    for image, outcome in zip(images, embedded, strict=True):
        captured = image.captured_at
        if captured is not None and is_in_future(captured, now):
            outcomes.append(in_future(captured))
        elif isinstance(outcome, CropProblem):
            outcomes.append(outcome)
        else:
            warnings = [fault.detail for fault in outcome.faults]
            if captured is not None and (warning := warning_of_fast_clock(captured, now)):
                warnings.append(warning)
            if kept_since is not None and captured is not None and captured <= kept_since:
                warnings.append(
                    f"captured_at: {captured.isoformat()} is earlier than this gallery keeps crops "
                    f"({kept_since.isoformat()}), so the next maintenance deletes it; set "
                    "retention_from=enrolled or a longer retention to keep it"
                )
            outcomes.append(warnings)
            prepared = outcome.prepared
            crop_id = new_crop_id()
            created_at = now
            set_aside = False
            if exported := image.exported:
                prepared = replace(
                    prepared,
                    sent_sha256=exported.sent_sha256,
                    other_sha256=prepared.sha256 if prepared.picture else exported.sha256,
                    quality=exported.quality,
                )
                crop_id = exported.crop_id
                created_at = exported.created_at
                set_aside = exported.set_aside
            crop = StoredCrop(
                slot=0,
                crop_id=crop_id,
                **labels_of(image),
                sent_sha256=prepared.sent_sha256,
                sha256=prepared.sha256,
                content_type=prepared.content_type,
                image_bytes=len(prepared.picture or b""),
                quality=prepared.quality,
                created_at=created_at,
                set_aside=set_aside,
            )
            crops.append(ArchivedCrop(crop, outcome.vector, prepared.picture))
    return outcomes, crops


def _takes_long(images: Iterable[ImageToEnroll], embedded: Iterable[Embedded]) -> bool:
    """Return whether `_digest_request` serializes metadata, or hashes files that were refused."""
    return any(image.metadata for image in images) or any(
        isinstance(outcome, CropProblem) for outcome in embedded
    )


def _digest_request(
    images: Iterable[ImageToEnroll], embedded: Iterable[Embedded], keep_best: int | None
) -> str:
    digest = hashlib.sha256()
    for image, outcome in zip(images, embedded, strict=True):
        if isinstance(outcome, EmbeddedImage):
            sha256 = outcome.prepared.sent_sha256
        else:
            file = image.image
            content = file if isinstance(file, bytes) else outcome.detail.encode()
            sha256 = hashlib.sha256(content).hexdigest()
        fields = labels_of(image) | {"image": sha256}
        fields["metadata"] = as_dict(image.metadata or {})
        digest.update(json.dumps(fields, sort_keys=True, default=datetime.isoformat).encode())
    if keep_best is not None:
        digest.update(b"keep_best %d" % keep_best)
    return digest.hexdigest()


def _answer(
    images: Sequence[ImageToEnroll], outcomes: Sequence[Outcome], committed: CommittedEnrollment
) -> Enrollment:
    """Merge problems and stored crops into one result per image, in order.

    A repeated request gets its earlier outcomes with the labels that it sends again.
    """
    if committed.replayed:
        outcomes = [
            CropProblem(**outcome) if isinstance(outcome, dict) else outcome
            for outcome in json.loads(committed.problems)
        ]
    crops = iter(committed.landed)
    results: list[EnrolledImage | RefusedImage] = []
    for image, outcome in zip(images, outcomes, strict=True):
        if isinstance(outcome, CropProblem):
            results.append(refused_image(outcome))
        else:
            crop = next(crops)
            changes = {
                "identity": image.identity,
                "camera": image.camera,
                "warnings": [*crop.warnings, *outcome],
            }
            results.append(crop.model_copy(update=changes))
    return Enrollment(
        gallery_version=committed.version, results=results, replayed=committed.replayed
    )
