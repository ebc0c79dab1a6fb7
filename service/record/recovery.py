"""Everything of a record held against its checksums, and a new record from what is whole of it."""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic_core import from_json, to_json

from model.problems import InputProblem
from service.errors import DamagedSnapshot, RecordUnavailable, ServiceError
from service.ops.data_directory import SNAPSHOTS, copy_file, snapshot_name
from service.record.crop_changes import tombstone
from service.record.engine import (
    Engine,
    Reader,
    Scan,
    below,
    key,
    last_text,
    now,
    shown,
    transact,
)
from service.record.entries import (
    ENTRY,
    Generation,
    as_crop,
    is_still,
    read_contents,
    read_entry,
    readable,
    require_entry,
    vector_name,
)
from service.record.galleries import NEXT_GALLERY
from service.record.identity_changes import PENDING, finish_change, move_pending
from service.record.kept_recovery import checked_kept, mend_kept, put_whole
from service.record.migration import Entries, migrate
from service.record.records import ArchivedCrop, GalleryRecord, StoredCrop
from service.record.replacing import replace_crops
from service.record.snapshot_file import describe_snapshot, read_snapshot, snapshot_header
from service.record.sqlite_engine import SqliteEngine

CROPS_AT_ONCE = 100
PAGE_PROBLEMS = 20


@dataclass
class GalleryFound:
    """A gallery: how many crops and kept searches are as written, and a line for each damage."""

    gallery_id: int
    name: str
    whole: int = 0
    whole_searches: int = 0
    damage: list[str] = field(default_factory=list)

    def whole_crops(self, engine: Engine, entry: GalleryRecord) -> Iterator[ArchivedCrop]:
        """The crops that are whole, one at a time; counts them, and notes what is damaged."""
        for one in checked_crops(engine, entry):
            if isinstance(one, ServiceError):
                self.damage.append(one.why)
            else:
                self.whole += 1
                yield one


@dataclass(frozen=True)
class SnapshotFound:
    """A snapshot's file: how many crops it holds, and what is wrong with it; None for nothing."""

    path: Path
    crops: int
    problem: str | None


@dataclass(frozen=True)
class StoreFound:
    """A data directory's record: its galleries and snapshots, and problems with the whole of it."""

    problems: Sequence[str]
    galleries: Sequence[GalleryFound]
    snapshots: Sequence[SnapshotFound]

    @property
    def whole(self) -> bool:
        """Whether everything is as it was written."""
        damaged = any(one.damage for one in self.galleries)
        return not (self.problems or damaged or any(one.problem for one in self.snapshots))


@dataclass
class Recovered(GalleryFound):
    """What became of one gallery.

    Attributes:
        from_snapshots: how many crops came from there.
        lost: those lines of `damage` whose crops no snapshot has either.
    """

    from_snapshots: int = 0
    lost: list[str] = field(default_factory=list)


def verify_file(database: Path) -> StoreFound:
    """Reads everything of a SQLite file and of the snapshots beside it, also while it is served."""
    problem = "it is gone"
    if database.is_file() and database.stat().st_size:
        try:
            with contextlib.closing(SqliteEngine(database, only_read=True)) as engine:
                problems = engine.page_problems(PAGE_PROBLEMS)
                return verify_record(engine, database.parent, problems)
        except (ServiceError, sqlite3.DatabaseError) as error:
            problem = f"it cannot be read ({error})"
    return StoreFound([problem], [], verify_snapshots(database.parent))


def verify_record(engine: Engine, data_dir: Path, problems: Sequence[str] = ()) -> StoreFound:
    """Reads everything of a record and of the snapshots in its data directory."""
    return StoreFound(problems, verify_galleries(engine), verify_snapshots(data_dir))


def verify_snapshots(data_dir: Path) -> list[SnapshotFound]:
    """Every snapshot's file of a data directory, oldest first: an id begins with its time."""
    found = []
    for path in sorted(data_dir.glob(snapshot_name("[0-9]*", "*"))):
        crops, problem = 0, None
        try:
            for _ in read_snapshot(path):
                crops += 1
        except DamagedSnapshot as error:
            problem = error.why
        found.append(SnapshotFound(path, crops, problem))
    return found


def verify_galleries(engine: Engine) -> list[GalleryFound]:
    """Every gallery: how many crops are as they were written, and what is wrong with others."""
    galleries = []
    for entry in entries(engine):
        if isinstance(entry, ServiceError):
            found = GalleryFound(0, "unknown", damage=[entry.why])
        else:
            found = GalleryFound(entry.gallery_id, entry.name)
            deque(found.whole_crops(engine, entry), maxlen=0)
            for one in checked_kept(engine, entry.gallery_id):
                found.whole_searches += one.whole
                found.damage += [one.damage] if one.damage else []
        galleries.append(found)
    return galleries


def entries(engine: Engine) -> Iterator[GalleryRecord | ServiceError]:
    """Every gallery's entry, as far as it can be read."""
    for _, body in readable(engine, below(key("gallery"))):
        yield body if isinstance(body, ServiceError) else ENTRY.validate_json(body)


def checked_crops(engine: Engine, entry: GalleryRecord) -> Iterator[ArchivedCrop | ServiceError]:
    """A gallery's crops whose contents are whole, and what is wrong with them and with others.

    Crops that the service changes or removes meanwhile are left out.
    """
    reader, at, count = Reader(engine), Generation.searched(entry), 0
    bodies = (body for _, body in readable(engine, below(at.key("crop"))))
    while some := list(itertools.islice(bodies, CROPS_AT_ONCE)):
        for found in _checked_crops(reader, at, some):
            count += bool(found)
            yield from found
    if count != entry.crops:
        with contextlib.suppress(ServiceError):
            if read_entry(reader, entry.gallery_id) != entry:
                return
        yield engine.damage(f"{count} crops are there, and {entry.crops} were written")


def _checked_crops(
    reader: Reader, at: Generation, bodies: Sequence[bytes | ServiceError]
) -> list[list[ArchivedCrop | ServiceError]]:
    """For each crop what is wrong with it, and the crop if its contents are whole."""
    crops = [as_crop(body) for body in bodies if not isinstance(body, ServiceError)]
    with contextlib.suppress(ServiceError):
        whole = list(read_contents(reader, at, crops, pictures=True))
        if len(whole) == len(bodies) and not any(_not_found_by(reader, at, crops)):
            return [[one] for one in whole]
    return [
        [body] if isinstance(body, ServiceError) else _checked_crop(reader, at, as_crop(body))
        for body in bodies
    ]


def _checked_crop(
    reader: Reader, at: Generation, crop: StoredCrop
) -> list[ArchivedCrop | ServiceError]:
    found: list[ArchivedCrop | ServiceError] = []
    try:
        found += read_contents(reader, at, [crop], pictures=True)
        if not found:
            return []
        (missing,) = _not_found_by(reader, at, [crop])
        whys = (f"crop {crop.crop_id} is not found by {one}" for one in missing)
        found[:0] = map(reader.engine.damage, whys)
    except RecordUnavailable:
        # What does not answer is not damaged: a recovery would leave the crop out.
        raise
    except ServiceError as error:
        found = [error]
    if isinstance(found[0], ServiceError):
        with contextlib.suppress(ServiceError):
            return found if is_still(reader, at, crop) else []
    return found


def _not_found_by(reader: Reader, at: Generation, crops: Sequence[StoredCrop]) -> list[list[str]]:
    """For each crop the keys that should lead to it and do not, as a message names them."""
    ids = reader.get([at.lookup("crop id", crop.crop_id) for crop in crops])
    keys = [list(at.found_by(crop)) for crop in crops]
    there = iter(reader.scan(*(Scan(own, own + b"\0", 1) for one in keys for own in one)))
    missing = []
    for crop, body, found_by in zip(crops, ids, keys, strict=True):
        names = [] if body == to_json((crop.row_id, crop.changes)) else ["its crop_id"]
        missing.append(names + [shown(own) for own in found_by if not next(there)])
    return missing


def recover_in_place(engine: Engine, data_dir: Path, removed: Sequence[str] = ()) -> Recovery:
    """Builds each damaged gallery anew, from its whole crops and from snapshots.

    Args:
        removed: ids of crops that are known to be deleted.

    Raises:
        ServiceError: the entry of a gallery is damaged; only a copy of the store helps then.
        InputProblem: vectors lie outside the record, and none of them is at GMN_IMAGES_URL.
    """
    _require_place_outside(engine)
    recovery, reader = Recovery(engine, data_dir), Reader(engine)
    for found in (one for one in verify_galleries(engine) if one.damage):
        number, later = found.gallery_id, list[ArchivedCrop]()
        migrate(engine, (), ((tombstone(number, crop_id), now()) for crop_id in removed))
        entry, pending = require_entry(reader, number), reader.json(key(PENDING, number))
        crops = _later_last(recovery.crops(entry), pending, later)
        replace_crops(engine, number, entry.embedding_fingerprint, crops)
        mend_kept(engine, number)
        # What the damage has kept from its end, such as the forgetting of a person.
        transact(engine, move_pending, number, len(later))
        finish_change(engine, number)
    return recovery


def _require_place_outside(engine: Engine) -> None:
    """Raises `InputProblem` where vectors lie outside the record, and none of them is found."""
    folder, missing = engine.outside, ""
    for entry in entries(engine):
        if isinstance(entry, ServiceError) or not entry.outside:
            continue
        at = Generation.searched(entry)
        bodies = (body for _, body in readable(engine, below(at.key("crop"))))
        whole = (as_crop(body) for body in bodies if not isinstance(body, ServiceError))
        while some := list(itertools.islice(whole, CROPS_AT_ONCE)):
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
        galleries = ((_emptied(entry), recovery.crops(entry)) for entry in found)
        migrate(new, galleries, recovery.others(found, into.parent))
        for entry in found:
            if old:
                put_whole(new, entry.gallery_id, checked_kept(old, entry.gallery_id))
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
                embedder = header.embedding_fingerprint or "unknown"
                # Not even a count of its crops is left, so that the snapshots are read.
                found[number] = GalleryRecord(number, name, embedder, datetime.now(UTC), crops=-1)
        return list(found.values())

    def crops(self, entry: GalleryRecord) -> Iterator[ArchivedCrop]:
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
            embedder, number = header.embedding_fingerprint, int(path.parent.name)
            if number == entry.gallery_id and embedder in ("", entry.embedding_fingerprint):
                for crop in read_snapshot(path):
                    if crop.record.crop_id not in seen:
                        seen.add(crop.record.crop_id)
                        became.from_snapshots += 1
                        yield crop
        became.lost = [what for what in became.damage if not any(one in what for one in seen)]

    def others(self, galleries: Sequence[GalleryRecord], into: Path) -> Entries:
        """What a new record has besides; copies the snapshots into its directory."""
        for entry in galleries:
            for crop_id in self._removed:
                yield tombstone(entry.gallery_id, crop_id), now()
        for prefix in (key("tombstone"), key("stray"), key("api key")):
            for own, body in self._bodies(prefix):
                yield own, from_json(body)
        yield NEXT_GALLERY, max((entry.gallery_id for entry in galleries), default=0)
        embedders = {entry.gallery_id: entry.embedding_fingerprint for entry in galleries}
        for path in self.snapshots:
            copy = into / SNAPSHOTS / path.parent.name / path.name
            copy_file(path, copy)
            made = datetime.strptime(path.stem.partition("-")[0] + "+0000", "%Y%m%dT%H%M%SZ%z")
            one = describe_snapshot(copy, made)
            embedder = one.embedding_fingerprint or embedders[one.gallery_id]
            own = key("snapshot", one.gallery_id, one.snapshot_id)
            yield own, replace(one, embedding_fingerprint=embedder)

    def _bodies(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        for own, body in readable(self._engine, below(prefix)) if self._engine else ():
            if not isinstance(body, ServiceError):
                yield own, body
            elif body.why not in self.unread:
                self.unread.append(body.why)


def _emptied(entry: GalleryRecord) -> GalleryRecord:
    version = entry.version + 1
    place = (entry.gallery_id, entry.name, entry.embedding_fingerprint, entry.created_at)
    return GalleryRecord(*place, entry.settings, version=version, unnamed=0)
