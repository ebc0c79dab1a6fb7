"""Records of the format before: a SQLite file is written anew, keys in Redis are packed.

The file had tables of galleries, crops, vectors and pictures.
"""

from __future__ import annotations

import contextlib
import itertools
import secrets
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic_core import from_json

from gmn_client.models import JobProblem
from model.problems import InputProblem
from service.ops.commit_mark import ACKNOWLEDGED_SUFFIX
from service.ops.data_directory import sync
from service.record.api_keys import API_KEY, SCOPES
from service.record.crop_changes import CropChanges, tombstone
from service.record.engine import Engine, Transaction, key, now, transact
from service.record.entries import ENTRY, put_entry, require_entry
from service.record.galleries import NAMES, NEXT_GALLERY
from service.record.jobs import JOB, job_entries
from service.record.packed_keys import packed
from service.record.records import (
    ArchivedCrop,
    GalleryRecord,
    GallerySettings,
    PublishedCalibration,
    Snapshot,
    StoredCrop,
)
from service.record.redis_engine import (
    FORMAT,
    VALUES,
    Argument,
    RedisEngine,
    record_name,
)
from service.record.sqlite_engine import SqliteEngine

CROPS_AT_ONCE = 200
KEYS_AT_ONCE = 1000
SQLITE_FORMAT = 6
# A record in Redis of the same content, under keys that were not packed; and while they are packed.
REDIS_FORMAT, PACKING = b"4", b"4 to 5"
RENAME = """for each = 1, #ARGV, 2 do
  if redis.call('EXISTS', ARGV[each]) == 1 then redis.call('RENAME', ARGV[each], ARGV[each + 1]) end
end"""
# What a crop had before: all columns but these.
NEWER = ("row_id", "inside", "quality", "changes")
CROP = tuple(one.name for one in fields(StoredCrop) if one.name not in NEWER)
GALLERY = ("gallery_id", "name", "embedding_fingerprint", "created_at", "version")
JOB_COLUMNS = ("job_id", "gallery_id", "kind", "state", "created_at", "updated_at", "cancelling")
Item = TypeVar("Item")
Entries = Iterable[tuple[bytes, Any]]
"""Keys of a record with their plain data."""
OldGallery = tuple[GalleryRecord, Iterable[ArchivedCrop]]
"""An entry whose counts are 0, and the crops, whose rows are given out anew."""


def migrate(engine: Engine, galleries: Iterable[OldGallery], others: Entries) -> None:
    """Writes a record into an empty engine: the galleries, then the others."""
    for entry, crops in galleries:
        transact(engine, _begin, entry)
        for batch in _batches(crops, CROPS_AT_ONCE):
            transact(engine, _put_crops, entry.gallery_id, batch)
    for entries in _batches(others, KEYS_AT_ONCE):
        transact(engine, _put_all, entries)


def _begin(transaction: Transaction, entry: GalleryRecord) -> None:
    transaction.put_json(NAMES + key(entry.name), entry.gallery_id)
    put_entry(transaction, entry)


def _put_crops(transaction: Transaction, gallery_id: int, crops: Sequence[ArchivedCrop]) -> None:
    entry = require_entry(transaction, gallery_id)
    CropChanges(transaction, entry).put_all(crops)
    put_entry(transaction, entry)


def _put_all(transaction: Transaction, entries: Entries) -> None:
    for own, body in entries:
        transaction.put_json(own, body)


def _batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    left = iter(items)
    while batch := list(itertools.islice(left, size)):
        yield batch


def is_older_file(path: Path) -> bool:
    """Whether a file is of the format before."""
    if not path.is_file() or not path.stat().st_size:
        return False
    # The engine names what is wrong with a file that is none of a record.
    with (
        contextlib.suppress(sqlite3.DatabaseError),
        contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as old,
    ):
        return bool(old.execute("PRAGMA user_version").fetchone() == (SQLITE_FORMAT,))
    return False


def migrate_file(path: Path) -> None:
    """Writes a file of the format before anew beside itself, and puts the new one in its place.

    To be called by one process alone: others would go on writing the old file. Where this ends
    early the old file is whole, and the next upgrade begins again.
    """
    written = path.with_name(f"{path.name}.migrating")
    mark = written.with_suffix(ACKNOWLEDGED_SUFFIX)
    for leftover in (written, mark, *_beside(written)):
        leftover.unlink(missing_ok=True)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        with contextlib.closing(SqliteEngine(written)) as engine:
            connection.row_factory = sqlite3.Row
            migrate(engine, _file_galleries(connection), _file_others(connection))
            (commits,) = connection.execute("SELECT number FROM commits").fetchone()
            engine.count_from(commits)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for leftover in _beside(path):
        leftover.unlink(missing_ok=True)
    written.replace(path)
    mark.unlink(missing_ok=True)
    sync(path.parent)


def _file_galleries(old: sqlite3.Connection) -> Iterator[OldGallery]:
    for row in old.execute("SELECT * FROM galleries ORDER BY gallery_id"):
        known: dict[str, Any] = {name: row[name] for name in GALLERY}
        # A retention of 0 days was none.
        known["settings"] = {one.name: row[one.name] or None for one in fields(GallerySettings)}
        entry = ENTRY.validate_python(known)
        yield entry, _file_crops(old, entry.gallery_id, row["side"])


def _file_crops(old: sqlite3.Connection, gallery_id: int, side: str) -> Iterator[ArchivedCrop]:
    columns = ", ".join(f"crops.{name}" for name in CROP)
    rows = old.execute(
        f"SELECT crops.row_id, {columns}, vectors_{side}.vector, pictures.content FROM crops "
        f"JOIN vectors_{side} USING (row_id) LEFT JOIN pictures USING (row_id) "
        "WHERE gallery_id = ? ORDER BY row_id",
        (gallery_id,),
    )
    for row in rows:
        kept: dict[str, Any] = {name: row[name] for name in CROP}
        kept["content_type"] = row["content_type"] or None
        kept["metadata"] = from_json(row["metadata"]) if row["metadata"] else None
        record = StoredCrop(row["row_id"], **kept)
        yield ArchivedCrop(record, np.frombuffer(row["vector"], "<f4"), row["content"])


def _file_others(old: sqlite3.Connection) -> Entries:
    def rows(table: str) -> sqlite3.Cursor:
        return old.execute(f"SELECT * FROM {table}")

    moment = now()
    for row in rows("tombstones"):
        yield tombstone(row["gallery_id"], row["crop_id"]), moment
    for row in rows("snapshots"):
        yield key("snapshot", row["gallery_id"], row["snapshot_id"]), Snapshot(**dict(row))
    query = f"SELECT {', '.join(JobProblem.model_fields)} FROM job_problems WHERE job_id = ?"
    for row in rows("jobs"):
        problems = [JobProblem(**dict(one)) for one in old.execute(query, (row["job_id"],))]
        known: dict[str, Any] = {name: row[name] for name in JOB_COLUMNS}
        known |= {name: from_json(row[name]) for name in ("parameters", "progress")}
        known |= {"problems": len(problems), "detail": row["detail"] or None}
        # No process works on it.
        yield from job_entries(JOB.validate_python(known), problems)
    for row in rows("published_calibrations"):
        body = PublishedCalibration(row["version"], row["body"].decode())
        yield key("published", row["gallery_id"], row["subject"]), body
    for row in rows("api_keys"):
        # Without scopes that are no more.
        scopes = [one for one in SCOPES if one in row["scopes"].split(",")]
        known = {**dict(row), "scopes": scopes, "expires_at": row["expires_at"] or None}
        yield key("api key", row["key_id"]), API_KEY.validate_python(known)
    for row in rows("runtimes"):
        yield key("runtime", row["embedder"]), row["choice"]
    for row in rows("stray_pictures"):
        yield key("stray", row["gallery_id"], row["crop_id"]), row["removable_from"]
    for row in rows("sqlite_sequence WHERE name = 'galleries'"):
        yield NEXT_GALLERY, row["seq"]


def _beside(path: Path) -> list[Path]:
    """The files that SQLite writes beside a database."""
    return [path.with_name(f"{path.name}{end}") for end in ("-wal", "-shm", "-journal")]


def is_older_redis(engine: RedisEngine) -> bool:
    """Whether Redis holds a record of the format before."""
    return engine.command("GET", "gmn:format") in (REDIS_FORMAT, PACKING)


def migrate_redis(engine: RedisEngine) -> None:
    """Packs the keys of a record of the format before.

    The epoch of the record changes first: processes that connect later and hold the one before are
    refused. Where this ends early, the next upgrade goes on.

    Raises:
        InputProblem: where another process is connected, or what was acknowledged is missing.
    """
    engine.require_acknowledged()
    if engine.others_connected():
        raise InputProblem(
            f"Redis at {engine.place}: its record is of an older format, and other processes of "
            "this program are connected to it; stop every service, then run gmn store upgrade or "
            "start one"
        )
    name = record_name((engine.command("GET", "gmn:epoch") or b"").decode())
    epoch = f"{name or secrets.token_hex(16)}-{secrets.token_hex(8)}"
    engine.command("MSET", "gmn:format", PACKING, "gmn:epoch", epoch)
    engine.adopt()
    _pack_keys(engine)
    engine.command("SET", "gmn:format", FORMAT)


def _pack_keys(engine: RedisEngine) -> None:
    """Renames every key that is not packed; doing it twice does no more than once."""
    changed: list[Argument]
    for found in _scanned(engine, "SCAN", (), ("MATCH", "gmn:v:*")):
        changed = []
        for own in found:
            new = VALUES + packed(own.removeprefix(VALUES))
            changed += [own, new] if new != own else []
        engine.command("EVAL", RENAME, 0, *changed)
    for found in _scanned(engine, "ZSCAN", ("gmn:order",)):
        if old := [one for one, _ in found if packed(one) != one]:
            changed = []
            for own in old:
                changed += [0, packed(own)]
            engine.command("ZADD", "gmn:order", *changed)
            engine.command("ZREM", "gmn:order", *old)


def _scanned(
    engine: RedisEngine, command: str, of: Iterable[str], options: Iterable[str] = ()
) -> Iterator[list[Any]]:
    """What a cursor finds, in parts: everything at least that stays where it was."""
    cursor: int | None = None
    while cursor != 0:
        cursor, found = engine.command(command, *of, cursor or 0, *options, "COUNT", KEYS_AT_ONCE)
        yield found
