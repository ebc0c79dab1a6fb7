"""Values of the record: crops, galleries, kept searches, and results of changes."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Literal, NamedTuple, TypeAlias, TypedDict

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass as stored_dataclass

from gmn_client.models import EnrolledImage, RetentionFrom, Verdict

# A case is loaded, and exported to one file, as a whole.
MOST_CASES = 1000
MOST_IN_CASE = 500
# Limit for keys without `admin`, so that others can create cases too.
MOST_CASES_OF_KEY = MOST_CASES // 2


class CaseFields(TypedDict, total=False):
    """Changes of a case; omitted fields are kept."""

    name: str
    notes: str


Decision: TypeAlias = Literal["confirmed", "rejected"]


class KeptResult(NamedTuple):
    """A result without its labels, with the scores of the answer."""

    crop_id: str
    cosine: float
    pair_logit: float | None
    probability: float | None
    verdict: Verdict | None


@stored_dataclass(frozen=True)
class Review:
    """A decision whether a result shows the person searched for."""

    decision: Decision
    reviewed_at: datetime
    key_id: str


@stored_dataclass(frozen=True, kw_only=True)
class KeptQuery:
    """A search and its answer.

    Attributes:
        query_id: begins with the time of the search, so that ids sort by time.
        key_id: the API key that made the search.
        request: fields of the request that name no person.
        answer: the answer without its results, as JSON.
        results: best first.
        crop_id: the crop searched by, or the first of several, which `request` has as `crop_ids`.
        content_type: type of the kept picture; None if none is kept.
        reviews: reviews by crop id.
        cases: ids of the cases that keep it beyond its retention.
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
        """The crops that identify the person searched for; once all are deleted, so is the search.

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
    """A group of searches that are kept beyond their retention.

    Attributes:
        queries: entries by query id.
        deleted_searches: number of its searches that were deleted, by day in UTC.
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


def count_by_case(searches: Mapping[str, Sequence[str]]) -> dict[str, int]:
    return Counter(case_id for cases in searches.values() for case_id in cases)


@dataclass(frozen=True)
class Picture:
    """A stored image file."""

    content: bytes
    content_type: str


@dataclass(frozen=True, slots=True)
class CropLabel:
    """The labels of a crop.

    Attributes:
        row_id: number in its gallery, never reused; 0 until it is stored.
        identity, camera, external_id: opaque strings; None if unknown.
        captured_at: with time zone; None if unknown.
        metadata: the client's own JSON object.
        track: the tracker's id of its track, unique within the camera; None if unknown.
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
    """Return a number for an identity, which depends only on its name and the record's secret.

    It is 63 bits of a keyed hash. A table of numbers would outlive a forgotten person. The
    probability that any two of a million identities collide is 5e-8.
    """
    digest = hashlib.blake2b(identity.encode(), key=secret, digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def group_code(label: CropLabel, secret: bytes) -> int:
    """Return a crop's `identity_code`, or a unique negative number if it has no identity."""
    if label.identity is None:
        return -1 - label.row_id
    return identity_code(label.identity, secret)


@stored_dataclass(frozen=True, kw_only=True)
class StoredCrop(CropLabel):
    """A crop's record without its picture and vector.

    Attributes:
        sha256: hash of the uploaded bytes, hexadecimal.
        content_type: type of the kept picture; None if none is kept.
        image_bytes: size of the kept picture.
        created_at: when it was first stored.
        inside: the picture is stored in the record.
        quality: image quality, which decides a person's best picture; None if not measured.
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


@dataclass(frozen=True)
class ArchivedCrop:
    """A crop with all its contents, to be stored or as read from an archive.

    Attributes:
        vector: `(d,)` float32 from the embedder, not normalized.
        picture: bytes of type `record.content_type`; None if not kept or stored elsewhere.
    """

    record: StoredCrop
    vector: NDArray[np.float32]
    picture: bytes | None


@dataclass(frozen=True)
class IndexedCrop:
    """A crop with its vector, `(d,)` float32, not normalized."""

    label: CropLabel
    vector: NDArray[np.float32]


@dataclass(frozen=True)
class CommittedEnrollment:
    """A committed enrollment: `landed` in the order of the request, `added` with the new crops.

    Attributes:
        replayed: the request was processed before, and this was its result.
        problems: problems from when the request was processed, as opaque JSON.
        removal: removal of crops displaced from tracks; None if there were none.
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
        kept_searches: cases of each search deleted together with a person, by its id.
        alerts: number of alerts deleted together with a person.
        sent_to: number of messages about these alerts sent to each address.
    """

    version: int
    crop_ids: tuple[str, ...]
    kept_searches: Mapping[str, Sequence[str]] = field(default_factory=dict)
    alerts: int = 0
    sent_to: Mapping[str, int] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return len(self.crop_ids)


@dataclass(frozen=True)
class Relabelling:
    """A committed change of crop labels.

    Attributes:
        merge_id: id for undoing a merge of two identities; None if there was no merge.
        restored_identity: the identity restored by undoing a merge; else None.
    """

    version: int
    crop_ids: tuple[str, ...]
    merge_id: str | None = None
    restored_identity: str | None = None

    @property
    def count(self) -> int:
        return len(self.crop_ids)


class CropFields(TypedDict, total=False):
    """Changes of a crop's labels; None makes a label unknown."""

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
        calibration: whether verdicts follow this gallery's named crops and searches (`on`), keep
            the calibration reached so far (`frozen`), or follow the artefact alone (`off`).
        retention_from: whether a crop's age counts from its capture (from its enrollment if that is
            unknown) or always from its enrollment.
    """

    retention_days: int | None = None
    calibration: CalibrationMode = "on"
    retention_from: RetentionFrom = "captured"


class SettingsChanges(TypedDict, total=False):
    """Settings to change, named as in `GallerySettings`; omitted ones are kept."""

    retention_days: int | None
    calibration: CalibrationMode
    retention_from: RetentionFrom


@dataclass(frozen=True)
class PublishedCalibration:
    """A calibration used by every process.

    Attributes:
        version: counts the calibrations published under its subject, from 1.
        body: opaque text without a checksum; readers ignore one that they cannot parse.
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
        side: number of the file of the searched vectors; a reindex fills the file of `staged_side`
            and switches to it.
        sides, rows: number of sides and of slots assigned so far.
        removals: number of commits that removed crops for good.
        staged_crops, staged_row: number of crops with a staged vector, and their last slot.
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
    """A filter of crops to list, change or delete; None means any value.

    Attributes:
        crop_ids: only these; empty for every crop.
        identity, camera, track, external_id: only crops with this label.
        unnamed: only crops without an identity.
        captured_after, captured_before: inclusive bounds, with time zone; excludes crops of unknown
            time.
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
        captured_at = crop.captured_at
        return (
            (not self.crop_ids or crop.crop_id in self.crop_ids)
            and self.identity in (None, crop.identity)
            and self.camera in (None, crop.camera)
            and self.track in (None, crop.track)
            and self.external_id in (None, crop.external_id)
            and not (self.unnamed and crop.identity is not None)
            and (captured_at is not None or not self.of_time)
            and (after is None or captured_at is None or captured_at >= after)
            and (before is None or captured_at is None or captured_at <= before)
        )


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


# Pattern of the ids from `new_crop_id`.
CROP_ID = "[0-9a-f]{32}"


def new_crop_id() -> str:
    """Return an unguessable id, roughly in time order: 48 bits of milliseconds, 80 random bits."""
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"
