"""A new data directory from a damaged one: what is whole of its record, the rest from snapshots."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from service.durable import make_folder, sync
from service.gallery.data_dir import SNAPSHOTS
from service.gallery.records import ArchivedCrop, Snapshot
from service.gallery.snapshot_file import read_snapshot, snapshot_content, snapshot_origin
from service.gallery.sqlite.checked_reading import Damage
from service.gallery.sqlite.checksums import keep_record_checksums
from service.gallery.sqlite.database import Database
from service.gallery.sqlite.enrolment import insert_crop
from service.gallery.sqlite.store import SqliteStore
from service.gallery.sqlite.verifying import opened_for_reading, readable_crops
from service.gallery.stored_values import as_time, now
from service.gallery.verification import verify_snapshots

UNKNOWN_EMBEDDER = "unknown"
# Copied as they are; jobs and what is kept of requests are let go.
TABLES = ("galleries", "tombstones", "api_keys", "stray_pictures")


@dataclass(frozen=True)
class Recovered:
    """What became of one gallery.

    Attributes:
        from_record, from_snapshots: how many crops came from where.
        lost: what neither had: a line for each.
    """

    name: str
    from_record: int
    from_snapshots: int
    lost: tuple[str, ...]


@dataclass(frozen=True)
class Recovery:
    """What became of all; `unread` names tables of which some rows could not be read."""

    galleries: tuple[Recovered, ...]
    snapshots: int
    unread: tuple[str, ...]


def recover_store(damaged: Path, into: Path, removed: Iterable[str] = ()) -> Recovery:
    """Writes a new database, with the snapshots that are whole beside it.

    Galleries keep their numbers, crops their ids. What was deleted stays deleted, as far as the
    damaged database or the caller knows of it.

    Args:
        damaged: the database; it is only read, and may be gone.
        into: the new database, in a directory that has none.
        removed: ids of crops that are known to be deleted.
    """
    snapshots = [one.path for one in verify_snapshots(damaged.parent) if one.problem is None]
    SqliteStore(into).close()
    unread: list[str] = []
    galleries: list[Recovered] = []
    with contextlib.closing(Database(into)) as new, contextlib.closing(_Source(damaged)) as source:
        with new.transaction() as connection:
            unread += [table for table in TABLES if not source.copy(table, connection)]
            _name_galleries(connection, snapshots)
            connection.executemany(
                "INSERT OR IGNORE INTO tombstones SELECT ?, gallery_id, ? FROM galleries LIMIT 1",
                [(crop_id, now()) for crop_id in removed],
            )
        named = new.connection.execute("SELECT gallery_id, name FROM galleries ORDER BY name")
        for gallery_id, name in named.fetchall():
            own = [path for path in snapshots if path.parent.name == str(gallery_id)]
            with new.transaction() as connection:
                galleries.append(_fill(connection, source, own, gallery_id, name))
    kept = _keep_snapshots(snapshots, into)
    return Recovery(tuple(galleries), kept, tuple(unread))


class _Source:
    """What can still be read of a damaged database."""

    def __init__(self, path: Path) -> None:
        self._held = contextlib.ExitStack()
        self._connection: sqlite3.Connection | None = None
        if path.is_file() and path.stat().st_size:
            with contextlib.suppress(sqlite3.DatabaseError):
                self._connection = self._held.enter_context(opened_for_reading(path))

    def copy(self, table: str, into: sqlite3.Connection) -> bool:
        """Copies rows; False where some of them could not be read."""
        if self._connection is None:
            return False
        try:
            rows = self._connection.execute(f"SELECT * FROM {table}")
            names = [column[0] for column in rows.description]
            known = {row[1] for row in into.execute(f"PRAGMA table_info({table})")}
            marks = ", ".join("?" for name in names if name in known)
            wanted = ", ".join(name for name in names if name in known)
            for row in rows:
                values = [one for name, one in zip(names, row, strict=True) if name in known]
                into.execute(f"INSERT INTO {table} ({wanted}) VALUES ({marks})", values)
        except sqlite3.DatabaseError:
            return False
        return True

    def crops(self, gallery_id: int) -> Iterator[ArchivedCrop | Damage]:
        """Those that are whole, and what is wrong with others."""
        known = None
        if self._connection is not None:
            with contextlib.suppress(sqlite3.DatabaseError):
                known = self._connection.execute(
                    "SELECT 1 FROM galleries WHERE gallery_id = ?", (gallery_id,)
                ).fetchone()
        if self._connection is None or known is None:
            return iter((Damage("its record is gone"),))
        return readable_crops(self._connection, gallery_id)

    def close(self) -> None:
        self._held.close()


def _name_galleries(connection: sqlite3.Connection, snapshots: Iterable[Path]) -> None:
    """Makes galleries of which only snapshots are left, as those name them."""
    known = {row[0] for row in connection.execute("SELECT gallery_id FROM galleries")}
    names = {row[0] for row in connection.execute("SELECT name FROM galleries")}
    for path in snapshots:
        gallery_id = int(path.parent.name)
        if gallery_id in known:
            continue
        origin = snapshot_origin(path)
        name = origin.gallery if origin.gallery and origin.gallery not in names else ""
        name = name or f"recovered-{gallery_id}"
        connection.execute(
            "INSERT INTO galleries (gallery_id, name, embedding_fingerprint, version, created_at) "
            "VALUES (?, ?, ?, ?, ?)",
            (
                gallery_id,
                name,
                origin.embedding_fingerprint or UNKNOWN_EMBEDDER,
                origin.version,
                now(),
            ),
        )
        known.add(gallery_id)
        names.add(name)


def _fill(
    connection: sqlite3.Connection,
    source: _Source,
    snapshots: Sequence[Path],
    gallery_id: int,
    name: str,
) -> Recovered:
    connection.execute(
        "UPDATE galleries SET side = 'a', staged_fingerprint = NULL, version = version + 1 "
        "WHERE gallery_id = ?",
        (gallery_id,),
    )
    lost: list[str] = []
    from_record = from_snapshots = 0
    for crop in source.crops(gallery_id):
        if isinstance(crop, Damage):
            lost.append(crop.what)
        else:
            from_record += _insert(connection, gallery_id, crop)
    bound = connection.execute(
        "SELECT embedding_fingerprint FROM galleries WHERE gallery_id = ?", (gallery_id,)
    ).fetchone()[0]
    # Where the record is whole, what only a snapshot has was not in it any more.
    for path in reversed(snapshots) if lost else ():
        if snapshot_origin(path).embedding_fingerprint in ("", bound):
            for crop in read_snapshot(path):
                from_snapshots += _insert(connection, gallery_id, crop)
    held = {
        row[0]
        for row in connection.execute(
            "SELECT crop_id FROM crops WHERE gallery_id = ?", (gallery_id,)
        )
    }
    still = tuple(what for what in lost if not any(crop_id in what for crop_id in held))
    return Recovered(name, from_record, from_snapshots, still)


def _insert(connection: sqlite3.Connection, gallery_id: int, crop: ArchivedCrop) -> bool:
    """Stores a crop that is neither there nor deleted; answers whether it did."""
    record = crop.record
    known = connection.execute(
        "SELECT 1 FROM crops WHERE crop_id = ? UNION SELECT 1 FROM tombstones WHERE crop_id = ?",
        (record.crop_id, record.crop_id),
    ).fetchone()
    if known:
        return False
    _, row_id = insert_crop(connection, gallery_id, "vectors_a", crop.as_new())
    if crop.picture is None and record.content_type:
        # Its picture lies outside the database, where it stays.
        connection.execute(
            "UPDATE crops SET content_type = ?, image_bytes = ? WHERE row_id = ?",
            (record.content_type, record.image_bytes, row_id),
        )
        keep_record_checksums(connection, [row_id])
    return True


def _keep_snapshots(snapshots: Iterable[Path], into: Path) -> int:
    kept = 0
    with contextlib.closing(SqliteStore(into)) as store:
        bound = {one.gallery_id: one.embedding_fingerprint for one in store.galleries.all()}
        for path in snapshots:
            gallery_id = int(path.parent.name)
            if gallery_id not in bound:
                continue
            copy = into.parent / SNAPSHOTS / path.parent.name / path.name
            make_folder(copy.parent)
            shutil.copyfile(path, copy)
            sync(copy)
            sync(copy.parent)
            store.snapshots.keep(_snapshot(copy, gallery_id, bound[gallery_id]))
            kept += 1
    return kept


def _snapshot(path: Path, gallery_id: int, bound: str) -> Snapshot:
    content, origin = snapshot_content(path), snapshot_origin(path)
    taken = path.stem.partition("-")[0]
    created_at = as_time(f"{taken[:4]}-{taken[4:6]}-{taken[6:8]}T{taken[9:11]}:{taken[11:13]}Z")
    assert created_at is not None
    return Snapshot(
        snapshot_id=path.stem,
        gallery_id=gallery_id,
        version=origin.version,
        embedding_fingerprint=origin.embedding_fingerprint or bound,
        crops=content.crops,
        bytes=path.stat().st_size,
        sha256=content.sha256,
        created_at=created_at,
    )
