"""What is kept of long work, so that it goes on after a restart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from gmn_client.models import FINISHED, JobKind, JobState


@dataclass(frozen=True)
class Job:
    """A piece of long work.

    Attributes:
        parameters: the request; JSON.
        progress: how far it is, in its own terms; JSON, replaced as a whole.
        problems: number of items that had one.
        cancelling: a client cancelled it.
        worker: the process that works on it, or None.
        detail: why it failed, or a remark on its outcome.
    """

    job_id: str
    gallery_id: int
    kind: JobKind
    parameters: Mapping[str, Any]
    created_at: datetime
    updated_at: datetime
    state: JobState = "queued"
    progress: Mapping[str, Any] = field(default_factory=dict)
    problems: int = 0
    cancelling: bool = False
    worker: str | None = None
    detail: str | None = None

    @property
    def finished(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in FINISHED
