"""A new SQLite file from a damaged one: what is whole of it, and the rest from snapshots."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from model.problems import InputProblem
from service.errors import ServiceError
from service.ops.data_dir import SNAPSHOTS
from service.ops.durable import make_folder, sync
from service.record.encoding import below, key
from service.record.galleries import Galleries
from service.record.integrity import (
    GalleryFound,
    StoreFound,
    checked_crops,
    entries,
    readable,
    verify_galleries,
    verify_snapshots,
)
from service.record.migration import OldGallery, OldRecord, migrate
from service.record.records import ArchivedCrop, GalleryRecord, Snapshot
from service.record.small_records import API_KEY, Snapshots
from service.record.snapshot_file import read_snapshot, snapshot_header
from service.record.sqlite_engine import SqliteEngine

PAGE_PROBLEMS = 20


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
        found: dict[int, GalleryRecord] = {}
        for entry in entries(self._engine) if self._engine else ():
            if isinstance(entry, ServiceError):
                self.unread.append(entry.why)
            else:
                found[entry.gallery_id] = entry
        for path in self._files:
            number = int(path.parent.name)
            if number not in found:
                _, origin = snapshot_header(path)
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
        for path in reversed(own) if lost else ():
            _, origin = snapshot_header(path)
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
        content, origin = snapshot_header(copy)
        snapshot = Snapshot(
            snapshot_id=path.stem,
            gallery_id=number,
            version=origin.version,
            embedding_fingerprint=origin.embedding_fingerprint or bound[number],
            crops=content.crops,
            bytes=copy.stat().st_size,
            sha256=content.sha256,
            created_at=datetime.strptime(path.stem.partition("-")[0] + "+0000", "%Y%m%dT%H%M%SZ%z"),
        )
        Snapshots(engine).keep(snapshot)
        kept += 1
    return kept
