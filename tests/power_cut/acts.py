"""Something that was done to what is kept, and what was shown before and after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# By what of what is kept, so that what is under way can be told from what is not.
Shown = dict[str, Any]
GONE = "gone"


@dataclass(frozen=True)
class Act:
    """One thing that was done.

    Attributes:
        begun, acknowledged: by the monotonic clock, nanoseconds.
        asked: how many destructions the audit log had been asked for when it was acknowledged.
    """

    name: str
    begun: int
    acknowledged: int
    before: Shown
    after: Shown
    asked: int = 0
