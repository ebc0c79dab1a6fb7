"""Identities: in natural order, renamed, merged and forgotten."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from gmn_client.models import IdentityOrder, Merge, Page
from model.crops.texts import fold
from service.errors import InvalidField, UnknownIdentity, UnknownMerge
from service.record.crop_changes import (
    count_people,
    mark_changed,
    note_renamed,
    relabel_crops,
    remove_crops,
    require_people,
)
from service.record.database import Database, RecordPart, transactional
from service.record.galleries import next_version, read_entry, require_entry
from service.record.schema import MICROSECOND, natural_order, now_micros
from service.record.transaction import Reader, Row, Transaction
from service.record.values import CropsChange, new_crop_id

# Position of an identity in an order: a number, the name's sort key, and the name.
Position = tuple[float, str, str]
POSITION = re.compile(r"(inf|-?[0-9]+(?:\.[0-9]+)?(?:e-[0-9]+)?)/(.+)", re.DOTALL)
# Number of galleries whose order by crops or time is cached, with all names.
HELD_ORDERS = 2
MERGES_KEPT_FOR = timedelta(days=30)
BY_NAME = (
    "SELECT sort_key, name FROM people "
    "WHERE gallery_id = ? AND (sort_key, name) > (?, ?) ORDER BY sort_key, name LIMIT ?"
)
# Number of names that are read at once and compared with a text.
NAMES_AT_ONCE = 1000
OF_PERSON = "WHERE gallery_id = ? AND person_id = ? ORDER BY slot"
RETARGET_EARLIER_MERGES = """
UPDATE merges SET into_person = :person_id
WHERE gallery_id = :gallery_id AND (version, merge_id) < (:version, :merge_id)
    AND merge_id IN (SELECT merge_id FROM merged_crops WHERE crop_id IN (
        SELECT crop_id FROM merged_crops WHERE merge_id = :merge_id
    ))
"""
OF_MERGE = (
    "WHERE gallery_id = ? AND person_id = ? AND crop_id IN "
    "(SELECT crop_id FROM merged_crops WHERE merge_id = ?) ORDER BY slot"
)
# Best picture first: by quality, then size. Crops without a picture come after them, and crops that
# are set aside last.
BY_PICTURE = (
    "ORDER BY set_aside, "
    "CASE WHEN content_type IS NULL THEN -1.0 ELSE coalesce(quality, 0.0) END DESC, "
    "image_bytes DESC, crop_id DESC"
)
# Numbers by which identities are sorted, ascending.
NUMBERS = {"crops": "-1.0 * count(*)", "last_seen": "max(seen_at) / -1e6"}
# The best picture is sought once for each person.
DESCRIBED = f"""
SELECT people.name AS identity, count(*) AS crops,
    min(crops.seen_at) AS first_seen, max(crops.seen_at) AS last_seen,
    {{cameras}} AS cameras,
    best.crop_id, best.content_type IS NOT NULL AS has_picture
FROM people
JOIN crops AS best ON best.gallery_id = people.gallery_id AND best.slot = (
    SELECT slot FROM crops
    WHERE crops.gallery_id = people.gallery_id AND crops.person_id = people.person_id
    {BY_PICTURE} LIMIT 1
)
JOIN crops
    ON crops.gallery_id = people.gallery_id AND crops.person_id = people.person_id
WHERE people.gallery_id = ? AND {{of_names}}
GROUP BY people.person_id, people.name, best.crop_id, best.content_type
"""


class People(RecordPart):
    """Identities with counts, pictures and times, and the merges that can be undone."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._sorted = lru_cache(HELD_ORDERS)(self._sort)

    def page(
        self,
        gallery_id: int,
        cursor: str | None,
        limit: int,
        query: str = "",
        sort: IdentityOrder = "name",
    ) -> Page[Row]:
        """Return up to `limit` identities that contain `query`, ignoring case.

        Numbers in names sort numerically. `last_seen` and `crops` sort in descending order.

        Raises:
            InvalidField: the cursor is not a position in this order.
        """
        start = _read_cursor(cursor, sort) if cursor else None
        wanted = fold(query)
        with self._database.read() as reader:
            if sort == "name":
                after = start[1:] if start else ("", "")
                positions = _find_by_name(reader, gallery_id, after, wanted, limit + 1)
            else:
                entry = read_entry(reader, gallery_id)
                ordered = self._sorted(gallery_id, sort, entry.version if entry else 0)
                later = ordered[bisect_right(ordered, start) :] if start else ordered
                positions = [position for position in later if wanted in fold(position[2])]
            people = _read_people(reader, gallery_id, [name for *_, name in positions[:limit]])
        next_cursor = None
        if len(positions) > limit:
            number, _, name = positions[limit - 1]
            next_cursor = name if sort == "name" else f"{number!r}/{name}"
        return Page(results=people, next_cursor=next_cursor)

    def get(self, gallery_id: int, identity: str) -> Row:
        """Describe an identity; raises `UnknownIdentity`."""
        with self._database.read() as reader:
            people = _read_people(reader, gallery_id, [identity])
            if not people:
                raise UnknownIdentity(require_entry(reader, gallery_id).name, identity)
        return people[0]

    def slots(self, gallery_id: int, identity: str, best: int) -> tuple[list[int], list[int]]:
        rows = self._reader.tuples(
            "SELECT slot, set_aside FROM crops JOIN people USING (gallery_id, person_id) "
            f"WHERE gallery_id = ? AND name = ? {BY_PICTURE}",
            (gallery_id, identity),
        )
        slots = [slot for slot, _ in rows]
        searchable = [slot for slot, set_aside in rows if not set_aside]
        # A person whose crops are all set aside can still be searched for by them.
        return slots, sorted((searchable or slots)[:best])

    def counts(self, gallery_id: int, names: Sequence[str]) -> dict[str, int]:
        statement = (
            "SELECT name, count(*) FROM people JOIN crops USING (person_id) "
            f"WHERE people.gallery_id = ? AND {self._reader.dialect.among('name')} "
            "GROUP BY person_id, name"
        )
        return dict(self._reader.tuples(statement, (gallery_id, names)))

    def _sort(self, gallery_id: int, sort: IdentityOrder, _version: int) -> list[Position]:
        # The version is a part of the cache's key.
        statement = (
            f"SELECT {NUMBERS[sort]} AS number, sort_key, name FROM crops "
            "JOIN people USING (person_id) WHERE crops.gallery_id = ? "
            "GROUP BY person_id, sort_key, name "
            "ORDER BY number, sort_key, name"
        )
        return self._reader.tuples(statement, (gallery_id,))

    @transactional
    def rename(
        self, transaction: Transaction, gallery_id: int, identity: str, new: str
    ) -> CropsChange:
        entry = require_entry(transaction, gallery_id)
        person = find_person(transaction, gallery_id, identity)
        if person is None:
            return CropsChange(entry.version)
        crops = transaction.tuples(
            f"SELECT slot, crop_id FROM crops {OF_PERSON}", (gallery_id, person["person_id"])
        )
        target = find_person(transaction, gallery_id, new)
        merge_id = None
        if target:
            merge_id = merge_person(transaction, person, target, len(crops), entry.version)
        else:
            transaction.change(
                "UPDATE people SET name = ?, sort_key = ? WHERE person_id = ?",
                (new, natural_order(new), person["person_id"]),
            )
        slots = [slot for slot, _ in crops]
        note_renamed(transaction, gallery_id, slots)
        version = next_version(transaction, gallery_id)
        mark_changed(transaction, gallery_id, slots, version)
        crop_ids = tuple(crop_id for _, crop_id in crops)
        return CropsChange(version, crop_ids, merge_id=merge_id)

    def merges(self, gallery_id: int) -> list[Merge]:
        rows = self._reader.execute(
            'SELECT merges.*, name AS "into", merged_at + ? AS undo_until '
            "FROM merges JOIN people ON person_id = into_person "
            "WHERE merges.gallery_id = ? AND merged_at > ? ORDER BY version DESC, merge_id DESC",
            (MERGES_KEPT_FOR // MICROSECOND, gallery_id, _compute_undo_cutoff()),
        )
        return [Merge.model_validate(row) for row in rows]

    @transactional
    def undo_merge(self, transaction: Transaction, gallery_id: int, merge_id: str) -> CropsChange:
        """Restore the former identity of the crops of a merge.

        Crops that were deleted or given a third identity since are not changed. Renaming the
        identity that they were merged into does not count as a third identity.

        Raises:
            UnknownMerge: there is no such merge, or it has expired.
        """
        entry = require_entry(transaction, gallery_id)
        merge = transaction.row(
            "merges", "WHERE gallery_id = ? AND merge_id = ?", (gallery_id, merge_id)
        )
        if merge is None or merge["merged_at"] < _compute_undo_cutoff():
            raise UnknownMerge(entry.name, merge_id)
        slots = transaction.column(
            f"SELECT slot FROM crops {OF_MERGE}", (gallery_id, merge["into_person"], merge_id)
        )
        fields = {}
        identity = merge["identity"]
        if slots:
            fields["identity"] = identity
            people = require_people(transaction, gallery_id, [identity])
            merged = {**merge, "person_id": people[identity]}
            transaction.change(RETARGET_EARLIER_MERGES, merged)
            transaction.change(
                "UPDATE merges SET restored_person = :person_id WHERE merge_id = :merge_id", merged
            )
        transaction.change("DELETE FROM merges WHERE merge_id = ?", (merge_id,))
        relabelling = relabel_crops(transaction, gallery_id, slots, fields)
        return replace(relabelling, restored_identity=identity)

    @transactional
    def remove_expired_merges(self, transaction: Transaction, gallery_id: int) -> None:
        values = (gallery_id, _compute_undo_cutoff())
        statement = "DELETE FROM merges WHERE gallery_id = ? AND merged_at < ?"
        transaction.change(statement, values)


def _read_people(reader: Reader, gallery_id: int, names: Sequence[str]) -> list[Row]:
    """Describe the people whose names exist, in the order of the names."""
    statement = DESCRIBED.format(
        cameras=reader.dialect.gathered("DISTINCT crops.camera", "crops.camera IS NOT NULL"),
        of_names=reader.dialect.among("people.name"),
    )
    people = {}
    for person in reader.execute(statement, (gallery_id, names)):
        person["cameras"].sort()
        people[person["identity"]] = person
    return [people[name] for name in names if name in people]


def _find_by_name(
    reader: Reader, gallery_id: int, after: Sequence[str], wanted: str, limit: int
) -> list[Position]:
    """Return the first people behind a position whose folded names contain a text."""
    positions: list[Position] = []
    at_once = NAMES_AT_ONCE if wanted else limit
    while len(positions) < limit:
        rows = reader.tuples(BY_NAME, (gallery_id, *after, at_once))
        positions += [(0.0, sort_key, name) for sort_key, name in rows if wanted in fold(name)]
        if len(rows) < at_once:
            break
        after = rows[-1]
    return positions[:limit]


def _read_cursor(text: str, sort: IdentityOrder) -> Position:
    match = POSITION.fullmatch(f"0/{text}" if sort == "name" else text)
    if match is None:
        raise InvalidField(
            f"cursor: {text[:40]!r} is not of sort={sort}; send next_cursor of the page "
            "before, with the same sort"
        )
    return float(match[1]), natural_order(match[2]), match[2]


def find_person(reader: Reader, gallery_id: int, identity: str) -> Row | None:
    return reader.row("people", "WHERE gallery_id = ? AND name = ?", (gallery_id, identity))


def remove_person(transaction: Transaction, person: Row) -> CropsChange:
    """Delete a person's crops, the merges that name the person, and rows that refer to it.

    Crops that were merged into another identity belong to that identity, whose merges can be
    undone.
    """
    gallery_id = person["gallery_id"]
    transaction.change(
        "DELETE FROM merges WHERE gallery_id = :gallery_id "
        "AND (identity = :name OR into_person = :person_id)",
        person,
    )
    values = (gallery_id, person["person_id"])
    slots = transaction.column(f"SELECT slot FROM crops {OF_PERSON}", values)
    return remove_crops(transaction, gallery_id, slots)


def merge_person(
    transaction: Transaction, person: Row, target: Row, crops: int, version: int
) -> str:
    """Move a person's crops to another person, recording how to undo it; return the merge's id."""
    merge_id = new_crop_id()
    gallery_id = person["gallery_id"]
    transaction.insert(
        "merges",
        {
            "merge_id": merge_id,
            "gallery_id": gallery_id,
            "identity": person["name"],
            "into_person": target["person_id"],
            "crops": crops,
            # Merges are undone by version, not by time: the clock may have been set back.
            "version": version,
            "merged_at": now_micros(),
        },
    )
    # A slice may have noted some of them, as it knows crops that were deleted.
    transaction.change(
        "INSERT INTO merged_crops (merge_id, crop_id) "
        "SELECT ?, crop_id FROM crops WHERE person_id = ? ON CONFLICT DO NOTHING",
        (merge_id, person["person_id"]),
    )
    _move_crops(transaction, person, target)
    return merge_id


def _move_crops(transaction: Transaction, person: Row, target: Row) -> None:
    ids = (target["person_id"], person["person_id"])
    transaction.change("UPDATE crops SET person_id = ? WHERE person_id = ?", ids)
    transaction.change("UPDATE merges SET into_person = ? WHERE into_person = ?", ids)
    transaction.change("DELETE FROM people WHERE person_id = ?", (person["person_id"],))
    count_people(transaction, person["gallery_id"], -1)


def _compute_undo_cutoff() -> datetime:
    return datetime.now(UTC) - MERGES_KEPT_FOR
