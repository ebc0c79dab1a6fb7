"""Whole galleries: read while they are written, and filled anew beside what is searched."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from service.errors import RecordUnavailable, ServiceError
from service.ops.failpoints import failpoint
from service.record.crop_changes import CropChanges, tombstone
from service.record.engine import Engine, Reader, Transaction, batches, transact
from service.record.entries import (
    Generation,
    every_crop,
    files_of,
    put_entry,
    read_contents,
    read_crops,
    require_entry,
    vectors_outside,
)
from service.record.galleries import drop_calibrations
from service.record.garbage import SETTLED, collect_garbage, discard, note_strays, sides_outside
from service.record.keys import as_text, key
from service.record.records import ArchivedCrop, GalleryRecord, StoredCrop

CROPS_AT_ONCE = 500
CROPS_PER_READ = 100
CHANGES_PER_READ = 10_000
# Then a copy ends also where its gallery is written without a pause.
FOLLOWED_FOR_SECONDS = 60.0
# For how long an unfinished generation is kept between two parts of it.
KEPT_MS = 600_000
CROPS_PER_PART = 200
BYTES_PER_PART = 16 * 1024**2


@dataclass(frozen=True)
class Archive:
    """A gallery; `crops` can be read once, inside its context.

    Attributes:
        version: the gallery's when it began.
        crops: each at least once; one that is changed meanwhile comes again, as it is then. One
            that is removed meanwhile may be among them.
    """

    version: int
    embedding_fingerprint: str
    crops: Iterator[ArchivedCrop]


@contextlib.contextmanager
def archive(engine: Engine, gallery_id: int) -> Iterator[Archive]:
    """The gallery, also while it is written.

    In a file it is as it is at this moment. In Redis it is as it is once `crops` has been read:
    what changed meanwhile is read again until nothing changes.

    Raises:
        UnknownGallery: the gallery was deleted.
        RecordUnavailable: its crops were replaced meanwhile.
    """
    with engine.moment() as now:
        sequence = engine.changes.last() if engine.changes else 0
        entry = require_entry(Reader(now), gallery_id)
        yield Archive(entry.version, entry.embedding_fingerprint, _crops(now, entry, sequence))


def _crops(engine: Engine, entry: GalleryRecord, sequence: int) -> Iterator[ArchivedCrop]:
    reader = Reader(engine)
    at = Generation.searched(entry)
    for crops in every_crop(reader, at, CROPS_PER_READ):
        yield from read_contents(reader, at, crops, pictures=True)
    for rows in _changed_rows(engine, entry.gallery_id, sequence):
        changed = read_crops(reader, at, rows)
        yield from read_contents(reader, at, list(changed.values()), pictures=True)
    if Generation.searched(require_entry(reader, entry.gallery_id)) != at:
        raise RecordUnavailable("the gallery was restored or reindexed while it was copied")


def _changed_rows(engine: Engine, gallery_id: int, sequence: int) -> Iterator[Sequence[int]]:
    """Rows that were added or relabelled after a change, in parts, until there are no more."""
    changes = engine.changes
    until = time.monotonic() + FOLLOWED_FOR_SECONDS
    while changes and time.monotonic() < until:
        found = changes.after(sequence, CHANGES_PER_READ, 0.0)
        own = (one for one in found if one.gallery_id == gallery_id)
        changed = (one.row_ids for one in own if one.kind in ("added", "relabelled"))
        rows = sorted(set(itertools.chain(*changed)))
        if not rows and len(found) < CHANGES_PER_READ:
            return
        sequence = found[-1].sequence
        yield from batches(rows, CROPS_PER_READ)


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
    files = dict[str, bytes]()
    side = filled.side if filled.outside else None
    folder = engine.outside
    try:
        for part in _parts(crops):
            filled, landed = transact(engine, _put, filled, part)
            # After their crops, with which they are removed where this ends early.
            if folder:
                for crop in landed:
                    files |= files_of(gallery_id, crop, side)
                folder.changes.wait(folder.put, gallery_id, files)
            files = {}
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
            # A write that was given up as it hung may still land.
            until = as_text(datetime.now(UTC) + SETTLED)
            transact(engine, note_strays, gallery_id, list(files), until)
        raise
    with contextlib.suppress(ServiceError):
        collect_garbage(engine)
    return version


def _begin(transaction: Transaction, gallery_id: int) -> GalleryRecord:
    """The gallery's entry as it would be with a new generation, empty so far."""
    entry = require_entry(transaction, gallery_id)
    entry.generations += 1
    outside = vectors_outside(transaction.engine)
    # Names outside are not of a generation: each one has a side of its own.
    entry.sides += outside
    put_entry(transaction, entry)
    unstaged = replace(
        entry, staged_fingerprint=None, staged_side=None, staged_crops=0, staged_row=0
    )
    none = replace(unstaged, crops=0, identities=0, unnamed=0, image_bytes=0)
    empty = replace(none, at=entry.generations - 1)
    empty.outside = outside
    empty.side = entry.sides - 1 if outside else entry.side
    _hold(transaction, empty, begun=True)
    return empty


def _put(
    transaction: Transaction, filled: GalleryRecord, crops: Sequence[ArchivedCrop]
) -> tuple[GalleryRecord, list[ArchivedCrop]]:
    """Adds crops, without what is kept outside.

    Returns:
        The entry with them counted, and those that were not removed since.
    """
    entry = require_entry(transaction, filled.gallery_id)
    _hold(transaction, filled)
    # Rows are the gallery's: none is given out twice, in whichever generation.
    after = replace(filled, rows=entry.rows)
    ids = [crop.record.crop_id for crop in crops]
    gone = transaction.get([tombstone(after.gallery_id, one) for one in ids])
    left = [crop for crop, tomb in zip(crops, gone, strict=True) if tomb is None]
    outside = after.side if after.outside else None
    inside = transaction.engine.outside is None
    kept = left if inside else [replace(one, picture=None) for one in left]
    CropChanges(transaction, after).put_all([replace(one, outside=outside) for one in kept])
    entry.rows = after.rows
    put_entry(transaction, entry)
    return after, left


def _take_out_removed(engine: Engine, filled: GalleryRecord) -> GalleryRecord:
    """Takes out what was removed from the gallery while the generation was filled."""
    reader = Reader(engine)
    at = Generation.searched(filled)
    removals = require_entry(reader, filled.gallery_id).removals
    if removals == filled.removals:
        return filled
    for crops in every_crop(reader, at, CROPS_PER_PART):
        filled = transact(engine, _remove, filled, crops)
    return replace(filled, removals=removals)


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
    """Searches go to the generation; None, and no change, where a crop was removed meanwhile."""
    entry = require_entry(transaction, filled.gallery_id)
    if entry.removals != filled.removals:
        return None
    _hold(transaction, filled)
    transaction.delete(key("garbage", "generation", *_named(filled)))
    sides = sides_outside(transaction, entry)
    discard(transaction, "generation", entry.gallery_id, entry.at, entry.sides, *sides)
    drop_calibrations(transaction, entry.gallery_id)
    filled = replace(
        filled,
        embedding_fingerprint=embedding_fingerprint,
        settings=entry.settings,
        generations=entry.generations,
        sides=entry.sides,
        rows=entry.rows,
        version=entry.version + 1,
    )
    put_entry(transaction, filled)
    transaction.note("replaced", entry.gallery_id, filled.version)
    return filled.version


def _hold(transaction: Transaction, filled: GalleryRecord, begun: bool = False) -> None:
    """Keeps the generation for a while longer."""
    noted = transaction.json(key("garbage", "generation", *_named(filled)))
    if not begun and (noted is None or noted[2] == 0):
        raise RecordUnavailable(
            "what was to replace a gallery was given up, as the next part of it did not come in "
            "time; nothing was changed, begin again",
        )
    until_ms = transaction.engine.now_ms() + KEPT_MS
    discard(transaction, "generation", *_named(filled), not_before_ms=until_ms)


def _named(entry: GalleryRecord) -> tuple[int, ...]:
    return entry.gallery_id, entry.at, entry.sides, *entry.outside_sides


def _parts(crops: Iterable[ArchivedCrop]) -> Iterator[list[ArchivedCrop]]:
    """Crops in lists that one commit takes."""
    part: list[ArchivedCrop] = []
    held = 0
    for crop in crops:
        part.append(crop)
        held += crop.vector.nbytes + len(crop.picture or b"")
        if len(part) == CROPS_PER_PART or held >= BYTES_PER_PART:
            yield part
            part = []
            held = 0
    if part:
        yield part
