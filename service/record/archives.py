"""Whole galleries, read as they are at one moment.

An archive pins the crops that there are when it begins: one that is removed or renamed while it is
read is kept for it as it was, until it ends or its time has run out.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Sequence

from service.gallery.record_store import Archive
from service.gallery.records import ArchivedCrop
from service.problems import RecordUnavailable, ServiceProblem
from service.record.crop_entries import (
    CropEntry,
    Generation,
    picture_of,
    stored_crop,
    vector_of,
)
from service.record.encoding import below, key, last_number
from service.record.engine import Engine, Reader, Scan, Transaction, as_data, transact
from service.record.gallery_entries import (
    Entry,
    put_entry,
    read_entry,
    require_entry,
)
from service.record.garbage import collect_garbage, discard

# For how long a pin is kept between two reads.
HELD_MS = 600_000
RETRY_AFTER_S = 5
CROPS_PER_READ = 100
Pin = tuple[str, int]


def live_pins(entry: Entry, now_ms: int) -> list[Pin]:
    """The archives of the searched generation that are being read: name and newest row."""
    return [
        (name, newest)
        for name, (generation, newest, until_ms) in entry.pins.items()
        if generation == entry.at and until_ms >= now_ms
    ]


def keep_for(
    transaction: Transaction, at: Generation, pins: Sequence[Pin], row: int, crop: CropEntry
) -> bool:
    """Keeps a crop as it is for the archives that it belongs to; False where there is none."""
    wanted = [_pinned(at, name, row) for name, newest in pins if row <= newest]
    there = transaction.get(wanted)
    for own, known in zip(wanted, there, strict=True):
        if known is None:
            transaction.put_json(own, dict(crop))
    return bool(wanted)


@contextlib.contextmanager
def archive(engine: Engine, gallery_id: int) -> Iterator[Archive]:
    """The gallery as it is at this moment, whatever is written while it is read.

    Raises:
        UnknownGallery: the gallery was deleted.
    """
    name = secrets.token_hex(8)

    def begin(transaction: Transaction) -> Entry:
        entry = require_entry(transaction, gallery_id)
        entry.pins[name] = [entry.at, entry.rows, engine.now_ms() + HELD_MS]
        put_entry(transaction, entry)
        return entry

    entry = transact(engine, begin)
    try:
        crops = _pinned_crops(engine, entry, name)
        yield Archive(entry.version, entry.embedding_fingerprint, crops)
    finally:
        # Where the store does not answer, the pin is removed once its time has run out.
        with contextlib.suppress(ServiceProblem):
            unpin(engine, gallery_id, name)


def unpin(engine: Engine, gallery_id: int, name: str) -> None:
    """Ends an archive: what was kept for it alone is removed."""

    def end(transaction: Transaction) -> None:
        entry = read_entry(transaction, gallery_id)
        if entry is None or name not in entry.pins:
            return
        generation, _, _ = entry.pins.pop(name)
        put_entry(transaction, entry)
        discard(transaction, "archive", gallery_id, generation, name, entry.sides)

    transact(engine, end)
    collect_garbage(engine)


def unpin_abandoned(engine: Engine, alone: bool) -> None:
    """Ends archives whose process was killed: where no other one runs, all of them."""
    reader, now_ms = Reader(engine), engine.now_ms()
    for _, body in list(reader.every(below(key("gallery")))):
        entry = Entry(**as_data(body))
        for name, (_, _, until_ms) in entry.pins.items():
            if alone or until_ms < now_ms:
                unpin(engine, entry.gallery_id, name)


def _pinned(at: Generation, name: str, row: int) -> bytes:
    return at.key("pinned", name, row)


def _pinned_crops(engine: Engine, entry: Entry, name: str) -> Iterator[ArchivedCrop]:
    reader, at, side = Reader(engine), Generation.searched(entry), entry.side
    newest, row = entry.rows, 0
    while row < newest:
        _hold(engine, entry.gallery_id, name)
        end = min(newest, row + CROPS_PER_READ) + 1
        present, kept = reader.scan(
            Scan(at.key("crop", row + 1), at.key("crop", end), CROPS_PER_READ),
            Scan(at.key("pinned", name, row + 1), at.key("pinned", name, end), CROPS_PER_READ),
        )
        crops: dict[int, CropEntry] = {last_number(one): as_data(body) for one, body in present}
        crops |= {last_number(one): as_data(body) for one, body in kept}
        rows = sorted(crops)
        vectors = reader.get([at.vector(side, one) for one in rows])
        pictures = reader.get([at.picture(one) for one in rows])
        for one, vector, picture in zip(rows, vectors, pictures, strict=True):
            crop = crops[one]
            yield ArchivedCrop(
                stored_crop(one, crop), vector_of(reader, crop, vector), picture_of(crop, picture)
            )
        row = end - 1


def _hold(engine: Engine, gallery_id: int, name: str) -> None:
    """Renews a pin, where half of its time has passed."""

    def rule(transaction: Transaction) -> None:
        entry = require_entry(transaction, gallery_id)
        now_ms = engine.now_ms()
        until_ms = entry.pins.get(name, [0, 0, 0])[2]
        if until_ms < now_ms:
            raise RecordUnavailable(
                f"the copy of a gallery waited for more than {HELD_MS / 1000:g} s between two reads"
                " and was given up; take it again",
                RETRY_AFTER_S,
            )
        if until_ms < now_ms + HELD_MS // 2:
            entry.pins[name][2] = now_ms + HELD_MS
            put_entry(transaction, entry)

    transact(engine, rule)
