"""Identities: listed in a natural order, and the groups of crops that may each show one person."""

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
from service.record.values import KeptQuery, StoredCrop

# An identity's place in an order: a number, then its name in natural order, then the name.
Place = tuple[float, str, str]
PLACE = re.compile(r"(inf|-?[0-9]+(?:\.[0-9]+)?(?:e-[0-9]+)?)/(.+)", re.DOTALL)
# Orders by crops and by time are held for this many galleries, each with all its names.
HELD_ORDERS = 2
NAMES_AT_ONCE = 500
# The best picture first: by its quality, then its size; crops without a picture come last.
BY_PICTURE = (
    "ORDER BY CASE WHEN content_type IS NULL THEN -1.0 ELSE coalesce(quality, 0.0) END DESC, "
    "image_bytes DESC, crop_id DESC"
)
NUMBERS = {"crops": "count(*)", "last_seen": "max(seen_at) / 1e6"}


@dataclass(frozen=True)
class Person:
    """An identity and its crops.

    Attributes:
        cameras: that took them, by name.
        crop_id: of the crop with the best picture.
        pictured: whether that picture is kept.
        last_seen: the last capture, or enrollment where that is unknown, of any of them.
        place: in the order that was asked for; where the next page begins.
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
    """The groups that a job found. Crops are row numbers, which name nothing once they are gone.

    Attributes:
        version: of the gallery when its crops were read.
        groups: rows of each group, and the probability of its mean score.
        single: how many crops are in no group.
    """

    job_id: str
    created_at: datetime
    version: int
    groups: list[tuple[list[int], float]]
    single: int


GROUPING = TypeAdapter(Grouping)


class People(RecordPart):
    """Identities with their counts, pictures and times."""

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
        """Return up to `limit` identities beyond a place that contain `query`, in any case.

        Numbers in names sort as numbers. `last_seen` and `crops` begin with the highest.

        Raises:
            InvalidField: `after` is no place of this order.
        """
        start = _read_place(after, sort) if after else None
        wanted = query.casefold()
        with self._database.read() as reader:
            if sort == "name":
                found = _named(reader, gallery_id, start, limit, wanted)
            else:
                entry = read_entry(reader, gallery_id)
                places = self._sorted(gallery_id, sort, entry.version if entry else 0)
                later = places[bisect_right(places, start) :] if start else places
                found = [place for place in later if wanted in place[2].casefold()][:limit]
            people = _read_people(reader, gallery_id, [name for *_, name in found])
        shown = {
            name: name if sort == "name" else f"{number!r}/{name}" for number, _, name in found
        }
        return [_as_person(row, shown[row["identity"]]) for row in people]

    def get(
        self, gallery_id: int, identity: str
    ) -> tuple[Person, datetime, list[KeptQuery]] | None:
        """Read an identity, when it was first seen, and the kept searches that show it.

        Returns:
            None where no crop bears it.
        """
        with self._database.read() as reader:
            people = _read_people(reader, gallery_id, [identity])
            if not people:
                return None
            asked = (
                "SELECT crop_id FROM crops WHERE gallery_id = ? AND person_id = "
                "(SELECT person_id FROM people WHERE gallery_id = ? AND name = ?)"
            )
            crops = reader.execute(asked, (gallery_id, gallery_id, identity)).fetchall()
            searches = find_shown(reader, gallery_id, [crop_id for (crop_id,) in crops])
        return _as_person(people[0]), as_moment(people[0]["first_seen"]), searches

    def rows(self, gallery_id: int, identity: str, best: int) -> tuple[list[int], list[int]]:
        asked = (
            "SELECT slot FROM crops WHERE gallery_id = ? AND person_id = "
            f"(SELECT person_id FROM people WHERE gallery_id = ? AND name = ?) {BY_PICTURE}"
        )
        found = self._reader.execute(asked, (gallery_id, gallery_id, identity))
        slots = [slot for (slot,) in found]
        return slots, sorted(slots[:best])

    def counts(self, gallery_id: int, names: Sequence[str]) -> dict[str, int]:
        people = _read_people(self._reader, gallery_id, names)
        return {row["identity"]: row["crops"] for row in people}

    def _sort(self, gallery_id: int, sort: IdentityOrder, _version: int) -> list[Place]:
        asked = (
            f"SELECT -({NUMBERS[sort]}), sort_key, name FROM crops JOIN people USING (person_id) "
            "WHERE crops.gallery_id = ? GROUP BY person_id"
        )
        found = self._reader.execute(asked, (gallery_id,))
        return sorted((float(number), sort_key, name) for number, sort_key, name in found)


class Groups(RecordPart):
    """The last grouping of each gallery; a gallery's deletion removes it."""

    @transactional
    def put(self, transaction: Transaction, gallery_id: int, grouping: Grouping) -> None:
        """Keep a grouping in the place of the former; raises `UnknownGallery`."""
        require_entry(transaction, gallery_id)
        kept = {"gallery_id": gallery_id, "grouping": to_json(grouping).decode()}
        transaction.insert(GROUPS, kept, instead=True)

    def get(self, gallery_id: int) -> tuple[Grouping | None, Mapping[int, StoredCrop]]:
        """Return the last grouping, and its crops, by slot, that are there without a name."""
        row = self._reader.row(GROUPS, "WHERE gallery_id = ?", (gallery_id,))
        if row is None:
            return None, {}
        grouping = GROUPING.validate_json(row["grouping"])
        slots = [slot for group, _ in grouping.groups for slot in group]
        crops = read_by_slot(self._reader, gallery_id, slots)
        return grouping, {crop.row_id: crop for crop in crops if crop.identity is None}


def _named(
    reader: Reader, gallery_id: int, start: Place | None, limit: int, wanted: str
) -> list[Place]:
    found: list[Place] = []
    after = start[1:] if start else ("", "")
    rest = (
        "WHERE gallery_id = ? AND (sort_key, name) > (?, ?) ORDER BY sort_key, name "
        f"LIMIT {NAMES_AT_ONCE}"
    )
    while rows := reader.rows(PEOPLE, rest, (gallery_id, *after)):
        places = [(0.0, row["sort_key"], row["name"]) for row in rows]
        found += [place for place in places if wanted in place[2].casefold()]
        if len(found) >= limit:
            break
        after = places[-1][1:]
    return found[:limit]


def _read_people(reader: Reader, gallery_id: int, names: Sequence[str]) -> list[dict[str, Any]]:
    counted = (
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
        row = reader.execute(counted, (gallery_id, name)).fetchone()
        if row is not None:
            person = (gallery_id, row["person_id"])
            crop_id, content_type = reader.execute(best, person).fetchone()
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
    found = PLACE.fullmatch(f"0/{text}" if sort == "name" else text)
    if found is None:
        raise InvalidField(
            f"cursor: {text[:40]!r} is none of sort={sort}; send next_cursor of the page before, "
            "with the same sort"
        )
    return float(found[1]), natural_order(found[2]), found[2]
