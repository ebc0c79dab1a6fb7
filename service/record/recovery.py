"""Everything of a record held against its checksums, and a new record from what is whole of it."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from model.problems import InputProblem
from service.errors import DamagedSnapshot, ServiceError
from service.ops.data_directory import SNAPSHOTS, make_folder, snapshot_files, sync
from service.record.api_keys import API_KEY
from service.record.engine import Engine, Reader, Scan, below, key, shown
from service.record.entries import (
    ENTRY,
    Generation,
    as_crop,
    is_still,
    read_contents,
    require_entry,
)
from service.record.files import Snapshots
from service.record.galleries import Galleries
from service.record.migration import OldGallery, OldRecord, migrate
from service.record.records import ArchivedCrop, GalleryRecord, StoredCrop
from service.record.replacing import replace_crops
from service.record.snapshot_file import describe_snapshot, read_snapshot, snapshot_header
from service.record.sqlite_engine import SqliteEngine

KEYS_AT_ONCE = 200
PAGE_PROBLEMS = 20


@dataclass(frozen=True)
class GalleryFound:
    """A gallery as far as it can be read: how many crops are whole, and what is wrong with others.

    Attributes:
        whole: crops that are as they were written.
        damage: a line for each of the others, and for what kept from reading on.
    """

    gallery_id: int
    name: str
    whole: int
    damage: tuple[str, ...]


@dataclass(frozen=True)
class SnapshotFound:
    """A snapshot's file: how many crops it holds, and what is wrong with it; None for nothing."""

    path: Path
    crops: int
    problem: str | None


@dataclass(frozen=True)
class StoreFound:
    """A data directory's record.

    Attributes:
        problems: with the database as a whole; nothing, where all of it can be read.
        galleries: by name.
        snapshots: of every gallery, also of those that are gone.
    """

    problems: tuple[str, ...]
    galleries: tuple[GalleryFound, ...]
    snapshots: tuple[SnapshotFound, ...]

    @property
    def whole(self) -> bool:
        """Whether everything is as it was written."""
        return not (
            self.problems
            or any(gallery.damage for gallery in self.galleries)
            or any(snapshot.problem for snapshot in self.snapshots)
        )


@dataclass
class Recovered:
    """What became of one gallery: how many crops came from where, and what neither had."""

    name: str
    from_record: int = 0
    from_snapshots: int = 0
    lost: list[str] = field(default_factory=list)


def verify_file(database: Path) -> StoreFound:
    """Reads everything of a SQLite file and of the snapshots beside it, also while it is served."""
    problems: list[str] = []
    galleries: list[GalleryFound] = []
    if not database.is_file() or not database.stat().st_size:
        problems.append("it is gone")
    else:
        try:
            with contextlib.closing(SqliteEngine(database, only_read=True)) as engine:
                problems += engine.page_problems(PAGE_PROBLEMS)
                galleries += verify_galleries(engine)
        except (ServiceError, sqlite3.DatabaseError) as error:
            problems.append(f"it cannot be read ({error})")
    return StoreFound(tuple(problems), tuple(galleries), tuple(verify_snapshots(database.parent)))


def verify_snapshots(data_dir: Path) -> list[SnapshotFound]:
    """Every snapshot's file of a data directory, oldest first: an id begins with its time."""
    found = []
    for path in snapshot_files(data_dir):
        crops, problem = 0, None
        try:
            for _ in read_snapshot(path):
                crops += 1
        except DamagedSnapshot as error:
            problem = error.why
        found.append(SnapshotFound(path, crops, problem))
    return found


def verify_galleries(engine: Engine) -> Iterator[GalleryFound]:
    """Every gallery: how many crops are as they were written, and what is wrong with others."""
    for entry in entries(engine):
        if isinstance(entry, ServiceError):
            yield GalleryFound(0, "unknown", 0, (entry.why,))
            continue
        whole, damage = 0, []
        # One at a time: all pictures of a gallery may be more than the memory holds.
        for one in checked_crops(engine, entry):
            if isinstance(one, ServiceError):
                damage.append(one.why)
            else:
                whole += 1
        yield GalleryFound(entry.gallery_id, entry.name, whole, tuple(damage))


def entries(engine: Engine) -> Iterator[GalleryRecord | ServiceError]:
    """Every gallery's entry, as far as it can be read."""
    for _, body in readable(engine, below(key("gallery"))):
        yield body if isinstance(body, ServiceError) else ENTRY.validate_json(body)


def checked_crops(engine: Engine, entry: GalleryRecord) -> Iterator[ArchivedCrop | ServiceError]:
    """A gallery's crops that are whole, and what is wrong with others.

    Crops that the service changes or removes meanwhile are left out.
    """
    reader, at, count = Reader(engine), Generation.searched(entry), 0
    for _, body in readable(engine, below(at.key("crop"))):
        if isinstance(body, ServiceError):
            count += 1
            yield body
            continue
        crop = as_crop(body)
        found = list(_checked_crop(reader, at, entry.side, crop))
        if len(found) == 1 and not isinstance(found[0], ServiceError):
            count += 1
            yield found[0]
        elif not (_is_written(reader, entry) and _is_gone(reader, at, entry.side, crop)):
            count += 1
            yield from found
    if count != entry.crops and not _is_written(reader, entry):
        yield engine.damage(f"{count} crops are there, and {entry.crops} were written")


def _is_written(reader: Reader, entry: GalleryRecord) -> bool:
    """Whether a gallery was written since its entry was read: a file that rests never was."""
    with contextlib.suppress(ServiceError):
        found = reader.below(key("gallery", entry.gallery_id), 1)
        return not found or ENTRY.validate_json(found[0][1]).version != entry.version
    return False


def _is_gone(reader: Reader, at: Generation, side: int, crop: StoredCrop) -> bool:
    """Whether a crop was changed or removed since it was read; not where that cannot be read."""
    with contextlib.suppress(ServiceError):
        return not is_still(reader, at, side, crop)
    return False


def _checked_crop(
    reader: Reader, at: Generation, side: int, crop: StoredCrop
) -> Iterator[ArchivedCrop | ServiceError]:
    """What is wrong with one crop, and the crop if its contents are whole."""
    try:
        contents = list(read_contents(reader, at, side, [crop], pictures=True))
        if not contents:
            return
        if reader.json(at.lookup("crop id", crop.crop_id)) != [crop.row_id, crop.changes]:
            yield reader.engine.damage(f"crop {crop.crop_id} is not found by its crop_id")
        found_by = list(at.found_by(crop))
        there = reader.scan(*(Scan(own, own + b"\0", 1) for own in found_by))
    except ServiceError as error:
        yield error
        return
    for own, found in zip(found_by, there, strict=True):
        if not found:
            yield reader.engine.damage(f"crop {crop.crop_id} is not found by {shown(own)}")
    yield from contents


def readable(
    engine: Engine, bounds: tuple[bytes, bytes]
) -> Iterator[tuple[bytes, bytes | ServiceError]]:
    """What can be read of a range: from its start on, then from its end back to what cannot."""
    reader, (start, end) = Reader(engine), bounds
    for reverse in (False, True):
        limit = KEYS_AT_ONCE
        while True:
            try:
                found = engine.scan([Scan(start, end, limit, reverse)])[0]
            except ServiceError:
                if limit == 1:
                    break
                limit = 1
                continue
            for own, value in found:
                try:
                    yield own, reader.body(own, value) or b""
                except ServiceError as error:
                    yield own, error
            if len(found) < limit:
                return
            start, end = (start, found[-1][0]) if reverse else (found[-1][0] + b"\0", end)


def recover_in_place(engine: Engine) -> list[GalleryFound]:
    """Builds each damaged gallery anew from its whole crops; answers these galleries as they were.

    Raises:
        ServiceError: the entry of a gallery is damaged; only a copy of the store helps then.
    """
    damaged = [found for found in verify_galleries(engine) if found.damage]
    for found in damaged:
        entry = require_entry(Reader(engine), found.gallery_id)
        crops = (one for one in checked_crops(engine, entry) if isinstance(one, ArchivedCrop))
        replace_crops(engine, found.gallery_id, entry.embedding_fingerprint, crops)
    return damaged


def recover_file(damaged: Path, into: Path, removed: Iterable[str] = ()) -> Recovery:
    """Writes a new file, with the snapshots that are whole beside it.

    Galleries keep their numbers, crops their ids. What was deleted stays deleted, as far as the
    damaged file or the caller knows of it.

    Args:
        damaged: the SQLite file; it is only read, and may be gone.
        into: the new file, in a directory that has none.
        removed: ids of crops that are known to be deleted.
    """
    snapshots = [one.path for one in verify_snapshots(damaged.parent) if one.problem is None]
    with contextlib.ExitStack() as held:
        old: SqliteEngine | None = None
        if damaged.is_file() and damaged.stat().st_size:
            with contextlib.suppress(ServiceError, sqlite3.DatabaseError, InputProblem):
                old = held.enter_context(contextlib.closing(SqliteEngine(damaged, only_read=True)))
        recovery = Recovery(old, snapshots, set(removed))
        new = held.enter_context(contextlib.closing(SqliteEngine(into)))
        migrate(recovery.record(), new)
        recovery.snapshots = _keep_snapshots(snapshots, into, new)
    return recovery


class Recovery:
    """What can still be read of a file, and its snapshots.

    Attributes:
        galleries: what became of each, once it was read.
        snapshots: how many were kept.
        unread: names what could not be read.
    """

    def __init__(
        self, engine: SqliteEngine | None, snapshots: Sequence[Path], removed: set[str]
    ) -> None:
        self.galleries: list[Recovered] = []
        self.snapshots = 0
        self.unread: list[str] = [] if engine else ["galleries", "tombstones", "api keys"]
        self._engine = engine
        self._files = snapshots
        self._removed = removed

    def record(self) -> OldRecord:
        """Every gallery of the file, and those of which only snapshots are left; jobs are left out.

        What computes the features is chosen anew.
        """
        known = [ENTRY.validate_json(body) for _, body in self._bodies(key("gallery"))]
        found = {entry.gallery_id: entry for entry in known}
        for path in self._files:
            number = int(path.parent.name)
            if number not in found:
                origin = snapshot_header(path)
                taken = {entry.name for entry in found.values()}
                free = origin.gallery and origin.gallery not in taken
                name = origin.gallery if free else f"recovered-{number}"
                embedder = origin.embedding_fingerprint or "unknown"
                # Not even a count of its crops is left, so that the snapshots are read.
                found[number] = GalleryRecord(number, name, embedder, datetime.now(UTC), crops=-1)
        strays, prefix = [], key("stray")
        for own, body in self._bodies(prefix):
            moment, crop_id = (part.decode() for part in own[len(prefix) : -1].split(b"\0"))
            strays.append((int(body), crop_id, moment))
        keys = [API_KEY.validate_json(body) for _, body in self._bodies(key("api key"))]
        galleries = (self._gallery(entry) for entry in found.values())
        return OldRecord(galleries, max(found, default=0), keys, {}, strays)

    def _gallery(self, entry: GalleryRecord) -> OldGallery:
        fresh = GalleryRecord(
            entry.gallery_id,
            entry.name,
            entry.embedding_fingerprint,
            entry.created_at,
            entry.settings,
            version=entry.version + 1,
        )
        prefix = key("tombstone", entry.gallery_id)
        buried = {own[len(prefix) : -1].decode() for own, _ in self._bodies(prefix)}
        tombstones = self._removed | buried
        return OldGallery(fresh, self._crops(entry, tombstones), sorted(tombstones))

    def _crops(self, entry: GalleryRecord, tombstones: set[str]) -> Iterator[ArchivedCrop]:
        became = Recovered(entry.name)
        self.galleries.append(became)
        seen = set(tombstones)
        lost: list[str] = []
        gone = [ServiceError("its record is gone")]
        engine = self._engine if entry.crops >= 0 else None
        for one in checked_crops(engine, entry) if engine else gone:
            if isinstance(one, ServiceError):
                lost.append(one.why)
            elif one.record.crop_id not in seen:
                seen.add(one.record.crop_id)
                became.from_record += 1
                yield one
        # Where the record is whole, what only a snapshot has was not in it any more.
        own = [path for path in self._files if path.parent.name == str(entry.gallery_id)]
        own.sort(key=lambda path: snapshot_header(path).version)
        for path in reversed(own) if lost else ():
            origin = snapshot_header(path)
            if origin.embedding_fingerprint in ("", entry.embedding_fingerprint):
                for one in read_snapshot(path):
                    if one.record.crop_id not in seen:
                        seen.add(one.record.crop_id)
                        became.from_snapshots += 1
                        yield one
        became.lost = [what for what in lost if not any(crop_id in what for crop_id in seen)]

    def _bodies(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        for own, body in readable(self._engine, below(prefix)) if self._engine else ():
            if isinstance(body, ServiceError):
                self.unread.append(body.why)
            else:
                yield own, body


def _keep_snapshots(snapshots: Iterable[Path], into: Path, engine: SqliteEngine) -> int:
    kept = 0
    bound = {one.gallery_id: one.embedding_fingerprint for one in Galleries(engine).all()}
    for path in snapshots:
        number = int(path.parent.name)
        if number not in bound:
            continue
        copy = into.parent / SNAPSHOTS / path.parent.name / path.name
        make_folder(copy.parent)
        shutil.copyfile(path, copy)
        sync(copy)
        sync(copy.parent)
        created_at = datetime.strptime(path.stem.partition("-")[0] + "+0000", "%Y%m%dT%H%M%SZ%z")
        snapshot = describe_snapshot(copy, created_at)
        fingerprint = snapshot.embedding_fingerprint or bound[number]
        snapshot = replace(snapshot, embedding_fingerprint=fingerprint)
        Snapshots(engine).keep(snapshot)
        kept += 1
    return kept
