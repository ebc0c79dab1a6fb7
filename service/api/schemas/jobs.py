"""Long work, as it goes over the wire."""

from __future__ import annotations

from typing import Literal

from service.api.schemas.base import Moment, Schema
from service.gallery.job_records import Job


class JobOut(Schema):
    """Long work, and how far it is; `problems` counts the items that had one."""

    job_id: str
    gallery: str
    kind: Literal["import", "reindex"]
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    progress: dict[str, int]
    problems: int
    detail: str | None
    created_at: Moment
    updated_at: Moment

    @classmethod
    def of(cls, gallery: str, job: Job) -> JobOut:
        """From what the record holds."""
        return cls(
            job_id=job.job_id,
            gallery=gallery,
            kind=job.kind,
            state=job.state,
            progress=dict(job.progress),
            problems=job.problems,
            detail=job.detail,
            created_at=job.created_at,
            updated_at=job.updated_at,
        )


class JobsOut(Schema):
    """The newest jobs."""

    results: list[JobOut]
    next_cursor: str | None = None
