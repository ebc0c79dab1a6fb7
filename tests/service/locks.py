"""The state of a lock, asked as another process would."""

import filelock

from service.ops.critical_sections import file_lock


async def is_held(path):
    try:
        async with file_lock(path, blocking=False):
            return False
    except filelock.Timeout:
        return True
