"""Replacement of all crops of a gallery in one commit, for example when restoring a snapshot."""

from __future__ import annotations

import contextlib
import itertools
import secrets
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np

from service.errors import RecordUnavailable, ServiceError
from service.ops.failpoints import failpoint
from service.record.crop_changes import columns_of, require_people
from service.record.crop_rows import read_checksums
from service.record.database import Database
from service.record.galleries import (
    count_crops,
    drop_calibrations,
    drop_checksums,
    drop_vectors,
    next_version,
    require_entry,
)
from service.record.schema import (
    CROPS,
    GALLERIES,
    INCOMING,
    INCOMING_TRACKS,
    PEOPLE,
    PICTURES,
    RESTORES,
    as_micros,
)
from service.record.transaction import AMONG, Reader, Transaction, as_json
from service.record.values import ArchivedCrop
from service.record.vectors import vector_crc

CROPS_PER_PART = 200
BYTES_PER_PART = 16 * 1024**2
# An unfinished restore expires if its next part does not arrive in this time.
KEPT = timedelta(minutes=10)

LABELS = ("camera", "captured_at", "seen_at", "external_id", "quality", "metadata")
CONTENTS = ("crop_id", "created_at", "sha256", "content_type", "image_bytes", "inside")
# True for crops of the gallery that the archive has unchanged, and thus in the same slot.
IS_LEFT = (
    "EXISTS (SELECT 1 FROM incoming WHERE incoming.gallery_id = crops.gallery_id "
    "AND incoming.crop_id = crops.crop_id AND incoming.slot = crops.slot)"
)
WITH_PERSON = (
    "FROM incoming LEFT JOIN people ON people.gallery_id = incoming.gallery_id "
    "AND people.name = incoming.identity"
)


@dataclass(frozen=True)
class Restore:
    """A restore of a gallery in progress.

    Attributes:
        token: distinguishes it from a later restore, which would end it.
        side: side of its vectors: the searched one, or a new one for another embedder.
    """

    gallery_id: int
    token: bytes
    side: int


def replace_crops(
    database: Database, gallery_id: int, embedder: str, crops: Iterable[ArchivedCrop]
) -> int:
    """Replace a gallery's crops by those of an archive in one commit; return the new version.

    Crops keep their ids, and unchanged crops their slots. Crops removed since the archive was made
    stay removed.

    Raises:
        UnknownGallery: the gallery was deleted.
        RecordUnavailable: another restore has begun, the gallery was reindexed in the meantime, or
            a part took too long; nothing was changed.
    """
    parts = _parts(crops)
    first = next(parts, [])
    dimension = len(first[0].vector) if first else None
    restore = database.write(_begin, gallery_id, embedder, dimension)
    try:
        for part in itertools.chain([first], parts):
            database.write(_add, restore, part)
        failpoint("restore.crops-added")
        return database.write(_switch, restore)
    except BaseException:
        # If the disk itself fails, a later start gives up the restore.
        with contextlib.suppress(ServiceError):
            database.write(_give_up, restore)
        raise


def give_up_restores(database: Database, until: datetime) -> None:
    """Remove the leftovers of restores that expired before `until`."""
    for row in Reader(database).rows(RESTORES, "WHERE until < ?", (as_micros(until),)):
        database.write(_give_up, Restore(row["gallery_id"], row["token"], row["side"]))


def _begin(
    transaction: Transaction, gallery_id: int, embedder: str, dimension: int | None
) -> Restore:
    entry = require_entry(transaction, gallery_id)
    previous = transaction.row(RESTORES, "WHERE gallery_id = ?", (gallery_id,))
    if previous:
        _give_up(transaction, Restore(gallery_id, previous["token"], previous["side"]))
    current_dimension = transaction.value(
        "SELECT dimension FROM galleries WHERE gallery_id = ?", (gallery_id,)
    )
    side = entry.side
    differs = None not in (current_dimension, dimension) and current_dimension != dimension
    if embedder != entry.embedding_fingerprint or differs:
        side = entry.sides
        statement = "UPDATE galleries SET next_side = next_side + 1 WHERE gallery_id = ?"
        transaction.change(statement, (gallery_id,))
    elif dimension is None:
        dimension = current_dimension
    restore = Restore(gallery_id, secrets.token_bytes(8), side)
    values = {"gallery_id": gallery_id, "token": restore.token, "until": _until()}
    values |= {"embedder": embedder, "side": side, "dimension": dimension}
    transaction.insert(RESTORES, values | {"former_side": entry.side})
    return restore


def _add(transaction: Transaction, restore: Restore, crops: Sequence[ArchivedCrop]) -> None:
    row = _extend(transaction, restore)
    gallery_id = restore.gallery_id
    removed = _removed(transaction, gallery_id, [crop.record.crop_id for crop in crops])
    remaining = [crop for crop in crops if crop.record.crop_id not in removed]
    unchanged = _unchanged_slots(transaction, row, remaining)
    next_slot = require_entry(transaction, gallery_id).rows + 1
    rows = []
    tracks = []
    vectors = {}
    for crop in remaining:
        crop_id = crop.record.crop_id
        slot = unchanged.get(crop_id)
        picture = None
        if slot is None:
            slot = next_slot
            next_slot += 1
            picture = crop.picture
            vectors[slot] = (crop_id, crop.vector)
        place = {"gallery_id": gallery_id, "slot": slot}
        labels = {**columns_of(crop.record), "identity": crop.record.identity}
        rows.append({**place, **labels, "picture": picture})
        if crop.record.track is not None:
            tracks.append({**place, "track": crop.record.track})
    transaction.insert(INCOMING, *rows)
    transaction.insert(INCOMING_TRACKS, *tracks)
    transaction.write_vectors(gallery_id, restore.side, vectors)
    statement = "UPDATE galleries SET next_slot = ? WHERE gallery_id = ?"
    transaction.change(statement, (next_slot, gallery_id))


def _switch(transaction: Transaction, restore: Restore) -> int:
    row = _extend(transaction, restore)
    gallery_id = restore.gallery_id
    of_gallery = (gallery_id,)
    gallery = transaction.rows(GALLERIES, "WHERE gallery_id = ?", of_gallery)[0]
    if gallery["side"] != row["former_side"]:
        raise RecordUnavailable(
            "the gallery was reindexed during the restore; nothing was changed, restore it again"
        )
    transaction.removes = True
    removed_slots = _drop_removed(transaction, gallery_id)
    removed_slots += _remove_replaced(transaction, gallery_id)
    drop_checksums(transaction, gallery_id, removed_slots)
    _drop_damaged_people(transaction, gallery_id)
    _add_people(transaction, gallery_id)
    _relabel(transaction, gallery_id)
    _insert_new(transaction, gallery_id)
    _replace_tracks(transaction, gallery_id)
    count_crops(transaction, gallery_id)
    transaction.change(
        "UPDATE galleries SET embedder = ?, side = ?, dimension = ?, staged_embedder = NULL, "
        "staged_side = NULL, staged_dimension = NULL, staged_slot = 0, staged_crops = 0 "
        "WHERE gallery_id = ?",
        (row["embedder"], restore.side, row["dimension"], gallery_id),
    )
    for side in {gallery["side"], gallery["staged_side"]} - {restore.side, None}:
        drop_vectors(transaction, gallery_id, side)
    drop_calibrations(transaction, gallery_id)
    transaction.change("DELETE FROM restores WHERE gallery_id = ?", of_gallery)
    return next_version(transaction, gallery_id, "replaced", sorted(removed_slots), restores=1)


def _drop_removed(transaction: Transaction, gallery_id: int) -> list[int]:
    rows = transaction.execute(
        "DELETE FROM incoming WHERE gallery_id = ? AND crop_id IN "
        "(SELECT crop_id FROM tombstones WHERE gallery_id = ?) RETURNING slot",
        (gallery_id, gallery_id),
    )
    return [slot for (slot,) in rows]


def _remove_replaced(transaction: Transaction, gallery_id: int) -> list[int]:
    """Delete crops that the archive lacks or has in another version; return their slots."""
    transaction.change(
        "INSERT OR REPLACE INTO stray_pictures (gallery_id, name, until) "
        "SELECT gallery_id, crop_id, ? FROM crops WHERE gallery_id = ? "
        "AND content_type IS NOT NULL AND NOT inside AND crop_id NOT IN "
        "(SELECT crop_id FROM incoming WHERE gallery_id = ?)",
        (as_micros(datetime.now(UTC)), gallery_id, gallery_id),
    )
    rows = transaction.execute(
        f"DELETE FROM crops WHERE gallery_id = ? AND NOT {IS_LEFT} RETURNING slot", (gallery_id,)
    )
    return [slot for (slot,) in rows]


def _drop_damaged_people(transaction: Transaction, gallery_id: int) -> None:
    damaged = f"WHERE gallery_id = ? AND NOT {PEOPLE.is_intact}"
    transaction.change(
        "UPDATE crops SET person_id = NULL "
        f"WHERE person_id IN (SELECT person_id FROM people {damaged})",
        (gallery_id,),
    )
    transaction.change(f"DELETE FROM people {damaged}", (gallery_id,))


def _add_people(transaction: Transaction, gallery_id: int) -> None:
    rows = transaction.execute(
        "SELECT DISTINCT identity FROM incoming WHERE gallery_id = ? AND identity IS NOT NULL",
        (gallery_id,),
    )
    require_people(transaction, gallery_id, [name for (name,) in rows])


def _relabel(transaction: Transaction, gallery_id: int) -> None:
    columns = ", ".join(["person_id", *LABELS])
    current = ", ".join(f"crops.{name}" for name in ("person_id", *LABELS))
    new = ", ".join(["people.person_id", *(f"incoming.{name}" for name in LABELS)])
    transaction.change(
        f"UPDATE crops SET ({columns}) = ({new}) {WITH_PERSON} "
        "WHERE crops.gallery_id = ? AND incoming.gallery_id = crops.gallery_id "
        f"AND incoming.crop_id = crops.crop_id AND ({current}) IS NOT ({new})",
        (gallery_id,),
    )


def _insert_new(transaction: Transaction, gallery_id: int) -> None:
    columns = ["gallery_id", "slot", *LABELS, *CONTENTS]
    names = ", ".join(f"incoming.{name}" for name in columns)
    transaction.change(
        f"INSERT INTO crops ({', '.join(columns)}, person_id) "
        f"SELECT {names}, people.person_id {WITH_PERSON} WHERE incoming.gallery_id = ? "
        "AND incoming.slot NOT IN (SELECT slot FROM crops WHERE gallery_id = ?)",
        (gallery_id, gallery_id),
    )
    transaction.change(
        "INSERT INTO pictures (gallery_id, slot, content) SELECT gallery_id, slot, picture "
        "FROM incoming WHERE gallery_id = ? AND picture IS NOT NULL",
        (gallery_id,),
    )
    transaction.change(
        "DELETE FROM stray_pictures WHERE gallery_id = ? AND name IN "
        "(SELECT crop_id FROM incoming WHERE gallery_id = ?)",
        (gallery_id, gallery_id),
    )


def _replace_tracks(transaction: Transaction, gallery_id: int) -> None:
    transaction.change("DELETE FROM tracks WHERE gallery_id = ?", (gallery_id,))
    transaction.change(
        "INSERT INTO tracks (gallery_id, slot, track) SELECT gallery_id, slot, track "
        "FROM incoming_tracks WHERE gallery_id = ? "
        "AND slot IN (SELECT slot FROM crops WHERE gallery_id = ?)",
        (gallery_id, gallery_id),
    )


def _give_up(transaction: Transaction, restore: Restore) -> None:
    row = transaction.row(RESTORES, "WHERE token = ?", (restore.token,))
    if row is None:
        return
    transaction.removes = True
    if row["side"] != row["former_side"]:
        drop_vectors(transaction, restore.gallery_id, restore.side)
    elif row["dimension"] is not None:
        rows = transaction.execute(
            "SELECT slot FROM incoming WHERE gallery_id = ? AND slot NOT IN "
            "(SELECT slot FROM crops WHERE gallery_id = ?)",
            (restore.gallery_id, restore.gallery_id),
        )
        vectors = transaction.database.vectors
        side = vectors.open(restore.gallery_id, restore.side, row["dimension"])
        slots = [slot for (slot,) in rows]
        side.clear(slots)
        drop_checksums(transaction, restore.gallery_id, slots)
    transaction.change("DELETE FROM restores WHERE token = ?", (restore.token,))


def _extend(transaction: Transaction, restore: Restore) -> sqlite3.Row:
    require_entry(transaction, restore.gallery_id)
    row = transaction.row(RESTORES, "WHERE token = ?", (restore.token,))
    if row is None:
        raise RecordUnavailable(
            "the restore was given up because another one began or its next part came too late; "
            "nothing was changed, restore it again"
        )
    statement = "UPDATE restores SET until = ? WHERE token = ?"
    transaction.change(statement, (_until(), restore.token))
    return row


def _removed(transaction: Transaction, gallery_id: int, crop_ids: Sequence[str]) -> set[str]:
    rows = transaction.execute(
        f"SELECT crop_id FROM tombstones WHERE gallery_id = ? AND crop_id IN {AMONG}",
        (gallery_id, as_json(crop_ids)),
    )
    return {crop_id for (crop_id,) in rows}


def _unchanged_slots(
    transaction: Transaction, restore: sqlite3.Row, crops: Sequence[ArchivedCrop]
) -> dict[str, int]:
    """Return the slots of intact crops that differ from the gallery's at most in their labels.

    Damaged rows are not reported here, because the restore repairs them.
    """
    gallery_id = restore["gallery_id"]
    side = restore["side"]
    if side != restore["former_side"] or restore["dimension"] is None:
        return {}
    ids = [crop.record.crop_id for crop in crops]
    rows = transaction.tuples(
        "SELECT crops.crop_id, crops.slot FROM crops LEFT JOIN pictures USING (gallery_id, slot) "
        f"WHERE crops.gallery_id = ? AND crops.crop_id IN {AMONG} "
        f"AND {CROPS.is_intact} AND (NOT crops.inside OR {PICTURES.is_intact})",
        (gallery_id, as_json(ids)),
    )
    slots: dict[str, int] = dict(rows)
    file = transaction.database.vectors.open(gallery_id, side, restore["dimension"])
    places = list(slots.values())
    checksums = read_checksums(transaction, gallery_id, side, places)
    vectors = dict(zip(slots, file.read(places), strict=True))
    return {
        crop_id: slots[crop_id]
        for crop_id, vector in ((crop.record.crop_id, crop.vector) for crop in crops)
        if crop_id in slots
        and np.array_equal(vectors[crop_id], vector)
        and checksums.get(slots[crop_id]) == vector_crc(crop_id, vector)
    }


def _until() -> int:
    return as_micros(datetime.now(UTC) + KEPT)


def _parts(crops: Iterable[ArchivedCrop]) -> Iterator[list[ArchivedCrop]]:
    part: list[ArchivedCrop] = []
    part_bytes = 0
    for crop in crops:
        part.append(crop)
        part_bytes += crop.vector.nbytes + len(crop.picture or b"")
        if len(part) == CROPS_PER_PART or part_bytes >= BYTES_PER_PART:
            yield part
            part = []
            part_bytes = 0
    if part:
        yield part
