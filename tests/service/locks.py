"""The state of a lock, asked as another process would."""

from __future__ import annotations

from pathlib import Path

import filelock

from service.ops.critical_sections import file_lock


async def is_held(path: Path) -> bool:
    try:
        async with file_lock(path, blocking=False):
            return False
    except filelock.Timeout:
        return True
