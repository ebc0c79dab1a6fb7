"""Long work in Redis."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, cast

from gmn_client.models import JobKind, JobProblem, JobState
from service.gallery.job_records import Job
from service.gallery.redis.database import Database
from service.gallery.redis.values import microseconds
from service.gallery.stored_values import as_text, now


class RedisJobs:
    """Implements `JobRecords`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, job: Job) -> None:
        """Keeps a new job."""
        fields = {
            "kind": job.kind,
            "state": job.state,
            "parameters": json.dumps(dict(job.parameters)),
            "progress": json.dumps(dict(job.progress)),
            "created_at": as_text(job.created_at),
            "updated_at": as_text(job.updated_at),
        }
        self._database.write(
            "create_job",
            job.gallery_id,
            job.job_id,
            microseconds(job.created_at),
            *(part for pair in fields.items() for part in pair),
        )

    def get(self, job_id: str) -> Job | None:
        """One job; None where there is no such one."""
        found = self._database.read("find_jobs", job_id)
        return _job(json.loads(found[0])) if found else None

    def page(self, gallery_id: int | None, limit: int) -> list[Job]:
        """The newest jobs, of one gallery or all."""
        key = "gmn:jobs" if gallery_id is None else f"gmn:g:{gallery_id}:jobs"
        return self._newest(key, limit)

    def claim(self, worker: str, lease_seconds: float) -> Job | None:
        """Takes the oldest job without a worker, or whose worker's lease has run out."""
        lease = int(lease_seconds * 1_000_000)
        return _answered(self._database.write("claim_job", worker, lease))

    def update(
        self,
        job_id: str,
        state: JobState,
        progress: str,
        problems: Sequence[JobProblem] = (),
        detail: str | None = None,
        worker: str | None = None,
    ) -> Job | None:
        """Notes how far a job is, and renews its lease; None where it is not this worker's."""
        texts = ((one.position, one.model_dump_json()) for one in problems)
        answer = self._database.write(
            "update_job",
            job_id,
            worker or "",
            state,
            now(),
            progress,
            detail or "",
            *(part for pair in texts for part in pair),
        )
        return _answered(answer)

    def cancel(self, job_id: str) -> Job | None:
        """Asks a job to stop; one that nobody works on is cancelled at once."""
        return _answered(self._database.write("cancel_job", job_id, now()))

    def problems(self, job_id: str, after: int, limit: int) -> list[JobProblem]:
        """Up to `limit` problems at positions above `after`."""
        key = f"gmn:job:{job_id}"
        positions = self._database.command(
            "ZRANGEBYSCORE", f"{key}:positions", f"({after}", "+inf", "LIMIT", 0, limit
        )
        if not positions:
            return []
        texts = self._database.command("HMGET", f"{key}:problems", *positions)
        return [JobProblem.model_validate_json(text) for text in texts if text is not None]

    def unfinished(self, gallery_id: int, kind: JobKind) -> Job | None:
        """A job of this kind that is not finished; None where there is none."""
        open_jobs = self._database.command("ZRANGE", "gmn:jobs:open", 0, -1)
        found = self._database.read("find_jobs", *open_jobs) if open_jobs else []
        jobs = (_job(json.loads(text)) for text in found)
        return next(
            (
                job
                for job in jobs
                if (job.gallery_id, job.kind, job.finished) == (gallery_id, kind, False)
            ),
            None,
        )

    def _newest(self, key: str, limit: int) -> list[Job]:
        """As many as asked, of one moment those with the smaller id first."""
        last = self._database.command("ZREVRANGE", key, 0, max(limit - 1, 0), "WITHSCORES")
        if not last:
            return []
        oldest = cast("tuple[bytes, float]", last[-1])[1]
        ids = self._database.command("ZRANGEBYSCORE", key, oldest, "+inf")
        jobs = [_job(json.loads(text)) for text in self._database.read("find_jobs", *ids)]
        jobs.sort(key=lambda job: (-microseconds(job.created_at), job.job_id))
        return jobs[:limit]


def _answered(answer: dict[str, Any]) -> Job | None:
    return _job(answer) if "refused" not in answer else None


def _job(fields: Mapping[str, Any]) -> Job:
    return Job(
        job_id=fields["job_id"],
        gallery_id=int(fields["gallery_id"]),
        kind=fields["kind"],
        state=fields["state"],
        parameters=json.loads(fields["parameters"]),
        progress=json.loads(fields["progress"]),
        problems=int(fields["problems"]),
        cancelling="cancelling" in fields,
        worker=fields.get("worker"),
        detail=fields.get("detail") or None,
        created_at=datetime.fromisoformat(fields["created_at"]).astimezone(UTC),
        updated_at=datetime.fromisoformat(fields["updated_at"]).astimezone(UTC),
    )
