"""A SQLite file of format 6, the one before: tables of crops, vectors and pictures."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from gmn_client.models import JobProblem
from service.ops.commit_mark import ACKNOWLEDGED_SUFFIX
from service.ops.data_directory import sync
from service.record.crop_changes import tombstone
from service.record.engine import key, now
from service.record.galleries import NEXT_GALLERY
from service.record.jobs import Job
from service.record.migration import (
    CROP,
    Entries,
    migrate,
    old_api_key,
    old_crop,
    old_entry,
    old_job,
    old_stray,
)
from service.record.records import ArchivedCrop, GalleryRecord, PublishedCalibration, Snapshot
from service.record.sqlite_engine import SqliteEngine

FORMAT = 6


def is_older_file(path: Path) -> bool:
    """Whether a file is of the format before."""
    if not path.is_file() or not path.stat().st_size:
        return False
    # The engine names what is wrong with a file that is none of a record.
    with (
        contextlib.suppress(sqlite3.DatabaseError),
        contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as old,
    ):
        return bool(old.execute("PRAGMA user_version").fetchone() == (FORMAT,))
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
            migrate(engine, _galleries(connection), _jobs(connection), _others(connection))
            (commits,) = connection.execute("SELECT number FROM commits").fetchone()
            engine.count_from(commits)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for leftover in _beside(path):
        leftover.unlink(missing_ok=True)
    written.replace(path)
    mark.unlink(missing_ok=True)
    sync(path.parent)


def _galleries(old: sqlite3.Connection) -> Iterator[tuple[GalleryRecord, Iterator[ArchivedCrop]]]:
    for row in old.execute("SELECT * FROM galleries ORDER BY gallery_id"):
        yield old_entry(dict(row)), _crops(old, row["gallery_id"], row["side"])


def _crops(old: sqlite3.Connection, gallery_id: int, side: str) -> Iterator[ArchivedCrop]:
    columns = ", ".join(f"crops.{name}" for name in CROP)
    rows = old.execute(
        f"SELECT crops.row_id, {columns}, vectors_{side}.vector, pictures.content FROM crops "
        f"JOIN vectors_{side} USING (row_id) LEFT JOIN pictures USING (row_id) "
        "WHERE gallery_id = ? ORDER BY row_id",
        (gallery_id,),
    )
    for row in rows:
        kept = {name: row[name] for name in CROP}
        yield old_crop(row["row_id"], kept, row["vector"], row["content"])


def _jobs(old: sqlite3.Connection) -> Iterator[tuple[Job, Sequence[JobProblem]]]:
    query = f"SELECT {', '.join(JobProblem.model_fields)} FROM job_problems WHERE job_id = ?"
    for row in old.execute("SELECT * FROM jobs"):
        problems = [JobProblem(**dict(one)) for one in old.execute(query, (row["job_id"],))]
        yield old_job(dict(row), problems)


def _others(old: sqlite3.Connection) -> Entries:
    def rows(table: str) -> sqlite3.Cursor:
        return old.execute(f"SELECT * FROM {table}")

    moment = now()
    for row in rows("tombstones"):
        yield tombstone(row["gallery_id"], row["crop_id"]), moment
    for row in rows("snapshots"):
        yield key("snapshot", row["gallery_id"], row["snapshot_id"]), Snapshot(**dict(row))
    for row in rows("published_calibrations"):
        body = PublishedCalibration(row["version"], row["body"].decode())
        yield key("published", row["gallery_id"], row["subject"]), body
    for row in rows("api_keys"):
        yield old_api_key(dict(row), row["scopes"].split(","))
    for row in rows("runtimes"):
        yield key("runtime", row["embedder"]), row["choice"]
    for row in rows("stray_pictures"):
        yield from old_stray(row["gallery_id"], row["crop_id"], row["removable_from"])
    for row in rows("sqlite_sequence WHERE name = 'galleries'"):
        yield NEXT_GALLERY, row["seq"]


def _beside(path: Path) -> list[Path]:
    """The files that SQLite writes beside a database."""
    return [path.with_name(f"{path.name}{end}") for end in ("-wal", "-shm", "-journal")]
