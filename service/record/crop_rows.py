"""Reading of crop rows with the names of their people, and of their vectors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic_core import from_json

from service.ops.threads import heartbeat
from service.record.schema import TABLES
from service.record.transaction import AMONG, Reader, Values, as_values, batches
from service.record.values import ArchivedCrop, GalleryRecord, StoredCrop, identity_code
from service.record.vectors import vector_crc

CROPS_AND_NAMES = (
    f"SELECT {TABLES['crops'].checked}, people.name AS identity, tracks.track AS track, "
    f"crops.person_id IS NULL OR {TABLES['people'].is_intact} IS 1 AS named, "
    f"tracks.slot IS NULL OR {TABLES['tracks'].is_intact} IS 1 AS tracked "
    "FROM crops LEFT JOIN tracks USING (gallery_id, slot) "
    "LEFT JOIN people ON people.person_id = crops.person_id"
)

METADATA = "SELECT slot, metadata FROM crops WHERE gallery_id = ? AND metadata IS NOT NULL AND"
CROPS_AT_ONCE = 500
COLUMNS_AT_ONCE = 8192
MICROSECONDS = 1e6
# A range of slots is read in one pass if it spans at most this multiple of the wanted slots.
DENSE = 4

STILL_THERE = (
    "SELECT 1 FROM crops JOIN galleries USING (gallery_id) "
    "WHERE gallery_id = ? AND side = ? AND slot = ?"
)


class CropColumns(NamedTuple):
    """Labels of n crops in columns, ascending by slot, as an index compares them.

    Attributes:
        slots: `(n,)` int64.
        groups: `(n,)` int64: `identity_code` of each person's name; a unique negative number for
            each unnamed crop.
        cameras: n names; None if unknown.
        captured: seconds since 1970, `(n,)` float64; NaN if unknown.
    """

    slots: NDArray[np.int64]
    groups: NDArray[np.int64]
    cameras: tuple[str | None, ...]
    captured: NDArray[np.float64]

    def at(self, places: NDArray[np.int64]) -> CropColumns:
        cameras = tuple(self.cameras[place] for place in places)
        return CropColumns(self.slots[places], self.groups[places], cameras, self.captured[places])


def read_columns(
    reader: Reader, gallery_id: int, secret: bytes, slots: Sequence[int] | None = None
) -> Iterator[CropColumns]:
    """Yield in parts the labels of all crops of a gallery, or of the given slots that exist.

    Row checksums are not verified, which would take ten times as long.

    Args:
        secret: the record's group secret, which keys the group codes of names.
    """
    names = f"SELECT person_id, name FROM people WHERE gallery_id = ? AND person_id IN {AMONG}"
    # Each name is read once. Person 0 stands for an unnamed crop.
    codes = {0: -1}
    condition = "" if slots is None else f"AND slot IN {AMONG} "
    # SQLite returns each column as one JSON array, which Python parses in a third of the time
    # needed for rows.
    statement = (
        "SELECT json_group_array(slot), json_group_array(coalesce(person_id, 0)), "
        "json_group_array(camera), json_group_array(captured_at) FROM (SELECT slot, person_id, "
        f"camera, captured_at FROM crops WHERE gallery_id = ? {condition}"
        "AND slot > ? ORDER BY slot LIMIT ?)"
    )
    values = [gallery_id] if slots is None else [gallery_id, slots]
    after = 0
    while True:
        (texts,) = reader.tuples(statement, (*values, after, COLUMNS_AT_ONCE))
        numbers, people, cameras, captured = (from_json(text) for text in texts)
        if not numbers:
            return
        heartbeat()
        after = numbers[-1]
        slot_numbers = np.array(numbers, np.int64)
        distinct, places = np.unique(np.array(people, np.int64), return_inverse=True)
        new = [person for person in distinct.tolist() if person not in codes]
        for person_id, name in reader.tuples(names, (gallery_id, new)):
            codes[person_id] = identity_code(name, secret)
        # A person removed in the meantime counts as unnamed: the crops have changed too.
        groups = np.array([codes.get(person, -1) for person in distinct.tolist()], np.int64)[places]
        groups = np.where(groups < 0, -1 - slot_numbers, groups)
        # NULL becomes NaN.
        moments = np.array(captured, np.float64) / MICROSECONDS
        yield CropColumns(slot_numbers, groups, tuple(cameras), moments)


def read_texts(
    reader: Reader, prefix: str, gallery_id: int, slots: Sequence[int]
) -> Iterator[tuple[int, str]]:
    """Yield slot and text of the given crops that have one, by slot.

    Args:
        prefix: the statement up to the condition on the slots, such as `METADATA`.
        slots: ascending.
    """
    for batch in batches(slots, COLUMNS_AT_ONCE):
        heartbeat()
        if batch[-1] - batch[0] < DENSE * len(batch):
            # A pass over a dense range takes a fifth of the time of individual lookups.
            wanted = set(batch)
            statement = f"{prefix} slot BETWEEN ? AND ? ORDER BY slot"
            rows = reader.tuples(statement, (gallery_id, batch[0], batch[-1]))
            yield from ((slot, text) for slot, text in rows if slot in wanted)
        else:
            statement = f"{prefix} slot IN {AMONG} ORDER BY slot"
            yield from reader.tuples(statement, (gallery_id, batch))


def read_crops(reader: Reader, clauses: str, values: Values = ()) -> list[StoredCrop]:
    """Read crops, verifying the checksums of their rows and of their people's.

    Args:
        clauses: the clauses after the tables; `gallery_id` must be qualified by its table.

    Raises:
        DamagedRecord: a row is damaged.
    """
    rows = reader.execute(f"{CROPS_AND_NAMES} {clauses}", values)
    for row in rows:
        if not (row["intact"] and row["named"] and row["tracked"]):
            raise reader.database.damage(f"the row of crop {row['crop_id']} is damaged")
    return [
        StoredCrop(**as_values(row) | {"row_id": row["slot"], "sha256": row["sha256"].hex()})
        for row in rows
    ]


def read_after(reader: Reader, gallery_id: int, slot: int, limit: int) -> list[StoredCrop]:
    clauses = "WHERE crops.gallery_id = ? AND slot > ? ORDER BY slot LIMIT ?"
    return read_crops(reader, clauses, (gallery_id, slot, limit))


def read_pages(reader: Reader, gallery_id: int) -> Iterator[list[StoredCrop]]:
    after = 0
    while crops := read_after(reader, gallery_id, after, CROPS_AT_ONCE):
        yield crops
        heartbeat()
        after = crops[-1].row_id


def read_by_id(reader: Reader, gallery_id: int, crop_ids: Iterable[str]) -> list[StoredCrop]:
    clauses = f"WHERE crops.gallery_id = ? AND crop_id IN {AMONG} ORDER BY slot"
    return read_crops(reader, clauses, (gallery_id, list(crop_ids)))


def read_by_slot(reader: Reader, gallery_id: int, slots: Iterable[int]) -> list[StoredCrop]:
    clauses = f"WHERE crops.gallery_id = ? AND slot IN {AMONG} ORDER BY slot"
    return read_crops(reader, clauses, (gallery_id, list(slots)))


def read_vectors(
    reader: Reader, gallery: GalleryRecord | None, crops: Sequence[StoredCrop]
) -> list[ArchivedCrop]:
    """Read the vectors of crops, verifying their checksums.

    Crops removed since they were read are omitted: their vectors are overwritten at once.

    Args:
        reader: must see the latest state, to tell a removal from damage.

    Raises:
        DamagedRecord: the vector of an existing crop is missing or damaged.
    """
    if gallery is None or gallery.dimension is None or not crops:
        return []
    place = (gallery.gallery_id, gallery.side)
    slots = [crop.row_id for crop in crops]
    vectors = reader.database.vectors.open(*place, gallery.dimension).read(slots)
    checksums = read_checksums(reader, *place, slots)
    intact = []
    for crop, vector in zip(crops, vectors, strict=True):
        if vector_crc(crop.crop_id, vector) == checksums.get(crop.row_id):
            intact.append(ArchivedCrop(crop, vector))
        elif reader.value(STILL_THERE, (*place, crop.row_id)):
            raise reader.database.damage(f"the vector of crop {crop.crop_id} is missing or corrupt")
    return intact


def read_checksums(
    reader: Reader, gallery_id: int, side: int, slots: Sequence[int]
) -> dict[int, int]:
    statement = (
        "SELECT slot, checksum FROM checksums WHERE gallery_id = ? AND side = ? "
        f"AND slot IN {AMONG}"
    )
    return dict(reader.tuples(statement, (gallery_id, side, slots)))
