"""Replacing a gallery: a generation that nothing shows is filled, and switched to at once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from service.errors import RecordUnavailable, ServiceError
from service.ops.failpoints import failpoint
from service.record.calibrations import drop_calibrations
from service.record.crop_changes import CropChanges, tombstone
from service.record.crop_entries import Generation, all_rows, as_crop
from service.record.encoding import key, last_number
from service.record.engine import Engine, Reader, Transaction, transact
from service.record.gallery_entries import Entry, put_entry, raise_version, require_entry
from service.record.garbage import collect_garbage, discard, keep
from service.record.records import ArchivedCrop
from service.record.stored_values import vector_bytes

# For how long an unfinished generation is kept between two parts of it.
KEPT_MS = 600_000
CROPS_PER_PART = 200
BYTES_PER_PART = 16 * 1024**2


def replace_crops(
    engine: Engine, gallery_id: int, embedding_fingerprint: str, crops: Iterable[ArchivedCrop]
) -> int:
    """Puts an archive's crops in the place of a gallery's own, at once; answers its version.

    Crops keep their ids and get new rows; what was removed since the archive was made stays
    removed.

    Raises:
        UnknownGallery: the gallery was deleted.
        RecordUnavailable: a part took so long that the generation was given up.
    """
    filled = transact(engine, lambda change: _begin(change, gallery_id))
    try:
        for part in _parts(crops):
            filled = transact(engine, partial(_put, filled, part))
        failpoint("restore.generation-filled")
        version = None
        while version is None:
            filled = _take_out_removed(engine, filled)
            version = transact(engine, partial(_switch, filled, embedding_fingerprint))
    except BaseException:
        # Where the store itself is gone, a later start removes what was filled.
        with contextlib.suppress(ServiceError):
            transact(engine, lambda change: _discard(change, filled, 0))
            collect_garbage(engine)
        raise
    with contextlib.suppress(ServiceError):
        collect_garbage(engine)
    return version


def _begin(transaction: Transaction, gallery_id: int) -> Entry:
    """The gallery's entry as it would be with a new generation, empty so far."""
    entry = require_entry(transaction, gallery_id)
    entry.generations += 1
    put_entry(transaction, entry)
    filled = replace(
        entry,
        at=entry.generations - 1,
        crops=0,
        identities=0,
        image_bytes=0,
        staged_fingerprint=None,
        staged_side=None,
        staged_crops=0,
    )
    _discard(transaction, filled, transaction.engine.now_ms() + KEPT_MS)
    return filled


def _put(filled: Entry, crops: Sequence[ArchivedCrop], transaction: Transaction) -> Entry:
    """Adds crops to the generation; answers the entry with them counted."""
    entry = require_entry(transaction, filled.gallery_id)
    _hold(transaction, filled)
    after = replace(filled)
    # Rows are the gallery's: none is given out twice, in whichever generation.
    after.rows = entry.rows
    change = CropChanges(transaction, after)
    ids = [crop.record.crop_id for crop in crops]
    gone = transaction.get([tombstone(after.gallery_id, one) for one in ids])
    for crop, tomb in zip(crops, gone, strict=True):
        if tomb is None:
            content_type, picture = None, None
            if crop.picture is not None:
                content_type, picture = crop.picture.content_type, crop.picture.content
            size = len(picture or b"")
            record = replace(crop.record, content_type=content_type, image_bytes=size)
            change.put(record, vector_bytes(crop.vector), picture)
    change.put_sightings()
    entry.rows = after.rows
    put_entry(transaction, entry)
    return after


def _take_out_removed(engine: Engine, filled: Entry) -> Entry:
    """Takes out what was removed from the gallery while the generation was filled."""
    version = require_entry(Reader(engine), filled.gallery_id).version
    if version == filled.version:
        return filled
    at = Generation.searched(filled)
    crops = [
        (last_number(one), as_crop(body).crop_id)
        for one, body in Reader(engine).every(all_rows(at))
    ]
    for first in range(0, len(crops), CROPS_PER_PART):
        part = crops[first : first + CROPS_PER_PART]
        filled = transact(engine, partial(_remove, filled, part))
    return replace(filled, version=version)


def _remove(filled: Entry, crops: Sequence[tuple[int, str]], transaction: Transaction) -> Entry:
    _hold(transaction, filled)
    gone = transaction.get([tombstone(filled.gallery_id, one) for _, one in crops])
    after = replace(filled)
    change = CropChanges(transaction, after)
    change.remove([row for (row, _), tomb in zip(crops, gone, strict=True) if tomb is not None])
    change.put_sightings()
    return after


def _switch(filled: Entry, embedding_fingerprint: str, transaction: Transaction) -> int | None:
    """Searches go to the generation; None, and no change, where something was changed meanwhile."""
    entry = require_entry(transaction, filled.gallery_id)
    if entry.version != filled.version:
        return None
    _hold(transaction, filled)
    keep(transaction, "generation", *_named(filled))
    discard(transaction, "generation", *_named(entry))
    drop_calibrations(transaction, entry.gallery_id)
    filled = replace(
        filled,
        embedding_fingerprint=embedding_fingerprint,
        settings=entry.settings,
        generations=entry.generations,
        sides=entry.sides,
        rows=entry.rows,
        archives=entry.archives,
    )
    version = raise_version(transaction, filled)
    transaction.note("replaced", entry.gallery_id, version)
    return version


def _hold(transaction: Transaction, filled: Entry) -> None:
    """Keeps the generation for a while longer."""
    noted = transaction.json(key("garbage", "generation", *_named(filled)))
    if noted is None or noted[2] == 0:
        raise RecordUnavailable(
            "what was to replace a gallery was given up, as the next part of it did not come in "
            "time; nothing was changed, begin again",
        )
    _discard(transaction, filled, transaction.engine.now_ms() + KEPT_MS)


def _discard(transaction: Transaction, filled: Entry, not_before_ms: int) -> None:
    discard(transaction, "generation", *_named(filled), not_before_ms=not_before_ms)


def _named(entry: Entry) -> tuple[int, int, int]:
    return entry.gallery_id, entry.at, entry.sides


def _parts(crops: Iterable[ArchivedCrop]) -> Iterator[list[ArchivedCrop]]:
    part: list[ArchivedCrop] = []
    held = 0
    for crop in crops:
        part.append(crop)
        held += crop.vector.nbytes + (len(crop.picture.content) if crop.picture else 0)
        if len(part) == CROPS_PER_PART or held >= BYTES_PER_PART:
            yield part
            part, held = [], 0
    if part:
        yield part
