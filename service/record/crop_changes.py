"""Rules that change crops and their people, and requests that happen only once."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from gmn_client.models import EnrolledImage
from model.crops.texts import nfc
from service.errors import RequestConflict
from service.record.files import forget_strays
from service.record.galleries import (
    drop_crops,
    drop_vectors,
    next_version,
    next_version_and_generation,
    note_changed,
    of_slots,
    require_entry,
)
from service.record.schema import natural_order, now_micros
from service.record.transaction import Reader, Row, Transaction, settings_of, upsert
from service.record.values import (
    ArchivedCrop,
    CommittedEnrollment,
    CropsChange,
    GalleryRecord,
    RequestKey,
    StoredCrop,
)

REQUESTS_KEPT_FOR = timedelta(days=1)
# Each stored request deletes up to this many expired ones.
REQUESTS_REMOVED_AT_ONCE = 3
COPIED = ("camera", "captured_at", "external_id", "metadata", "set_aside")
# Columns of `crops` that `StoredCrop` has under the same name and in the same form.
COLUMNS = (
    "crop_id",
    "camera",
    "captured_at",
    "created_at",
    "external_id",
    "content_type",
    "image_bytes",
    "inside",
    "quality",
    "metadata",
    "set_aside",
)
PUT_TOMBSTONES = upsert(
    "tombstones",
    ("gallery_id", "crop_id", "removed_at", "slot", "changed"),
    "SELECT gallery_id, crop_id, :now, slot, :version FROM crops WHERE {of_slots}",
)
# Adds the crops in some slots to the counts of their gallery, or with `sign` -1 subtracts them.
COUNT = """
UPDATE galleries SET (crops, unnamed, set_aside, image_bytes, staged_crops, next_slot) = (
    SELECT galleries.crops + :sign * count(*),
        unnamed + :sign * (count(*) - count(person_id)),
        galleries.set_aside + :sign * coalesce(sum(crops.set_aside), 0),
        galleries.image_bytes + :sign * coalesce(sum(crops.image_bytes), 0),
        staged_crops + :sign * count(*) FILTER (WHERE slot <= staged_slot),
        CASE WHEN next_slot > max(slot) THEN next_slot ELSE coalesce(max(slot) + 1, next_slot) END
    FROM crops WHERE {of_slots}
) WHERE gallery_id = :gallery_id
"""
# All crops of the images of which some slots have crops.
OF_IMAGES = """
SELECT slot, crop_id, sent_sha256, person_id, camera FROM crops
WHERE gallery_id = :gallery_id
AND sent_sha256 IN (SELECT sent_sha256 FROM crops WHERE {of_slots})
ORDER BY slot
"""


def put_crops(transaction: Transaction, gallery_id: int, crops: Sequence[ArchivedCrop]) -> int:
    """Insert crops at the slots in their records, and return the gallery's version.

    Pictures kept outside the record are no longer strays once their crops are inserted.
    """
    records = [crop.record for crop in crops]
    people = require_people(transaction, gallery_id, [record.identity for record in records])
    dimension = len(crops[0].vector)
    version, generation = next_version_and_generation(transaction, gallery_id, dimension)
    rows = [_build_row(gallery_id, record, people, version) for record in records]
    transaction.insert("crops", *rows)
    tracks = [
        {"gallery_id": gallery_id, "slot": record.slot, "track": record.track}
        for record in records
        if record.track is not None
    ]
    transaction.insert("tracks", *tracks)
    pictures = [
        {
            "gallery_id": gallery_id,
            "slot": crop.record.slot,
            "content": crop.picture,
            "checksum": zlib.crc32(crop.picture),
        }
        for crop in crops
        if crop.picture is not None
    ]
    transaction.insert("pictures", *pictures)
    if outside := [record.crop_id for record in records if record.elsewhere]:
        forget_strays(transaction, gallery_id, outside)
    vectors = {crop.record.slot: (crop.record.crop_id, crop.vector) for crop in crops}
    transaction.write_vectors(gallery_id, generation, vectors)
    _count(transaction, gallery_id, list(vectors), 1)
    return version


def remove_crops(transaction: Transaction, gallery_id: int, slots: Sequence[int]) -> CropsChange:
    """Remove crops for good and leave tombstones; raises `UnknownGallery`."""
    entry = require_entry(transaction, gallery_id)
    crops = transaction.execute(
        f"SELECT slot, crop_id, person_id FROM crops WHERE {of_slots(transaction)} ORDER BY slot",
        {"gallery_id": gallery_id, "slots": slots},
    )
    if not crops:
        return CropsChange(entry.version)
    slots = [crop["slot"] for crop in crops]
    version = next_version(transaction, gallery_id, removals=1)
    crop_ids = tuple(crop["crop_id"] for crop in crops)
    values = {"gallery_id": gallery_id, "slots": slots, "now": now_micros(), "version": version}
    # Without tombstones, importing an export would bring the crops back, and the log of deletions
    # would not have them.
    transaction.change(PUT_TOMBSTONES.format(of_slots=of_slots(transaction)), values)
    _count(transaction, gallery_id, slots, -1)
    drop_crops(transaction, gallery_id, slots)
    _drop_people(transaction, gallery_id, crops)
    for forget in transaction.database.removal_rules:
        forget(transaction, gallery_id, crop_ids)
    return CropsChange(version, crop_ids)


def relabel_crops(
    transaction: Transaction, gallery_id: int, slots: Sequence[int], fields: Mapping[str, Any]
) -> CropsChange:
    """Change labels of crops.

    Args:
        fields: the new labels by their names in `CropLabels`, and `set_aside`.
    """
    values = {"gallery_id": gallery_id, "slots": slots}
    where = of_slots(transaction)
    crops = transaction.execute(
        f"SELECT slot, crop_id, person_id FROM crops WHERE {where} ORDER BY slot", values
    )
    # Count these crops again, since they may get or lose an identity.
    _count(transaction, gallery_id, slots, -1)
    columns = {name: fields[name] for name in COPIED if name in fields}
    if "external_id" in fields:
        columns["external_key"] = _key_of(fields["external_id"])
    if "identity" in fields:
        name = fields["identity"]
        people = require_people(transaction, gallery_id, [name])
        columns["person_id"] = None if name is None else people[name]
        note_renamed(transaction, gallery_id, slots)
    version = next_version(transaction, gallery_id)
    columns["changed"] = version
    statement = f"UPDATE crops SET {settings_of(columns)} WHERE {where}"
    transaction.change(statement, columns | values)
    if "captured_at" in fields:
        seen_at = "seen_at = coalesce(captured_at, created_at)"
        transaction.change(f"UPDATE crops SET {seen_at} WHERE {where}", values)
    if "track" in fields:
        transaction.change(f"DELETE FROM tracks WHERE {where}", values)
        if fields["track"] is not None:
            rows = [
                {"gallery_id": gallery_id, "slot": slot, "track": fields["track"]} for slot in slots
            ]
            transaction.insert("tracks", *rows)
    _count(transaction, gallery_id, slots, 1)
    crop_ids = tuple(crop["crop_id"] for crop in crops)
    _drop_people(transaction, gallery_id, crops)
    return CropsChange(version, crop_ids)


def mark_changed(
    transaction: Transaction, gallery_id: int, slots: Sequence[int], version: int
) -> None:
    """Have every process read the labels of crops whose rows have not changed otherwise."""
    values = {"gallery_id": gallery_id, "slots": slots, "version": version}
    statement = f"UPDATE crops SET changed = :version WHERE {of_slots(transaction)}"
    transaction.change(statement, values)


def note_renamed(transaction: Transaction, gallery_id: int, slots: Sequence[int]) -> None:
    transaction.change(
        f"UPDATE imported_crops SET renamed = 1 WHERE {of_slots(transaction)}",
        {"gallery_id": gallery_id, "slots": slots},
    )


def _drop_people(transaction: Transaction, gallery_id: int, crops: Iterable[Row]) -> None:
    dropped = transaction.change(
        f"DELETE FROM people WHERE {transaction.dialect.among('person_id')} "
        "AND NOT EXISTS (SELECT 1 FROM crops WHERE crops.person_id = people.person_id)",
        ({crop["person_id"] for crop in crops},),
    )
    count_people(transaction, gallery_id, -dropped)


def _count(transaction: Transaction, gallery_id: int, slots: Sequence[int], sign: int) -> None:
    statement = COUNT.format(of_slots=of_slots(transaction))
    values = {"gallery_id": gallery_id, "slots": slots, "sign": sign}
    transaction.change_many(statement, [values], is_private=False)


def count_people(transaction: Transaction, gallery_id: int, more: int) -> None:
    if more:
        statement = "UPDATE galleries SET people = people + ? WHERE gallery_id = ?"
        transaction.change(statement, (more, gallery_id), is_private=False)


def seen_as(crop: StoredCrop) -> tuple[str, str | None, str | None]:
    """Return the fields of which all are equal in duplicates: image, identity and camera."""
    return crop.sent_sha256, crop.identity, crop.camera


def find_alike(reader: Reader, gallery_id: int, slots: Collection[int]) -> tuple[str, str] | None:
    """Return the ids of a crop in these slots and of another with its image, identity and camera.

    None if all crops differ.
    """
    alike: dict[tuple[object, ...], list[str]] = defaultdict(list)
    changed: dict[tuple[object, ...], str] = {}
    values = {"gallery_id": gallery_id, "slots": slots}
    rows = reader.tuples(OF_IMAGES.format(of_slots=of_slots(reader)), values)
    for slot, crop_id, sent_sha256, person_id, camera in rows:
        seen: tuple[object, ...] = (sent_sha256, person_id, camera)
        alike[seen].append(crop_id)
        if slot in slots:
            changed.setdefault(seen, crop_id)
    for fields, crop_id in changed.items():
        for other_id in alike[fields]:
            if other_id != crop_id:
                return crop_id, other_id
    return None


def change_embedder(transaction: Transaction, entry: GalleryRecord, embedder: str) -> None:
    """Bind a gallery to another embedder, whose vectors get their own file.

    The former vectors are dropped.
    """
    drop_vectors(transaction, entry.gallery_id, entry.generation)
    transaction.change(
        "UPDATE galleries SET embedder = ?, generation = next_generation, "
        "next_generation = next_generation + 1, dimension = NULL WHERE gallery_id = ?",
        (embedder, entry.gallery_id),
    )
    note_changed(transaction, entry.gallery_id)


def find_request(
    reader: Reader, entry: GalleryRecord, request: RequestKey
) -> CommittedEnrollment | None:
    """Return the answer of a request that was already processed, or None if it is new.

    Identities and cameras are not stored here, where forgetting would not find them; a repeated
    request contains them anyway.

    Raises:
        RequestConflict: the key belongs to a different request.
    """
    row = reader.row(
        "requests", "WHERE gallery_id = ? AND key = ?", (entry.gallery_id, request.key)
    )
    if row is None or row["happened_at"] < datetime.now(UTC) - REQUESTS_KEPT_FOR:
        return None
    if row["digest"] != request.digest:
        raise RequestConflict(request.key.split(":", 2)[-1])
    stored_answer = row["answer"]
    landed = tuple(
        EnrolledImage(
            crop_id=crop_id,
            identity=None,
            camera=None,
            duplicate=duplicate,
            kept=crop_id is not None,
            warnings=warnings,
        )
        for crop_id, duplicate, warnings in stored_answer["landed"]
    )
    return CommittedEnrollment(
        stored_answer["version"],
        landed,
        replayed=True,
        problems=stored_answer["problems"],
    )


def keep_requests(
    transaction: Transaction,
    gallery_id: int,
    version: int,
    answers: Sequence[tuple[RequestKey, Sequence[EnrolledImage]]],
) -> None:
    """Remember requests with the images that landed."""
    if not answers:
        return
    moment = datetime.now(UTC)
    transaction.change(
        "DELETE FROM requests WHERE (gallery_id, key) IN (SELECT gallery_id, key FROM requests "
        "WHERE happened_at < ? ORDER BY happened_at LIMIT ?)",
        (moment - REQUESTS_KEPT_FOR, REQUESTS_REMOVED_AT_ONCE * len(answers)),
        is_private=False,
    )
    rows = [
        {
            "gallery_id": gallery_id,
            "key": request.key,
            "digest": request.digest,
            "answer": {
                "version": version,
                "landed": [(image.crop_id, image.duplicate, image.warnings) for image in landed],
                "problems": request.problems,
            },
            "happened_at": moment,
        }
        for request, landed in answers
    ]
    transaction.insert("requests", *rows, instead=True, is_private=False)


def require_people(
    transaction: Transaction, gallery_id: int, names: Sequence[str | None]
) -> dict[str, int]:
    """Return the ids of people by their names, and add those that the gallery lacks."""
    given = {name for name in names if name is not None}
    people = _read_people(transaction, gallery_id, given)
    if missing := given - people.keys():
        people |= _add_people(transaction, gallery_id, sorted(missing))
    return people


def _add_people(transaction: Transaction, gallery_id: int, names: Sequence[str]) -> dict[str, int]:
    """Add people of new names, and return their ids."""
    newest: int = transaction.value("SELECT coalesce(max(person_id), 0) FROM people")
    people = {name: newest + number for number, name in enumerate(names, 1)}
    rows = [
        {
            "person_id": person_id,
            "gallery_id": gallery_id,
            "name": name,
            "sort_key": natural_order(name),
        }
        for name, person_id in people.items()
    ]
    transaction.insert("people", *rows)
    count_people(transaction, gallery_id, len(rows))
    return people


def _read_people(reader: Reader, gallery_id: int, names: Collection[str]) -> dict[str, int]:
    named = reader.dialect.among("name")
    statement = f"SELECT name, person_id FROM people WHERE gallery_id = ? AND {named}"
    return dict(reader.tuples(statement, (gallery_id, names)))


def _key_of(external_id: str | None) -> str | None:
    return None if external_id is None else nfc(external_id)


def _build_row(
    gallery_id: int, crop: StoredCrop, people: Mapping[str, int], version: int
) -> dict[str, Any]:
    has_other = crop.sha256 != crop.sent_sha256
    return {name: getattr(crop, name) for name in COLUMNS} | {
        "gallery_id": gallery_id,
        "slot": crop.slot,
        "person_id": None if crop.identity is None else people[crop.identity],
        "seen_at": crop.captured_at or crop.created_at,
        "external_key": _key_of(crop.external_id),
        "sent_sha256": bytes.fromhex(crop.sent_sha256),
        "sha256": bytes.fromhex(crop.sha256) if has_other else None,
        "changed": version,
    }
