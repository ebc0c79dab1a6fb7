"""An operation of the service, and the state that it shows before and after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# By part of the state, so that a part that is being changed can be told from the others.
Shown = dict[str, Any]
GONE = "gone"


@dataclass(frozen=True)
class Act:
    """One thing that was done.

    Attributes:
        begun, acknowledged: by the monotonic clock, nanoseconds.
        asked: how many destructions the audit log had been asked for when it was acknowledged.
        logged: the ids that the log of deletions had then.
    """

    name: str
    begun: int
    acknowledged: int
    before: Shown
    after: Shown
    asked: int = 0
    logged: frozenset[str] = frozenset()
