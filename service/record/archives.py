"""Whole galleries, read as they are at one moment.

An archive pins the crops that there are when it begins: one that is removed or renamed while it is
read is kept for it as it was, until it ends or its time has run out.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pydantic_core import from_json

from service.errors import RecordUnavailable, ServiceError
from service.record.engine import (
    Engine,
    Reader,
    Scan,
    Transaction,
    below,
    key,
    last_number,
    transact,
)
from service.record.entries import Generation, Pin, as_crop, put_entry, read_contents, require_entry
from service.record.garbage import collect_garbage, discard
from service.record.records import ArchivedCrop, GalleryRecord, StoredCrop

# For how long a pin is kept between two reads.
HELD_MS = 600_000
CROPS_PER_READ = 100


def keep_for(
    transaction: Transaction, at: Generation, pins: Sequence[Pin], crop: StoredCrop
) -> set[int]:
    """Keeps a crop as it is for archives that it belongs to; answers which vectors they read."""
    row = crop.row_id
    wanted = {at.key("pinned", pin.name, row): pin.side for pin in pins if row <= pin.newest}
    for own, known in zip(wanted, transaction.get(list(wanted)), strict=True):
        if known is None:
            transaction.put_json(own, crop)
    return set(wanted.values())


@dataclass(frozen=True)
class Archive:
    """A gallery at one moment; `crops` can be read once, inside its context."""

    version: int
    embedding_fingerprint: str
    crops: Iterator[ArchivedCrop]


@contextlib.contextmanager
def archive(engine: Engine, gallery_id: int) -> Iterator[Archive]:
    """The gallery as it is at this moment, also while it is written.

    Raises:
        UnknownGallery: the gallery was deleted.
    """
    name = secrets.token_hex(8)
    entry, pin = transact(engine, _begin, gallery_id, name)
    at = Generation.searched(entry)
    try:
        crops = _pinned_crops(engine, at, pin)
        yield Archive(entry.version, entry.embedding_fingerprint, crops)
    finally:
        # Where the store does not answer, the pin is removed once its time has run out.
        with contextlib.suppress(ServiceError):
            transact(engine, _end, at.key("pin", name))
            collect_garbage(engine)


def unpin_abandoned(engine: Engine, alone: bool) -> None:
    """Ends archives whose process was killed: where no other one runs, all of them."""
    now_ms = engine.now_ms()
    for own, body in list(Reader(engine).every(below(key("pin")))):
        if alone or from_json(body)["until_ms"] < now_ms:
            transact(engine, _end, own)


def _begin(transaction: Transaction, gallery_id: int, name: str) -> tuple[GalleryRecord, Pin]:
    entry = require_entry(transaction, gallery_id)
    entry.archives += 1
    put_entry(transaction, entry)
    pin = Pin(name, entry.rows, entry.side, transaction.engine.now_ms() + HELD_MS)
    transaction.put_json(Generation.searched(entry).key("pin", name), pin)
    return entry, pin


def _end(transaction: Transaction, own: bytes) -> None:
    """Ends an archive: what was kept for it alone is garbage."""
    found = transaction.json(own)
    if found is not None:
        transaction.removes = True
        transaction.delete(own)
        gallery_id, generation = (int(part, 16) for part in own.split(b"\0")[1:3])
        discard(transaction, "archive", gallery_id, generation, found["name"], found["side"])


def _pinned_crops(engine: Engine, at: Generation, pin: Pin) -> Iterator[ArchivedCrop]:
    reader, row = Reader(engine), 0
    while row < pin.newest:
        transact(engine, _hold, at.key("pin", pin.name))
        end = min(pin.newest, row + CROPS_PER_READ) + 1
        present, kept = reader.scan(
            Scan(at.key("crop", row + 1), at.key("crop", end)),
            Scan(at.key("pinned", pin.name, row + 1), at.key("pinned", pin.name, end)),
        )
        crops = {last_number(one): as_crop(body) for one, body in (*present, *kept)}
        rows = [crops[number] for number in sorted(crops)]
        yield from read_contents(reader, at, pin.side, rows, pinned=True)
        row = end - 1


def _hold(transaction: Transaction, own: bytes) -> None:
    """Renews a pin, where half of its time has passed."""
    now_ms = transaction.engine.now_ms()
    pin = transaction.json(own)
    if pin is None or pin["until_ms"] < now_ms:
        raise RecordUnavailable(
            f"the copy of a gallery waited for more than {HELD_MS / 1000:g} s between two reads"
            " and was given up; take it again",
        )
    if pin["until_ms"] < now_ms + HELD_MS // 2:
        transaction.put_json(own, {**pin, "until_ms": now_ms + HELD_MS})
