"""Critical sections: work that completes even if the request that started it is cancelled.

Otherwise a disconnecting client would release a lock while the request's thread still runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from filelock import AsyncFileLock, Timeout

from service.errors import ServiceError

log = logging.getLogger(__name__)
Result = TypeVar("Result")


# A file lock held by one task of one process. The operating system releases it when the process
# dies; the file stays. `blocking=False` raises `filelock.Timeout` if the lock is held. An attempt
# is one non-blocking system call, so it needs no thread.
def file_lock(path: Path, blocking: bool = True) -> AsyncFileLock:
    return AsyncFileLock(
        path, mode=0o600, blocking=blocking, run_in_executor=False, preserve_lock_file=True
    )


async def repeat_alone(
    lock: Path, pause_seconds: float, work: Callable[[], Awaitable[object]]
) -> None:
    """Repeat work until cancelled, in one process at a time among those with the same lock file."""
    while True:
        try:
            async with file_lock(lock, blocking=False):
                await work()
        except Timeout:
            # Another process does the work.
            pass
        except Exception:
            log.exception("%s failed", lock.stem)
        await asyncio.sleep(pause_seconds)


async def attempt(what: str, work: Awaitable[object]) -> None:
    """Await some work, and log a failure, which must not end the work on other items."""
    try:
        await work
    except ServiceError as error:
        log.error("%s failed: %s", what, error.detail)
    except Exception:
        log.exception("%s failed", what)


class CriticalSections:
    """Runs critical sections and tracks those in progress; used on the event loop only."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    async def run(self, section: Coroutine[Any, Any, Result], lock: Path | None = None) -> Result:
        """Run a section to completion in a task of its own.

        A cancellation takes effect before the section starts, including while it waits for the
        lock, or after it has ended, but never in between.

        Args:
            lock: path of a lock file that serialises sections across processes; created if missing.
        """
        cancelled: asyncio.CancelledError | None = None
        async with contextlib.AsyncExitStack() as held:
            # If the wait for the lock is cancelled, the section has not begun and never will.
            held.callback(section.close)
            if lock is not None:
                await held.enter_async_context(file_lock(lock))
            task = asyncio.create_task(section)
            self._running.add(task)
            task.add_done_callback(self._running.discard)
            while not task.done():
                try:
                    await asyncio.wait({task})
                except asyncio.CancelledError as error:
                    cancelled = error
        if cancelled is None:
            return task.result()
        if not task.cancelled() and (failure := task.exception()) is not None:
            # Logged as a traceback, from which the log removes messages that may name a person.
            log.error("a cancelled request's section failed", exc_info=failure)
        raise cancelled

    async def ended(self) -> None:
        while self._running:
            await asyncio.wait(self._running)
