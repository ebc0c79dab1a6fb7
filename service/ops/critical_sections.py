"""Critical sections: work that runs to its end, also where the request that began it is cancelled.

Without, a client that disconnects would release a lock while the request's thread goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from filelock import AsyncFileLock

log = logging.getLogger(__name__)
Result = TypeVar("Result")
Section = Callable[[], Coroutine[Any, Any, Result]]


# A lock that one task of one process holds, by a file that is made for it and stays; the system
# releases it when the process dies. With `blocking=False` it raises `filelock.Timeout` where it is
# held. Each attempt is one system call that does not wait, which needs no thread.
def file_lock(path: Path, blocking: bool = True) -> AsyncFileLock:
    return AsyncFileLock(
        path, mode=0o600, blocking=blocking, run_in_executor=False, preserve_lock_file=True
    )


class CriticalSections:
    """Runs critical sections and knows which are under way; lives on the event loop."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    async def run(self, section: Section[Result], lock: Path | None = None) -> Result:
        """Run a section to its end, in a task of its own.

        A cancellation takes effect before the section begins, also while it waits for the lock, or
        after the section has ended; never in between.

        Args:
            lock: a file whose lock one section of one process holds. It is made, and stays.
        """
        held = contextlib.AsyncExitStack()
        if lock is not None:
            await held.enter_async_context(file_lock(lock))

        async def run() -> Result:
            async with held:
                return await section()

        task = asyncio.create_task(run())
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        cancelled: asyncio.CancelledError | None = None
        while not task.done():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is None:
            return task.result()
        if not task.cancelled() and (failure := task.exception()) is not None:
            # As a traceback, of which the log leaves out messages that may name a person.
            log.error("a cancelled request's section failed", exc_info=failure)
        raise cancelled

    async def ended(self) -> None:
        while self._running:
            await asyncio.wait(self._running)
