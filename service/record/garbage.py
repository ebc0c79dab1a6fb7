"""Keys and pictures that nothing shows any more: noted, and removed in batches later."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Literal

from pydantic_core import from_json

from service.errors import ServiceError
from service.record.engine import (
    Engine,
    Reader,
    RecordPart,
    Scan,
    Transaction,
    transact,
    transactional,
)
from service.record.entries import Generation, as_crop, read_entry, scan_crops, vector_name
from service.record.jobs import drop_job
from service.record.kept_queries import KEPT_KIND, OF_KEPT, picture_key
from service.record.keys import INDEXES, as_text, below, key, last_number, last_text, now
from service.record.records import GalleryRecord, StoredCrop

Kind = Literal["generation", "side", "gallery"]
KEYS_AT_ONCE = 1000
CROPS_AT_ONCE = 200
# Longer than any write takes from its first picture to its commit.
SETTLED = timedelta(hours=1)
SEARCH_BY_HASH = "search of"
CALIBRATION_KEYS = ("search", "searches", "published")
OF_GENERATION = (*INDEXES, "identity")
OF_GALLERY = (
    *("tombstone", "request", "change", "job of", "snapshot", "merge", "merged crops"),
    "groups",
    *("pending identity change", *CALIBRATION_KEYS, *OF_KEPT),
)


def discard(transaction: Transaction, kind: Kind, *of: int | str, not_before_ms: int = 0) -> None:
    """Notes keys to be removed; until a time on the store's clock they may still be written.

    Args:
        of: for a generation its gallery, number, how many sides there may be, and those that may
            have vectors outside; for a side its gallery, generation and number, and 1 for outside
            too; for a gallery its number.
    """
    transaction.put_json(key("garbage", kind, *of), [kind, list(of), not_before_ms])


def collect_garbage(engine: Engine) -> None:
    """Removes all keys that were discarded and are not held."""
    now_ms = engine.now_ms()
    for noted, _ in list(Reader(engine).every(below(key("garbage")))):
        while transact(engine, _remove_batch, noted, now_ms):
            pass


def _remove_batch(transaction: Transaction, noted: bytes, now_ms: int) -> bool:
    """Removes keys, which are then written no more, or at last their note; whether more is left."""
    transaction.removes = True
    found = transaction.json(noted)
    if found is None or found[2] > now_ms:
        return False
    kind, (gallery_id, *of), _, *after = found
    left: bool | list[int] = False
    at = Generation(gallery_id, of[0] if of else 0)
    if kind == "generation":
        prefixes = [at.key(name) for name in OF_GENERATION]
        left = _crops(transaction, at, *of[1:]) or _ranges(transaction, prefixes)
    elif kind == "side":
        left = after = _vectors(transaction, at, *of[1:], *after)
    elif kind == "gallery":
        prefixes = [key(name, gallery_id) for name in OF_GALLERY]
        left = _jobs(transaction, gallery_id) or _kept_pictures(transaction, gallery_id)
        left = left or _ranges(transaction, prefixes)
    if left:
        transaction.put_json(noted, [kind, [gallery_id, *of], 0, *after])
    else:
        transaction.delete(noted)
    return bool(left)


def _crops(transaction: Transaction, at: Generation, sides: int, *outside: int) -> bool:
    """Deletes crops; a damaged one too, of which only its row is known."""
    found = transaction.engine.scan([Scan(*below(at.key("crop")), CROPS_AT_ONCE)])[0]
    crops = []
    for own, value in found:
        with contextlib.suppress(ServiceError):
            crops.append(as_crop(transaction.body(own, value) or b""))
    note_outside(transaction, at.gallery_id, crops, outside)
    transaction.delete(*(at.lookup("crop id", crop.crop_id) for crop in crops))
    for own, _ in found:
        row = last_number(own)
        transaction.delete(own, at.lookup("picture", row))
        transaction.delete(*(at.lookup("vector", side, row) for side in range(sides)))
    return bool(found)


def _vectors(
    transaction: Transaction, at: Generation, side: int, outside: int, after_row: int = 0
) -> list[int]:
    """Deletes a side's vectors in the order of their rows; the last row, or none at the end."""
    crops = scan_crops(transaction, at, after_row, KEYS_AT_ONCE)
    names = [vector_name(crop.crop_id, side) for crop in crops] if outside else []
    note_strays(transaction, at.gallery_id, names, now())
    transaction.delete(*(at.lookup("vector", side, crop.row_id) for crop in crops))
    return [crop.row_id for crop in crops[-1:]]


def sides_outside(reader: Reader, entry: GalleryRecord) -> list[int]:
    """The sides that may have vectors outside the record, also those that are being removed."""
    sides = set(entry.outside_sides)
    if entry.outside:
        for _, body in reader.below(key("garbage", "side", entry.gallery_id, entry.at)):
            _, (_, _, side, outside), *_ = from_json(body)
            sides |= {side} if outside else set()
    return sorted(sides)


def _jobs(transaction: Transaction, gallery_id: int) -> bool:
    found = transaction.below(key("job of", gallery_id), 10)
    transaction.delete(*(own for own, _ in found))
    for _, body in found:
        drop_job(transaction, from_json(body))
    return bool(found)


def _kept_pictures(transaction: Transaction, gallery_id: int) -> bool:
    """Deletes kept searches with their pictures; damaged ones too."""
    prefix = key(KEPT_KIND, gallery_id)
    found = transaction.engine.scan([Scan(*below(prefix), CROPS_AT_ONCE)])[0]
    for own, _ in found:
        transaction.delete(own, picture_key(gallery_id, last_text(own, prefix)))
    return bool(found)


def _ranges(transaction: Transaction, prefixes: list[bytes]) -> bool:
    found = next(filter(None, (transaction.below(one, KEYS_AT_ONCE) for one in prefixes)), [])
    transaction.delete(*(own for own, _ in found))
    return bool(found)


class StrayFiles(RecordPart):
    """Pictures and vectors outside the record that belong to no crop any more, or to none yet."""

    @transactional
    def expect(
        self, transaction: Transaction, gallery_id: int, names: Sequence[str], until: datetime
    ) -> None:
        """Notes files that are about to be kept: strays if no crop lands by then."""
        note_strays(transaction, gallery_id, names, as_text(until))

    def all(self, now: datetime, limit: int) -> list[tuple[int, str]]:
        """Up to `limit` galleries and names of files of no crop, and of none that may land.

        A restore may have brought the crop of one back.
        """
        prefix = key("stray")
        moment = as_text(now)
        old = (own for own, body in self._reader.every(below(prefix)) if from_json(body) <= moment)
        parts = (own[len(prefix) :].decode().split("\0") for own in itertools.islice(old, limit))
        return [(int(gallery_id, 16), name) for gallery_id, name, _ in parts]

    def sides(self, gallery_id: int) -> list[int]:
        """The sides of a gallery that may have vectors outside; none where it was deleted."""
        entry = read_entry(self._reader, gallery_id)
        return sides_outside(self._reader, entry) if entry else []

    @transactional
    def forget(self, transaction: Transaction, gallery_id: int, names: Sequence[str]) -> None:
        """Notes that these are gone, or belong to a crop."""
        forget_strays(transaction, gallery_id, names)


def note_strays(
    transaction: Transaction, gallery_id: int, names: Sequence[str], moment: str
) -> None:
    """Notes files that can be removed from a moment on."""
    for name in names:
        transaction.put_json(key("stray", gallery_id, name), moment)


def note_outside(
    transaction: Transaction, gallery_id: int, crops: Collection[StoredCrop], sides: Sequence[int]
) -> None:
    """Notes what lies outside of crops about to be removed: pictures, and vectors of sides."""
    names = [crop.crop_id for crop in crops if crop.elsewhere]
    names += [vector_name(crop.crop_id, side) for crop in crops for side in sides]
    note_strays(transaction, gallery_id, names, now())


def forget_strays(transaction: Transaction, gallery_id: int, names: Iterable[str]) -> None:
    """Notes that files are gone, or belong to a crop now."""
    transaction.delete(*(key("stray", gallery_id, name) for name in names))
