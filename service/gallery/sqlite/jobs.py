"""Long work in SQLite."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from gmn_client.models import FINISHED, JobKind, JobProblem, JobState
from service.gallery.job_records import Job
from service.gallery.sqlite.database import Database
from service.gallery.sqlite.galleries import require_gallery
from service.gallery.stored_values import as_text, now

COLUMNS = (
    "job_id, gallery_id, kind, state, parameters, progress, "
    "(SELECT count(*) FROM job_problems WHERE job_problems.job_id = jobs.job_id), "
    "cancelling, worker, detail, created_at, updated_at"
)
UNFINISHED = f"state NOT IN {FINISHED}"


class SqliteJobs:
    """Implements `JobRecords`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, job: Job) -> None:
        """Keeps a new job."""
        with self._database.transaction() as connection:
            require_gallery(connection, job.gallery_id)
            connection.execute(
                "INSERT INTO jobs (job_id, gallery_id, kind, state, parameters, progress, "
                "created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    job.job_id,
                    job.gallery_id,
                    job.kind,
                    job.state,
                    json.dumps(dict(job.parameters)),
                    json.dumps(dict(job.progress)),
                    as_text(job.created_at),
                    as_text(job.updated_at),
                ),
            )

    def get(self, job_id: str) -> Job | None:
        """One job; None where there is no such one."""
        return _find(self._database.connection, job_id)

    def page(self, gallery_id: int | None, limit: int) -> list[Job]:
        """The newest jobs, of one gallery or all."""
        rows = self._database.connection.execute(
            f"SELECT {COLUMNS} FROM jobs WHERE ?1 IS NULL OR gallery_id = ?1 "
            "ORDER BY created_at DESC, job_id LIMIT ?2",
            (gallery_id, limit),
        )
        return [_job(row) for row in rows]

    def claim(self, worker: str, lease_seconds: float) -> Job | None:
        """Takes the oldest job without a worker, or whose worker's lease has run out."""
        moment = datetime.now(UTC)
        lease = as_text(moment + timedelta(seconds=lease_seconds))
        with self._database.transaction() as connection:
            row = connection.execute(
                "UPDATE jobs SET worker = ?, lease_until = ?, state = 'running' WHERE job_id = ("
                f"SELECT job_id FROM jobs WHERE {UNFINISHED} "
                "AND (lease_until IS NULL OR lease_until < ? OR worker = ?) "
                "ORDER BY created_at, job_id LIMIT 1) RETURNING job_id",
                (worker, lease, as_text(moment), worker),
            ).fetchone()
            return _find(connection, row[0]) if row else None

    def update(
        self,
        job_id: str,
        state: JobState,
        progress: str,
        problems: Sequence[JobProblem] = (),
        detail: str | None = None,
        worker: str | None = None,
    ) -> Job | None:
        """Notes how far a job is; None where it was removed, or is not this worker's any more."""
        with self._database.transaction() as connection:
            changed = connection.execute(
                "UPDATE jobs SET state = ?, progress = ?, detail = ?, updated_at = ? "
                "WHERE job_id = ? AND coalesce(worker = ?, TRUE)",
                (state, progress, detail, now(), job_id, worker),
            )
            if changed.rowcount == 0:
                return None
            connection.executemany(
                "INSERT OR REPLACE INTO job_problems VALUES (?, ?, ?, ?, ?)",
                [(job_id, one.position, one.source, one.code, one.detail) for one in problems],
            )
            return _find(connection, job_id)

    def cancel(self, job_id: str) -> Job | None:
        """Asks a job to stop; one that nobody works on is cancelled at once."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE jobs SET cancelling = 1, "
                "state = CASE WHEN state = 'queued' THEN 'cancelled' ELSE state END, "
                f"updated_at = ? WHERE job_id = ? AND {UNFINISHED}",
                (now(), job_id),
            )
            return _find(connection, job_id)

    def problems(self, job_id: str, after: int, limit: int) -> list[JobProblem]:
        """Up to `limit` problems at positions above `after`."""
        rows = self._database.connection.execute(
            "SELECT position, source, code, detail FROM job_problems "
            "WHERE job_id = ? AND position > ? ORDER BY position LIMIT ?",
            (job_id, after, limit),
        )
        names = tuple(JobProblem.model_fields)
        return [JobProblem.model_validate(dict(zip(names, row, strict=True))) for row in rows]

    def unfinished(self, gallery_id: int, kind: JobKind) -> Job | None:
        """A job of this kind that is not finished; None where there is none."""
        row = self._database.connection.execute(
            f"SELECT {COLUMNS} FROM jobs WHERE gallery_id = ? AND kind = ? AND {UNFINISHED} "
            "ORDER BY created_at LIMIT 1",
            (gallery_id, kind),
        ).fetchone()
        return _job(row) if row else None


def _find(connection: sqlite3.Connection, job_id: str) -> Job | None:
    row = connection.execute(f"SELECT {COLUMNS} FROM jobs WHERE job_id = ?", (job_id,)).fetchone()
    return _job(row) if row else None


def _job(row: Sequence[Any]) -> Job:
    job_id, gallery_id, kind, state, parameters, progress, problems, cancelling, *rest = row
    worker, detail, created_at, updated_at = rest
    return Job(
        job_id=job_id,
        gallery_id=gallery_id,
        kind=kind,
        state=state,
        parameters=json.loads(parameters),
        progress=json.loads(progress),
        problems=problems,
        cancelling=bool(cancelling),
        worker=worker,
        detail=detail,
        created_at=datetime.fromisoformat(created_at),
        updated_at=datetime.fromisoformat(updated_at),
    )
