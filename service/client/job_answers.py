"""What the service answers about long work."""

from __future__ import annotations

from datetime import datetime

from service.client.answers import Answer

FINISHED = ("done", "failed", "cancelled")


class JobProgress(Answer):
    """How far a job is, in items; `total` is 0 until they are counted.

    Attributes:
        done: items that are dealt with, whatever became of them.
        landed, duplicates, refused: what became of them; an import's alone, but for `refused`.
    """

    total: int = 0
    done: int = 0
    landed: int = 0
    duplicates: int = 0
    refused: int = 0


class Job(Answer):
    """Long work.

    Attributes:
        kind: `import` or `reindex`.
        state: `queued`, `running`, `done`, `failed` or `cancelled`.
        problems: how many items had one; `job_problems` tells which.
        detail: why it failed, or what to know of its outcome.
    """

    job_id: str
    gallery: str
    kind: str
    state: str
    progress: JobProgress = JobProgress()
    problems: int = 0
    detail: str | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None

    @property
    def finished(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in FINISHED


class JobProblem(Answer):
    """What is wrong with one item of a job.

    Attributes:
        position: the n-th item, from 0.
        source: what the item is called.
        code: the kind of problem; stable for programs.
        detail: why, and what to do.
    """

    position: int
    source: str
    code: str
    detail: str
