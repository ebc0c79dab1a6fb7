"""Crops: how they are enrolled, removed, relabelled and read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic_core import from_json, to_json

from gmn_client.models import CropOrder, EnrolledImage, RetentionFrom
from service.errors import CropConflict, NeedsReindex, RequestConflict
from service.ops.failpoints import failpoint
from service.ops.health import heartbeat
from service.record.crop_changes import RequestKey
from service.record.records import (
    ArchivedCrop,
    CropFields,
    CropFilter,
    CropLabel,
    Enrolment,
    GalleryRecord,
    IndexedCrop,
    Picture,
    Relabelling,
    Removal,
    StoredCrop,
)
from service.tables.crop_lists import CropPage, list_crops
from service.tables.galleries import next_version, read_entry, require_entry
from service.tables.reading import read_crops, read_crops_in
from service.tables.schema import CROPS, PEOPLE, PICTURES, REQUESTS, STRAY_PICTURES, TOMBSTONES
from service.tables.transaction import Reader, RecordPart, Transaction, batches, transactional
from service.tables.values import as_micros, natural_order
from service.tables.vectors import vector_crc

# It names neither that crop nor its labels: a key that may only enroll must not learn them, and
# they are not kept with a request's answer, where forgetting would not find them.
SAME_IMAGE = "the same image is already enrolled under another identity or camera"
REQUESTS_KEPT_FOR = timedelta(days=1)
# Each request that is kept removes some that are older.
REQUESTS_REMOVED_AT_ONCE = 3
CROPS_AT_ONCE = 500
EVERY_CROP = CropFilter()
UNLIMITED = 2**62
AGES = {"captured": "seen_at", "enrolled": "created_at"}


class Crops(RecordPart):
    """Crops with their vectors and pictures."""

    at_once = UNLIMITED
    """How many crops one commit may change."""

    @transactional
    def enroll(
        self,
        transaction: Transaction,
        gallery_id: int,
        embedding_fingerprint: str,
        crops: Sequence[ArchivedCrop],
        request: RequestKey | None = None,
    ) -> Enrolment:
        """Store crops at once; a request that happened already changes nothing.

        Raises:
            NeedsReindex: another embedder filled the gallery.
            RequestConflict: the request's key stood for another request.
        """
        entry = require_entry(transaction, gallery_id)
        if request and (past := find_request(transaction, entry, request)):
            return past
        if entry.embedding_fingerprint != embedding_fingerprint:
            _change_embedder(transaction, entry, embedding_fingerprint)
        same_bytes = _same_bytes(transaction, gallery_id, [crop.record.sha256 for crop in crops])
        landed: list[EnrolledImage] = []
        added: list[ArchivedCrop] = []
        for crop in crops:
            record = crop.record
            same = same_bytes[record.sha256]
            alike = [other for other in same if seen_as(other) == seen_as(record)]
            warnings = [SAME_IMAGE] if same else []
            if alike:
                record, warnings = alike[0], _kept_warnings(record, alike[0])
            else:
                slot = entry.rows + len(added) + 1
                record = replace(record, row_id=slot, inside=crop.picture is not None)
                added.append(replace(crop, record=record))
                same.append(record)
                failpoint("enroll.crop-written")
            landed.append(
                EnrolledImage(
                    crop_id=record.crop_id,
                    identity=crop.record.identity,
                    camera=crop.record.camera,
                    duplicate=bool(alike),
                    warnings=warnings,
                )
            )
        version = entry.version
        if added:
            counts = put_crops(transaction, gallery_id, added)
            slots = [crop.record.row_id for crop in added]
            version = next_version(transaction, gallery_id, "added", slots, **counts)
        if request:
            _keep_request(transaction, gallery_id, request, version, landed)
        indexed = tuple(crop.indexed for crop in added)
        return Enrolment(version, embedding_fingerprint, tuple(landed), indexed)

    def happened(self, gallery_id: int, request: RequestKey) -> Enrolment | None:
        """Return what a request did that is answered already; None where it is new."""
        entry = read_entry(self._reader, gallery_id)
        return find_request(self._reader, entry, request) if entry else None

    @transactional
    def remove(
        self,
        transaction: Transaction,
        gallery_id: int,
        crop_ids: Sequence[str],
        wanted: CropFilter = EVERY_CROP,
    ) -> Removal | None:
        """Remove crops with vectors and pictures for good; None where there is none to remove.

        Args:
            wanted: those that do not pass it now stay.
        """
        require_entry(transaction, gallery_id)
        found = _by_id(transaction, gallery_id, crop_ids)
        return remove_crops(
            transaction, gallery_id, [crop for crop in found if wanted.passes(crop)]
        )

    @transactional
    def remove_older(
        self,
        transaction: Transaction,
        gallery_id: int,
        than: datetime,
        limit: int,
        since: RetentionFrom = "captured",
    ) -> Removal | None:
        """Remove up to `limit` crops captured, or else enrolled, before; None where none is."""
        require_entry(transaction, gallery_id)
        rest = f"WHERE crops.gallery_id = ? AND {AGES[since]} < ? ORDER BY {AGES[since]} LIMIT ?"
        older = read_crops(transaction, rest, (gallery_id, as_micros(than), limit))
        return remove_crops(transaction, gallery_id, older)

    def has_older(self, gallery_id: int, than: datetime, since: RetentionFrom) -> bool:
        """Return whether `remove_older` would remove any."""
        asked = f"SELECT 1 FROM crops WHERE gallery_id = ? AND {AGES[since]} < ? LIMIT 1"
        return self._reader.value(asked, (gallery_id, as_micros(than))) is not None

    @transactional
    def change(
        self,
        transaction: Transaction,
        gallery_id: int,
        crop_ids: Sequence[str],
        fields: CropFields,
        wanted: CropFilter = EVERY_CROP,
    ) -> Relabelling | None:
        """Change what is known of crops; None where none of them is there.

        Args:
            wanted: those that do not pass it now stay as they are.

        Raises:
            CropConflict: another crop of the same image bears that identity and camera.
        """
        entry = require_entry(transaction, gallery_id)
        found = _by_id(transaction, gallery_id, crop_ids)
        found = [crop for crop in found if wanted.passes(crop)]
        # As JSON, in which true is not 1.
        differing = [
            crop
            for crop in found
            if any(to_json(getattr(crop, name)) != to_json(value) for name, value in fields.items())
        ]
        if not differing:
            return Relabelling(entry.version, ()) if found else None
        changed = [replace(crop, **fields) for crop in differing]
        require_unlike(transaction, gallery_id, differing, changed)
        return relabel_crops(transaction, gallery_id, differing, changed)

    def get(self, gallery_id: int, crop_id: str) -> StoredCrop | None:
        """Return one crop's record; None where it is not there."""
        return next(iter(_by_id(self._reader, gallery_id, [crop_id])), None)

    def page(
        self,
        gallery_id: int,
        wanted: CropFilter,
        after: str = "",
        limit: int = 1000,
        order: CropOrder = "enrolled",
    ) -> CropPage:
        """Return up to `limit` crops that pass a filter, as `list_crops` does."""
        return list_crops(self._reader, gallery_id, wanted, order, after, limit)

    def picture(self, gallery_id: int, crop_id: str) -> Picture | None:
        """Return one crop's picture; None where none is kept inside, or the crop is not there.

        Raises:
            DamagedRecord: it is missing, or not what was written.
        """
        with self._database.read() as reader:
            crop = next(iter(_by_id(reader, gallery_id, [crop_id])), None)
            if crop is None or not crop.inside:
                return None
            place = (gallery_id, crop.row_id)
            row = reader.row(PICTURES, "WHERE gallery_id = ? AND slot = ?", place)
        if row is None:
            raise self._database.damage(f"the picture of crop {crop_id} is gone")
        return Picture(row["content"], crop.content_type or "")

    def vectors(self, gallery_id: int) -> Iterator[IndexedCrop]:
        """Return every crop as the index needs it, by slot, each held against its checksums.

        Raises:
            DamagedRecord: a crop is damaged, or gone without a trace.
        """
        entry = read_entry(self._reader, gallery_id)
        if entry is None:
            return
        count = 0
        after = 0
        rest = "WHERE crops.gallery_id = ? AND slot > ? ORDER BY slot LIMIT ?"
        while True:
            with self._database.read() as reader:
                found = read_crops(reader, rest, (gallery_id, after, CROPS_AT_ONCE))
                indexed = _indexed(reader, gallery_id, found)
            if not found:
                break
            yield from indexed
            heartbeat()
            count += len(found)
            after = found[-1].row_id
        now = read_entry(self._reader, gallery_id)
        if now and now.version == entry.version and count != entry.crops:
            raise self._database.damage(
                f"gallery {entry.name} has {count} crops, and {entry.crops} were written"
            )

    def indexed(self, gallery_id: int, row_ids: Sequence[int]) -> list[IndexedCrop]:
        """Return those of these crops that are there, as the index needs them, by slot."""
        with self._database.read() as reader:
            found = _by_slot(reader, gallery_id, row_ids)
            return _indexed(reader, gallery_id, sorted(found, key=lambda crop: crop.row_id))

    def vectors_of(
        self, gallery_id: int, crops: Sequence[StoredCrop]
    ) -> tuple[str, dict[int, NDArray[np.float32]]]:
        """Return the embedder's fingerprint, and the vectors of those of these crops there are."""
        with self._database.read() as reader:
            entry = require_entry(reader, gallery_id)
            there = {crop.crop_id for crop in _by_slot(reader, gallery_id, _slots(crops))}
            found = _indexed(reader, gallery_id, [crop for crop in crops if crop.crop_id in there])
        return entry.embedding_fingerprint, {crop.label.row_id: crop.vector for crop in found}

    def by_row(self, gallery_id: int, row_ids: Sequence[int]) -> dict[int, StoredCrop]:
        """Return those of these crops that are there now, by slot."""
        return {crop.row_id: crop for crop in _by_slot(self._reader, gallery_id, row_ids)}

    def by_id(self, gallery_id: int, crop_ids: Iterable[str]) -> dict[str, StoredCrop]:
        """Return those of these crops that are there now, by `crop_id`."""
        return {crop.crop_id: crop for crop in _by_id(self._reader, gallery_id, crop_ids)}

    def removed_among(self, gallery_id: int, crop_ids: Sequence[str]) -> list[str]:
        """Return which of these crops of a gallery were removed for good."""
        rest = "WHERE gallery_id = ? AND crop_id IN ({})"
        found = self._reader.rows_in(TOMBSTONES, rest, [gallery_id], crop_ids)
        removed = {row["crop_id"] for row in found}
        return [crop_id for crop_id in crop_ids if crop_id in removed]

    @transactional
    def drop_tombstones(self, transaction: Transaction, gallery_id: int, before: datetime) -> None:
        """Forget which crops were removed before a moment.

        No archive may be from before it: a restore of one would bring the crops back.
        """
        asked = "DELETE FROM tombstones WHERE gallery_id = ? AND removed_at < ?"
        transaction.change(asked, (gallery_id, as_micros(before)))


def put_crops(
    transaction: Transaction, gallery_id: int, crops: Sequence[ArchivedCrop]
) -> dict[str, int]:
    """Insert crops, whose records have their slots, with contents; return what is to be counted.

    The picture of a crop that is kept outside the record is not a stray any more.
    """
    records = [crop.record for crop in crops]
    people, new_people = _people(transaction, gallery_id, records)
    rows = [_row(gallery_id, record, people) for record in records]
    transaction.insert(CROPS, *rows)
    pictures = [
        {"gallery_id": gallery_id, "slot": crop.record.row_id, "content": crop.picture}
        for crop in crops
        if crop.picture is not None
    ]
    transaction.insert(PICTURES, *pictures)
    elsewhere = [(gallery_id, record.crop_id) for record in records if record.elsewhere]
    transaction.change_many(
        "DELETE FROM stray_pictures WHERE gallery_id = ? AND name = ?", elsewhere
    )
    side = _side(transaction, gallery_id, len(crops[0].vector))
    for crop in crops:
        record = crop.record
        transaction.write_vector(gallery_id, side, record.row_id, record.crop_id, crop.vector)
    return {
        "next_slot": len(crops),
        "crops": len(crops),
        "people": new_people,
        "unnamed": sum(record.identity is None for record in records),
        "image_bytes": sum(record.image_bytes for record in records),
    }


def remove_crops(
    transaction: Transaction, gallery_id: int, crops: Sequence[StoredCrop]
) -> Removal | None:
    """Remove crops for good, and leave tombstones; None where there is none to remove."""
    if not crops:
        return None
    transaction.removes = True
    crops = sorted(crops, key=lambda crop: crop.row_id)
    slots = _slots(crops)
    staged_slot: int = transaction.value(
        "SELECT staged_slot FROM galleries WHERE gallery_id = ?", (gallery_id,)
    )
    people = _people_of(transaction, gallery_id, slots)
    transaction.change_many(
        "DELETE FROM crops WHERE gallery_id = ? AND slot = ?",
        [(gallery_id, slot) for slot in slots],
    )
    moment = as_micros(datetime.now(UTC))
    # Without these a restore would bring back what was asked to be gone.
    removed = [
        {"gallery_id": gallery_id, "crop_id": crop.crop_id, "removed_at": moment} for crop in crops
    ]
    transaction.insert(TOMBSTONES, *removed, instead=True)
    strays = [
        {"gallery_id": gallery_id, "name": crop.crop_id, "until": moment}
        for crop in crops
        if crop.elsewhere
    ]
    transaction.insert(STRAY_PICTURES, *strays, instead=True)
    version = next_version(
        transaction,
        gallery_id,
        "removed",
        slots,
        crops=-len(crops),
        people=-drop_people(transaction, people),
        unnamed=-sum(crop.identity is None for crop in crops),
        image_bytes=-sum(crop.image_bytes for crop in crops),
        staged_crops=-sum(slot <= staged_slot for slot in slots),
        removals=1,
    )
    return Removal(version, tuple(slots), tuple(crop.crop_id for crop in crops))


def relabel_crops(
    transaction: Transaction,
    gallery_id: int,
    before: Sequence[StoredCrop],
    after: Sequence[StoredCrop],
) -> Relabelling:
    """Store crops as they are after a change of their labels; the old labels leave the log."""
    transaction.removes = True
    slots = _slots(before)
    former = _people_of(transaction, gallery_id, slots)
    people, new_people = _people(transaction, gallery_id, after)
    changed = [_row(gallery_id, crop, people) for crop in after]
    names = ("person_id", "camera", "captured_at", "seen_at", "external_id", "metadata")
    settings = ", ".join(f"{name} = ?" for name in names)
    transaction.change_many(
        f"UPDATE crops SET {settings} WHERE gallery_id = ? AND slot = ?",
        [(*(row[name] for name in names), gallery_id, row["slot"]) for row in changed],
    )
    unnamed = sum(crop.identity is None for crop in after)
    unnamed -= sum(crop.identity is None for crop in before)
    version = next_version(
        transaction,
        gallery_id,
        "relabelled",
        slots,
        people=new_people - drop_people(transaction, former),
        unnamed=unnamed,
    )
    return Relabelling(version, tuple(crop.label for crop in after))


def drop_people(transaction: Transaction, people: Iterable[int]) -> int:
    """Remove those of these people who have no crop any more, and return how many they were."""
    dropped = 0
    for some in batches(people, CROPS_AT_ONCE):
        marks = ",".join("?" * len(some))
        dropped += transaction.change(
            f"DELETE FROM people WHERE person_id IN ({marks}) AND NOT EXISTS "
            "(SELECT 1 FROM crops WHERE crops.person_id = people.person_id)",
            some,
        )
    return dropped


def require_unlike(
    transaction: Transaction,
    gallery_id: int,
    before: Sequence[StoredCrop],
    after: Sequence[StoredCrop],
) -> None:
    """Raise `CropConflict` where crops of one image would bear one identity and camera.

    A merge may have left two alike, whose other fields can be corrected.
    """
    pairs = zip(before, after, strict=True)
    moved = [new for old, new in pairs if seen_as(old) != seen_as(new)]
    same_bytes = _same_bytes(transaction, gallery_id, [crop.sha256 for crop in moved])
    now_known = {crop.crop_id: crop for crop in after}
    for crop in moved:
        for other in same_bytes[crop.sha256]:
            as_now = now_known.get(other.crop_id, other)
            if other.crop_id != crop.crop_id and seen_as(as_now) == seen_as(crop):
                raise CropConflict(crop.crop_id, other.crop_id)


def seen_as(crop: CropLabel) -> tuple[str | None, str | None]:
    """Return what two crops of one image differ in, if they are no duplicates."""
    return crop.identity, crop.camera


def find_request(reader: Reader, entry: GalleryRecord, request: RequestKey) -> Enrolment | None:
    """Return what a request did that happened already; None where it is new.

    Identities and cameras are not kept here, where forgetting would not find them: the same
    request names them again.

    Raises:
        RequestConflict: the key stood for another request.
    """
    row = reader.row(REQUESTS, "WHERE gallery_id = ? AND key = ?", (entry.gallery_id, request.key))
    oldest = as_micros(datetime.now(UTC) - REQUESTS_KEPT_FOR)
    if row is None or row["happened_at"] < oldest:
        return None
    if row["digest"] != request.digest:
        raise RequestConflict(request.key.split(":", 2)[-1])
    past = from_json(row["answer"])
    landed = tuple(
        EnrolledImage(
            crop_id=crop_id, identity=None, camera=None, duplicate=duplicate, warnings=warnings
        )
        for crop_id, duplicate, warnings in past["landed"]
    )
    return Enrolment(
        past["version"],
        entry.embedding_fingerprint,
        landed,
        (),
        replayed=True,
        problems=past["problems"],
    )


def _keep_request(
    transaction: Transaction,
    gallery_id: int,
    request: RequestKey,
    version: int,
    landed: Sequence[EnrolledImage],
) -> None:
    """Keep what a request did, and remove some that are older than a day."""
    moment = datetime.now(UTC)
    transaction.change(
        "DELETE FROM requests WHERE (gallery_id, key) IN (SELECT gallery_id, key FROM requests "
        "WHERE happened_at < ? ORDER BY happened_at LIMIT ?)",
        (as_micros(moment - REQUESTS_KEPT_FOR), REQUESTS_REMOVED_AT_ONCE),
    )
    answer = {
        "version": version,
        "landed": [(image.crop_id, image.duplicate, image.warnings) for image in landed],
        "problems": request.problems,
    }
    kept = {
        "gallery_id": gallery_id,
        "key": request.key,
        "digest": request.digest,
        "answer": to_json(answer).decode(),
        "happened_at": as_micros(moment),
    }
    transaction.insert(REQUESTS, kept, instead=True)


def _change_embedder(transaction: Transaction, entry: GalleryRecord, embedder: str) -> None:
    """Bind an empty gallery to another embedder, whose vectors go into a file of their own."""
    if entry.crops:
        raise NeedsReindex(entry.name, entry.embedding_fingerprint, embedder)
    transaction.change(
        "UPDATE galleries SET embedder = ?, side = next_side, next_side = next_side + 1, "
        "dimension = NULL WHERE gallery_id = ?",
        (embedder, entry.gallery_id),
    )
    transaction.note("gallery_changed", entry.gallery_id, entry.version)


def _side(transaction: Transaction, gallery_id: int, dimension: int) -> int:
    """Return the side of a gallery's vectors, and keep their dimension where it is not known."""
    transaction.change(
        "UPDATE galleries SET dimension = ? WHERE gallery_id = ? AND dimension IS NULL",
        (dimension, gallery_id),
    )
    side: int = transaction.value("SELECT side FROM galleries WHERE gallery_id = ?", (gallery_id,))
    return side


def _people(
    transaction: Transaction, gallery_id: int, crops: Iterable[StoredCrop]
) -> tuple[dict[str, int], int]:
    """Return the ids of the crops' people by name, and how many of them are new."""
    names = dict.fromkeys(crop.identity for crop in crops if crop.identity is not None)
    rest = "WHERE gallery_id = ? AND name IN ({})"
    rows = transaction.rows_in(PEOPLE, rest, [gallery_id], names)
    people = {row["name"]: row["person_id"] for row in rows}
    new = [name for name in names if name not in people]
    for name in new:
        people[name] = transaction.value(
            "INSERT INTO people (person_id, gallery_id, name, sort_key) "
            "VALUES ((SELECT coalesce(max(person_id), 0) + 1 FROM people), ?, ?, ?) "
            "RETURNING person_id",
            (gallery_id, name, natural_order(name)),
        )
    return people, len(new)


def _people_of(reader: Reader, gallery_id: int, slots: Sequence[int]) -> list[int]:
    """Return the ids of the people whom crops show."""
    found: set[int] = set()
    for some in batches(slots, CROPS_AT_ONCE):
        marks = ",".join("?" * len(some))
        rows = reader.execute(
            f"SELECT DISTINCT person_id FROM crops WHERE gallery_id = ? AND slot IN ({marks})",
            [gallery_id, *some],
        )
        found.update(person_id for (person_id,) in rows if person_id is not None)
    return sorted(found)


def _row(gallery_id: int, crop: StoredCrop, people: dict[str, int]) -> dict[str, Any]:
    metadata = None if crop.metadata is None else to_json(crop.metadata).decode()
    return {
        "gallery_id": gallery_id,
        "slot": crop.row_id,
        "crop_id": crop.crop_id,
        "person_id": None if crop.identity is None else people[crop.identity],
        "camera": crop.camera,
        "captured_at": as_micros(crop.captured_at),
        "seen_at": as_micros(crop.captured_at or crop.created_at),
        "created_at": as_micros(crop.created_at),
        "external_id": crop.external_id,
        "sha256": bytes.fromhex(crop.sha256),
        "content_type": crop.content_type,
        "image_bytes": crop.image_bytes,
        "inside": int(crop.inside),
        "quality": crop.quality,
        "metadata": metadata,
    }


def _same_bytes(
    reader: Reader, gallery_id: int, hashes: Sequence[str]
) -> defaultdict[str, list[StoredCrop]]:
    """Return for each image's SHA-256 the crops that have it, oldest first."""
    found: defaultdict[str, list[StoredCrop]] = defaultdict(list)
    rest = "WHERE crops.gallery_id = ? AND sha256 IN ({}) ORDER BY slot"
    asked = [bytes.fromhex(text) for text in hashes]
    for crop in read_crops_in(reader, rest, [gallery_id], asked):
        found[crop.sha256].append(crop)
    return found


def _by_id(reader: Reader, gallery_id: int, crop_ids: Iterable[str]) -> list[StoredCrop]:
    rest = "WHERE crops.gallery_id = ? AND crop_id IN ({}) ORDER BY slot"
    return read_crops_in(reader, rest, [gallery_id], crop_ids)


def _by_slot(reader: Reader, gallery_id: int, slots: Iterable[int]) -> list[StoredCrop]:
    rest = "WHERE crops.gallery_id = ? AND slot IN ({}) ORDER BY slot"
    return read_crops_in(reader, rest, [gallery_id], slots)


def _slots(crops: Sequence[CropLabel]) -> list[int]:
    return [crop.row_id for crop in crops]


def _indexed(reader: Reader, gallery_id: int, crops: Sequence[StoredCrop]) -> list[IndexedCrop]:
    """Read the vectors of crops, each held against its checksum."""
    if not crops:
        return []
    side, dimension = reader.execute(
        "SELECT side, dimension FROM galleries WHERE gallery_id = ?", (gallery_id,)
    ).fetchone()
    file = reader.database.vectors.open(gallery_id, side, dimension)
    slots = _slots(crops)
    vectors = file.read(slots)
    checksums = file.read_checksums(slots)
    for crop, vector, checksum in zip(crops, vectors, checksums, strict=True):
        if vector_crc(crop.crop_id, vector) != checksum:
            raise reader.database.damage(f"the vector of crop {crop.crop_id} is gone or damaged")
    return [IndexedCrop(crop.label, vector) for crop, vector in zip(crops, vectors, strict=True)]


def _kept_warnings(crop: StoredCrop, stored: StoredCrop) -> list[str]:
    """Return warnings about what a duplicate would change of the crop that is there."""
    return [
        f"the crop is enrolled already and keeps its {name}; delete it first to change that"
        for name in ("captured_at", "external_id", "metadata")
        if getattr(crop, name) not in (None, getattr(stored, name))
    ]
