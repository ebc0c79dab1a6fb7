"""Critical sections: work that completes even if the request that started it is cancelled.

Otherwise a disconnecting client would release a lock while the request's thread still runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from service.errors import ServiceError, ServiceStopping, StorageFailed
from service.ops.data_directory import make_folder
from service.ops.locks import BEAT_SECONDS, LockHeld, LockWatch, touch, try_lock, unlock

log = logging.getLogger(__name__)
# Pause between two attempts to lock a file that another task holds.
ATTEMPT_SECONDS = 0.05
# Interval at which a process that does work alone touches its lock. No request waits for it.
ALONE_BEAT_SECONDS = 30.0
Result = TypeVar("Result")


@contextlib.asynccontextmanager
async def file_lock(
    path: Path,
    blocking: bool = True,
    watch: LockWatch | None = None,
    beat_seconds: float = BEAT_SECONDS,
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
    watch = watch or LockWatch(path, "changes", beat_seconds)
    try:
        make_folder(path.parent)
        while (descriptor := try_lock(path)) is None:
            if not blocking:
                watch.look()
                raise LockHeld(str(path))
            watch.require_progress()
            await asyncio.sleep(ATTEMPT_SECONDS)
    except OSError as error:
        raise StorageFailed(
            f"{path.name} in the data directory could not be locked ({error.strerror}); nothing "
            "was stored, make the disk writable, or free space there"
        ) from error
    watch.released()
    touching = asyncio.create_task(_touch_while_held(path, beat_seconds))
    try:
        yield
    finally:
        touching.cancel()
        unlock(descriptor)


async def _touch_while_held(path: Path, beat_seconds: float) -> None:
    while True:
        await asyncio.sleep(beat_seconds)
        touch(path)


async def repeat_alone(
    lock: Path, pause_seconds: float, work: Callable[[], Awaitable[object]]
) -> None:
    """Repeat work until cancelled, in one process at a time among those with the same lock file."""
    watch = LockWatch(lock, f"{lock.stem} of this process", ALONE_BEAT_SECONDS)
    while True:
        try:
            async with file_lock(lock, False, watch, ALONE_BEAT_SECONDS):
                await work()
        except LockHeld:
            # Another process does the work.
            pass
        except ServiceError as error:
            log.error("%s failed: %s", lock.stem, error.detail)
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
        if failure is not None and not isinstance(failure, ServiceStopping):
            # Logged as a traceback, from which the log removes messages that may name a person.
            log.error("a cancelled request's section failed", exc_info=failure)
        raise cancelled

    async def ended(self) -> None:
        while self._running:
            await asyncio.wait(self._running)
