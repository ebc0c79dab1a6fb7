"""A SQLite file of format 6, the one before: tables of crops, vectors and pictures."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from gmn_client.models import JobProblem
from model.problems import InputProblem
from service.ops.commit_mark import SUFFIX
from service.ops.durable import sync
from service.record.gallery_entries import ENTRY
from service.record.jobs import Job
from service.record.migration import (
    CROP,
    OldGallery,
    migrate,
    old_api_key,
    old_crop,
    old_job,
)
from service.record.records import ArchivedCrop, PublishedCalibration, Snapshot
from service.record.small_records import ApiKey
from service.record.sqlite_engine import SqliteEngine

FORMAT = 6
SETTINGS = ("retention_days", "calibration", "retention_from")


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
            names = ("gallery_id", "name", "embedding_fingerprint", "created_at", "version")
            settings = {name: row[name] for name in SETTINGS}
            yield OldGallery(
                ENTRY.validate_python({**{one: row[one] for one in names}, "settings": settings}),
                self._crops(number, row["side"]),
                [one["crop_id"] for one in self._of("tombstones", number)],
                [Snapshot(**dict(one)) for one in self._of("snapshots", number)],
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
        rows = self._rows("SELECT * FROM api_keys")
        return [old_api_key(dict(row), row["scopes"].split(",")) for row in rows]

    def runtimes(self) -> dict[str, str]:
        """What computes the features, by the embedder's fingerprint."""
        return {row["embedder"]: row["choice"] for row in self._rows("SELECT * FROM runtimes")}

    def stray_pictures(self) -> list[tuple[int, str, str]]:
        """Pictures outside that belong to no crop: gallery, crop id, and from when, as text."""
        return [
            (row["gallery_id"], row["crop_id"], row["removable_from"])
            for row in self._rows("SELECT * FROM stray_pictures")
        ]

    def _crops(self, gallery_id: int, side: str) -> Iterator[ArchivedCrop]:
        columns = ", ".join(f"crops.{name}" for name in CROP)
        rows = self._connection.execute(
            f"SELECT crops.row_id, {columns}, vectors_{side}.vector, pictures.content FROM crops "
            f"JOIN vectors_{side} USING (row_id) LEFT JOIN pictures USING (row_id) "
            "WHERE gallery_id = ? ORDER BY row_id",
            (gallery_id,),
        )
        for row in rows:
            kept = {name: row[name] for name in CROP}
            yield old_crop(row["row_id"], kept, row["vector"], row["content"])

    def _job(self, row: sqlite3.Row) -> tuple[Job, list[JobProblem]]:
        found = self._rows("SELECT * FROM job_problems WHERE job_id = ?", row["job_id"])
        problems = [
            JobProblem(**{name: one[name] for name in JobProblem.model_fields}) for one in found
        ]
        return old_job(dict(row), problems), problems

    def _of(self, table: str, gallery_id: int) -> list[sqlite3.Row]:
        return self._rows(f"SELECT * FROM {table} WHERE gallery_id = ?", gallery_id)

    def _rows(self, query: str, *values: object) -> list[sqlite3.Row]:
        return self._connection.execute(query, values).fetchall()


def _beside(path: Path) -> list[Path]:
    """The files that SQLite writes beside a database."""
    return [path.with_name(f"{path.name}{end}") for end in ("-wal", "-shm", "-journal")]
