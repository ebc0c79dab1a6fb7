"""What is kept of a crop: its entry, vector and picture, and the keys that it is found by.

A gallery's crops lie in a generation; a row number is given out once in a gallery.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypedDict, cast

import numpy as np

from service.record.encoding import above, below, key, last_number, lookup_key
from service.record.engine import ALL, Reader, Scan, Transaction, as_data
from service.record.gallery_entries import Entry, read_entry
from service.record.records import (
    ArchivedCrop,
    CropLabel,
    IndexedCrop,
    NewCrop,
    Picture,
    StoredCrop,
)
from service.record.stored_values import as_text, as_time, now

# More than are ever read at once.
ARCHIVES = 1000
FOUND_BY = ("sha256", "identity", "camera", "external_id")


class CropEntry(TypedDict):
    """A crop as it is kept; times as ISO 8601 texts.

    Attributes:
        inside: a picture of it is kept here; one with a `content_type` may be kept elsewhere.
        changes: how often the entry was written anew. It stands beside the crop's row number too,
            so that an entry whose last change is lost is found out.
    """

    crop_id: str
    sha256: str
    identity: str | None
    camera: str | None
    captured_at: str | None
    external_id: str | None
    metadata: Mapping[str, Any] | None
    content_type: str | None
    image_bytes: int
    created_at: str
    inside: bool
    changes: int


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

    def found_by(self, row: int, crop: CropEntry) -> Iterator[bytes]:
        """The keys without values that a crop is found by."""
        for name in FOUND_BY:
            if (value := cast("dict[str, Any]", crop)[name]) is not None:
                yield self.key("by", name, value, row)
        yield self.key("captured", crop["captured_at"] or crop["created_at"], row)
        yield self.key("enrolled", crop["created_at"], row)


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


@dataclass(frozen=True)
class StoredParts:
    """A crop as it is kept: its row, entry, vector's bytes and, where it is inside, picture."""

    row: int
    entry: CropEntry
    vector: bytes
    picture: bytes | None

    def archived(self) -> ArchivedCrop:
        """The crop as a snapshot keeps it."""
        return ArchivedCrop(
            stored_crop(self.row, self.entry),
            np.frombuffer(self.vector, "<f4"),
            None
            if self.picture is None
            else Picture(self.picture, self.entry["content_type"] or ""),
        )


def new_entry_of(crop: NewCrop, crop_id: str) -> CropEntry:
    """What is kept of a new crop."""
    picture = crop.picture
    return CropEntry(
        crop_id=crop_id,
        sha256=crop.sha256,
        identity=crop.identity,
        camera=crop.camera,
        captured_at=as_text(crop.captured_at) if crop.captured_at else None,
        external_id=crop.external_id,
        metadata=crop.metadata,
        content_type=picture.content_type if picture else None,
        image_bytes=len(picture.content) if picture else 0,
        created_at=as_text(crop.created_at) if crop.created_at else now(),
        inside=picture is not None and not crop.picture_elsewhere,
        changes=0,
    )


def stored_crop(row: int, crop: CropEntry) -> StoredCrop:
    """A crop's record."""
    return StoredCrop(
        row_id=row,
        crop_id=crop["crop_id"],
        identity=crop["identity"],
        camera=crop["camera"],
        captured_at=as_time(crop["captured_at"]),
        external_id=crop["external_id"],
        metadata=crop["metadata"],
        sha256=crop["sha256"],
        content_type=crop["content_type"],
        image_bytes=crop["image_bytes"],
        created_at=datetime.fromisoformat(crop["created_at"]),
    )


def label(row: int, crop: CropEntry) -> CropLabel:
    """What a ranking shows of a crop."""
    return CropLabel(
        row, crop["crop_id"], crop["identity"], crop["camera"], as_time(crop["captured_at"])
    )


def put_crop(
    transaction: Transaction,
    at: Generation,
    side: int,
    row: int,
    entry: CropEntry,
    contents: tuple[bytes, bytes | None],
) -> None:
    """Puts a crop with its vector and picture, as bytes, and the keys that it is found by."""
    vector, picture = contents
    put_entry_of(transaction, at, row, entry)
    transaction.put(at.vector(side, row), vector)
    if picture is not None:
        transaction.put(at.picture(row), picture)
    for found_by in at.found_by(row, entry):
        transaction.put_index(found_by)


def put_entry_of(transaction: Transaction, at: Generation, row: int, entry: CropEntry) -> None:
    """Puts a crop's entry, and under its id its row number and how often it was changed."""
    transaction.put_json(at.crop(row), entry)
    transaction.put_json(at.crop_id(entry["crop_id"]), (row, entry["changes"]))


def read_crops(reader: Reader, at: Generation, rows: Sequence[int]) -> dict[int, CropEntry]:
    """Those of these crops that are there, by row."""
    bodies = reader.get([at.crop(row) for row in rows])
    return {row: as_data(body) for row, body in zip(rows, bodies, strict=True) if body is not None}


def scan_crops(
    reader: Reader, at: Generation, after_row: int, limit: int
) -> list[tuple[int, CropEntry]]:
    """Up to `limit` crops with a row above `after_row`, in order."""
    found = reader.scan(Scan(*above(at.key("crop"), after_row), limit))[0]
    return [(last_number(one), as_data(body)) for one, body in found]


def require_ids(reader: Reader, at: Generation, crops: Sequence[tuple[int, CropEntry]]) -> None:
    """Raises the store's error for damage where a crop is not found by its id."""
    rows = reader.get([at.crop_id(crop["crop_id"]) for _, crop in crops])
    for (row, crop), body in zip(crops, rows, strict=True):
        if as_data(body) != [row, crop["changes"]] and _reads_again(reader, at, row, crop):
            raise reader.engine.damage(f"crop {crop['crop_id']} is not found by its crop_id")


def _reads_again(reader: Reader, at: Generation, row: int, crop: CropEntry) -> bool:
    """Whether a crop, parts of which are missing, has not been changed or removed meanwhile."""
    return as_data(reader.get([at.crop(row)])[0]) == crop


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


def indexed_crops(
    reader: Reader, at: Generation, side: int, crops: Sequence[tuple[int, CropEntry]]
) -> Iterator[IndexedCrop]:
    """Crops as an index needs them, without those that are removed meanwhile.

    Raises:
        ServiceError: a crop has no vector.
    """
    bodies = _get(reader, "vector", [at.vector(side, row) for row, _ in crops], crops)
    for (row, crop), body in zip(crops, bodies, strict=True):
        if body is not None:
            yield IndexedCrop(label(row, crop), np.frombuffer(body, "<f4"))
        elif _is_searched(reader, at, side) and _reads_again(reader, at, row, crop):
            raise reader.engine.damage(f"the vector of crop {crop['crop_id']} is gone")


def _is_searched(reader: Reader, at: Generation, side: int) -> bool:
    """Whether the vectors of a side, or those prepared there, have still to be there."""
    entry = read_entry(reader, at.gallery_id)
    if entry is None or Generation.searched(entry) != at:
        return False
    return side in (entry.side, entry.staged_side)


def picture_of(crop: CropEntry, content: bytes | None) -> Picture | None:
    """A crop's picture; None where none is kept inside."""
    return None if content is None else Picture(content, crop["content_type"] or "")


def _require_whole(
    reader: Reader, crop: CropEntry, vector: bytes | None, picture: bytes | None
) -> bytes:
    """A crop's vector, where that and its picture are there."""
    if vector is None:
        raise reader.engine.damage(f"the vector of crop {crop['crop_id']} is gone")
    if crop["inside"] and picture is None:
        raise reader.engine.damage(f"the picture of crop {crop['crop_id']} is gone")
    return vector


def read_parts(
    reader: Reader, at: Generation, side: int, crops: Sequence[tuple[int, CropEntry]]
) -> Iterator[StoredParts]:
    """Crops with their vectors and pictures.

    Raises:
        ServiceError: one of them is not what was written.
    """
    vectors = _get(reader, "vector", [at.vector(side, row) for row, _ in crops], crops)
    pictures = _get(reader, "picture", [at.picture(row) for row, _ in crops], crops)
    for (row, crop), vector, picture in zip(crops, vectors, pictures, strict=True):
        yield StoredParts(row, crop, _require_whole(reader, crop, vector, picture), picture)


def _get(
    reader: Reader, what: str, keys: Sequence[bytes], crops: Sequence[tuple[int, CropEntry]]
) -> list[bytes | None]:
    return reader.get(keys, [f"the {what} of crop {crop['crop_id']}" for _, crop in crops])


def read_picture(reader: Reader, at: Generation, row: int, crop: CropEntry) -> Picture | None:
    """A crop's picture; None where none is kept inside, or where the crop is removed meanwhile."""
    (picture,) = _get(reader, "picture", [at.picture(row)], [(row, crop)])
    if picture is not None or _reads_again(reader, at, row, crop):
        _require_whole(reader, crop, b"", picture)
    return picture_of(crop, picture)


def all_rows(at: Generation) -> tuple[bytes, bytes]:
    """The range of a generation's crops."""
    return below(at.key("crop"))
