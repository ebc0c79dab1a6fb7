"""Values of the record: crops, galleries, and what was done to them."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from operator import attrgetter
from typing import Any, Literal, TypedDict

import numpy as np
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass as stored_dataclass

from gmn_client.models import EnrolledImage, RetentionFrom
from service.record.kept_queries import KeptQuery


@dataclass(frozen=True)
class Picture:
    """A stored image file."""

    content: bytes
    content_type: str


@dataclass(frozen=True, slots=True)
class CropLabel:
    """What a ranking shows of a crop, kept in memory so that answering reads no database.

    Attributes:
        row_id: its number in its gallery, never given out twice; 0 until it is stored.
        identity, camera, external_id: opaque strings; None where unknown.
        captured_at: with time zone; None where unknown.
        metadata: the client's own JSON object.
    """

    row_id: int
    crop_id: str
    identity: str | None = None
    camera: str | None = None
    captured_at: datetime | None = None
    external_id: str | None = None
    metadata: Mapping[str, Any] | None = None


def identity_code(identity: str, secret: bytes) -> int:
    """An identity as a number, the same in every process that has the record's secret.

    It is 63 bits of a keyed hash, and not a numbering of the names, which would outlive a forgotten
    person. Among a million identities two share one with a probability of 5e-8.
    """
    digest = hashlib.blake2b(identity.encode(), key=secret, digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def group_code(label: CropLabel, secret: bytes) -> int:
    """The `identity_code` of a crop; a negative number of its own where it has no identity."""
    if label.identity is None:
        return -1 - label.row_id
    return identity_code(label.identity, secret)


LABEL = attrgetter(*(one.name for one in fields(CropLabel)))


@stored_dataclass(frozen=True, kw_only=True)
class StoredCrop(CropLabel):
    """A crop's record without its picture and vector.

    Attributes:
        sha256: of the bytes that were sent, hexadecimal.
        content_type: of the kept picture; None where none is kept.
        image_bytes: size of the kept picture.
        created_at: when it was first stored.
        inside: the picture is kept in the record.
        quality: of its image, which decides a person's best picture; None where not measured.
        changes: how often it was written anew. It stands beside the crop's row number too, so that
            a record whose last change is lost is found out.
    """

    sha256: str
    content_type: str | None = None
    image_bytes: int = 0
    created_at: datetime
    inside: bool = False
    quality: float | None = None
    changes: int = 0

    @property
    def elsewhere(self) -> bool:
        """Whether its picture is kept outside the record."""
        return self.content_type is not None and not self.inside

    @property
    def label(self) -> CropLabel:
        """What a ranking shows of it, alone."""
        return CropLabel(*LABEL(self))


@dataclass(frozen=True)
class ArchivedCrop:
    """A crop with all that belongs to it, to be stored or as a snapshot keeps it.

    Attributes:
        vector: `(d,)` float32 as the embedder gave it, not of unit length.
        picture: its content, of the record's `content_type`; None where none is kept, or elsewhere.
        outside: the side under which its vector was kept outside the record; None for inside.
    """

    record: StoredCrop
    vector: NDArray[np.float32]
    picture: bytes | None
    outside: int | None = None

    @property
    def indexed(self) -> IndexedCrop:
        """The crop as the index needs it."""
        return IndexedCrop(self.record.label, self.vector)


@dataclass(frozen=True)
class IndexedCrop:
    """What the index learns of a crop; the vector is `(d,)` float32, not of unit length."""

    label: CropLabel
    vector: NDArray[np.float32]


@dataclass(frozen=True)
class Enrolment:
    """One committed enrolment: `landed` in the order asked, `added` what the index has to learn.

    Attributes:
        replayed: the request happened before, and this is what it did then.
        problems: as the request that happened left them, opaque JSON.
    """

    version: int
    embedding_fingerprint: str
    landed: tuple[EnrolledImage, ...]
    added: tuple[IndexedCrop, ...]
    replayed: bool = False
    problems: str = "[]"


@dataclass(frozen=True)
class Removal:
    """One committed deletion.

    Attributes:
        row_ids, crop_ids: of what was removed, in one order.
        kept_searches: the searches that were removed with a person.
    """

    version: int
    row_ids: tuple[int, ...]
    crop_ids: tuple[str, ...] = ()
    kept_searches: tuple[KeptQuery, ...] = ()

    @property
    def count(self) -> int:
        """How many crops were removed."""
        return len(self.row_ids)


@dataclass(frozen=True)
class Relabelling:
    """One committed change of what is known of crops.

    Attributes:
        labels: of the changed crops, as they are now.
        merge_id: under which a merge of two identities can be undone; None for no merge.
        restored_identity: the former identity that the undoing of a merge gave back; else None.
    """

    version: int
    labels: tuple[CropLabel, ...]
    merge_id: str | None = None
    restored_identity: str | None = None

    @property
    def count(self) -> int:
        """How many crops were changed."""
        return len(self.labels)


class CropFields(TypedDict, total=False):
    """What to change of a crop; None where it is unknown from now on."""

    identity: str | None
    camera: str | None
    captured_at: datetime | None
    external_id: str | None
    metadata: Mapping[str, Any] | None


CalibrationMode = Literal["on", "frozen", "off"]


@dataclass(frozen=True)
class GallerySettings:
    """What can be changed of a gallery.

    Attributes:
        retention_days: crops older than this are deleted; None keeps them.
        calibration: whether verdicts follow this gallery's named crops and searches (`on`), stay
            where these have moved them (`frozen`), or follow the artefact alone (`off`).
        retention_from: whether a crop's age counts from its capture (or, where that is unknown, its
            enrolment), or always from its enrolment.
    """

    retention_days: int | None = None
    calibration: CalibrationMode = "on"
    retention_from: RetentionFrom = "captured"


class SettingsChanges(TypedDict, total=False):
    """The settings to change, named as in `GallerySettings`; those left out stay."""

    retention_days: int | None
    calibration: CalibrationMode
    retention_from: RetentionFrom


@dataclass(frozen=True)
class PublishedCalibration:
    """A calibration that every replica answers by.

    Attributes:
        version: 1 for the first one published under its subject, then one more for each.
        body: opaque text; it has no checksum, so its reader drops one that it cannot parse.
    """

    version: int
    body: str


@stored_dataclass
class GalleryRecord:
    """A gallery as stored: every change of its crops changes this too, which guards them.

    Attributes:
        embedding_fingerprint: of the embedder that made the vectors that are searched.
        staged_fingerprint: of the one whose vectors are being prepared beside them; None for none.
        at: which generation of crops is searched; a restore fills another one and switches to it.
        side: which vectors are searched; a reindex fills others, `staged_side`, and switches.
        generations, sides, rows: how many numbers were given out of each.
        removals: how many commits removed crops for good.
        staged_crops, staged_row: how many crops have a staged vector: all up to this row.
        unnamed: how many crops have no identity.
        outside: vectors lie outside the record too, each under a side that no other one has.
        changes_from: the version from which on a file keeps what changed; None for nothing.
    """

    gallery_id: int
    name: str
    embedding_fingerprint: str
    created_at: datetime
    settings: GallerySettings = field(default_factory=GallerySettings)
    staged_fingerprint: str | None = None
    version: int = 0
    crops: int = 0
    identities: int = 0
    image_bytes: int = 0
    at: int = 0
    side: int = 0
    staged_side: int | None = None
    staged_crops: int = 0
    staged_row: int = 0
    generations: int = 1
    sides: int = 1
    rows: int = 0
    removals: int = 0
    unnamed: int = 0
    outside: bool = False
    changes_from: int | None = None

    @property
    def outside_sides(self) -> list[int]:
        """The sides that may have vectors outside the record."""
        return [one for one in (self.side, self.staged_side) if self.outside and one is not None]


@dataclass(frozen=True)
class CropFilter:
    """Which crops are listed, changed or deleted; None asks nothing.

    Attributes:
        crop_ids: only these; empty for every crop.
        identity, camera, external_id: only crops with this label.
        unnamed: only crops without an identity.
        captured_after, captured_before: inclusive bounds, with time zone; a crop of unknown time
            passes none.
    """

    crop_ids: frozenset[str] = frozenset()
    identity: str | None = None
    camera: str | None = None
    external_id: str | None = None
    unnamed: bool = False
    captured_after: datetime | None = None
    captured_before: datetime | None = None

    @property
    def of_time(self) -> bool:
        """Whether it has a bound of the capture."""
        return self.captured_after is not None or self.captured_before is not None

    def passes(self, crop: CropLabel) -> bool:
        """Whether a crop is among them."""
        after = self.captured_after
        before = self.captured_before
        taken = crop.captured_at
        return (
            (not self.crop_ids or crop.crop_id in self.crop_ids)
            and self.identity in (None, crop.identity)
            and self.camera in (None, crop.camera)
            and self.external_id in (None, crop.external_id)
            and not (self.unnamed and crop.identity is not None)
            and (taken is not None or not self.of_time)
            and (after is None or taken is None or taken >= after)
            and (before is None or taken is None or taken <= before)
        )


@stored_dataclass(frozen=True)
class Snapshot:
    """A copy of a gallery in a file of its own.

    Attributes:
        version: of the gallery when its copy began.
        crops: how many the file holds now: forgotten people are taken out of it too.
        bytes, sha256: of the file.
    """

    snapshot_id: str
    gallery_id: int
    version: int
    embedding_fingerprint: str
    crops: int
    bytes: int
    sha256: str
    created_at: datetime


@dataclass(frozen=True)
class RequestKey:
    """A client's name for a request, so that it happens once however often it is sent.

    Attributes:
        key: the client's own word.
        digest: of the whole request; another one under the same key is a mistake.
        problems: of the answer, the refused images and faults; opaque JSON.
    """

    key: str
    digest: str
    problems: str = "[]"


@dataclass(frozen=True)
class Archive:
    """A gallery; `crops` can be read once, inside its context.

    Attributes:
        version: the gallery's when it began.
        crops: each at least once; one that is changed meanwhile comes again, as it is then. One
            that is removed meanwhile may be among them.
    """

    version: int
    embedding_fingerprint: str
    crops: Iterator[ArchivedCrop]


# What `new_crop_id` makes.
CROP_ID = "[0-9a-f]{32}"


def new_crop_id() -> str:
    """48 bits of milliseconds, then 80 random ones: unguessable, and roughly in order of time."""
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"
