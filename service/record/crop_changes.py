"""Changes of a gallery's crops, the counts that follow from them, and requests that happen once."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Any

import numpy as np
from pydantic_core import from_json

from gmn_client.models import EnrolledImage
from service.errors import CropConflict, RequestConflict
from service.record.engine import ChangeKind, Reader, Scan, Transaction
from service.record.entries import CROP, Generation, Sightings, put_entry, read_crops, see, seen_at
from service.record.garbage import note_outside, sides_outside
from service.record.keys import as_text, below, key, last_number, now
from service.record.records import (
    ArchivedCrop,
    Enrolment,
    GalleryRecord,
    Relabelling,
    Removal,
    StoredCrop,
)

SEEN_AS = attrgetter("identity", "camera")
CHANGE = "change"
# An index that is further behind is filled anew.
KEPT_CHANGES = 100_000
KEPT_OF_LANDED = attrgetter("crop_id", "duplicate", "warnings")
REQUESTS_KEPT_FOR = timedelta(days=1)
# Each request that is kept removes up to so many that are older.
REQUESTS_REMOVED_AT_ONCE = 3


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


class CropChanges:
    """Changes of a gallery's crops within a transaction, with the counts that follow from them."""

    def __init__(self, transaction: Transaction, entry: GalleryRecord) -> None:
        self.transaction = transaction
        self.entry = entry
        self.at = Generation.searched(entry)
        self._sightings: dict[str, Sightings] = {}

    def put(self, crop: ArchivedCrop) -> StoredCrop:
        """Puts a crop's record and contents under a new row; answers the record with it."""
        self.entry.rows += 1
        row = self.entry.rows
        record = replace(crop.record, row_id=row, inside=crop.picture is not None, changes=0)
        self._put_record(record)
        # Where another side is searched since it was kept outside, it is kept inside too.
        if crop.outside == self.at.side:
            self.entry.outside = True
        else:
            vector_key = self.at.lookup("vector", self.at.side, row)
            self.transaction.put(vector_key, np.asarray(crop.vector, "<f4").tobytes())
        if crop.picture is not None:
            self.transaction.put(self.at.lookup("picture", row), crop.picture)
        return record

    def put_all(self, crops: Sequence[ArchivedCrop]) -> None:
        """Puts crops with their contents under new rows, and the counts of identities."""
        self.read_sightings(crop.record for crop in crops)
        for crop in crops:
            self.put(crop)
        self.put_sightings()

    def remove(self, rows: Sequence[int]) -> dict[int, StoredCrop]:
        """Takes out those of these crops that are there; answers them."""
        at = self.at
        transaction = self.transaction
        crops = read_crops(transaction, at, rows)
        self.read_sightings(crops.values())
        entry = self.entry
        outside = sides_outside(transaction, entry)
        note_outside(transaction, entry.gallery_id, crops.values(), outside)
        for row, crop in crops.items():
            transaction.delete(at.key("crop", row), at.lookup("crop id", crop.crop_id))
            transaction.delete(at.lookup("picture", row), *at.found_by(crop))
            sides = range(self.entry.sides)
            transaction.delete(*(at.lookup("vector", side, row) for side in sides))
            self.entry.staged_crops -= row <= self.entry.staged_row
            self._count(crop, -1)
        return crops

    def remove_for_good(self, rows: Sequence[int]) -> Removal | None:
        """Removes crops and leaves tombstones; None where none of them is there."""
        self.transaction.removes = True
        removed = self.remove(rows)
        if not removed:
            return None
        moment = now()
        for crop in removed.values():
            # Without these a restore would bring back what was asked to be gone.
            self.transaction.put_json(tombstone(self.entry.gallery_id, crop.crop_id), moment)
        self.entry.removals += 1
        rows = sorted(removed)
        version = self.finish("removed", rows)
        return Removal(version, tuple(rows), tuple(removed[row].crop_id for row in rows))

    def update(self, crops: Iterable[StoredCrop], **fields: Any) -> list[StoredCrop]:
        """Changes fields of crops; answers these as they are then."""
        crops = list(crops)
        changed = [replace(crop, **fields, changes=crop.changes + 1) for crop in crops]
        self.read_sightings([*crops, *changed])
        for crop, new in zip(crops, changed, strict=True):
            self._count(crop, -1)
            self.transaction.delete(*self.at.found_by(crop))
            self._put_record(new)
        return changed

    def finish_relabelling(self, changed: Sequence[StoredCrop]) -> Relabelling:
        """Finishes a change of labels alone; the old labels leave the log."""
        self.transaction.removes = True
        version = self.finish("relabelled", [crop.row_id for crop in changed])
        return Relabelling(version, tuple(crop.label for crop in changed))

    def finish(self, kind: ChangeKind, rows: Sequence[int]) -> int:
        """Puts the counts and the gallery's next version, which it answers, and announces it."""
        self.put_sightings()
        self.entry.version += 1
        _note_change(self.transaction, self.entry, kind, rows)
        put_entry(self.transaction, self.entry)
        self.transaction.note(kind, self.entry.gallery_id, self.entry.version, rows)
        return self.entry.version

    def put_sightings(self) -> None:
        """Puts the counts of identities."""
        for identity, seen in self._sightings.items():
            own = self.at.key("identity", identity)
            if seen["crops"]:
                self.transaction.put_json(own, seen)
            else:
                self.transaction.delete(own)

    def read_sightings(
        self, crops: Iterable[StoredCrop], *also: Scan
    ) -> list[list[tuple[bytes, bytes]]]:
        """Reads the counts of identities that are about to change, and ranges in the same trip."""
        borne = dict.fromkeys(crop.identity for crop in crops if crop.identity is not None)
        names = [name for name in borne if name not in self._sightings]
        keys = [self.at.key("identity", name) for name in names]
        found = self.transaction.scan(*also, *(Scan(one, one + b"\0") for one in keys))
        for name, seen in zip(names, found[len(also) :], strict=True):
            self._sightings[name] = from_json(seen[0][1]) if seen else {"crops": 0, "cameras": {}}
        return found[: len(also)]

    def same_bytes(self, crops: Sequence[StoredCrop]) -> dict[str, list[StoredCrop]]:
        """For each image's SHA-256 the crops that have it, oldest first; reads sightings too."""
        same: dict[str, list[StoredCrop]] = {crop.sha256: [] for crop in crops}
        scans = [Scan(*below(self.at.key("by", "sha256", one))) for one in same]
        rows = [last_number(own) for one in self.read_sightings(crops, *scans) for own, _ in one]
        if rows:
            for crop in read_crops(self.transaction, self.at, rows).values():
                same[crop.sha256].append(crop)
        return same

    def _put_record(self, crop: StoredCrop) -> None:
        """Puts a crop's record and the keys that it is found by, and counts it."""
        body = CROP.dump_json(crop, exclude_defaults=True)
        self.transaction.put(self.at.key("crop", crop.row_id), body)
        own = self.at.lookup("crop id", crop.crop_id)
        self.transaction.put_json(own, (crop.row_id, crop.changes))
        self.transaction.puts |= dict.fromkeys(self.at.found_by(crop), b"")
        self._count(crop, 1)

    def _count(self, crop: StoredCrop, by: int) -> None:
        self.entry.crops += by
        self.entry.image_bytes += by * crop.image_bytes
        if crop.identity is None:
            self.entry.unnamed += by
            return
        seen = self._sightings[crop.identity]
        before = seen["crops"]
        seen["crops"] += by
        if by > 0 and (not before or "last" in seen):
            see(seen, crop)
        elif crop.crop_id in seen.get("best", ()) or as_text(seen_at(crop)) == seen.get("last"):
            # Looking them up again here would read all crops of the identity.
            seen.pop("best", None)
            seen.pop("last", None)
        self.entry.identities += (seen["crops"] > 0) - (before > 0)
        if crop.camera is not None:
            cameras = seen["cameras"]
            cameras[crop.camera] = cameras.get(crop.camera, 0) + by
            if not cameras[crop.camera]:
                del cameras[crop.camera]


def tombstone(gallery_id: int, crop_id: str) -> bytes:
    """The key under which it is kept that a crop was removed for good."""
    return key("tombstone", gallery_id, crop_id)


def require_unlike(
    change: CropChanges, before: Sequence[StoredCrop], after: Sequence[StoredCrop]
) -> None:
    """Raises `CropConflict` where crops of one image would bear one identity and camera.

    A merge may have left two alike, whose other fields can be corrected.
    """
    pairs = zip(before, after, strict=True)
    moved = [new for old, new in pairs if SEEN_AS(old) != SEEN_AS(new)]
    same_bytes = change.same_bytes(moved) if moved else {}
    now_known = {crop.crop_id: crop for crop in after}
    for crop in moved:
        for other in same_bytes[crop.sha256]:
            as_now = now_known.get(other.crop_id, other)
            if other.crop_id != crop.crop_id and SEEN_AS(as_now) == SEEN_AS(crop):
                raise CropConflict(crop.crop_id, other.crop_id)


def _note_change(
    transaction: Transaction, entry: GalleryRecord, kind: ChangeKind, rows: Sequence[int]
) -> None:
    """Keeps a change of a gallery under its new version, where an index is stored."""
    if entry.changes_from is None or transaction.engine.changes:
        return
    if entry.version - entry.changes_from > KEPT_CHANGES:
        entry.changes_from = None
        return
    kept = [kind, list(rows), secrets.token_hex(8)]
    transaction.put_json(key(CHANGE, entry.gallery_id, entry.version), kept)


def find_request(reader: Reader, entry: GalleryRecord, request: RequestKey) -> Enrolment | None:
    """What a request did that happened already; None where it is new.

    Identities and cameras are not kept here, where forgetting would not find them: the same
    request names them again.

    Raises:
        RequestConflict: for a key that stood for another request.
    """
    past = reader.json(key("request", entry.gallery_id, request.key))
    if past is None or past["happened_at"] < as_text(datetime.now(UTC) - REQUESTS_KEPT_FOR):
        return None
    if past["digest"] != request.digest:
        raise RequestConflict(request.key.split(":", 2)[-1])
    landed = tuple(
        EnrolledImage(
            crop_id=crop_id, identity=None, camera=None, duplicate=duplicate, warnings=warnings
        )
        for crop_id, duplicate, warnings in past["landed"]
    )
    embedder = entry.embedding_fingerprint
    problems = past["problems"]
    return Enrolment(past["version"], embedder, landed, (), replayed=True, problems=problems)


def keep_request(
    transaction: Transaction,
    gallery_id: int,
    request: RequestKey,
    version: int,
    landed: Sequence[EnrolledImage],
) -> None:
    """Keeps what a request did, and removes some that are older than a day."""
    oldest = as_text(datetime.now(UTC) - REQUESTS_KEPT_FOR)
    ages = Scan(key("request age"), key("request age", oldest), REQUESTS_REMOVED_AT_ONCE)
    for age, own in transaction.scan(ages)[0]:
        transaction.delete(age)
        # Read by key: another process may put a newer request under it meanwhile.
        past = transaction.json(own)
        if past is not None and past["happened_at"] < oldest:
            transaction.delete(own)
    moment = now()
    own = key("request", gallery_id, request.key)
    ids = list(map(KEPT_OF_LANDED, landed))
    kept = {"version": version, "landed": ids, "problems": request.problems}
    transaction.put_json(own, {**kept, "digest": request.digest, "happened_at": moment})
    transaction.put(key("request age", moment, gallery_id, request.key), own)
