"""What a crop is called: given out once, by nobody else."""

from __future__ import annotations

import secrets
import time


def new_crop_id() -> str:
    """48 bits of milliseconds, then 80 random ones: unguessable, and roughly in order of time."""
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"
