"""Values of the record: crops, galleries, and results of changes."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import ItemsView, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import InstanceOf, TypeAdapter
from pydantic.dataclasses import dataclass as stored_dataclass
from pydantic_core import from_json

from gmn_client.models import EnrolledImage, RetentionFrom
from service.record.schema import as_micros


class Sender(NamedTuple):
    """A camera, and the API key with which its tracks are sent; one without a name is None."""

    key_id: str
    camera: str | None


@dataclass(frozen=True)
class Picture:
    """A stored image file."""

    content: bytes
    content_type: str


class JsonObject(Mapping[str, Any]):
    """A JSON object kept as text, which takes a thirtieth of the memory; each access parses it."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __getitem__(self, name: str) -> Any:
        return from_json(self.text)[name]

    def __iter__(self) -> Iterator[str]:
        return iter(from_json(self.text))

    def __len__(self) -> int:
        return len(from_json(self.text))

    def items(self) -> ItemsView[str, Any]:
        # The inherited view would parse the text again for each key.
        return dict(from_json(self.text)).items()


def as_dict(metadata: Mapping[str, Any]) -> dict[str, Any]:
    # dict(metadata) would parse a `JsonObject` again for each key.
    return dict(metadata.items())


@dataclass(frozen=True)
class CropLabels:
    """Labels of a crop, which clients send and may change.

    Attributes:
        identity, camera, external_id: opaque strings; None if unknown.
        captured_at: with time zone; None if unknown.
        metadata: the client's own JSON object.
        track: the tracker's id of its track, unique within the camera; None if unknown.
    """

    identity: str | None = None
    camera: str | None = None
    captured_at: datetime | None = None
    external_id: str | None = None
    metadata: InstanceOf[Mapping[str, Any]] | None = None
    track: str | None = None


LABELS = tuple(label.name for label in fields(CropLabels))


def labels_of(crop: CropLabels) -> dict[str, Any]:
    return {name: getattr(crop, name) for name in LABELS}


@dataclass(frozen=True, kw_only=True)
class LabelledCrop(CropLabels):
    """A crop of a gallery with its labels.

    Attributes:
        slot: its position in the gallery's vector files, from 1 on and never reused; 0 until it is
            stored. It orders crops by age, and names them in indexes and in Milvus.
        set_aside: it is kept out of searches, groupings, fits and watch lists.
    """

    slot: int
    crop_id: str
    set_aside: bool = False


def identity_code(identity: str, secret: bytes) -> int:
    """Return a number for an identity, which depends only on it and the record's secret.

    It is 63 bits of a keyed hash. A table of numbers would outlive a forgotten person. The
    probability that any two of a million identities collide is 5e-8.
    """
    digest = hashlib.blake2b(identity.encode(), key=secret, digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def group_code(crop: LabelledCrop, secret: bytes) -> int:
    """Return a crop's `identity_code`, or a unique negative number if it has no identity."""
    if crop.identity is None:
        return -1 - crop.slot
    return identity_code(crop.identity, secret)


@stored_dataclass(frozen=True, kw_only=True)
class StoredCrop(LabelledCrop):
    """A crop's record without its picture and vector.

    Attributes:
        sent_sha256: hash of the file that was sent, or of its vector, hexadecimal.
        sha256: hash of the kept picture; `sent_sha256` if none is kept.
        content_type: type of the kept picture; None if none is kept.
        image_bytes: size of the kept picture.
        created_at: when it was first stored.
        inside: the picture is stored in the record.
        quality: image quality, which decides a person's best picture; None if not measured.
    """

    sent_sha256: str
    sha256: str
    content_type: str | None = None
    image_bytes: int = 0
    created_at: datetime
    inside: bool = False
    quality: float | None = None

    @property
    def elsewhere(self) -> bool:
        return self.content_type is not None and not self.inside


@dataclass(frozen=True)
class ArchivedCrop:
    """A crop with its contents.

    Attributes:
        vector: `(d,)` float32 from the embedder, not normalized.
        picture: bytes of type `record.content_type`; None if not kept here or not read.
    """

    record: StoredCrop
    vector: NDArray[np.float32]
    picture: bytes | None = None


@dataclass(frozen=True)
class CommittedEnrollment:
    """A committed enrollment.

    Attributes:
        landed: in the order of the request.
        added: the new crops.
        replayed: the request was processed before, and this was its result.
        problems: problems from when the request was processed, as opaque JSON.
        removal: removal of crops displaced from tracks; None if there were none.
    """

    version: int
    landed: tuple[EnrolledImage, ...] = ()
    added: tuple[StoredCrop, ...] = ()
    replayed: bool = False
    problems: str = "[]"
    removal: CropsChange | None = None

    @property
    def crop_ids(self) -> list[str]:
        return [crop.crop_id for crop in self.added]


@dataclass(frozen=True)
class CropsChange:
    """A committed change or removal of crops.

    Attributes:
        crop_ids: the changed or removed crops.
        unchanged: number of other crops that already had the new labels.
        merge_id: id for undoing a merge of two identities; None if there was no merge.
        restored_identity: the identity restored by undoing a merge; else None.
    """

    version: int
    crop_ids: tuple[str, ...] = ()
    unchanged: int = 0
    merge_id: str | None = None
    restored_identity: str | None = None

    @property
    def count(self) -> int:
        return len(self.crop_ids)

    @property
    def matched(self) -> int:
        return self.count + self.unchanged


CalibrationMode = Literal["on", "frozen", "off"]
CentringMode = Literal["auto", "off"]


@dataclass(frozen=True)
class GallerySettings:
    """The settings of a gallery.

    Attributes:
        retention_days, retention_hours: crops older than this are deleted; at most one is set, and
            without either all are kept.
        calibration: whether verdicts follow this gallery's named crops or searches (`on`), keep
            the calibration reached so far (`frozen`), or follow the artefact alone (`off`).
        retention_from: whether a crop's age counts from its capture (from its enrollment if that is
            unknown) or always from its enrollment.
        time_evidence: whether results follow times of capture besides appearance.
        centring: whether searches may subtract the means of cameras (`auto`) or never do (`off`).
    """

    retention_days: int | None = None
    calibration: CalibrationMode = "on"
    retention_from: RetentionFrom = "captured"
    retention_hours: int | None = None
    time_evidence: bool = False
    centring: CentringMode = "auto"

    @property
    def retention(self) -> timedelta | None:
        """The age at which crops are deleted; None keeps them."""
        if self.retention_days is None and self.retention_hours is None:
            return None
        return timedelta(days=self.retention_days or 0, hours=self.retention_hours or 0)


@dataclass(frozen=True)
class PublishedCalibration:
    """A calibration used by every process.

    Attributes:
        version: counts the calibrations published for its kind of score, from 1.
        body: opaque text without a checksum; readers ignore one that they cannot parse.
    """

    version: int
    body: str


@stored_dataclass
class GalleryRecord:
    """A gallery as stored.

    Attributes:
        embedding_fingerprint: fingerprint of the embedder that made the searched vectors.
        staged_embedder: fingerprint of the embedder whose vectors are being prepared, or None.
        generation: number of the file of the searched vectors; a reindex fills the file of
            `staged_generation` and switches to it.
        next_generation, next_slot: the next ones to be assigned.
        removals: number of commits that removed crops for good.
        staged_crops, staged_slot: number of crops with a staged vector, and their last slot.
        unnamed: number of crops without an identity.
        set_aside: number of crops that are kept out of searches.
        dimension: length of the searched vectors; None before the first.
        changed, calibrated: numbers of the commits that last changed anything of the gallery, and
            its calibrations.
    """

    gallery_id: int
    name: str
    embedding_fingerprint: str
    created_at: datetime
    settings: GallerySettings = field(default_factory=GallerySettings)
    staged_embedder: str | None = None
    version: int = 0
    crops: int = 0
    identities: int = 0
    image_bytes: int = 0
    generation: int = 0
    staged_generation: int | None = None
    staged_crops: int = 0
    staged_slot: int = 0
    next_generation: int = 1
    next_slot: int = 1
    removals: int = 0
    unnamed: int = 0
    set_aside: int = 0
    dimension: int | None = None
    changed: int = 0
    calibrated: int = 0

    @property
    def searchable_crops(self) -> int:
        return self.crops - self.set_aside

    @property
    def deletion_id(self) -> str:
        """Its id in the log of deletions: two records restored from one backup reuse numbers."""
        return f"{self.gallery_id}-{as_micros(self.created_at)}"


@dataclass(frozen=True, kw_only=True)
class CropFilter:
    """Conditions that a crop has to pass, all of them; an empty one and None pass every crop.

    Names are in NFC, as they are stored. A crop of unknown camera or time passes no condition on
    cameras or times.

    Attributes:
        identities, cameras: only crops with one of these.
        named: True for crops with an identity, False for crops without one.
        captured_after, captured_before: inclusive bounds, with time zone.
    """

    identities: frozenset[str] = frozenset()
    cameras: frozenset[str] = frozenset()
    named: bool | None = None
    captured_after: datetime | None = None
    captured_before: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class ListFilter(CropFilter):
    """A filter of crops to list, group, change or delete.

    Attributes:
        crop_ids: only these.
        track, external_id: only crops with this label.
        set_aside: True for crops that are kept out of searches, False for the others.
    """

    crop_ids: frozenset[str] = frozenset()
    track: str | None = None
    external_id: str | None = None
    set_aside: bool | None = None


# A filter as JSON, in jobs and in the audit log.
FILTER = TypeAdapter(ListFilter)


@dataclass(frozen=True)
class RequestKey:
    """A client's name for a request, which makes repeating it harmless.

    Attributes:
        key: chosen by the client.
        digest: digest of the whole request; a different one under the same key is an error.
        problems: refused images and faults in the answer, as opaque JSON.
    """

    key: str
    digest: str
    problems: str = "[]"


@dataclass(frozen=True)
class EnrollmentRequest:
    """The crops that one request enrolls.

    Attributes:
        embedder: fingerprint of the embedder that made their vectors.
        key: names the request; None for a request that is not remembered.
        import_job: id of the import that stores them; None if none does.
    """

    embedder: str
    crops: Sequence[ArchivedCrop]
    key: RequestKey | None = None
    import_job: str | None = None


# Pattern of the ids from `new_crop_id`.
CROP_ID = "[0-9a-f]{32}"


def new_crop_id() -> str:
    """Return an unguessable id, roughly in time order: 48 bits of milliseconds, 80 random bits."""
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"
