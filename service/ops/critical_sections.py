"""Critical sections: work that completes even if the request that started it is cancelled.

Otherwise a disconnecting client would release a lock while the request's thread still runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from service.errors import RecordUnavailable, ServiceError, ServiceStopping
from service.ops.audit import AuditLog
from service.ops.data_directory import make_folder
from service.ops.locks import (
    BEAT_SECONDS,
    WORKS_BY,
    LockHeld,
    LockWatch,
    WorkLock,
    not_lockable,
    touch,
    try_lock,
    unlock,
)
from service.ops.threads import MonitoredThreadPool

log = logging.getLogger(__name__)
# Pause between two attempts to lock a file that another task holds.
ATTEMPT_SECONDS = 0.05
Result = TypeVar("Result")


@contextlib.asynccontextmanager
async def file_lock(
    path: Path, blocking: bool = True, watch: LockWatch | None = None
) -> AsyncIterator[None]:
    """Hold a file lock by one task of one process; its file is created if missing, and stays.

    The operating system releases the lock when the process dies. An attempt is a few system calls
    that do not block, so it needs no thread.

    Args:
        blocking: wait for the lock.
        watch: tells whether the holder goes on while this waits.

    Raises:
        LockHeld: another task holds the lock, and `blocking` is false.
        RecordWaits: the holder stands still.
        StorageFailed: the file cannot be opened, as on a read-only disk.
    """
    watch = watch or LockWatch(path, "changes")
    try:
        make_folder(path.parent)
        while (descriptor := try_lock(path)) is None:
            if not blocking:
                watch.look()
                raise LockHeld(str(path))
            watch.require_progress()
            await asyncio.sleep(ATTEMPT_SECONDS)
    except OSError as error:
        raise not_lockable(path, error) from error
    watch.released()
    touching = asyncio.create_task(_touch_while_held(path))
    try:
        yield
    finally:
        touching.cancel()
        unlock(descriptor)


async def _touch_while_held(path: Path) -> None:
    while True:
        await asyncio.sleep(BEAT_SECONDS)
        touch(path)


async def repeat(pause_seconds: float, work: Callable[[], Awaitable[object]]) -> NoReturn:
    while True:
        await asyncio.sleep(pause_seconds)
        await work()


async def repeat_alone(
    lock: WorkLock,
    threads: MonitoredThreadPool,
    pause_seconds: float,
    work: Callable[[], Coroutine[Any, Any, object]],
) -> None:
    """Repeat work until cancelled, in one process at a time among those with the same lock.

    Taking the lock is a write, so work that looks every few seconds for something to do repeats
    itself by `repeat` while the lock is held.

    Args:
        threads: one thread, which calls the lock.
    """
    try:
        while True:
            try:
                if await threads.run(lock.acquire):
                    try:
                        await _work_while_held(lock, threads, work)
                    finally:
                        await threads.run(lock.release)
            except Exception as error:
                log_failure(lock.work, error)
            await asyncio.sleep(pause_seconds)
    finally:
        # An attempt that is under way may still take the lock.
        await threads.run(lock.release)


async def _work_while_held(
    lock: WorkLock,
    threads: MonitoredThreadPool,
    work: Callable[[], Coroutine[Any, Any, object]],
) -> None:
    context = copy_context()
    context.run(WORKS_BY.set, lock)
    task = asyncio.get_running_loop().create_task(work(), context=context)
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=lock.beat_seconds)
            if not (task.done() or await threads.run(lock.keep)):
                # The record is away, or was for a moment, which is logged once.
                log.debug("%s ends here: another process may do this work by now", lock.work)
                return
    finally:
        task.cancel()
        await asyncio.wait({task})
    await task


async def attempt(what: str, work: Awaitable[object]) -> None:
    """Await some work, and log a failure, which must not end the work on other items."""
    try:
        await work
    except Exception as error:
        log_failure(what, error)


def log_failure(what: str, error: Exception) -> None:
    """Log that some work failed, which is tried again later; call this where it was caught."""
    if isinstance(error, RecordUnavailable):
        # All work fails while the record is away, which is logged once.
        log.debug("%s failed: %s", what, error.detail)
    elif isinstance(error, ServiceError):
        log.error("%s failed: %s", what, error.detail)
    else:
        log.error("%s failed", what, exc_info=error)


class CriticalSections:
    """Runs critical sections and tracks those in progress; used on the event loop only."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()
        self._watches: dict[Path, LockWatch] = {}

    async def run(self, section: Coroutine[Any, Any, Result], lock: Path | None = None) -> Result:
        """Run a section to completion in a task of its own.

        A cancellation takes effect before the section starts, including while it waits for the
        lock, or after it has ended, but never in between.

        Args:
            lock: path of a lock file that serialises sections across processes; created if missing.

        Raises:
            RecordWaits, StorageFailed: the section was not begun, see `file_lock`.
        """
        cancelled: asyncio.CancelledError | None = None
        async with contextlib.AsyncExitStack() as held:
            # If the wait for the lock is cancelled, the section has not begun and never will.
            held.callback(section.close)
            if lock is not None:
                watch = self._watches.setdefault(lock, LockWatch(lock, "changes of exports"))
                await held.enter_async_context(file_lock(lock, watch=watch))
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
        failure = None if task.cancelled() else task.exception()
        if failure is not None and not isinstance(failure, ServiceStopping | RecordUnavailable):
            # Logged as a traceback, from which the log removes messages that may name a person.
            log.error("a cancelled request's section failed", exc_info=failure)
        raise cancelled

    async def ended(self) -> None:
        while self._running:
            await asyncio.wait(self._running)


@dataclass
class AuditedSections:
    """Runs critical sections between the two lines of their audit trail."""

    audit: AuditLog
    sections: CriticalSections

    async def run(
        self,
        event: str,
        work: Callable[[dict[str, Any]], Awaitable[Result]],
        lock: Path | None = None,
        **details: Any,
    ) -> Result:
        """Run a critical section, whose event is in the audit log before and after it.

        Args:
            event, details: as in `AuditLog.record`.
            work: receives the dictionary whose fields are added to the second line.
            lock: as in `CriticalSections.run`.

        Raises:
            StorageFailed: the first line could not be written; `work` was not run.
        """

        async def section() -> Result:
            async with self.audit.audited(event, **details) as result:
                return await work(result)

        return await self.sections.run(section(), lock)
