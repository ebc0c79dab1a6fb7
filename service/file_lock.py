"""A lock that tasks of this process and other processes on the same directory take in turn."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from service.pulse import beat

LOOK_EVERY_SECONDS = 0.05


class FileLock:
    """Held by one task of one process at a time; the system lets go of it when a process dies."""

    def __init__(self, path: Path) -> None:
        """Takes nothing yet.

        Args:
            path: a file for this alone; it is made, and stays.
        """
        self._path = path
        self._tasks = asyncio.Lock()
        self._held = contextlib.ExitStack()

    async def __aenter__(self) -> None:
        """Waits for its turn; a task that is cancelled meanwhile holds nothing."""
        await self._tasks.acquire()
        try:
            while not self._held.enter_context(held_file(self._path)):
                # Whoever holds it may be at it for long.
                beat()
                await asyncio.sleep(LOOK_EVERY_SECONDS)
        except BaseException:
            self._tasks.release()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._held.close()
        self._tasks.release()


@contextlib.contextmanager
def held_file(path: Path) -> Iterator[bool]:
    """Takes a file's lock where it is free, and yields whether it was; the file is made."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(file)
