"""How times and ids are stored."""

from __future__ import annotations

import secrets
import time
from datetime import UTC, datetime


def as_text(moment: datetime) -> str:
    """A time as it is stored; texts of UTC times sort as the times do."""
    return moment.astimezone(UTC).isoformat()


def now() -> str:
    """This moment as it is stored, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def new_crop_id() -> str:
    """48 bits of milliseconds, then 80 random ones: unguessable, and roughly in order of time."""
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"
