"""Values of the record: crops, galleries, kept searches, and the outcomes of changes."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import date, datetime
from operator import attrgetter
from typing import Any, Literal, NamedTuple, TypeAlias, TypedDict

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass as stored_dataclass

from gmn_client.models import EnrolledImage, RetentionFrom, Verdict

# One case is one value of the record, and its export one file.
MOST_CASES = 1000
MOST_IN_CASE = 500
# A key without `admin` may begin these, so that others can begin cases too.
MOST_CASES_OF_KEY = MOST_CASES // 2


class CaseFields(TypedDict, total=False):
    """Changes of a case; fields that are left out stay."""

    name: str
    notes: str


Decision: TypeAlias = Literal["confirmed", "rejected"]


class KeptResult(NamedTuple):
    """One result without its labels; the scores are those of the answer."""

    crop_id: str
    cosine: float
    pair_logit: float | None
    probability: float | None
    verdict: Verdict | None


@stored_dataclass(frozen=True)
class Review:
    """A decision on a result: whether it shows the person that was searched for."""

    decision: Decision
    reviewed_at: datetime
    key_id: str


@stored_dataclass(frozen=True, kw_only=True)
class KeptQuery:
    """One search and its answer.

    Attributes:
        query_id: begins with its time, so that ids sort by it.
        key_id: the API key that asked.
        request: fields of the request that name no person.
        answer: the answer but for its results; JSON.
        results: best first.
        crop_id: of a search by a crop; of several the first, and `request` has `crop_ids`.
        content_type: of the kept picture; None where none is kept.
        reviews: by the crop's id.
        cases: ids of the cases that keep it beyond its days.
    """

    query_id: str
    created_at: datetime
    key_id: str
    request: dict[str, Any]
    answer: dict[str, Any]
    results: list[KeptResult]
    crop_id: str | None = None
    content_type: str | None = None
    reviews: dict[str, Review] = field(default_factory=dict)
    cases: tuple[str, ...] = ()

    @property
    def shows(self) -> set[str]:
        """The crops that show whose search it is: with the last of them it is removed.

        These are the crops searched by, the confirmed ones, and a first result that is a `match`.
        """
        decided = {crop_id: review.decision for crop_id, review in self.reviews.items()}
        shown = {crop_id for crop_id, decision in decided.items() if decision == "confirmed"}
        if self.crop_id:
            shown.add(self.crop_id)
        shown.update(self.request.get("crop_ids", ()))
        for first in self.results[:1]:
            if first.verdict == "match" and decided.get(first.crop_id) != "rejected":
                shown.add(first.crop_id)
        return shown


class CaseEntry(NamedTuple):
    """A search in a case."""

    added_at: datetime
    note: str


@stored_dataclass(frozen=True, kw_only=True)
class Case:
    """Searches that are held together beyond their days.

    Attributes:
        queries: by their ids.
        deleted_searches: how many of its searches were deleted, by day in UTC.
    """

    case_id: str
    name: str
    notes: str
    created_at: datetime
    changed_at: datetime
    key_id: str
    queries: dict[str, CaseEntry] = field(default_factory=dict)
    deleted_searches: dict[date, int] = field(default_factory=dict)


KEPT_QUERY = TypeAdapter(KeptQuery)


KEPT_CASE = TypeAdapter(Case)


def count_by_case(searches: Sequence[KeptQuery]) -> dict[str, int]:
    return Counter(case_id for search in searches for case_id in search.cases)


@dataclass(frozen=True)
class Picture:
    """A stored image file."""

    content: bytes
    content_type: str


@dataclass(frozen=True, slots=True)
class CropLabel:
    """The labels of a crop.

    Attributes:
        row_id: its number in its gallery, never given out twice; 0 until it is stored.
        identity, camera, external_id: opaque strings; None where unknown.
        captured_at: with time zone; None where unknown.
        metadata: the client's own JSON object.
        track: the tracker's own id of the track, within the camera; None where unknown.
    """

    row_id: int
    crop_id: str
    identity: str | None = None
    camera: str | None = None
    captured_at: datetime | None = None
    external_id: str | None = None
    metadata: Mapping[str, Any] | None = None
    track: str | None = None


def identity_code(identity: str, secret: bytes) -> int:
    """Return an identity as a number, the same in every process with the record's secret.

    It is 63 bits of a keyed hash, and not a numbering of the names, which would outlive a forgotten
    person. Among a million identities two share one with a probability of 5e-8.
    """
    digest = hashlib.blake2b(identity.encode(), key=secret, digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def group_code(label: CropLabel, secret: bytes) -> int:
    """Return the `identity_code` of a crop, or a negative number of its own without an identity."""
    if label.identity is None:
        return -1 - label.row_id
    return identity_code(label.identity, secret)


LABEL = attrgetter(*(label.name for label in fields(CropLabel)))


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
    """

    sha256: str
    content_type: str | None = None
    image_bytes: int = 0
    created_at: datetime
    inside: bool = False
    quality: float | None = None

    @property
    def elsewhere(self) -> bool:
        return self.content_type is not None and not self.inside

    @property
    def label(self) -> CropLabel:
        return CropLabel(*LABEL(self))


@dataclass(frozen=True)
class ArchivedCrop:
    """A crop with all that belongs to it, to be stored or as a snapshot keeps it.

    Attributes:
        vector: `(d,)` float32 as the embedder gave it, not of unit length.
        picture: its content, of the record's `content_type`; None where none is kept, or elsewhere.
    """

    record: StoredCrop
    vector: NDArray[np.float32]
    picture: bytes | None


@dataclass(frozen=True)
class IndexedCrop:
    """A crop with its vector, `(d,)` float32, not of unit length."""

    label: CropLabel
    vector: NDArray[np.float32]


@dataclass(frozen=True)
class Enrolment:
    """A committed enrolment: `landed` in the order asked, `added` the crops that are new.

    Attributes:
        replayed: the request happened before, and this was its outcome.
        problems: as the request that happened left them, opaque JSON.
        removal: of the crops of a track that gave way; None where none did.
    """

    version: int
    landed: tuple[EnrolledImage, ...]
    added: tuple[StoredCrop, ...]
    replayed: bool = False
    problems: str = "[]"
    removal: Removal | None = None


@dataclass(frozen=True)
class Removal:
    """A committed deletion.

    Attributes:
        row_ids, crop_ids: of the removed crops, in one order.
        kept_searches: the searches that were removed with a person.
        alerts: how many alerts were removed with a person.
        sent_to: how many messages about these were sent to each address.
    """

    version: int
    row_ids: tuple[int, ...]
    crop_ids: tuple[str, ...] = ()
    kept_searches: tuple[KeptQuery, ...] = ()
    alerts: int = 0
    sent_to: Mapping[str, int] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return len(self.row_ids)


@dataclass(frozen=True)
class Relabelling:
    """A committed change of the labels of crops.

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
        return len(self.labels)


class CropFields(TypedDict, total=False):
    """Changes of a crop's labels; None where one is unknown from now on."""

    identity: str | None
    camera: str | None
    captured_at: datetime | None
    external_id: str | None
    metadata: Mapping[str, Any] | None
    track: str | None


CalibrationMode = Literal["on", "frozen", "off"]


@dataclass(frozen=True)
class GallerySettings:
    """The settings of a gallery.

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
    """A calibration that every process answers by.

    Attributes:
        version: 1 for the first one published under its subject, then one more for each.
        body: opaque text; it has no checksum, so its reader drops one that it cannot parse.
    """

    version: int
    body: str


@stored_dataclass
class GalleryRecord:
    """A gallery as stored.

    Attributes:
        embedding_fingerprint: fingerprint of the embedder that made the searched vectors.
        staged_fingerprint: fingerprint of the embedder whose vectors are being prepared, or None.
        at: number of restores so far.
        side: number of the file of the searched vectors; a reindex fills that of `staged_side` and
            switches to it.
        sides, rows: number of sides and of slots that were given out.
        removals: number of commits that removed crops for good.
        staged_crops, staged_row: number of crops with a staged vector: all up to this slot.
        unnamed: number of crops without an identity.
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
    sides: int = 1
    rows: int = 0
    removals: int = 0
    unnamed: int = 0


@dataclass(frozen=True)
class CropFilter:
    """A filter of crops to list, change or delete; None asks nothing.

    Attributes:
        crop_ids: only these; empty for every crop.
        identity, camera, track, external_id: only crops with this label.
        unnamed: only crops without an identity.
        captured_after, captured_before: inclusive bounds, with time zone; a crop of unknown time
            passes none.
    """

    crop_ids: frozenset[str] = frozenset()
    identity: str | None = None
    camera: str | None = None
    track: str | None = None
    external_id: str | None = None
    unnamed: bool = False
    captured_after: datetime | None = None
    captured_before: datetime | None = None

    @property
    def of_time(self) -> bool:
        return self.captured_after is not None or self.captured_before is not None

    def passes(self, crop: CropLabel) -> bool:
        after = self.captured_after
        before = self.captured_before
        taken = crop.captured_at
        return (
            (not self.crop_ids or crop.crop_id in self.crop_ids)
            and self.identity in (None, crop.identity)
            and self.camera in (None, crop.camera)
            and self.track in (None, crop.track)
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


# The form of the ids of `new_crop_id`.
CROP_ID = "[0-9a-f]{32}"


def new_crop_id() -> str:
    """48 bits of milliseconds, then 80 random ones: unguessable, and roughly in order of time."""
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"
