"""A new record, or damaged galleries anew, from what is whole of a record and its snapshots."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic_core import to_json

from model.problems import InputProblem
from service.errors import ServiceError
from service.ops.data_directory import SNAPSHOTS, copy_file
from service.record.api_keys import API_KEYS, CHANGES
from service.record.crop_changes import tombstone
from service.record.engine import Engine, Reader, Transaction, batches, put_all, transact
from service.record.entries import (
    ENTRY,
    Generation,
    as_crop,
    put_entry,
    readable,
    require_entry,
    vector_name,
)
from service.record.galleries import NAMES, NEXT_GALLERY, SECRET
from service.record.identity_changes import PENDING, finish_change, move_pending
from service.record.kept_queries import KEPT_KIND, Case, KeptChanges, picture_key
from service.record.keys import below, key, last_text, now
from service.record.records import ArchivedCrop, GalleryRecord
from service.record.replacing import replace_crops
from service.record.snapshot_file import describe_snapshot, read_snapshot, snapshot_header
from service.record.sqlite_engine import SqliteEngine
from service.record.verification import (
    GalleryFound,
    KeptFound,
    checked_kept,
    entries,
    verify_galleries,
    verify_snapshots,
)

CROPS_AT_ONCE = 100
SEARCHES_AT_ONCE = 50


@dataclass
class Recovered(GalleryFound):
    """What became of one gallery.

    Attributes:
        from_snapshots: how many crops came from there.
        lost: those lines of `damage` whose crops no snapshot has either.
    """

    from_snapshots: int = 0
    lost: list[str] = field(default_factory=list)


def recover_in_place(engine: Engine, data_dir: Path, removed: Iterable[str] = ()) -> Recovery:
    """Builds each damaged gallery anew, from its whole crops and from snapshots.

    Args:
        removed: ids of crops that are known to be deleted.

    Raises:
        ServiceError: the entry of a gallery is damaged; only a copy of the store helps then.
        InputProblem: vectors lie outside the record, and none of them is at GMN_IMAGES_URL.
    """
    _require_place_outside(engine)
    recovery = Recovery(engine, data_dir, removed)
    for found in verify_galleries(engine):
        if found.damage:
            recovery.rebuild(require_entry(Reader(engine), found.gallery_id), engine)
    return recovery


def recover_file(damaged: Path, into: Path, removed: Iterable[str] = ()) -> Recovery:
    """Writes a new file, with the snapshots that are whole beside it.

    Galleries keep their numbers, crops their ids. What was deleted stays deleted, as far as the
    damaged file or the caller knows of it. Jobs are left out, and what computes the features is
    chosen anew.

    Args:
        damaged: the SQLite file; it is only read, and may be gone.
        into: the new file, in a directory that has none.
        removed: ids of crops that are known to be deleted.
    """
    with contextlib.ExitStack() as held:
        old: SqliteEngine | None = None
        if damaged.is_file() and damaged.stat().st_size:
            with contextlib.suppress(sqlite3.DatabaseError, InputProblem):
                old = held.enter_context(contextlib.closing(SqliteEngine(damaged, only_read=True)))
        recovery = Recovery(old, damaged.parent, removed)
        new = held.enter_context(contextlib.closing(SqliteEngine(into)))
        found = recovery.entries()
        put_all(new, recovery.others(found, into.parent))
        for entry in found:
            transact(new, _put_emptied, entry)
            recovery.rebuild(entry, new)
    return recovery


class Recovery:
    """What can still be read of a record, and the snapshots beside it that are whole.

    Attributes:
        galleries: what became of each, once its crops were read.
        snapshots: the headers of those that are whole, by file, the newest first.
        unread: names what could not be read.
    """

    def __init__(self, engine: Engine | None, data_dir: Path, removed: Iterable[str] = ()) -> None:
        self.galleries: list[Recovered] = []
        self.unread: list[str] = [] if engine else ["galleries", "tombstones", "api keys"]
        whole = [one.path for one in verify_snapshots(data_dir) if one.problem is None]
        headers = [(path, snapshot_header(path)) for path in whole]
        self.snapshots = dict(sorted(headers, key=lambda one: one[1].version, reverse=True))
        self._engine = engine
        self._removed = set(removed)

    def entries(self) -> list[GalleryRecord]:
        """Every gallery of the record, and those of which only snapshots are left."""
        known = [ENTRY.validate_json(body) for _, body in self._bodies(key("gallery"))]
        found = {entry.gallery_id: entry for entry in known}
        for path, header in self.snapshots.items():
            number = int(path.parent.name)
            if number not in found:
                taken = {entry.name for entry in found.values()}
                free = header.gallery and header.gallery not in taken
                name = header.gallery if free else f"recovered-{number}"
                embedder = header.embedding_fingerprint
                # Not even a count of its crops is left, so that the snapshots are read.
                found[number] = GalleryRecord(number, name, embedder, datetime.now(UTC), crops=-1)
        return list(found.values())

    def rebuild(self, entry: GalleryRecord, into: Engine) -> None:
        """Gives a gallery of a record, which may be the damaged one, what is whole of it."""
        number = entry.gallery_id
        later = list[ArchivedCrop]()
        put_all(into, ((tombstone(number, one), to_json(now())) for one in self._removed))
        pending = Reader(into).json(key(PENDING, number))
        crops = _later_last(self._crops(entry), pending, later)
        replace_crops(into, number, entry.embedding_fingerprint, crops)
        if self._engine:
            found = checked_kept(self._engine, number)
            here = into is self._engine
            changed = (one for one in found if one.damage or not here)
            for some in batches(changed, SEARCHES_AT_ONCE):
                transact(into, _put_kept, number, some, here)
        # What the damage has kept from its end, such as the forgetting of a person.
        transact(into, move_pending, number, len(later))
        finish_change(into, number)

    def others(
        self, galleries: Sequence[GalleryRecord], into: Path
    ) -> Iterator[tuple[bytes, bytes]]:
        """What a new record has besides; copies the snapshots into its directory."""
        for prefix in (key("tombstone"), key("stray"), API_KEYS, CHANGES, SECRET):
            yield from self._bodies(prefix)
        newest = max((entry.gallery_id for entry in galleries), default=0)
        yield NEXT_GALLERY, to_json(newest)
        for path in self.snapshots:
            copy = into / SNAPSHOTS / path.parent.name / path.name
            copy_file(path, copy)
            made = datetime.strptime(path.stem.partition("-")[0] + "+0000", "%Y%m%dT%H%M%SZ%z")
            one = describe_snapshot(copy, made)
            yield key("snapshot", one.gallery_id, one.snapshot_id), to_json(one)

    def _crops(self, entry: GalleryRecord) -> Iterator[ArchivedCrop]:
        """A gallery's crops that are whole, and the others as snapshots have them."""
        became = Recovered(entry.gallery_id, entry.name)
        self.galleries.append(became)
        prefix = key("tombstone", entry.gallery_id)
        seen = self._removed | {last_text(own, prefix) for own, _ in self._bodies(prefix)}
        if self._engine is None or entry.crops < 0:
            became.damage.append("its record is gone")
        else:
            for crop in became.whole_crops(self._engine, entry):
                if crop.record.crop_id not in seen:
                    seen.add(crop.record.crop_id)
                    yield crop
        # Where the record is whole, what only a snapshot has was not in it any more.
        for path, header in self.snapshots.items() if became.damage else ():
            alike = header.embedding_fingerprint == entry.embedding_fingerprint
            if alike and int(path.parent.name) == entry.gallery_id:
                for crop in read_snapshot(path):
                    if crop.record.crop_id not in seen:
                        seen.add(crop.record.crop_id)
                        became.from_snapshots += 1
                        yield crop
        became.lost = [what for what in became.damage if not any(one in what for one in seen)]

    def _bodies(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        for own, body in readable(self._engine, below(prefix)) if self._engine else ():
            if not isinstance(body, ServiceError):
                yield own, body
            elif body.why not in self.unread:
                self.unread.append(body.why)


def _put_emptied(transaction: Transaction, entry: GalleryRecord) -> None:
    """Puts a gallery without crops."""
    transaction.put_json(NAMES + key(entry.name), entry.gallery_id)
    place = (entry.gallery_id, entry.name, entry.embedding_fingerprint, entry.created_at)
    put_entry(transaction, GalleryRecord(*place, entry.settings, version=entry.version))


def _put_kept(
    transaction: Transaction, gallery_id: int, some: Sequence[KeptFound], counted: bool
) -> None:
    """Keeps what is whole of searches and cases, and removes what is damaged.

    Args:
        counted: the record has them already.
    """
    changes = KeptChanges(transaction, gallery_id)
    prefix = key(KEPT_KIND, gallery_id)
    for one in some:
        more = (one.whole is not None) - counted
        transaction.delete(one.own_key)
        if one.own_key.startswith(prefix):
            changes.count(kept=more)
            transaction.delete(picture_key(gallery_id, last_text(one.own_key, prefix)))
        else:
            changes.count(cases=more)
        if isinstance(one.whole, Case):
            changes.put_case(one.whole)
        elif one.whole is not None:
            changes.put(one.whole, one.picture)


def _require_place_outside(engine: Engine) -> None:
    """Raises `InputProblem` where vectors lie outside the record, and none of them is found."""
    folder = engine.outside
    missing = ""
    for entry in entries(engine):
        if isinstance(entry, ServiceError) or not entry.outside:
            continue
        at = Generation.searched(entry)
        bodies = (body for _, body in readable(engine, below(at.key("crop"))))
        whole = (as_crop(body) for body in bodies if not isinstance(body, ServiceError))
        for some in batches(whole, CROPS_AT_ONCE):
            inside = engine.get([at.lookup("vector", at.side, one.row_id) for one in some])
            pairs = zip(some, inside, strict=True)
            names = [vector_name(one.crop_id, at.side) for one, there in pairs if there is None]
            if folder and any(folder.get_all(entry.gallery_id, names)):
                return
            missing = entry.name if names else missing
    if missing:
        raise InputProblem(
            f"GMN_IMAGES_URL: {'has none' if folder else 'is not set, and has to name the place'} "
            f"of the vectors of gallery {missing}; name the place that has them, or put its copy "
            "back: without it their crops would be left out; nothing was changed"
        )


def _later_last(
    crops: Iterable[ArchivedCrop], pending: dict[str, Any] | None, later: list[ArchivedCrop]
) -> Iterator[ArchivedCrop]:
    """Crops that are newer than a pending change of their identity come last, and into `later`."""
    for crop in crops:
        one = crop.record
        if pending and one.identity == pending["identity"] and one.row_id > pending["newest"]:
            later.append(crop)
        else:
            yield crop
    yield from later
