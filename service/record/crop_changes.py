"""Changes of a gallery's crops, and the counts that follow from them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from service.record import archives, strays
from service.record.crop_entries import (
    Generation,
    Sightings,
    live_pins,
    put_crop,
    put_record,
    read_crops,
)
from service.record.encoding import key
from service.record.engine import Transaction, as_data
from service.record.gallery_entries import Entry, raise_version
from service.record.records import NewCrop, Relabelling, StoredCrop
from service.record.stored_values import new_crop_id, now, vector_bytes


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

    def insert(self, crop: NewCrop) -> StoredCrop:
        """Puts a new crop under a new row; answers its record."""
        crop_id = crop.crop_id or new_crop_id()
        if crop.picture_elsewhere:
            strays.forget(self.transaction, [crop_id])
        picture = crop.picture.content if crop.picture and not crop.picture_elsewhere else None
        return self.put(record_of(crop, crop_id), vector_bytes(crop.vector), picture)

    def put(self, crop: StoredCrop, vector: bytes, picture: bytes | None) -> StoredCrop:
        """Puts a crop's record and contents under a new row; answers the record with it."""
        self.entry.rows += 1
        crop = replace(crop, row_id=self.entry.rows, inside=picture is not None, changes=0)
        put_crop(self.transaction, self.at, self.entry.side, crop, vector, picture)
        self._count(crop, 1)
        return crop

    def remove(self, rows: Sequence[int]) -> dict[int, StoredCrop]:
        """Takes out those of these crops that are there; answers them."""
        crops = read_crops(self.transaction, self.at, rows)
        pins = live_pins(self.transaction, self.at)
        strays.note_elsewhere(self.transaction, self.entry.gallery_id, crops.values(), now())
        staged = self._staged(list(crops))
        for row, crop in crops.items():
            read = archives.keep_for(self.transaction, self.at, pins, crop)
            drop_crop(self.transaction, self.at, crop)
            sides = (side for side in range(self.entry.sides) if side not in read)
            self.transaction.delete(*(self.at.vector(side, row) for side in sides))
            if not read:
                self.transaction.delete(self.at.picture(row))
            if row in staged:
                self.transaction.delete(staged[row])
                self.entry.staged_crops -= 1
            self._count(crop, -1)
        return crops

    def update(self, crops: Iterable[StoredCrop], **fields: Any) -> list[StoredCrop]:
        """Changes fields of crops; answers these as they are then."""
        pins = live_pins(self.transaction, self.at)
        changed = []
        for crop in crops:
            archives.keep_for(self.transaction, self.at, pins, crop)
            self._count(crop, -1)
            self.transaction.delete(*self.at.found_by(crop))
            new = replace(crop, **fields, changes=crop.changes + 1)
            put_record(self.transaction, self.at, new)
            self._count(new, 1)
            changed.append(new)
        return changed

    def finish_relabelling(
        self, changed: Sequence[StoredCrop], merge_id: str | None = None
    ) -> Relabelling:
        """Finishes a change of labels alone, and announces it; the old labels leave the log."""
        self.transaction.commit.removes = True
        version = self.finish()
        rows = [crop.row_id for crop in changed]
        self.transaction.note("relabelled", self.entry.gallery_id, version, rows)
        return Relabelling(version, tuple(crop.label for crop in changed), merge_id)

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

    def _count(self, crop: StoredCrop, by: int) -> None:
        self.entry.crops += by
        self.entry.image_bytes += by * crop.image_bytes
        identity, camera = crop.identity, crop.camera
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


def record_of(crop: NewCrop, crop_id: str) -> StoredCrop:
    """What is kept of a new crop, before it has a row."""
    picture = crop.picture
    return StoredCrop(
        row_id=0,
        crop_id=crop_id,
        identity=crop.identity,
        camera=crop.camera,
        captured_at=crop.captured_at,
        external_id=crop.external_id,
        metadata=None if crop.metadata is None else dict(crop.metadata),
        sha256=crop.sha256,
        content_type=picture.content_type if picture else None,
        image_bytes=len(picture.content) if picture else 0,
        created_at=crop.created_at or datetime.now(UTC),
    )


def drop_crop(transaction: Transaction, at: Generation, crop: StoredCrop) -> None:
    """Deletes a crop's record and the keys that it is found by."""
    transaction.delete(at.crop(crop.row_id), at.crop_id(crop.crop_id), *at.found_by(crop))


def tombstone(gallery_id: int, crop_id: str) -> bytes:
    """The key under which it is kept that a crop was removed for good."""
    return key("tombstone", gallery_id, crop_id)
