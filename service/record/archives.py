"""Whole galleries, read while they are written."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from service.errors import RecordUnavailable
from service.record.engine import Engine, Reader
from service.record.entries import (
    Generation,
    read_contents,
    read_crops,
    require_entry,
    scan_crops,
)
from service.record.records import ArchivedCrop, GalleryRecord

CROPS_PER_READ = 100
CHANGES_PER_READ = 10_000
# Then a copy ends also where its gallery is written without a pause.
FOLLOWED_FOR_SECONDS = 60.0


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
    reader, row = Reader(engine), 0
    at, side = Generation.searched(entry), entry.side
    while crops := scan_crops(reader, at, row, CROPS_PER_READ):
        yield from read_contents(reader, at, side, crops, pictures=True)
        row = crops[-1].row_id
    for rows in _changed_rows(engine, entry.gallery_id, sequence):
        changed = read_crops(reader, at, rows)
        yield from read_contents(reader, at, side, list(changed.values()), pictures=True)
    latest = require_entry(reader, entry.gallery_id)
    if (latest.at, latest.side) != (entry.at, entry.side):
        raise RecordUnavailable("the gallery was restored or reindexed while it was copied")


def _changed_rows(engine: Engine, gallery_id: int, sequence: int) -> Iterator[Sequence[int]]:
    """Rows that were added or relabelled after a change, in parts, until there are no more."""
    changes, until = engine.changes, time.monotonic() + FOLLOWED_FOR_SECONDS
    while changes and time.monotonic() < until:
        found = changes.after(sequence, CHANGES_PER_READ, 0.0)
        rows = sorted(
            {
                row
                for one in found
                if one.gallery_id == gallery_id and one.kind in ("added", "relabelled")
                for row in one.row_ids
            }
        )
        if not rows and len(found) < CHANGES_PER_READ:
            return
        sequence = found[-1].sequence
        for first in range(0, len(rows), CROPS_PER_READ):
            yield rows[first : first + CROPS_PER_READ]
