"""Changes of a gallery's crops, and the counts that follow from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from service.record import archives, strays
from service.record.crop_entries import (
    CropEntry,
    Generation,
    Sightings,
    label,
    live_pins,
    new_entry_of,
    put_crop,
    put_entry_of,
    read_crops,
)
from service.record.crop_ids import new_crop_id
from service.record.encoding import key
from service.record.engine import Transaction, as_data
from service.record.gallery_entries import Entry, raise_version
from service.record.records import CropLabel, NewCrop
from service.record.stored_values import now, vector_bytes


@dataclass
class CropChanges:
    """Changes of a gallery's crops within a transaction, with the counts that follow from them."""

    transaction: Transaction
    entry: Entry
    sightings: dict[str, Sightings] = field(default_factory=dict)

    @property
    def at(self) -> Generation:
        """Where the crops lie."""
        return Generation.searched(self.entry)

    def insert(self, crop: NewCrop) -> tuple[int, CropEntry]:
        """Puts a new crop under a new row; answers both."""
        entry = new_entry_of(crop, crop.crop_id or new_crop_id())
        picture = crop.picture.content if crop.picture and not crop.picture_elsewhere else None
        if crop.picture_elsewhere:
            strays.forget(self.transaction, [entry["crop_id"]])
        return self.put(entry, vector_bytes(crop.vector), picture), entry

    def put(self, entry: CropEntry, vector: bytes, picture: bytes | None) -> int:
        """Puts a crop under a new row, which it answers."""
        self.entry.rows += 1
        contents = vector, picture
        put_crop(self.transaction, self.at, self.entry.side, self.entry.rows, entry, contents)
        self._count(entry, 1)
        return self.entry.rows

    def remove(self, rows: Sequence[int]) -> dict[int, CropEntry]:
        """Takes out those of these crops that are there; answers them."""
        crops = read_crops(self.transaction, self.at, rows)
        pins = live_pins(self.transaction, self.at)
        strays.note_elsewhere(self.transaction, self.entry.gallery_id, crops.values(), now())
        staged = self._staged(list(crops))
        for row, crop in crops.items():
            read = archives.keep_for(self.transaction, self.at, pins, row, crop)
            drop_crop(self.transaction, self.at, row, crop)
            sides = (side for side in range(self.entry.sides) if side not in read)
            self.transaction.delete(*(self.at.vector(side, row) for side in sides))
            if not read:
                self.transaction.delete(self.at.picture(row))
            if row in staged:
                self.transaction.delete(staged[row])
                self.entry.staged_crops -= 1
            self._count(crop, -1)
        return crops

    def update(self, crops: Mapping[int, CropEntry], **fields: Any) -> tuple[CropLabel, ...]:
        """Changes what is known of crops, by row; answers their new labels."""
        pins = live_pins(self.transaction, self.at)
        for row, crop in crops.items():
            archives.keep_for(self.transaction, self.at, pins, row, crop)
            self._count(crop, -1)
            self.transaction.delete(*self.at.found_by(row, crop))
            crop.update(fields)  # type: ignore[typeddict-item]
            crop["changes"] += 1
            for found_by in self.at.found_by(row, crop):
                self.transaction.put_index(found_by)
            put_entry_of(self.transaction, self.at, row, crop)
            self._count(crop, 1)
        return tuple(label(row, crop) for row, crop in crops.items())

    def finish(self) -> int:
        """Puts the counts and the gallery's next version, which it answers."""
        self.put_sightings()
        return raise_version(self.transaction, self.entry)

    def put_sightings(self) -> None:
        """Puts the counts of identities."""
        for identity, seen in self.sightings.items():
            if seen["crops"]:
                self.transaction.put_json(self.at.sightings(identity), seen)
            else:
                self.transaction.delete(self.at.sightings(identity))

    def _count(self, crop: CropEntry, by: int) -> None:
        self.entry.crops += by
        self.entry.image_bytes += by * crop["image_bytes"]
        identity, camera = crop["identity"], crop["camera"]
        if identity is None:
            return
        if identity not in self.sightings:
            (body,) = self.transaction.get([self.at.sightings(identity)])
            known: Sightings | None = as_data(body)
            self.sightings[identity] = known or {"crops": 0, "cameras": {}}
        seen = self.sightings[identity]
        before = seen["crops"]
        seen["crops"] += by
        self.entry.identities += (seen["crops"] > 0) - (before > 0)
        if camera is not None:
            seen["cameras"][camera] = seen["cameras"].get(camera, 0) + by
            if not seen["cameras"][camera]:
                del seen["cameras"][camera]

    def _staged(self, rows: Sequence[int]) -> dict[int, bytes]:
        side = self.entry.staged_side
        if side is None:
            return {}
        keys = {row: self.at.key("staged", side, row) for row in rows}
        found = self.transaction.get(list(keys.values()))
        return {row: keys[row] for row, there in zip(rows, found, strict=True) if there is not None}


def drop_crop(transaction: Transaction, at: Generation, row: int, crop: CropEntry) -> None:
    """Deletes a crop's entry and what finds it."""
    transaction.delete(at.crop(row), at.crop_id(crop["crop_id"]), *at.found_by(row, crop))


def tombstone(gallery_id: int, crop_id: str) -> bytes:
    """The key under which it is kept that a crop was removed for good."""
    return key("tombstone", gallery_id, crop_id)
