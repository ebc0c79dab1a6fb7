"""Keys that nothing shows any more: noted with what made them so, and removed in batches later."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from service.record import strays
from service.record.calibrations import KINDS as OF_CALIBRATIONS
from service.record.crop_entries import Generation, as_crop, live_pins, scan_crops
from service.record.encoding import INDEXES, below, key, last_number, unseal
from service.record.engine import Engine, Reader, Scan, Transaction, as_data, transact
from service.record.jobs import drop_job
from service.record.stored_values import now

Kind = Literal["generation", "side", "gallery", "archive"]
KEYS_AT_ONCE = 1000
CROPS_AT_ONCE = 200
OF_GENERATION = (*INDEXES, "identity", "staged")
OF_GALLERY = ("tombstone", "request", "job of", "snapshot", "merge", *OF_CALIBRATIONS)


def discard(transaction: Transaction, kind: Kind, *of: int | str, not_before_ms: int = 0) -> None:
    """Notes keys to be removed.

    Args:
        transaction: that hides them.
        kind: what they are.
        of: for a generation its gallery, number and how many sides there may be; for a side its
            gallery, generation and number; for a gallery its number.
        not_before_ms: on the store's clock; they are still written until then.
    """
    transaction.put_json(key("garbage", kind, *of), [kind, list(of), not_before_ms])


def keep(transaction: Transaction, kind: Kind, *of: int | str) -> None:
    """Notes that keys are shown now."""
    transaction.delete(key("garbage", kind, *of))


def collect_garbage(engine: Engine) -> None:
    """Removes all keys that were discarded and are not held."""
    reader = Reader(engine)
    now_ms = engine.now_ms()
    for noted, body in list(reader.every(below(key("garbage")))):
        kind, of, _ = as_data(body)
        if transact(engine, partial(_begin, noted, now_ms)):
            while transact(engine, partial(_batch, kind, of)):
                pass
            transact(engine, partial(_end, noted))


def _begin(noted: bytes, now_ms: int, transaction: Transaction) -> bool:
    """Whether keys can be removed; then they are not written any more."""
    transaction.commit.removes = True
    found = transaction.json(noted)
    if found is None or found[2] > now_ms:
        return False
    kind, of, _ = found
    if kind in ("generation", "side") and live_pins(transaction, Generation(of[0], of[1])):
        return False
    transaction.put_json(noted, [kind, of, 0])
    return True


def _end(noted: bytes, transaction: Transaction) -> None:
    transaction.commit.removes = True
    transaction.delete(noted)


def _batch(kind: Kind, of: list[Any], transaction: Transaction) -> bool:
    """Removes a batch; False where nothing was left."""
    transaction.commit.removes = True
    if kind == "generation":
        gallery_id, number, sides = of
        return _crops(transaction, Generation(gallery_id, number), sides) or _ranges(
            transaction, [key(name, gallery_id, number) for name in OF_GENERATION]
        )
    if kind == "side":
        gallery_id, number, side = of
        return _vectors(transaction, Generation(gallery_id, number), side)
    if kind == "archive":
        gallery_id, number, name, side = of
        return _archived(transaction, Generation(gallery_id, number), name, side)
    (gallery_id,) = of
    return _jobs(transaction, gallery_id) or _ranges(
        transaction, [key(name, gallery_id) for name in OF_GALLERY]
    )


def _crops(transaction: Transaction, at: Generation, sides: int) -> bool:
    """Deletes crops; a damaged one too, of which only its row is known."""
    found = transaction.engine.scan([Scan(*below(at.key("crop")), CROPS_AT_ONCE)])[0]
    rows = {own: last_number(own) for own, _ in found}
    crops = [as_crop(body) for own, value in found if (body := unseal(own, value))]
    strays.note_elsewhere(transaction, at.gallery_id, crops, now())
    transaction.delete(*(at.crop_id(crop.crop_id) for crop in crops))
    for own, row in rows.items():
        transaction.delete(own, at.picture(row), *(at.vector(side, row) for side in range(sides)))
    return bool(found)


def _vectors(transaction: Transaction, at: Generation, side: int) -> bool:
    """Deletes a side's vectors in the order of their rows, from where the last batch ended."""
    place = key("garbage at", "side", at.gallery_id, at.number, side)
    after_row = transaction.json(place) or 0
    crops = scan_crops(transaction, at, after_row, KEYS_AT_ONCE)
    for crop in crops:
        row = crop.row_id
        transaction.delete(at.vector(side, row), at.key("staged", side, row))
    if crops:
        transaction.put_json(place, crops[-1].row_id)
    else:
        transaction.delete(place)
    return bool(crops)


def _archived(transaction: Transaction, at: Generation, name: str, side: int) -> bool:
    """Deletes what was kept for an archive, and contents that no crop and no other archive has."""
    found = transaction.scan(Scan(*below(at.key("pinned", name)), CROPS_AT_ONCE))[0]
    rows = [last_number(one) for one, _ in found]
    others = live_pins(transaction, at)
    crops = transaction.get([at.crop(row) for row in rows])
    for (own, _), row, crop in zip(found, rows, crops, strict=True):
        kept = transaction.get([at.key("pinned", other.name, row) for other in others])
        readers = [pin for pin, body in zip(others, kept, strict=True) if body is not None]
        if crop is None and not readers:
            transaction.delete(at.picture(row))
        if crop is None and all(pin.side != side for pin in readers):
            transaction.delete(at.vector(side, row))
        transaction.delete(own)
    return bool(found)


def _jobs(transaction: Transaction, gallery_id: int) -> bool:
    """Deletes a gallery's jobs."""
    found = transaction.scan(Scan(*below(key("job of", gallery_id)), 10))[0]
    for own, body in found:
        drop_job(transaction, as_data(body))
        transaction.delete(own)
    return bool(found)


def _ranges(transaction: Transaction, prefixes: list[bytes]) -> bool:
    for prefix in prefixes:
        found = transaction.scan(Scan(*below(prefix), KEYS_AT_ONCE))[0]
        if found:
            transaction.delete(*(one for one, _ in found))
            return True
    return False
