"""Identities in the record: counted with every change of a crop, listed in a natural order.

And groups of crops without a name that may each be of one person, as the last job found them.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from itertools import islice

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass as stored_dataclass
from pydantic_core import from_json

from gmn_client.models import IdentityOrder as Order
from service.errors import InvalidField
from service.record.engine import Engine, Reader, RecordPart, Transaction, transactional
from service.record.entries import (
    Generation,
    Sightings,
    find_generation,
    picture_rank,
    read_crops,
    read_entry,
    require_entry,
    rows_by,
    see,
    seen_at,
)
from service.record.kept_queries import KeptQuery, find_shown
from service.record.keys import key
from service.record.records import StoredCrop

# What sorts an identity: a number, then its name in natural order, then the name itself.
Place = tuple[float, str, str]
NUMBER = re.compile(r"0*([0-9]+)")
PLACE = re.compile(r"(inf|-?[0-9]+(?:\.[0-9]+)?(?:e-[0-9]+)?)/(.+)", re.DOTALL)
CROPS_AT_ONCE = 500
# Orders of so many galleries are held, each of as many names as its gallery has.
HELD_ORDERS = 2
# More identities whose last time is not known are not looked up for an order.
MOST_LOOKED_UP = 500


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
    """What a job found. Of crops it has row numbers alone, which name nothing once they are gone.

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

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self._sorted = lru_cache(HELD_ORDERS)(self._sort)

    def names(self, gallery_id: int) -> list[str]:
        """The names of all identities."""
        at = find_generation(self._reader, gallery_id)
        return [name for name, _ in self._reader.named(at.key("identity"))]

    def page(
        self, gallery_id: int, after: str, limit: int, query: str = "", sort: Order = "name"
    ) -> list[Person]:
        """Up to `limit` identities beyond a place that contain `query`, in any case.

        Numbers in names sort as numbers. `last_seen` and `crops` begin with the highest.

        Raises:
            InvalidField: `after` is no place of this order.
        """
        at, places = self._order(gallery_id, sort)
        start = bisect_right(places, _read_place(after, sort)) if after else 0
        wanted = query.casefold()
        matching = (one for one in islice(places, start, None) if wanted in one[2].casefold())
        found: list[Person] = []
        while some := list(islice(matching, limit - len(found))):
            # Another thread may have removed some since.
            there = _read_seen(self._reader, at, [name for *_, name in some])
            for number, _, name in some:
                if name in there and (person := self._person(at, name, there[name])):
                    place = name if sort == "name" else f"{number!r}/{name}"
                    found.append(replace(person, place=place))
        return found

    def get(
        self, gallery_id: int, identity: str
    ) -> tuple[Person, datetime, list[KeptQuery]] | None:
        """Read an identity, when it was first seen, and the kept searches that show it.

        Returns:
            None where no crop bears it.
        """
        at = find_generation(self._reader, gallery_id)
        seen = _read_seen(self._reader, at, [identity]).get(identity)
        person = self._person(at, identity, seen) if seen else None
        crops = list(_crops(self._reader, at, identity))
        if person is None or not crops:
            return None
        shown = find_shown(self._reader, gallery_id, [crop.crop_id for crop in crops])
        return person, min(seen_at(crop) for crop in crops), shown

    def rows(self, gallery_id: int, identity: str, best: int) -> tuple[list[int], list[int]]:
        """The rows of an identity's crops, and of so many of them with the best pictures."""
        at = find_generation(self._reader, gallery_id)
        crops = sorted(_crops(self._reader, at, identity), key=picture_rank, reverse=True)
        rows = [crop.row_id for crop in crops]
        return rows, sorted(rows[:best])

    def counts(self, gallery_id: int, names: Sequence[str]) -> dict[str, int]:
        """The numbers of crops of those of these identities that are there."""
        at = find_generation(self._reader, gallery_id)
        found = _read_seen(self._reader, at, names)
        return {name: seen["crops"] for name, seen in found.items()}

    def incomplete(self, gallery_id: int) -> list[str]:
        """Identities whose last time and best picture are not kept.

        An earlier program kept none, and the crop that they were of may have been removed.
        """
        at = find_generation(self._reader, gallery_id)
        found = self._reader.named(at.key("identity"))
        return [name for name, body in found if "last" not in from_json(body)]

    @transactional
    def complete(self, transaction: Transaction, gallery_id: int, names: Sequence[str]) -> None:
        """Keeps the last time and the best picture of identities; the version stays as it is."""
        at = Generation.searched(require_entry(transaction, gallery_id))
        for name, seen in _read_seen(transaction, at, names).items():
            if known := _complete(transaction, at, name, seen):
                transaction.put_json(at.key("identity", name), known)

    def _order(self, gallery_id: int, sort: Order) -> tuple[Generation, list[Place]]:
        """Every identity in order, as of the gallery's version."""
        entry = read_entry(self._reader, gallery_id)
        at = Generation.searched(entry) if entry else find_generation(self._reader, gallery_id)
        return at, self._sorted(at, sort, entry.version if entry else 0)

    def _sort(self, at: Generation, sort: Order, _version: int) -> list[Place]:
        looked_up = 0
        places = []
        for name, body in self._reader.named(at.key("identity")):
            number = 0.0
            if sort == "crops":
                number = -float(from_json(body)["crops"])
            elif sort == "last_seen":
                seen: Sightings | None = from_json(body)
                if seen and "last" not in seen and looked_up < MOST_LOOKED_UP:
                    looked_up += 1
                    seen = _complete(self._reader, at, name, seen)
                last = seen and seen.get("last")
                number = -datetime.fromisoformat(last).timestamp() if last else float("inf")
            places.append((number, _natural(name), name))
        return sorted(places)

    def _person(self, at: Generation, name: str, seen: Sightings) -> Person | None:
        known = _complete(self._reader, at, name, seen)
        if known is None:
            return None
        quality, _, crop_id = known["best"]
        cameras = sorted(known["cameras"])
        last = datetime.fromisoformat(known["last"])
        return Person(name, known["crops"], cameras, crop_id, quality >= 0.0, last)


class Groups(RecordPart):
    """The last grouping of each gallery; a gallery's deletion removes it."""

    @transactional
    def put(self, transaction: Transaction, gallery_id: int, grouping: Grouping) -> None:
        """Keeps a grouping in the place of the former; raises `UnknownGallery`."""
        require_entry(transaction, gallery_id)
        transaction.put_json(key("groups", gallery_id), grouping)

    def get(self, gallery_id: int) -> tuple[Grouping | None, Mapping[int, StoredCrop]]:
        """The last grouping, and those of its crops, by row, that are there without a name."""
        found = self._reader.json(key("groups", gallery_id))
        if found is None:
            return None, {}
        grouping = GROUPING.validate_python(found)
        at = find_generation(self._reader, gallery_id)
        rows = [row for group, _ in grouping.groups for row in group]
        crops = read_crops(self._reader, at, rows)
        return grouping, {row: crop for row, crop in crops.items() if crop.identity is None}


def _crops(reader: Reader, at: Generation, identity: str) -> Iterator[StoredCrop]:
    after = 0
    while rows := rows_by(reader, at, "identity", identity, after, CROPS_AT_ONCE):
        yield from read_crops(reader, at, rows).values()
        after = rows[-1]


def _read_seen(reader: Reader, at: Generation, names: Sequence[str]) -> dict[str, Sightings]:
    """What is kept of those of these identities that are there."""
    bodies = reader.get([at.key("identity", name) for name in names])
    return {name: from_json(body) for name, body in zip(names, bodies, strict=True) if body}


def _complete(reader: Reader, at: Generation, name: str, seen: Sightings) -> Sightings | None:
    """An identity with its last time and best picture; None where its crops are gone."""
    if "last" in seen:
        return seen
    known: Sightings = {"crops": seen["crops"], "cameras": seen["cameras"]}
    for crop in _crops(reader, at, name):
        see(known, crop)
    return known if "last" in known else None


def _natural(name: str) -> str:
    """What sorts as a name does to people: 7 before 10, and in any case."""
    return NUMBER.sub(lambda found: f"{len(found[1]):03}{found[1]}", name.casefold())


def _read_place(text: str, sort: Order) -> Place:
    found = PLACE.fullmatch(f"0/{text}" if sort == "name" else text)
    if found is None:
        raise InvalidField(
            f"cursor: {text[:40]!r} is none of sort={sort}; send next_cursor of the page before, "
            "with the same sort"
        )
    return float(found[1]), _natural(found[2]), found[2]
