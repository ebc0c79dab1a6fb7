"""Locks among processes, whose holders show that they make progress.

The operating system releases a lock when its holder dies, but not while the holder stands still, as
after SIGSTOP or `docker pause`. A holder therefore touches the file of its lock at intervals, and a
process that waits gives up once the file has not been touched for several intervals. The lock stays
with its holder, which finishes its work when it goes on.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

from service.errors import RecordWaits, ServiceError, StorageFailed
from service.ops.threads import waiting

log = logging.getLogger(__name__)
# Interval at which a holder for which requests wait touches its lock.
BEAT_SECONDS = 0.5
# A holder stands still if it has not touched its lock for this many intervals.
BEATS_MISSED = 8
# Interval at which a process that does work alone touches its lock. No request waits for it.
ALONE_BEAT_SECONDS = 30.0
# Pauses between attempts to take a lock, which double.
FIRST_PAUSE_SECONDS = 0.0005
LONGEST_PAUSE_SECONDS = 0.005
# A process that has the turn takes a free lock within milliseconds. After this time without the
# turn, the process that has it may stand still, and the lock is tried without it.
TURN_SECONDS = 0.25
HELD_LOCKS = Path("/proc/locks")
NOTE_BYTES = 128


class LockHeld(Exception):
    """Another task or process holds the lock."""


class LockWatch:
    """Tells a holder of a lock that goes on from one that stands still; used by one thread at once.

    Args:
        path: the file of the lock.
        waiting_work: what waits for the lock, in the plural, for the log.
        beat_seconds: interval at which the holder touches the file.

    Attributes:
        holder: the process that stands still; None while no such process is known.
    """

    def __init__(self, path: Path, waiting_work: str, beat_seconds: float = BEAT_SECONDS) -> None:
        self.holder: str | None = None
        self._path = path
        self._waiting_work = waiting_work
        self._patience_seconds = BEATS_MISSED * beat_seconds
        self._touched_at: int | None = None
        self._seen_at = 0.0
        self._looked_at = 0.0

    def look(self) -> None:
        """Look at a lock that is held; log once if its holder stands still."""
        now = time.monotonic()
        touched_at = last_touched(self._path)
        # After a pause, another process may just have locked the file.
        has_paused = now - self._looked_at > self._patience_seconds
        self._looked_at = now
        if touched_at != self._touched_at or (has_paused and self.holder is None):
            self.released()
            self._touched_at = touched_at
            self._seen_at = now
        elif self.holder is None and now - self._seen_at > self._patience_seconds:
            self.holder = holder_of(self._path)
            log.error(
                "%s wait for %s, which holds %s and stands still; let it go on, or end it",
                self._waiting_work,
                self.holder,
                self._path.name,
            )

    def released(self) -> None:
        """Note that the lock is free or that its holder goes on."""
        if self.holder is not None:
            log.warning("%s no longer wait for %s", self._waiting_work, self.holder)
        self.holder = None
        self._touched_at = None

    def require_progress(self) -> None:
        """Look at a lock that is held; raise `RecordWaits` if its holder stands still."""
        self.look()
        if self.holder is not None:
            raise RecordWaits(self._path.name)


class ProcessLock:
    """A lock that one thread of one process holds.

    A thread touches the file of the lock while it is held, however long one call of the system
    takes. It stands still with its process only; the watchdog ends a process in which the holder
    hangs.

    Args:
        path: the file of the lock.
        waiting_work: what waits for the lock, in the plural, for the log.
        turn: a second file, which the next holder locks before. Without it, a process that has just
            released the lock would take it again before others wake.

    Attributes:
        watch: tells whether the holder stands still.
    """

    def __init__(self, path: Path, waiting_work: str, turn: Path | None = None) -> None:
        self.watch = LockWatch(path, waiting_work)
        self._path = path
        self._turn = turn
        self._is_held = False
        self._closed = threading.Event()
        name = f"holder of {path.name}"
        threading.Thread(target=self._touch_while_held, name=name, daemon=True).start()

    @contextlib.contextmanager
    def hold(self, wait: bool = True) -> Iterator[None]:
        """Lock out other processes.

        Args:
            wait: wait while the holder goes on, however long.

        Raises:
            BlockingIOError: another process has the lock, and `wait` is false.
            RecordWaits: the holder stands still.
            OSError: the file of the lock cannot be written.
        """
        with waiting():
            descriptor = self._take() if wait else try_lock(self._path)
        if descriptor is None:
            self.watch.look()
            raise BlockingIOError(f"{self._path} is held by another process")
        self.watch.released()
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False
            unlock(descriptor)

    def close(self) -> None:
        self._closed.set()

    def _take(self) -> int:
        turn: int | None = None
        turn_until = time.monotonic() + (TURN_SECONDS if self._turn else 0.0)
        pause_seconds = FIRST_PAUSE_SECONDS
        try:
            while True:
                if turn is None and self._turn is not None:
                    turn = try_lock(self._turn)
                if turn is not None or time.monotonic() >= turn_until:
                    descriptor = try_lock(self._path)
                    if descriptor is not None:
                        return descriptor
                    self.watch.require_progress()
                time.sleep(pause_seconds)
                pause_seconds = min(2 * pause_seconds, LONGEST_PAUSE_SECONDS)
        finally:
            if turn is not None:
                unlock(turn)

    def _touch_while_held(self) -> None:
        while not self._closed.wait(BEAT_SECONDS):
            if self._is_held:
                touch(self._path)


class WorkLock(ABC):
    """The right to do some work, which one process has at a time; used by one thread at once.

    Attributes:
        work: a name of the work.
        beat_seconds: interval at which the holder calls `keep`.
    """

    beat_seconds: float

    def __init__(self, work: str) -> None:
        self.work = work

    @abstractmethod
    def acquire(self) -> bool:
        """Take the right; return False if another process has it.

        Raises:
            ServiceError: it cannot be told who has it.
        """

    @abstractmethod
    def keep(self) -> bool:
        """Show that the holder goes on; return False if it has lost the right."""

    @abstractmethod
    def release(self) -> None:
        """Give the right up, if this process has it."""


# The right by which the current context works. Tasks and calls of thread pools inherit it.
WORKS_BY: ContextVar[WorkLock | None] = ContextVar("works_by", default=None)


class FileWorkLock(WorkLock):
    """The lock of a file, which the processes of a machine share."""

    beat_seconds = ALONE_BEAT_SECONDS

    def __init__(self, path: Path) -> None:
        super().__init__(path.stem)
        self._path = path
        self._watch = LockWatch(path, f"{path.stem} of this process", self.beat_seconds)
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        try:
            self._descriptor = try_lock(self._path)
        except OSError as error:
            raise not_lockable(self._path, error) from error
        if self._descriptor is None:
            self._watch.look()
            return False
        self._watch.released()
        return True

    def keep(self) -> bool:
        touch(self._path)
        return True

    def release(self) -> None:
        if self._descriptor is not None:
            unlock(self._descriptor)
            self._descriptor = None


def try_lock(path: Path) -> int | None:
    """Lock a file, which is created if missing, and write the name of this process into it.

    Returns:
        A descriptor to be passed to `unlock`; None if another holds the lock.

    Raises:
        OSError: the file cannot be opened.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    # On a full disk the lock is held without a name.
    with contextlib.suppress(OSError):
        os.pwrite(descriptor, this_process(), 0)
    return descriptor


def not_lockable(path: Path, error: OSError) -> ServiceError:
    return StorageFailed(
        f"{path.name} in the data directory could not be locked ({error.strerror}); nothing was "
        "stored, make the disk writable, or free space there"
    )


def unlock(descriptor: int) -> None:
    # A child process that is just starting may have a copy of the descriptor.
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def touch(path: Path) -> None:
    """Show that the holder of a lock goes on; never raises."""
    with contextlib.suppress(OSError):
        os.utime(path)


@contextlib.contextmanager
def hold_shared(path: Path, waiting_work: str) -> Iterator[None]:
    """Hold a lock together with others that only read; blocks while its holder goes on.

    Raises:
        RecordWaits: the holder stands still.
        OSError: the file cannot be read.
    """
    watch = LockWatch(path, waiting_work)
    with path.open("rb") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                watch.require_progress()
                time.sleep(LONGEST_PAUSE_SECONDS)
        yield


def still_holder(path: Path) -> str | None:
    """Return the process that holds a lock and stands still; blocks for seconds if it is held.

    Returns:
        None if the lock is free or its holder goes on.

    Raises:
        OSError: the file cannot be read.
    """
    touched_at = last_touched(path)
    still_at = time.monotonic() + BEATS_MISSED * BEAT_SECONDS
    while touched_at is not None and _is_held(path) and last_touched(path) == touched_at:
        if time.monotonic() > still_at:
            return holder_of(path)
        time.sleep(BEAT_SECONDS / 5)
    return None


def _is_held(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def this_process() -> bytes:
    text = f"process {os.getpid()} on {socket.gethostname()}"
    return text.encode()[: NOTE_BYTES - 1].ljust(NOTE_BYTES - 1) + b"\n"


def holder_of(path: Path) -> str:
    """Return the process that holds a lock, as well as it can be told."""
    with contextlib.suppress(OSError):
        number = path.stat().st_ino
        for line in HELD_LOCKS.read_text().splitlines():
            # The kernel lists only processes that can be seen from this container.
            _, kind, _, _, process, inode, *_ = line.split()
            # SQLite locks its files by POSIX locks, and those of one process do not conflict.
            is_lock = kind == "FLOCK" or (kind == "POSIX" and int(process) != os.getpid())
            if is_lock and inode.endswith(f":{number}") and int(process) > 0:
                return f"process {process}"
        with path.open("rb") as file:
            note = file.read(NOTE_BYTES).decode(errors="replace").strip()
        return note if note.startswith("process ") else "another process"
    return "another process"


def last_touched(path: Path) -> int | None:
    """Return when a lock was last taken or touched, in nanoseconds; None if there is no file."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None
