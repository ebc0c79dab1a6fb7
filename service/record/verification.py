"""Everything of a record held against its checksums."""

from __future__ import annotations

import contextlib
import sqlite3
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic_core import to_json

from service.errors import DamagedSnapshot, RecordUnavailable, ServiceError
from service.ops.data_directory import snapshot_name
from service.record.engine import Engine, Reader, Scan, batches
from service.record.entries import (
    ENTRY,
    Generation,
    as_crop,
    is_still,
    read_contents,
    read_entry,
    readable,
)
from service.record.kept_queries import (
    CASE,
    KEPT_CASE,
    KEPT_KIND,
    KEPT_QUERY,
    Case,
    KeptQuery,
    picture_key,
)
from service.record.keys import below, key, shown
from service.record.picture_folder import PictureFolder
from service.record.records import ArchivedCrop, GalleryRecord, StoredCrop
from service.record.snapshot_file import read_snapshot
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


@dataclass(frozen=True)
class KeptFound:
    """A kept search or a case, by its key.

    Attributes:
        whole: what is whole of it: a search without a damaged picture, and without a case that is
            damaged; None for nothing.
        picture: of a search.
        damage: what is not as it was written; None for nothing.
    """

    own_key: bytes
    whole: KeptQuery | Case | None
    picture: bytes | None = None
    damage: str | None = None


def verify_file(database: Path) -> StoreFound:
    """Reads everything of a SQLite file and of what lies beside it, also while it is served."""
    problem = "it is gone"
    if database.is_file() and database.stat().st_size:
        try:
            with contextlib.closing(SqliteEngine(database, only_read=True)) as engine:
                engine.outside = PictureFolder.of_backup(database.parent)
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
        crops = 0
        problem = None
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
                found.whole_searches += isinstance(one.whole, KeptQuery) and one.damage is None
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
    reader = Reader(engine)
    at = Generation.searched(entry)
    count = 0
    bodies = (body for _, body in readable(engine, below(at.key("crop"))))
    for some in batches(bodies, CROPS_AT_ONCE):
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


def checked_kept(engine: Engine, gallery_id: int) -> Iterator[KeptFound]:
    """A gallery's cases, then its kept searches with their pictures."""
    for kind in (CASE, KEPT_KIND):
        for own, body in readable(engine, below(key(kind, gallery_id))):
            if isinstance(body, ServiceError):
                yield KeptFound(own, None, damage=body.why)
            elif kind == CASE:
                yield KeptFound(own, KEPT_CASE.validate_json(body))
            else:
                yield _checked_search(Reader(engine), gallery_id, own, body)


def _checked_search(reader: Reader, gallery_id: int, own: bytes, body: bytes) -> KeptFound:
    damage = []

    def part(part_key: bytes, name: str) -> bytes | None:
        try:
            (found,) = reader.get([part_key], [name])
            if found is None:
                raise reader.engine.damage(f"{name} is gone")
        except RecordUnavailable:
            raise
        except ServiceError as error:
            damage.append(error.why)
            return None
        return found

    kept = KEPT_QUERY.validate_json(body)
    picture = None
    of = f"of search {kept.query_id}"
    if kept.content_type:
        picture = part(picture_key(gallery_id, kept.query_id), f"the picture {of}")
    whole = [one for one in kept.cases if part(key(CASE, gallery_id, one), f"a case {of}")]
    # What is changed or removed meanwhile is no damage.
    if not damage or reader.get([own]) != [body]:
        return KeptFound(own, kept, picture)
    content_type = kept.content_type if picture else None
    kept = replace(kept, cases=tuple(whole), content_type=content_type)
    return KeptFound(own, kept, picture, damage[0])
