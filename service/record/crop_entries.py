"""What is kept of a crop: its entry, vector and picture, and the keys that it is found by.

A gallery's crops lie in a generation; a row number is given out once in a gallery.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from pydantic import TypeAdapter

from service.record.encoding import above, below, key, last_number, lookup_key
from service.record.engine import ALL, Reader, Scan, Transaction, as_data
from service.record.gallery_entries import Entry, entry_key
from service.record.records import ArchivedCrop, IndexedCrop, Picture, StoredCrop
from service.record.stored_values import as_text

# More than are ever read at once.
ARCHIVES = 1000
FOUND_BY = ("sha256", "identity", "camera", "external_id")


class Sightings(TypedDict):
    """How many crops an identity has, in all and by camera."""

    crops: int
    cameras: dict[str, int]


@dataclass(frozen=True)
class Generation:
    """Where a generation of a gallery's crops lies."""

    gallery_id: int
    number: int

    @classmethod
    def searched(cls, entry: Entry) -> Generation:
        """The one that is searched."""
        return cls(entry.gallery_id, entry.at)

    def key(self, kind: str, *parts: str | int) -> bytes:
        """A key in this generation that scans find."""
        return _head(kind, self.gallery_id, self.number) + key(*parts)

    def crop(self, row: int) -> bytes:
        """The key of a crop's entry."""
        return self.key("crop", row)

    def vector(self, side: int, row: int) -> bytes:
        """The key of a crop's vector."""
        return lookup_key("vector", self.gallery_id, self.number, side, row)

    def picture(self, row: int) -> bytes:
        """The key of a crop's picture."""
        return lookup_key("picture", self.gallery_id, self.number, row)

    def crop_id(self, crop_id: str) -> bytes:
        """The key of a crop's row number."""
        return lookup_key("crop id", self.gallery_id, self.number, crop_id)

    def sightings(self, identity: str) -> bytes:
        """The key of an identity's counts."""
        return self.key("identity", identity)

    def found_by(self, crop: StoredCrop) -> Iterator[bytes]:
        """The keys without values that a crop is found by."""
        for name in FOUND_BY:
            if (value := getattr(crop, name)) is not None:
                yield self.key("by", name, value, crop.row_id)
        yield self.key("captured", as_text(crop.captured_at or crop.created_at), crop.row_id)
        yield self.key("enrolled", as_text(crop.created_at), crop.row_id)


@dataclass(frozen=True)
class Pin:
    """An archive that is being read.

    Attributes:
        name: its own.
        newest: the newest row when it began.
        side: which vectors it reads.
        until_ms: when it is given up, on the store's clock.
    """

    name: str
    newest: int
    side: int
    until_ms: int


def live_pins(reader: Reader, at: Generation) -> list[Pin]:
    """The archives of a generation that are being read."""
    found = reader.scan(Scan(*below(at.key("pin")), ARCHIVES))[0]
    now_ms = reader.engine.now_ms() if found else 0
    pins = [Pin(**as_data(body)) for _, body in found]
    return [pin for pin in pins if pin.until_ms >= now_ms]


@functools.lru_cache
def _head(kind: str, gallery_id: int, number: int) -> bytes:
    return key(kind, gallery_id, number)


def put_crop(
    transaction: Transaction,
    at: Generation,
    side: int,
    crop: StoredCrop,
    vector: bytes,
    picture: bytes | None,
) -> None:
    """Puts a new crop with its vector and picture."""
    put_record(transaction, at, crop)
    transaction.put(at.vector(side, crop.row_id), vector)
    if picture is not None:
        transaction.put(at.picture(crop.row_id), picture)


def put_record(transaction: Transaction, at: Generation, crop: StoredCrop) -> None:
    """Puts a crop's record, and the keys that it is found by."""
    transaction.put_json(at.crop(crop.row_id), crop)
    transaction.put_json(at.crop_id(crop.crop_id), (crop.row_id, crop.changes))
    for found_by in at.found_by(crop):
        transaction.put_index(found_by)


def as_crop(body: bytes) -> StoredCrop:
    """A crop's record from what is kept of it."""
    return _CROP.validate_json(body)


def read_crops(reader: Reader, at: Generation, rows: Sequence[int]) -> dict[int, StoredCrop]:
    """Those of these crops that are there, by row."""
    bodies = reader.get([at.crop(row) for row in rows])
    return {row: as_crop(body) for row, body in zip(rows, bodies, strict=True) if body is not None}


def scan_crops(reader: Reader, at: Generation, after_row: int, limit: int) -> list[StoredCrop]:
    """Up to `limit` crops with a row above `after_row`, in order."""
    found = reader.scan(Scan(*above(at.key("crop"), after_row), limit))[0]
    return [as_crop(body) for _, body in found]


def rows_by(
    reader: Reader,
    at: Generation,
    name: str,
    values: Iterable[str],
    after_row: int,
    limit: int = ALL,
) -> list[list[int]]:
    """For each value of a field, up to `limit` rows above `after_row` that have it, in order."""
    prefixes = [at.key("by", name, value) for value in values]
    found = reader.scan(*(Scan(*above(prefix, after_row), limit) for prefix in prefixes))
    return [[last_number(one) for one, _ in keys] for keys in found] if prefixes else []


@dataclass(frozen=True)
class Contents:
    """A crop with the bytes of its vector and, where it is inside and wanted, its picture."""

    crop: StoredCrop
    vector: bytes
    picture: bytes | None

    def indexed(self) -> IndexedCrop:
        """The crop as the index needs it."""
        return IndexedCrop(self.crop.label, np.frombuffer(self.vector, "<f4"))

    def archived(self) -> ArchivedCrop:
        """The crop as a snapshot keeps it."""
        return ArchivedCrop(
            self.crop, np.frombuffer(self.vector, "<f4"), picture_of(self.crop, self.picture)
        )


def read_contents(
    reader: Reader,
    at: Generation,
    side: int,
    crops: Sequence[StoredCrop],
    pictures: bool = False,
    pinned: bool = False,
) -> Iterator[Contents]:
    """Crops with their contents, without those that are changed or removed meanwhile.

    Args:
        reader: of the record.
        at: where they lie.
        side: whose vectors.
        crops: as they were read.
        pictures: whether their pictures are read too.
        pinned: an archive keeps them as they were, also where they are changed or removed.

    Raises:
        ServiceError: a part of a crop is missing, or not what was written.
    """
    kinds = ("record", "crop_id", "vector", "picture")[: 4 if pictures else 3]
    keys, named = [entry_key(at.gallery_id)], ["the gallery"]
    for crop in crops:
        row = crop.row_id
        own = (at.crop(row), at.crop_id(crop.crop_id), at.vector(side, row), at.picture(row))
        keys += own[: len(kinds)]
        named += [f"the {kind} of crop {crop.crop_id}" for kind in kinds]
    # All of one moment: what is missing beside an unchanged record is damage.
    entry, *bodies = reader.get(keys, named)
    if not pinned and not _has_vectors(entry, at, side):
        return
    for place, crop in enumerate(crops):
        record, row_id, vector, *picture = bodies[place * len(kinds) :][: len(kinds)]
        if not pinned and (record is None or as_crop(record) != crop):
            continue
        if not pinned and as_data(row_id) != [crop.row_id, crop.changes]:
            raise reader.engine.damage(f"crop {crop.crop_id} is not found by its crop_id")
        if vector is None:
            raise reader.engine.damage(f"the vector of crop {crop.crop_id} is gone")
        content = picture[0] if picture else None
        if pictures and crop.inside and content is None:
            raise reader.engine.damage(f"the picture of crop {crop.crop_id} is gone")
        yield Contents(crop, vector, content)


def _has_vectors(body: bytes | None, at: Generation, side: int) -> bool:
    """Whether a gallery searches a generation, with the vectors of a side or those staged there."""
    if body is None:
        return False
    entry = Entry(**as_data(body))
    return entry.at == at.number and side in (entry.side, entry.staged_side)


def picture_of(crop: StoredCrop, content: bytes | None) -> Picture | None:
    """A crop's picture; None where none is kept inside."""
    return None if content is None else Picture(content, crop.content_type or "")


def read_picture(reader: Reader, at: Generation, crop: StoredCrop) -> Picture | None:
    """A crop's picture; None where none is kept inside, or where the crop is removed meanwhile.

    Raises:
        ServiceError: it is missing, or not what was written.
    """
    keys = [at.crop(crop.row_id), at.picture(crop.row_id)]
    record, content = reader.get(keys, ["", f"the picture of crop {crop.crop_id}"])
    if content is None and crop.inside and record is not None:
        raise reader.engine.damage(f"the picture of crop {crop.crop_id} is gone")
    return picture_of(crop, content)


def all_rows(at: Generation) -> tuple[bytes, bytes]:
    """The range of a generation's crops."""
    return below(at.key("crop"))


_CROP = TypeAdapter(StoredCrop)
