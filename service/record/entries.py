"""What is kept of a gallery and of a crop, and the keys that they are found by.

A gallery's crops lie in a generation; a row number is given out once in a gallery.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NotRequired, TypedDict

import numpy as np
from pydantic import TypeAdapter
from pydantic_core import from_json, to_json

from service.errors import ServiceError, UnknownGallery
from service.record.engine import ALL, CHECKSUM_BYTES, Engine, Reader, Scan, Transaction, seal
from service.record.keys import LOOKUP, above, as_text, key, last_number
from service.record.records import ArchivedCrop, GalleryRecord, StoredCrop

NO_GENERATION = 2**64 - 1
READ_AT_ONCE = 200
ENTRY = TypeAdapter(GalleryRecord)
CROP = TypeAdapter(StoredCrop)


class Sightings(TypedDict):
    """How many crops an identity has, in all and by camera; when it was last seen, and where best.

    `best` is the quality, the bytes and the crop_id of the best picture. It and `last` are missing
    where they have to be looked up: an earlier program wrote it, or their crop was removed.
    """

    crops: int
    cameras: dict[str, int]
    last: NotRequired[str]
    best: NotRequired[tuple[float, int, str]]


@dataclass(frozen=True)
class Generation:
    """Where a generation of a gallery's crops lies.

    Scans find `crop` by row, `identity` by name, the keys of `found_by`, and what is staged. Looked
    up are `vector` by side and row, `picture` by row, and the row by `crop id`.
    """

    gallery_id: int
    number: int
    side: int = 0

    @classmethod
    def searched(cls, entry: GalleryRecord) -> Generation:
        """The one that is searched, with the side of its vectors."""
        return cls(entry.gallery_id, entry.at, entry.side)

    def key(self, kind: str, *parts: str | int) -> bytes:
        """A key in this generation that scans find."""
        return key(kind, self.gallery_id, self.number, *parts)

    def lookup(self, kind: str, *parts: str | int) -> bytes:
        """A key in this generation that is only looked up."""
        return LOOKUP + key(kind, self.gallery_id, self.number, *parts)

    def found_by(self, crop: StoredCrop) -> Iterator[bytes]:
        """The keys without values that a crop is found by."""
        for name in ("sha256", "identity", "camera", "external_id"):
            if (value := getattr(crop, name)) is not None:
                yield self.key("by", name, value, crop.row_id)
        yield self.key("captured", as_text(seen_at(crop)), crop.row_id)
        yield self.key("enrolled", as_text(crop.created_at), crop.row_id)


def seen_at(crop: StoredCrop) -> datetime:
    """When a crop was captured, or enrolled where that is unknown."""
    return crop.captured_at or crop.created_at


def picture_rank(crop: StoredCrop) -> tuple[float, int, str]:
    """What sorts crops by their pictures: quality, bytes, and the crop_id for equal ones.

    A picture whose quality is not known comes after those whose is, and one that is not kept last.
    """
    quality = (crop.quality or 0.0) if crop.content_type else -1.0
    return quality, crop.image_bytes, crop.crop_id


def see(seen: Sightings, crop: StoredCrop) -> None:
    """Notes one more crop of an identity: when it was last seen, and its best picture."""
    rank = picture_rank(crop)
    last = as_text(seen_at(crop))
    quality, size, crop_id = seen.get("best", rank)
    seen["best"] = max((quality, size, crop_id), rank)
    seen["last"] = max(seen.get("last", last), last)


def as_crop(body: bytes | str) -> StoredCrop:
    """A crop's record from what is kept of it."""
    return CROP.validate_json(body)


def read_crops(reader: Reader, at: Generation, rows: Sequence[int]) -> dict[int, StoredCrop]:
    """Those of these crops that are there, by row."""
    bodies = zip(rows, reader.get([at.key("crop", row) for row in rows]), strict=True)
    return {row: as_crop(body) for row, body in bodies if body is not None}


def scan_crops(reader: Reader, at: Generation, after_row: int, limit: int) -> list[StoredCrop]:
    """Up to `limit` crops with a row above `after_row`, in order."""
    found = reader.scan(Scan(*above(at.key("crop"), after_row), limit))[0]
    return [as_crop(body) for _, body in found]


def every_crop(reader: Reader, at: Generation, size: int) -> Iterator[list[StoredCrop]]:
    """All crops by row, in lists of so many."""
    row = 0
    while found := scan_crops(reader, at, row, size):
        yield found
        row = found[-1].row_id


def rows_of_ids(reader: Reader, at: Generation, crop_ids: Iterable[str]) -> list[int]:
    """The rows of those of these crops that are there."""
    found = reader.get([at.lookup("crop id", crop_id) for crop_id in dict.fromkeys(crop_ids)])
    return [from_json(body)[0] for body in found if body is not None]


def rows_by(
    reader: Reader, at: Generation, name: str, value: str, after_row: int = 0, limit: int = ALL
) -> list[int]:
    """Up to `limit` rows above `after_row` whose crops have a field's value, in order."""
    found = reader.scan(Scan(*above(at.key("by", name, value), after_row), limit))[0]
    return [last_number(own) for own, _ in found]


def read_contents(
    reader: Reader, at: Generation, crops: Sequence[StoredCrop], pictures: bool = False
) -> Iterator[ArchivedCrop]:
    """Crops with their contents, without those that are removed meanwhile.

    Args:
        pictures: also reads these, of which one outside the record may be missing, and does not
            ask whether a crop is found by its crop_id.

    Raises:
        ServiceError: a part of a crop is missing, or not what was written.
    """
    keys = [at.lookup("crop id", crop.crop_id) for crop in crops]
    keys += (at.lookup("vector", at.side, crop.row_id) for crop in crops)
    keys += (at.lookup("picture", crop.row_id) for crop in crops if pictures)
    parts = ("crop_id", "vector", "picture")
    count = len(crops)
    named = [f"the {part} of crop {crop.crop_id}" for part in parts for crop in crops]
    bodies = reader.get(keys, named)
    vectors = _with_outside(reader, at, crops, bodies[count : 2 * count])
    inside = bodies[2 * count :] or [None] * count
    elsewhere = [crop.crop_id for crop in crops if pictures and crop.elsewhere]
    outside = dict(zip(elsewhere, _read_outside(reader, at, elsewhere), strict=True))
    for crop, row, vector, picture in zip(crops, bodies, vectors, inside, strict=False):
        lost = "vector" if vector is None else ""
        if pictures and picture is None and crop.inside:
            lost = lost or "picture"
        found = pictures or row == to_json((crop.row_id, crop.changes))
        if (lost or not found) and is_still(reader, at, crop):
            if not found:
                raise reader.engine.damage(f"crop {crop.crop_id} is not found by its crop_id")
            entry = require_entry(reader, at.gallery_id)
            where = f", from GMN_IMAGES_URL too, in gallery {entry.name}" if entry.outside else ""
            raise reader.engine.damage(f"the {lost} of crop {crop.crop_id} is gone{where}")
        # One that is relabelled meanwhile too: the change that follows has the new label.
        if vector is not None and not lost:
            content = outside.get(crop.crop_id, picture)
            yield ArchivedCrop(crop, np.frombuffer(vector, "<f4"), content)


def _with_outside(
    reader: Reader, at: Generation, crops: Sequence[StoredCrop], vectors: Sequence[bytes | None]
) -> list[bytes | None]:
    """The vectors of crops, those too that are kept outside the record."""
    found = list(vectors)
    missing = [place for place, vector in enumerate(vectors) if vector is None]
    names = [vector_name(crops[place].crop_id, at.side) for place in missing]
    contents = _read_outside(reader, at, names)
    for place, name, content in zip(missing, names, contents, strict=True):
        body = content and content[CHECKSUM_BYTES:]
        if body and sealed_vector(at.gallery_id, name, body) != content:
            raise reader.engine.damage(
                f"the vector of crop {crops[place].crop_id}, {at.gallery_id}/{name} at "
                "GMN_IMAGES_URL, is not what was written"
            )
        found[place] = body
    return found


def _read_outside(reader: Reader, at: Generation, names: Sequence[str]) -> list[bytes | None]:
    """Files that are kept outside the record; None for each that is not there."""
    folder = reader.engine.outside
    if folder is None or not names:
        return [None] * len(names)
    return folder.views.wait(folder.get_all, at.gallery_id, names)


def vectors_outside(engine: Engine) -> bool:
    """Whether vectors of new crops are kept outside the record: in a file they never are."""
    return engine.outside is not None and engine.changes is not None


def vector_name(crop_id: str, side: int) -> str:
    """The name of a crop's vector outside the record, beside its picture."""
    return f"{crop_id}.{side}.f32"


def files_of(gallery_id: int, crop: ArchivedCrop, side: int | None) -> dict[str, bytes]:
    """What is kept of a crop outside the record, by name: its picture, and its vector of a side."""
    files = {}
    if crop.picture is not None:
        files[crop.record.crop_id] = crop.picture
    if side is not None:
        name = vector_name(crop.record.crop_id, side)
        files[name] = sealed_vector(gallery_id, name, np.asarray(crop.vector, "<f4").tobytes())
    return files


def sealed_vector(gallery_id: int, name: str, body: bytes) -> bytes:
    """A vector with a checksum of it and of where it lies."""
    return seal(f"{gallery_id}/{name}".encode(), body)


def is_still(reader: Reader, at: Generation, crop: StoredCrop) -> bool:
    """Whether a gallery has this crop, with a vector of this side: what is missing is damage."""
    if at != find_generation(reader, at.gallery_id):
        return False
    return read_crops(reader, at, [crop.row_id]) == {crop.row_id: crop}


def readable(
    engine: Engine, bounds: tuple[bytes, bytes]
) -> Iterator[tuple[bytes, bytes | ServiceError]]:
    """What can be read of a range: from its start on, then from its end back to what cannot."""
    reader = Reader(engine)
    (start, end) = bounds
    for reverse in (False, True):
        limit = READ_AT_ONCE
        while True:
            try:
                found = engine.scan([Scan(start, end, limit, reverse)])[0]
            except ServiceError:
                if limit == 1:
                    break
                limit = 1
                continue
            for own, value in found:
                try:
                    yield own, reader.body(own, value) or b""
                except ServiceError as error:
                    yield own, error
            if len(found) < limit:
                return
            start, end = (start, found[-1][0]) if reverse else (found[-1][0] + b"\0", end)


def find_generation(reader: Reader, gallery_id: int) -> Generation:
    """The one of a gallery that is searched; one without crops where the gallery was deleted."""
    entry = read_entry(reader, gallery_id)
    return Generation.searched(entry) if entry else Generation(gallery_id, NO_GENERATION)


def read_entry(reader: Reader, gallery_id: int) -> GalleryRecord | None:
    """A gallery's entry; None where it was deleted."""
    found = reader.json(key("gallery", gallery_id))
    return ENTRY.validate_python(found) if found else None


def require_entry(reader: Reader, gallery_id: int) -> GalleryRecord:
    """A gallery's entry; raises `UnknownGallery`, by its number, where it was deleted."""
    entry = read_entry(reader, gallery_id)
    if entry is None:
        raise UnknownGallery(str(gallery_id))
    return entry


def put_entry(transaction: Transaction, entry: GalleryRecord) -> None:
    """Puts a gallery's entry back."""
    transaction.put_json(key("gallery", entry.gallery_id), entry)
