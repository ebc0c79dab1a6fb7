"""A SQLite file of format 6, the one before: tables of crops, vectors and pictures."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from gmn_client.models import JobProblem
from service.ops.commit_mark import ACKNOWLEDGED_SUFFIX
from service.ops.data_directory import sync
from service.record.jobs import Job
from service.record.migration import (
    CROP,
    OldGallery,
    OldRecord,
    migrate,
    old_api_key,
    old_crop,
    old_entry,
    old_job,
)
from service.record.records import ArchivedCrop, PublishedCalibration, Snapshot
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
            migrate(_old_record(connection), engine)
            (commits,) = connection.execute("SELECT number FROM commits").fetchone()
            engine.count_from(commits)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for leftover in _beside(path):
        leftover.unlink(missing_ok=True)
    written.replace(path)
    mark.unlink(missing_ok=True)
    sync(path.parent)


def _old_record(connection: sqlite3.Connection) -> OldRecord:
    connection.row_factory = sqlite3.Row
    ask = connection.execute
    rows = ask("SELECT * FROM galleries ORDER BY gallery_id").fetchall()
    last = ask("SELECT seq FROM sqlite_sequence WHERE name = 'galleries'").fetchone()
    strays = ask("SELECT gallery_id, crop_id, removable_from FROM stray_pictures").fetchall()
    keys = ask("SELECT * FROM api_keys").fetchall()
    return OldRecord(
        galleries=(_gallery(connection, row) for row in rows),
        last_gallery=last["seq"] if last else 0,
        api_keys=[old_api_key(dict(row), row["scopes"].split(",")) for row in keys],
        runtimes={row["embedder"]: row["choice"] for row in ask("SELECT * FROM runtimes")},
        stray_pictures=[(gallery, crop_id, moment) for gallery, crop_id, moment in strays],
    )


def _gallery(connection: sqlite3.Connection, row: sqlite3.Row) -> OldGallery:
    def of(table: str) -> list[sqlite3.Row]:
        query = f"SELECT * FROM {table} WHERE gallery_id = ?"
        return connection.execute(query, (row["gallery_id"],)).fetchall()

    return OldGallery(
        old_entry(dict(row)),
        _crops(connection, row["gallery_id"], row["side"]),
        [one["crop_id"] for one in of("tombstones")],
        [Snapshot(**dict(one)) for one in of("snapshots")],
        [_job(connection, one) for one in of("jobs")],
        {
            one["subject"]: PublishedCalibration(one["version"], one["body"].decode())
            for one in of("published_calibrations")
        },
    )


def _crops(connection: sqlite3.Connection, gallery_id: int, side: str) -> Iterator[ArchivedCrop]:
    columns = ", ".join(f"crops.{name}" for name in CROP)
    rows = connection.execute(
        f"SELECT crops.row_id, {columns}, vectors_{side}.vector, pictures.content FROM crops "
        f"JOIN vectors_{side} USING (row_id) LEFT JOIN pictures USING (row_id) "
        "WHERE gallery_id = ? ORDER BY row_id",
        (gallery_id,),
    )
    for row in rows:
        kept = {name: row[name] for name in CROP}
        yield old_crop(row["row_id"], kept, row["vector"], row["content"])


def _job(connection: sqlite3.Connection, row: sqlite3.Row) -> tuple[Job, list[JobProblem]]:
    columns = ", ".join(JobProblem.model_fields)
    query = f"SELECT {columns} FROM job_problems WHERE job_id = ?"
    problems = [JobProblem(**dict(one)) for one in connection.execute(query, (row["job_id"],))]
    return old_job(dict(row), problems), problems


def _beside(path: Path) -> list[Path]:
    """The files that SQLite writes beside a database."""
    return [path.with_name(f"{path.name}{end}") for end in ("-wal", "-shm", "-journal")]
