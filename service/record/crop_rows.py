"""Reading of crops: their rows with the names of people, their vectors, and filtered listings."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic_core import from_json

from gmn_client.models import CropOrder
from model.crops.texts import nfc
from service.errors import DamagedRecord, InvalidField
from service.record.dialect import Dialect
from service.record.schema import StoredRow, as_moment
from service.record.transaction import Reader, Values, batches
from service.record.values import (
    ArchivedCrop,
    GalleryRecord,
    JsonObject,
    ListFilter,
    StoredCrop,
    identity_code,
)
from service.record.vectors import Vector, vector_crc

CROPS_AND_NAMES = (
    "SELECT crops.gallery_id, crops.slot, crop_id, name AS identity, camera, captured_at, "
    "external_id, metadata, track, sent_sha256, sha256, content_type, image_bytes, created_at, "
    "inside, quality, set_aside "
    "FROM crops LEFT JOIN tracks USING (gallery_id, slot) "
    "LEFT JOIN people ON people.person_id = crops.person_id"
)
METADATA = "SELECT slot, metadata FROM crops WHERE gallery_id = ? AND metadata IS NOT NULL"
CROPS_AT_ONCE = 500
COLUMNS = ("slot", "person", "camera", "captured_at", "set_aside")
COLUMNS_AT_ONCE = 8192
MICROSECONDS = 1e6
# A range of slots is read in one pass if it spans at most this multiple of the wanted slots.
DENSE = 4

CHANGED_SLOTS = "SELECT slot FROM crops WHERE gallery_id = ? AND changed > ?"
REMOVED_SLOTS = "SELECT slot FROM tombstones WHERE gallery_id = ? AND changed > ?"
NEXT_SLOTS = "SELECT slot FROM crops WHERE gallery_id = ? AND slot > ? ORDER BY slot LIMIT ?"
STILL_THERE = (
    "SELECT 1 FROM crops JOIN galleries USING (gallery_id) "
    "WHERE gallery_id = ? AND generation = ? AND slot = ?"
)
# Upper bound on the crops examined for a page, so that a selective filter does not block a thread.
MOST_SCANNED = 10_000
# Slot of the page's last crop, preceded by the microseconds of its time if sorted by time.
CURSOR = re.compile(r"(?:(-?[0-9]{1,18})_)?([0-9]{1,18})", re.ASCII)

# The SQL condition for each field of `ListFilter`, the most selective first. `=` lets SQLite read
# the crops of one person or camera in their order.
LABELS = {
    "crop_ids": "crops.crop_id = :crop_ids",
    "external_id": "crops.external_key = :external_id",
    "identities": (
        "crops.person_id = "
        "(SELECT person_id FROM people WHERE gallery_id = :gallery_id AND name = :identities)"
    ),
    "track": (
        "crops.slot IN (SELECT slot FROM tracks WHERE gallery_id = :gallery_id AND track = :track)"
    ),
    "named": "crops.person_id IS NOT NULL",
    "unnamed": "crops.person_id IS NULL",
    "cameras": "crops.camera = :cameras",
    "set_aside": "crops.set_aside = :set_aside",
}
CAPTURED = {
    "captured_after": "crops.captured_at >= :captured_after",
    "captured_before": "crops.captured_at <= :captured_before",
}
# Crops that pass `CAPTURED` pass these too, for which there is an index.
SEEN = {
    "captured_after": "crops.seen_at >= :captured_after",
    "captured_before": "crops.seen_at <= :captured_before",
}
OF_GALLERY = "crops.gallery_id = :gallery_id"
# Position of a crop in an order, as in a cursor.
Position = tuple[int, ...]


class CropColumns(NamedTuple):
    """Labels of n crops in columns, ascending by slot, as an index compares them.

    Attributes:
        slots: `(n,)` int64.
        groups: `(n,)` int64: `identity_code` of each person's name; a unique negative number for
            each unnamed crop.
        cameras: n names; None if unknown.
        captured: seconds since 1970, `(n,)` float64; NaN if unknown.
        set_aside: `(n,)`; True for crops that no search may find.
    """

    slots: NDArray[np.int64]
    groups: NDArray[np.int64]
    cameras: tuple[str | None, ...]
    captured: NDArray[np.float64]
    set_aside: NDArray[np.bool_]

    def at(self, positions: NDArray[np.int64]) -> CropColumns:
        cameras = tuple(self.cameras[position] for position in positions)
        return CropColumns(
            self.slots[positions],
            self.groups[positions],
            cameras,
            self.captured[positions],
            self.set_aside[positions],
        )


def read_changed_slots(reader: Reader, gallery_id: int, version: int) -> list[int]:
    """Return the slots of crops that were added or relabelled after a version of their gallery."""
    return sorted(reader.column(CHANGED_SLOTS, (gallery_id, version)))


def read_removed_slots(reader: Reader, gallery_id: int, version: int) -> list[int]:
    """Return the slots of crops that were removed after a version of their gallery."""
    return reader.column(REMOVED_SLOTS, (gallery_id, version))


def read_columns(
    reader: Reader, gallery_id: int, secret: bytes, slots: Sequence[int] | None = None
) -> Iterator[CropColumns]:
    """Yield the labels of all crops of a gallery, or of the given slots that exist, in parts.

    Crops that cannot be read are left out.

    Args:
        secret: the record's group secret, which keys the group codes of names.
    """
    of_people = reader.dialect.among("person_id")
    names = f"SELECT person_id, name FROM people WHERE gallery_id = ? AND {of_people}"
    codes: dict[str, int] = {}
    condition = "" if slots is None else f"AND {reader.dialect.among('slot')} "
    statement = (
        "SELECT slot, coalesce(person_id, 0) AS person, camera, captured_at, set_aside FROM crops "
        f"WHERE gallery_id = ? {condition}AND slot > ? ORDER BY slot LIMIT ?"
    )
    values = [gallery_id] if slots is None else [gallery_id, slots]
    newest = reader.value("SELECT next_slot - 1 FROM galleries WHERE gallery_id = ?", (gallery_id,))
    after = 0
    is_last = False
    while not is_last:
        try:
            lists = reader.columns(COLUMNS, statement, (*values, after, COLUMNS_AT_ONCE))
            part = _as_columns(reader, gallery_id, lists, names, codes, secret)
        except (DamagedRecord, TypeError, ValueError, OverflowError):
            last = min(after + COLUMNS_AT_ONCE, newest or 0)
            if last <= after:
                return
            present = _readable_slots(reader, gallery_id, after + 1, last)
            if slots is not None:
                present = sorted(set(present).intersection(slots))
            part = _columns_of(read_by_slot(reader, gallery_id, present), secret)
            after = last
        else:
            if not len(part.slots):
                return
            after = int(part.slots[-1])
            is_last = len(part.slots) < COLUMNS_AT_ONCE
        damaged = [slot for owner, slot in reader.database.damaged if owner == gallery_id]
        if damaged:
            part = part.at(np.flatnonzero(~np.isin(part.slots, damaged)))
        if len(part.slots):
            yield part


def _as_columns(
    reader: Reader,
    gallery_id: int,
    lists: Sequence[list[Any]],
    names: str,
    codes: dict[str, int],
    secret: bytes,
) -> CropColumns:
    """Convert the columns of a part; raise if one contains a value that is never written."""
    numbers, people, cameras, captured, set_aside = lists
    if not all(camera is None or isinstance(camera, str) for camera in cameras):
        raise TypeError("a camera is not a text")
    slot_numbers = np.array(numbers, np.int64)
    distinct, inverse = np.unique(np.array(people, np.int64), return_inverse=True)
    # A new person may get the id of one who was removed since the previous part.
    codes_by_person = {}
    for person_id, name in reader.tuples(names, (gallery_id, distinct.tolist())):
        if name not in codes:
            codes[name] = identity_code(name, secret)
        codes_by_person[person_id] = codes[name]
    # Person 0 stands for an unnamed crop. A person removed in the meantime counts as unnamed
    # too: the crops have changed as well.
    codes_in_part = [codes_by_person.get(person, -1) for person in distinct.tolist()]
    groups = np.array(codes_in_part, np.int64)[inverse]
    groups = np.where(groups < 0, -1 - slot_numbers, groups)
    # NULL becomes NaN.
    moments = np.array(captured, np.float64) / MICROSECONDS
    are_aside = np.array(set_aside, np.int64) != 0
    return CropColumns(slot_numbers, groups, tuple(cameras), moments, are_aside)


def _columns_of(crops: Sequence[StoredCrop], secret: bytes) -> CropColumns:
    groups = [
        -1 - crop.slot if crop.identity is None else identity_code(crop.identity, secret)
        for crop in crops
    ]
    moments = [crop.captured_at.timestamp() if crop.captured_at else math.nan for crop in crops]
    return CropColumns(
        np.array([crop.slot for crop in crops], np.int64),
        np.array(groups, np.int64),
        tuple(crop.camera for crop in crops),
        np.array(moments, np.float64),
        np.array([crop.set_aside for crop in crops], np.bool_),
    )


def _readable_slots(reader: Reader, gallery_id: int, first: int, last: int) -> list[int]:
    """Return the slots of crops in a range, leaving out those that are on a damaged page."""
    statement = "SELECT slot FROM crops WHERE gallery_id = ? AND slot BETWEEN ? AND ? ORDER BY slot"
    try:
        return reader.column(statement, (gallery_id, first, last))
    except DamagedRecord:
        if first == last:
            reader.database.leave_out(gallery_id, first, None, "page")
            return []
    middle = (first + last) // 2
    slots = _readable_slots(reader, gallery_id, first, middle)
    return slots + _readable_slots(reader, gallery_id, middle + 1, last)


def read_texts(
    reader: Reader, prefix: str, gallery_id: int, slots: Sequence[int]
) -> Iterator[tuple[int, str]]:
    """Yield (slot, text) for each of the given crops that has a text, by slot.

    Args:
        prefix: the statement up to the condition on the slots, such as `METADATA`.
        slots: ascending.
    """
    for batch in batches(slots, COLUMNS_AT_ONCE):
        if batch[-1] - batch[0] < DENSE * len(batch):
            # A pass over a dense range takes a fifth of the time of individual lookups.
            wanted = set(batch)
            statement = f"{prefix} AND slot BETWEEN ? AND ? ORDER BY slot"
            rows = reader.tuples(statement, (gallery_id, batch[0], batch[-1]))
            yield from ((slot, text) for slot, text in rows if slot in wanted)
        else:
            statement = f"{prefix} AND {reader.dialect.among('slot')} ORDER BY slot"
            yield from reader.tuples(statement, (gallery_id, batch))


def read_crops(reader: Reader, clauses: str, values: Values = ()) -> list[StoredCrop]:
    """Read crops, leaving out those that are damaged or whose rows cannot be read.

    Args:
        clauses: the clauses after the tables; `gallery_id` must be qualified by its table.

    Raises:
        DamagedRecord: it cannot be read which crops these are.
    """
    damaged = reader.database.damaged
    crops = []
    for row in _read_rows(reader, clauses, values):
        gallery_id = row["gallery_id"]
        slot = row["slot"]
        if (gallery_id, slot) in damaged:
            continue
        try:
            crops.append(_as_crop(row))
        except (AttributeError, OverflowError, TypeError, ValueError):
            reader.database.leave_out(gallery_id, slot, str(row["crop_id"]), "row")
    return crops


def _as_crop(row: StoredRow) -> StoredCrop:
    captured_at = row["captured_at"]
    metadata = row["metadata"]
    if metadata is not None:
        # A text that is no JSON would fail every answer that has this crop.
        from_json(metadata)
    sent_sha256 = row["sent_sha256"].hex()
    sha256 = row["sha256"]
    return StoredCrop(
        slot=row["slot"],
        crop_id=row["crop_id"],
        identity=row["identity"],
        camera=row["camera"],
        captured_at=None if captured_at is None else as_moment(captured_at),
        external_id=row["external_id"],
        metadata=None if metadata is None else JsonObject(metadata),
        track=row["track"],
        sent_sha256=sent_sha256,
        sha256=sent_sha256 if sha256 is None else sha256.hex(),
        content_type=row["content_type"],
        image_bytes=row["image_bytes"],
        created_at=as_moment(row["created_at"]),
        inside=row["inside"],
        quality=row["quality"],
        set_aside=row["set_aside"],
    )


def _read_rows(reader: Reader, clauses: str, values: Values) -> list[StoredRow]:
    try:
        return reader.stored(f"{CROPS_AND_NAMES} {clauses}", values)
    except DamagedRecord:
        slots = reader.tuples(f"SELECT crops.gallery_id, crops.slot FROM crops {clauses}", values)
    rows = []
    statement = f"{CROPS_AND_NAMES} WHERE crops.gallery_id = ? AND crops.slot = ?"
    for gallery_id, slot in slots:
        try:
            rows += reader.stored(statement, (gallery_id, slot))
        except DamagedRecord:
            reader.database.leave_out(gallery_id, slot, None, "row")
    return rows


def read_after(reader: Reader, gallery_id: int, slot: int, limit: int) -> list[StoredCrop]:
    """Return up to `limit` crops behind a slot, in order; none only if there are no more."""
    while slots := reader.column(NEXT_SLOTS, (gallery_id, slot, limit)):
        if crops := read_by_slot(reader, gallery_id, slots):
            return crops
        slot = slots[-1]
    return []


def read_pages(reader: Reader, gallery_id: int) -> Iterator[list[StoredCrop]]:
    after = 0
    while crops := read_after(reader, gallery_id, after, CROPS_AT_ONCE):
        yield crops
        after = crops[-1].slot


def read_by_id(reader: Reader, gallery_id: int, crop_ids: Iterable[str]) -> list[StoredCrop]:
    those = reader.dialect.among("crop_id")
    clauses = f"WHERE crops.gallery_id = ? AND {those} ORDER BY crops.slot"
    return read_crops(reader, clauses, (gallery_id, list(crop_ids)))


def read_by_slot(reader: Reader, gallery_id: int, slots: Iterable[int]) -> list[StoredCrop]:
    those = reader.dialect.among("crops.slot")
    clauses = f"WHERE crops.gallery_id = ? AND {those} ORDER BY crops.slot"
    return read_crops(reader, clauses, (gallery_id, list(slots)))


def read_vectors(
    reader: Reader, gallery: GalleryRecord | None, crops: Sequence[StoredCrop]
) -> list[ArchivedCrop]:
    """Read the vectors of crops, leaving out those that differ from their checksums.

    Crops removed since they were read are omitted: their vectors are overwritten at once.

    Args:
        reader: must see the latest state, to tell a removal from damage.
    """
    if gallery is None or gallery.dimension is None or not crops:
        return []
    gallery_id = gallery.gallery_id
    generation = gallery.generation
    crop_ids = {crop.slot: crop.crop_id for crop in crops}
    vectors = read_intact_vectors(reader, gallery_id, generation, gallery.dimension, crop_ids)
    for crop in crops:
        key = (gallery_id, generation, crop.slot)
        if crop.slot not in vectors and reader.value(STILL_THERE, key):
            reader.database.leave_out(gallery_id, crop.slot, crop.crop_id, "vector")
    return [ArchivedCrop(crop, vectors[crop.slot]) for crop in crops if crop.slot in vectors]


def read_intact_vectors(
    reader: Reader, gallery_id: int, generation: int, dimension: int, crop_ids: Mapping[int, str]
) -> dict[int, Vector]:
    """Return the vectors `(d,)` of crops, given as ids by slot, that match their checksums.

    Raises:
        FileNotFoundError: the file is missing, and the record was opened read-only.
    """
    slots = list(crop_ids)
    vectors = reader.database.vectors.open(gallery_id, generation, dimension).read(slots)
    statement = (
        "SELECT slot, checksum FROM checksums "
        f"WHERE gallery_id = ? AND generation = ? AND {reader.dialect.among('slot')}"
    )
    checksums = dict(reader.tuples(statement, (gallery_id, generation, slots)))
    return {
        slot: vector
        for slot, vector in zip(slots, vectors, strict=True)
        if vector_crc(crop_ids[slot], vector) == checksums.get(slot)
    }


@dataclass(frozen=True)
class CropPage:
    """One page of a listing.

    Attributes:
        cursor: start of the next page; None on the last page. Other pages may have fewer crops than
            requested, or none.
    """

    crops: list[StoredCrop]
    cursor: str | None


def list_crops(
    reader: Reader, gallery_id: int, wanted: ListFilter, order: CropOrder, after: str, limit: int
) -> CropPage:
    """Return up to `limit` crops that pass a filter.

    Args:
        order: `enrolled`, or by time of capture, with the time of enrollment where that is unknown.
        after: a cursor of the same order; empty for the first page.

    Raises:
        InvalidField: `after` is not a cursor of this order.
    """
    start = _read_cursor(after, order)
    values = _bind_values(gallery_id, wanted)
    dialect = reader.dialect
    labels = _select_conditions(dialect, LABELS, values)
    captured = _select_conditions(dialect, CAPTURED, values)
    by_time = order != "enrolled"
    is_backward = order == "-captured"
    # A person, track or external id has few crops: read them all and sort.
    is_selective = wanted.identities or wanted.track or wanted.external_id
    is_sorted = by_time and bool(is_selective)
    if by_time and not is_sorted:
        # The cursor supersedes the bound where the first page began.
        superseded = "captured_before" if is_backward else "captured_after"
        bounds = {name: text for name, text in SEEN.items() if not start or name != superseded}
        indexed = _select_conditions(dialect, bounds, values)
        others = [*labels, *captured]
    else:
        indexed = labels[:1]
        others = [*labels[1:], *captured]
    columns = ["seen_at", "slot"] if by_time else ["slot"]
    indexed.append(OF_GALLERY)
    if start:
        indexed.append(_compare(columns, "<" if is_backward else ">", start))
    direction = "DESC" if is_backward else "ASC"
    orders = [f"{column} {direction}" for column in columns]
    sequence = ", ".join(dialect.unindexed(order) if is_sorted else order for order in orders)

    edges = []
    if others and not is_sorted:
        edges = reader.tuples(
            f"SELECT {', '.join(columns)} FROM crops WHERE {' AND '.join(indexed)} "
            f"ORDER BY {sequence} LIMIT 1 OFFSET {MOST_SCANNED - 1}",
            values,
        )
    for edge in edges:
        indexed.append(_compare(columns, ">=" if is_backward else "<=", edge))
    conditions = " AND ".join([*indexed, *(dialect.unindexed(text) for text in others)])
    statement = (
        f"SELECT {', '.join(columns)} FROM crops WHERE {conditions} "
        f"ORDER BY {sequence} LIMIT {limit + 1}"
    )
    positions = reader.tuples(statement, values)
    slots = [position[-1] for position in positions[:limit]]
    by_slot = {crop.slot: crop for crop in read_by_slot(reader, gallery_id, slots)}
    # A damaged crop is missing, but the next page begins behind it.
    page = [by_slot[slot] for slot in slots if slot in by_slot]
    if len(positions) > limit:
        return CropPage(page, _format_cursor(positions[limit - 1]))
    return CropPage(page, _format_cursor(edges[0]) if edges else None)


def read_slots(
    reader: Reader, gallery_id: int, wanted: ListFilter, limit: int | None = None
) -> list[int]:
    values = _bind_values(gallery_id, wanted)
    conditions = [
        OF_GALLERY,
        *_select_conditions(reader.dialect, LABELS | CAPTURED, values),
        *_select_conditions(reader.dialect, SEEN, values),
    ]
    slots = f"SELECT slot FROM crops WHERE {' AND '.join(conditions)} ORDER BY slot"
    at_most = "" if limit is None else f" LIMIT {limit:d}"
    return reader.column(slots + at_most, values)


def _bind_values(gallery_id: int, wanted: ListFilter) -> dict[str, Any]:
    """Return the values of the conditions; None for conditions that do not apply."""
    return {
        "gallery_id": gallery_id,
        "crop_ids": _one_or_several(wanted.crop_ids),
        "external_id": None if wanted.external_id is None else nfc(wanted.external_id),
        "identities": _one_or_several(wanted.identities),
        "track": wanted.track,
        "named": wanted.named or None,
        "unnamed": True if wanted.named is False else None,
        "cameras": _one_or_several(wanted.cameras),
        "set_aside": wanted.set_aside,
        "captured_after": wanted.captured_after,
        "captured_before": wanted.captured_before,
    }


def _one_or_several(texts: Collection[str]) -> str | list[str] | None:
    if len(texts) > 1:
        return list(texts)
    return next(iter(texts), None)


def _select_conditions(
    dialect: Dialect, conditions: Mapping[str, str], values: Mapping[str, Any]
) -> list[str]:
    """Return the conditions of the fields that have a value."""
    of_several = {
        "crop_ids": dialect.among("crops.crop_id", ":crop_ids"),
        "identities": (
            "crops.person_id IN (SELECT person_id FROM people "
            f"WHERE gallery_id = :gallery_id AND {dialect.among('name', ':identities')})"
        ),
        "cameras": dialect.among("crops.camera", ":cameras"),
    }
    return [
        of_several[name] if isinstance(values[name], list) else condition
        for name, condition in conditions.items()
        if values[name] is not None
    ]


def _compare(columns: Sequence[str], sign: str, position: Position) -> str:
    numbers = ", ".join(str(number) for number in position)
    return f"({', '.join(columns)}) {sign} ({numbers})"


def _format_cursor(position: Position) -> str:
    return "_".join(str(number) for number in position)


def _read_cursor(text: str, order: CropOrder) -> Position | None:
    if not text:
        return None
    match = CURSOR.fullmatch(text)
    if match is None or bool(match[1]) != (order != "enrolled"):
        raise InvalidField(
            f"cursor: {text[:40]!r} is not of this order; send next_cursor of the page before"
        )
    return tuple(int(number) for number in text.split("_"))
