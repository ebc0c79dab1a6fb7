"""Replacing a gallery: a generation that nothing shows is filled, and switched to at once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from service.errors import RecordUnavailable, ServiceError
from service.ops.failpoints import failpoint
from service.record.calibrations import drop_calibrations
from service.record.crop_changes import CropChanges, tombstone
from service.record.crop_entries import Generation, scan_crops
from service.record.encoding import key
from service.record.engine import Engine, Reader, Transaction, transact
from service.record.gallery_entries import put_entry, require_entry
from service.record.garbage import collect_garbage, discard
from service.record.records import ArchivedCrop, GalleryRecord, StoredCrop

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
    filled = transact(engine, _begin, gallery_id)
    try:
        for part in _parts(crops):
            filled = transact(engine, _put, filled, part)
        failpoint("restore.generation-filled")
        version = None
        while version is None:
            filled = _take_out_removed(engine, filled)
            version = transact(engine, _switch, filled, embedding_fingerprint)
    except BaseException:
        # Where the store itself is gone, a later start removes what was filled.
        with contextlib.suppress(ServiceError):
            transact(engine, discard, "generation", *_named(filled))
            collect_garbage(engine)
        raise
    with contextlib.suppress(ServiceError):
        collect_garbage(engine)
    return version


def _begin(transaction: Transaction, gallery_id: int) -> GalleryRecord:
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
    _keep(transaction, filled)
    return filled


def _put(
    transaction: Transaction, filled: GalleryRecord, crops: Sequence[ArchivedCrop]
) -> GalleryRecord:
    """Adds crops to the generation; answers the entry with them counted."""
    entry = require_entry(transaction, filled.gallery_id)
    _hold(transaction, filled)
    # Rows are the gallery's: none is given out twice, in whichever generation.
    after = replace(filled, rows=entry.rows)
    change = CropChanges(transaction, after)
    change.read_sightings(crop.record for crop in crops)
    ids = [crop.record.crop_id for crop in crops]
    gone = transaction.get([tombstone(after.gallery_id, one) for one in ids])
    for crop, tomb in zip(crops, gone, strict=True):
        if tomb is None:
            record = crop.record if crop.picture else replace(crop.record, content_type=None)
            size = len(crop.picture or b"")
            change.put(replace(record, image_bytes=size), crop.vector, crop.picture)
    change.put_sightings()
    entry.rows = after.rows
    put_entry(transaction, entry)
    return after


def _take_out_removed(engine: Engine, filled: GalleryRecord) -> GalleryRecord:
    """Takes out what was removed from the gallery while the generation was filled."""
    reader, at, row = Reader(engine), Generation.searched(filled), 0
    version = require_entry(reader, filled.gallery_id).version
    if version == filled.version:
        return filled
    while crops := scan_crops(reader, at, row, CROPS_PER_PART):
        filled = transact(engine, _remove, filled, crops)
        row = crops[-1].row_id
    return replace(filled, version=version)


def _remove(
    transaction: Transaction, filled: GalleryRecord, crops: Sequence[StoredCrop]
) -> GalleryRecord:
    _hold(transaction, filled)
    gone = transaction.get([tombstone(filled.gallery_id, crop.crop_id) for crop in crops])
    after = replace(filled)
    change = CropChanges(transaction, after)
    change.remove([crop.row_id for crop, one in zip(crops, gone, strict=True) if one is not None])
    change.put_sightings()
    return after


def _switch(
    transaction: Transaction, filled: GalleryRecord, embedding_fingerprint: str
) -> int | None:
    """Searches go to the generation; None, and no change, where something was changed meanwhile."""
    entry = require_entry(transaction, filled.gallery_id)
    if entry.version != filled.version:
        return None
    _hold(transaction, filled)
    transaction.delete(key("garbage", "generation", *_named(filled)))
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
        version=entry.version + 1,
    )
    put_entry(transaction, filled)
    transaction.note("replaced", entry.gallery_id, filled.version)
    return filled.version


def _hold(transaction: Transaction, filled: GalleryRecord) -> None:
    """Keeps the generation for a while longer."""
    noted = transaction.json(key("garbage", "generation", *_named(filled)))
    if noted is None or noted[2] == 0:
        raise RecordUnavailable(
            "what was to replace a gallery was given up, as the next part of it did not come in "
            "time; nothing was changed, begin again",
        )
    _keep(transaction, filled)


def _keep(transaction: Transaction, filled: GalleryRecord) -> None:
    until_ms = transaction.engine.now_ms() + KEPT_MS
    discard(transaction, "generation", *_named(filled), not_before_ms=until_ms)


def _named(entry: GalleryRecord) -> tuple[int, int, int]:
    return entry.gallery_id, entry.at, entry.sides


def _parts(crops: Iterable[ArchivedCrop]) -> Iterator[list[ArchivedCrop]]:
    part: list[ArchivedCrop] = []
    held = 0
    for crop in crops:
        part.append(crop)
        held += crop.vector.nbytes + len(crop.picture or b"")
        if len(part) == CROPS_PER_PART or held >= BYTES_PER_PART:
            yield part
            part, held = [], 0
    if part:
        yield part
