"""What is kept of long work, so that it goes on after a restart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from gmn_client.models import FINISHED, JobKind, JobState


@dataclass(frozen=True)
class Job:
    """A piece of long work.

    Attributes:
        parameters: what it was asked to do; JSON.
        progress: how far it is, in its own terms; JSON, replaced as a whole.
        problems: how many items had one.
        cancelling: somebody asked it to stop.
        worker: which process has it in hand; None for none.
        detail: why it failed, or what to know of its outcome.
    """

    job_id: str
    gallery_id: int
    kind: JobKind
    state: JobState
    parameters: Mapping[str, Any]
    progress: Mapping[str, Any]
    problems: int
    cancelling: bool
    worker: str | None
    detail: str | None
    created_at: datetime
    updated_at: datetime

    @property
    def finished(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in FINISHED
