"""Identities in natural order, and groups of unnamed crops that may each show one person."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass as stored_dataclass
from pydantic_core import to_json

from gmn_client.models import IdentityOrder
from service.errors import InvalidField
from service.record.crop_rows import read_by_slot
from service.record.database import Database, RecordPart, transactional
from service.record.desk import find_shown
from service.record.galleries import read_entry, require_entry
from service.record.schema import GROUPS, PEOPLE, as_moment, natural_order
from service.record.transaction import Reader, Transaction
from service.record.values import StoredCrop

# Position of an identity in an order: a number, the name's sort key, and the name.
Place = tuple[float, str, str]
PLACE = re.compile(r"(inf|-?[0-9]+(?:\.[0-9]+)?(?:e-[0-9]+)?)/(.+)", re.DOTALL)
# Number of galleries whose order by crops or time is cached, with all names.
HELD_ORDERS = 2
NAMES_AT_ONCE = 500
# Best picture first: by quality, then size; crops without a picture come last.
BY_PICTURE = (
    "ORDER BY CASE WHEN content_type IS NULL THEN -1.0 ELSE coalesce(quality, 0.0) END DESC, "
    "image_bytes DESC, crop_id DESC"
)
NUMBERS = {"crops": "count(*)", "last_seen": "max(seen_at) / 1e6"}


@dataclass(frozen=True)
class Person:
    """An identity and its crops.

    Attributes:
        cameras: names of the cameras that captured the crops.
        crop_id: the crop with the best picture.
        pictured: this picture is stored.
        last_seen: latest capture of any crop, or enrollment where the capture time is unknown.
        place: position in the requested order, which can serve as a cursor.
    """

    identity: str
    crops: int
    cameras: Sequence[str]
    crop_id: str
    pictured: bool
    last_seen: datetime
    place: str = ""


@stored_dataclass(frozen=True)
class Grouping:
    """The groups that a job found. Crops are row numbers, which name nobody once deleted.

    Attributes:
        version: version of the gallery when its crops were read.
        groups: rows of each group, and the probability of its mean score.
        single: number of crops in no group.
    """

    job_id: str
    created_at: datetime
    version: int
    groups: list[tuple[list[int], float]]
    single: int


GROUPING = TypeAdapter(Grouping)


class People(RecordPart):
    """Identities with counts, pictures and times."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._sorted = lru_cache(HELD_ORDERS)(self._sort)

    def names(self, gallery_id: int) -> list[str]:
        rows = self._reader.rows(PEOPLE, "WHERE gallery_id = ? ORDER BY name", (gallery_id,))
        return [row["name"] for row in rows]

    def page(
        self,
        gallery_id: int,
        after: str,
        limit: int,
        query: str = "",
        sort: IdentityOrder = "name",
    ) -> list[Person]:
        """Return up to `limit` identities after a position that contain `query`, ignoring case.

        Numbers in names sort numerically. `last_seen` and `crops` sort in descending order.

        Raises:
            InvalidField: `after` is not a position in this order.
        """
        start = _read_place(after, sort) if after else None
        wanted = query.casefold()
        with self._database.read() as reader:
            if sort == "name":
                places = _find_names(reader, gallery_id, start, limit, wanted)
            else:
                entry = read_entry(reader, gallery_id)
                ordered = self._sorted(gallery_id, sort, entry.version if entry else 0)
                later = ordered[bisect_right(ordered, start) :] if start else ordered
                places = [place for place in later if wanted in place[2].casefold()][:limit]
            people = _read_people(reader, gallery_id, [name for *_, name in places])
        positions = {
            name: name if sort == "name" else f"{number!r}/{name}" for number, _, name in places
        }
        return [_as_person(row, positions[row["identity"]]) for row in people]

    def get(
        self, gallery_id: int, identity: str
    ) -> tuple[Person, datetime, dict[str, list[str]]] | None:
        """Return an identity, when it was first seen, and the cases of each search that shows it.

        Returns:
            None if no crop has this identity.
        """
        with self._database.read() as reader:
            people = _read_people(reader, gallery_id, [identity])
            if not people:
                return None
            statement = (
                "SELECT crop_id FROM crops WHERE gallery_id = ? AND person_id = "
                "(SELECT person_id FROM people WHERE gallery_id = ? AND name = ?)"
            )
            crops = reader.execute(statement, (gallery_id, gallery_id, identity))
            searches = find_shown(reader, [crop_id for (crop_id,) in crops])
        return _as_person(people[0]), as_moment(people[0]["first_seen"]), searches

    def rows(self, gallery_id: int, identity: str, best: int) -> tuple[list[int], list[int]]:
        statement = (
            "SELECT slot FROM crops WHERE gallery_id = ? AND person_id = "
            f"(SELECT person_id FROM people WHERE gallery_id = ? AND name = ?) {BY_PICTURE}"
        )
        values = (gallery_id, gallery_id, identity)
        slots = [slot for (slot,) in self._reader.execute(statement, values)]
        return slots, sorted(slots[:best])

    def counts(self, gallery_id: int, names: Sequence[str]) -> dict[str, int]:
        people = _read_people(self._reader, gallery_id, names)
        return {row["identity"]: row["crops"] for row in people}

    def _sort(self, gallery_id: int, sort: IdentityOrder, _version: int) -> list[Place]:
        statement = (
            f"SELECT -({NUMBERS[sort]}), sort_key, name FROM crops JOIN people USING (person_id) "
            "WHERE crops.gallery_id = ? GROUP BY person_id"
        )
        return sorted(
            (float(number), sort_key, name)
            for number, sort_key, name in self._reader.execute(statement, (gallery_id,))
        )


class Groups(RecordPart):
    """The latest grouping of each gallery; deleted together with the gallery."""

    @transactional
    def put(self, transaction: Transaction, gallery_id: int, grouping: Grouping) -> None:
        """Store a grouping in place of the previous one; raises `UnknownGallery`."""
        require_entry(transaction, gallery_id)
        row = {"gallery_id": gallery_id, "grouping": to_json(grouping).decode()}
        transaction.insert(GROUPS, row, instead=True)

    def get(self, gallery_id: int) -> tuple[Grouping | None, Mapping[int, StoredCrop]]:
        """Return the latest grouping, and its crops that are still unnamed, by slot."""
        row = self._reader.row(GROUPS, "WHERE gallery_id = ?", (gallery_id,))
        if row is None:
            return None, {}
        grouping = GROUPING.validate_json(row["grouping"])
        slots = [slot for group, _ in grouping.groups for slot in group]
        crops = read_by_slot(self._reader, gallery_id, slots)
        return grouping, {crop.row_id: crop for crop in crops if crop.identity is None}


def _find_names(
    reader: Reader, gallery_id: int, start: Place | None, limit: int, wanted: str
) -> list[Place]:
    matching: list[Place] = []
    after = start[1:] if start else ("", "")
    clauses = (
        "WHERE gallery_id = ? AND (sort_key, name) > (?, ?) ORDER BY sort_key, name "
        f"LIMIT {NAMES_AT_ONCE}"
    )
    while rows := reader.rows(PEOPLE, clauses, (gallery_id, *after)):
        places = [(0.0, row["sort_key"], row["name"]) for row in rows]
        matching += [place for place in places if wanted in place[2].casefold()]
        if len(matching) >= limit:
            break
        after = places[-1][1:]
    return matching[:limit]


def _read_people(reader: Reader, gallery_id: int, names: Sequence[str]) -> list[dict[str, Any]]:
    statement = (
        "SELECT name AS identity, person_id, count(*) AS crops, min(seen_at) AS first_seen, "
        "max(seen_at) AS last_seen FROM people JOIN crops USING (gallery_id, person_id) "
        "WHERE gallery_id = ? AND name = ? GROUP BY person_id"
    )
    cameras = (
        "SELECT DISTINCT camera FROM crops WHERE gallery_id = ? AND person_id = ? "
        "AND camera IS NOT NULL ORDER BY camera"
    )
    best = (
        "SELECT crop_id, content_type FROM crops WHERE gallery_id = ? AND person_id = ? "
        f"{BY_PICTURE} LIMIT 1"
    )
    people = []
    for name in names:
        for row in reader.execute(statement, (gallery_id, name)):
            person = (gallery_id, row["person_id"])
            ((crop_id, content_type),) = reader.execute(best, person)
            seen_by = [camera for (camera,) in reader.execute(cameras, person)]
            pictured = content_type is not None
            people.append({**row, "cameras": seen_by, "crop_id": crop_id, "pictured": pictured})
    return people


def _as_person(row: Mapping[str, Any], place: str = "") -> Person:
    return Person(
        identity=row["identity"],
        crops=row["crops"],
        cameras=row["cameras"],
        crop_id=row["crop_id"],
        pictured=row["pictured"],
        last_seen=as_moment(row["last_seen"]),
        place=place,
    )


def _read_place(text: str, sort: IdentityOrder) -> Place:
    match = PLACE.fullmatch(f"0/{text}" if sort == "name" else text)
    if match is None:
        raise InvalidField(
            f"cursor: {text[:40]!r} is not of sort={sort}; send next_cursor of the page "
            "before, with the same sort"
        )
    return float(match[1]), natural_order(match[2]), match[2]
