"""A SQLite file of format 6, the one before: tables of crops, vectors and pictures."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import Any

from gmn_client.models import JobProblem
from model.problems import InputProblem
from service.ops.commit_mark import SUFFIX
from service.ops.durable import sync
from service.record.crop_entries import Contents
from service.record.gallery_entries import Entry
from service.record.jobs import Job
from service.record.migration import OldGallery, migrate
from service.record.records import PublishedCalibration, Snapshot, StoredCrop
from service.record.small_records import SCOPES, ApiKey
from service.record.sqlite_engine import SqliteEngine
from service.record.stored_values import as_time

FORMAT = 6
CROP = tuple(
    one.name for one in fields(StoredCrop) if one.name not in ("row_id", "inside", "changes")
)


def migrate_file(path: Path) -> None:
    """Writes a file of format 6 anew beside itself, and puts the new one in its place.

    A file of the present format, and one that is not there, stay as they are. Where this ends
    early the old file is whole, and the next start begins again.

    Raises:
        InputProblem: for a file of another format.
    """
    if not path.is_file() or not path.stat().st_size:
        return
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        try:
            version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        except sqlite3.DatabaseError:
            # The engine names what is wrong with it.
            return
        if version in (0, SqliteEngine.FORMAT):
            return
        if version != FORMAT:
            raise InputProblem(
                f"{path}: has format version {version}, this program reads {SqliteEngine.FORMAT} "
                f"and brings {FORMAT} up to it; serve it once with the program version between"
            )
        written = path.with_name(f"{path.name}.migrating")
        mark = written.with_suffix(SUFFIX)
        for leftover in (written, mark, *_beside(written)):
            leftover.unlink(missing_ok=True)
        engine = SqliteEngine(written)
        try:
            migrate(OldFile(connection), engine)
            (commits,) = connection.execute("SELECT number FROM commits").fetchone()
            engine.count_from(commits)
        finally:
            engine.close()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for leftover in _beside(path):
        leftover.unlink(missing_ok=True)
    written.replace(path)
    mark.unlink(missing_ok=True)
    sync(path.parent)


class OldFile:
    """Implements `OldRecord`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        connection.row_factory = sqlite3.Row
        self._connection = connection

    def galleries(self) -> Iterator[OldGallery]:
        """Every gallery."""
        for row in self._rows("SELECT * FROM galleries ORDER BY gallery_id"):
            number = row["gallery_id"]
            settings = ("retention_days", "calibration", "retention_from")
            yield OldGallery(
                Entry(
                    gallery_id=number,
                    name=row["name"],
                    embedding_fingerprint=row["embedding_fingerprint"],
                    created_at=row["created_at"],
                    settings={name: row[name] for name in settings},
                    version=row["version"],
                ),
                self._crops(number, row["side"]),
                [one["crop_id"] for one in self._of("tombstones", number)],
                [Snapshot(**_times(one, "created_at")) for one in self._of("snapshots", number)],
                [self._job(one) for one in self._of("jobs", number)],
                {
                    one["subject"]: PublishedCalibration(one["version"], one["body"].decode())
                    for one in self._of("published_calibrations", number)
                },
            )

    def last_gallery(self) -> int:
        """The number that was given to the newest gallery."""
        found = self._rows("SELECT seq FROM sqlite_sequence WHERE name = 'galleries'")
        return found[0]["seq"] if found else 0

    def api_keys(self) -> list[ApiKey]:
        """API keys."""
        return [
            ApiKey(
                **{
                    **dict(row),
                    "scopes": tuple(one for one in SCOPES if one in row["scopes"].split(",")),
                    "learn": bool(row["learn"]),
                    "expires_at": as_time(row["expires_at"]),
                }
            )
            for row in self._rows("SELECT * FROM api_keys")
        ]

    def runtimes(self) -> dict[str, str]:
        """What computes the features, by the embedder's fingerprint."""
        return {row["embedder"]: row["choice"] for row in self._rows("SELECT * FROM runtimes")}

    def stray_pictures(self) -> list[tuple[int, str, str]]:
        """Pictures outside that belong to no crop: gallery, crop id, and from when, as text."""
        return [
            (row["gallery_id"], row["crop_id"], row["removable_from"])
            for row in self._rows("SELECT * FROM stray_pictures")
        ]

    def _crops(self, gallery_id: int, side: str) -> Iterator[Contents]:
        columns = ", ".join(f"crops.{name}" for name in CROP)
        rows = self._connection.execute(
            f"SELECT crops.row_id, {columns}, vectors_{side}.vector, pictures.content FROM crops "
            f"JOIN vectors_{side} USING (row_id) LEFT JOIN pictures USING (row_id) "
            "WHERE gallery_id = ? ORDER BY row_id",
            (gallery_id,),
        )
        for row in rows:
            entry = {name: row[name] for name in CROP}
            entry["content_type"] = entry["content_type"] or None
            entry["metadata"] = json.loads(entry["metadata"]) if entry["metadata"] else None
            yield Contents(StoredCrop(row["row_id"], **entry), row["vector"], row["content"])

    def _job(self, row: sqlite3.Row) -> tuple[Job, list[JobProblem]]:
        problems = [
            JobProblem(**{name: one[name] for name in JobProblem.model_fields})
            for one in self._rows("SELECT * FROM job_problems WHERE job_id = ?", row["job_id"])
        ]
        kept = _times(row, "created_at", "updated_at")
        del kept["lease_until"]
        for name in ("parameters", "progress"):
            kept[name] = json.loads(kept[name])
        kept |= {"problems": len(problems), "cancelling": bool(kept["cancelling"])}
        return Job(**kept), problems

    def _of(self, table: str, gallery_id: int) -> list[sqlite3.Row]:
        return self._rows(f"SELECT * FROM {table} WHERE gallery_id = ?", gallery_id)

    def _rows(self, query: str, *values: object) -> list[sqlite3.Row]:
        return self._connection.execute(query, values).fetchall()


def _times(row: sqlite3.Row, *names: str) -> dict[str, Any]:
    return {**dict(row), **{name: datetime.fromisoformat(row[name]) for name in names}}


def _beside(path: Path) -> list[Path]:
    """The files that SQLite writes beside a database."""
    return [path.with_name(f"{path.name}{end}") for end in ("-wal", "-shm", "-journal")]
