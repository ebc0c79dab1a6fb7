"""Thread pools with heartbeats and turns between callers, and the watchdog.

A caller with a long queue does not delay the others. The watchdog ends a process in which a thread
or task stalls.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from queue import Queue
from typing import Any, TypeVar

from service.errors import ServiceStopping, machine_error

Result = TypeVar("Result")
log = logging.getLogger(__name__)
STOPPED = float("inf")
# "Internal software error" in sysexits.h.
EXIT_STATUS = 70
CHECK_EVERY_SECONDS = 5.0
# Time for `/livez` and `/readyz` to report the failure and for answers to be sent.
EXIT_GRACE_SECONDS = 3.0
# If a check comes later than this, the whole process was suspended.
SUSPENDED_SECONDS = 2.0
# One step of long work may copy gigabytes to a slow disk without a heartbeat, and one statement may
# read a large gallery.
LONG_WORK_FACTOR = 30.0
STDERR = 2
# The key of the request, or name of the work, that the current context runs for. Tasks and calls of
# thread pools inherit it.
CALLER: ContextVar[str] = ContextVar("caller", default="service")
# When the write of the current context began to wait for its turn, by `time.monotonic`; None if it
# begins to wait when it is made. It is inherited likewise.
WAITS_SINCE: ContextVar[float | None] = ContextVar("waits_since", default=None)


@dataclass(eq=False)
class Heartbeat:
    """The time of the last progress of some work, by `time.monotonic`.

    Attributes:
        is_cut_off: set once the work has to end; None for work that always runs to its end.
    """

    last: float = field(default_factory=time.monotonic)
    is_cut_off: threading.Event | None = None

    def silent_seconds(self) -> float:
        return max(0.0, time.monotonic() - self.last)


_current: ContextVar[Heartbeat | None] = ContextVar("heartbeat", default=None)


def heartbeat() -> None:
    """Show that the current work makes progress; long work calls this between its steps.

    Raises:
        ServiceStopping: the process stops and the work has to end. The next start repeats the
            part that was not stored.
    """
    current = _current.get()
    if current is None:
        return
    current.last = time.monotonic()
    if is_cut_off():
        raise ServiceStopping("the service is shutting down; send the request again later")


def is_cut_off() -> bool:
    """Return True once the current work has to end, because the process stops."""
    current = _current.get()
    if current is None or current.is_cut_off is None:
        return False
    return current.is_cut_off.is_set()


class Wake:
    """An event for which one thread waits, also together with data of a descriptor."""

    def __init__(self) -> None:
        self._receiver, self._sender = socket.socketpair()
        self._receiver.setblocking(False)
        self._sender.setblocking(False)

    def set(self) -> None:
        # A full socket is set already: the thread has not read it yet.
        with suppress(BlockingIOError):
            self._sender.send(b"\0")

    def wait(self, seconds: float, descriptor: int | None = None) -> bool:
        """Return True once the event is set; False after a time, or once a descriptor has data."""
        poll = select.poll()
        poll.register(self._receiver, select.POLLIN)
        if descriptor is not None:
            poll.register(descriptor, select.POLLIN)
        poll.poll(1000 * seconds)
        with suppress(BlockingIOError):
            return bool(self._receiver.recv(4096))
        return False


@contextmanager
def waiting() -> Iterator[None]:
    """Expect no heartbeat of the current work, which waits for a lock that other work holds."""
    current = _current.get()
    if current is not None:
        current.last = float("inf")
    try:
        yield
    finally:
        if current is not None:
            current.last = time.monotonic()


@contextmanager
def holding(lock: threading.Lock) -> Iterator[None]:
    """Hold a lock, and expect no heartbeat of the current work until it has it."""
    with waiting():
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@dataclass(frozen=True)
class HealthCheck:
    """A part of the service; the process ends if the part stalls or stops.

    Attributes:
        silent_seconds: returns the time since the last heartbeat; 0 while idle, `STOPPED` once it
            has ended.
        timeout_factor: multiplies `GMN_STALL_SECONDS`.
    """

    name: str
    silent_seconds: Callable[[], float]
    timeout_factor: float = 1.0


class TurnQueue(Queue[Any]):
    """Items of several callers, who take turns; `None`, which ends a thread of a pool, is last."""

    def _init(self, _maxsize: int) -> None:
        self._waiting: dict[str | None, deque[Any]] = {}

    def _qsize(self) -> int:
        return sum(len(items) for items in self._waiting.values())

    def _put(self, item: Any) -> None:
        caller = None if item is None else CALLER.get()
        self._waiting.setdefault(caller, deque()).append(item)

    def _get(self) -> Any:
        caller = min(self._waiting, key=lambda caller: caller is None)
        items = self._waiting.pop(caller)
        item = items.popleft()
        if items:
            # Put the caller at the end: its next item waits until every other caller had a turn.
            self._waiting[caller] = items
        return item


class MonitoredThreadPool(ThreadPoolExecutor):
    """A bounded thread pool that runs the calls of several callers in turn.

    Each call has a heartbeat and inherits the caller's context variables.
    """

    def __init__(self, threads: int, name: str, timeout_factor: float = 1.0) -> None:
        super().__init__(threads, thread_name_prefix=name)
        self._work_queue: Any = TurnQueue()
        self._under_way: set[Heartbeat] = set()
        self._is_cut_off = threading.Event()
        self.health_check = HealthCheck(name, self.silent_seconds, timeout_factor)

    def submit(self, call: Callable[..., Result], /, *args: Any, **kwargs: Any) -> Future[Result]:
        """Queue a call for the current caller.

        Raises:
            ServiceStopping: after a shutdown.
            MachineFull: there is no thread, and too little memory for one.
        """
        try:
            return super().submit(copy_context().run, self._run, lambda: call(*args, **kwargs))
        except RuntimeError as error:
            if failure := machine_error(error):
                raise failure from error
            raise ServiceStopping(
                "the service is shutting down; send the request again later"
            ) from error

    def _adjust_thread_count(self) -> None:
        try:
            super()._adjust_thread_count()
        except RuntimeError:
            # With too little memory for another thread, the others do the work.
            if not self._threads:
                raise

    async def run(self, call: Callable[..., Result], /, *args: Any, **kwargs: Any) -> Result:
        """Run a blocking call; a call that has started continues after a cancellation."""
        return await asyncio.wrap_future(self.submit(call, *args, **kwargs))

    def cut_off(self) -> None:
        """End long work of this pool, also amid a statement, because the process stops."""
        self._is_cut_off.set()

    def _run(self, call: Callable[[], Result]) -> Result:
        work = Heartbeat(is_cut_off=self._is_cut_off)
        _current.set(work)
        self._under_way.add(work)
        try:
            return call()
        finally:
            self._under_way.remove(work)

    @property
    def waiting(self) -> int:
        """Number of calls that have not begun."""
        return int(self._work_queue.qsize())

    def stuck(self, seconds: float) -> bool:
        under_way = tuple(self._under_way)
        silent = (work.silent_seconds() > seconds for work in under_way)
        return len(under_way) == self._max_workers and all(silent)

    def silent_seconds(self) -> float:
        """Return the longest silence of any running call; `STOPPED` once a thread has ended."""
        if not all(thread.is_alive() for thread in tuple(self._threads)):
            return STOPPED
        return max((work.silent_seconds() for work in tuple(self._under_way)), default=0.0)


class BlockingPools:
    """Threads for long blocking work; one hanging kind of work does not delay the others."""

    def __init__(self) -> None:
        # For exports and for maintenance of the data directory and the record.
        self.files = self._pool(4, "files threads")
        # For parsing long forms.
        self.forms = self._pool(2, "forms threads")
        # For the locks of work that one process does.
        self.locks = self._pool(1, "locks threads")
        self.imports = self._pool(4, "imports threads")
        self.calibration = self._pool(1, "calibration threads")
        self.compaction = self._pool(1, "compaction threads")
        self.watch = self._pool(1, "watch threads")
        self.visits = self._pool(2, "visits threads")

    def _pool(self, threads: int, name: str) -> MonitoredThreadPool:
        return MonitoredThreadPool(threads, name, LONG_WORK_FACTOR)

    def all(self) -> Iterator[MonitoredThreadPool]:
        yield from vars(self).values()

    def cut_off(self) -> None:
        for pool in self.all():
            pool.cut_off()

    def shutdown(self) -> None:
        self.cut_off()
        for pool in self.all():
            pool.shutdown()


class Watchdog:
    """Ends the process when a health check fails, so that its supervisor starts another one.

    The log names the failed check and shows the stack of every thread. `trouble` is set for three
    seconds before the process ends, as abruptly as by `kill -9`. If the whole process was
    suspended, every check starts over. If a library blocks the interpreter, a timer of the C
    library ends the process with status 1.
    """

    def __init__(self, stall_seconds: float) -> None:
        self.checks: list[HealthCheck] = []
        self.trouble: str | None = None
        self._stall_seconds = stall_seconds
        self._interval = min(CHECK_EVERY_SECONDS, stall_seconds / 4)
        self._wake = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def give_up(self, name: str, why: str) -> None:
        """End the process after the grace period: only a new process can replace this part."""
        if self.trouble is None:
            self.trouble = f"{name}: {why}"
            self._wake.set()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(self._interval + EXIT_GRACE_SECONDS)

    def _run(self) -> None:
        checked = time.monotonic()
        resumed = -self._stall_seconds
        while self.trouble is None and not self._stopped.is_set():
            seconds = 2 * self._stall_seconds + EXIT_GRACE_SECONDS
            faulthandler.dump_traceback_later(seconds, exit=True, file=STDERR)
            self._wake.wait(self._interval)
            now = time.monotonic()
            if now - checked > self._interval + SUSPENDED_SECONDS:
                resumed = now
            checked = now
            trusted = now >= resumed + self._stall_seconds
            for check in self.checks:
                silent = check.silent_seconds()
                allowed = check.timeout_factor * self._stall_seconds
                if silent == STOPPED:
                    self.give_up(check.name, "has ended")
                elif silent > allowed and trusted:
                    self.give_up(check.name, f"sent no heartbeat for {silent:.0f} s")
        if not self._stopped.is_set():
            # Log from a separate thread: the stalled part may hold the log's lock.
            threading.Thread(target=self._dump_threads, name="stacks", daemon=True).start()
            if not self._stopped.wait(EXIT_GRACE_SECONDS):
                os._exit(EXIT_STATUS)
        faulthandler.cancel_dump_traceback_later()

    def _dump_threads(self) -> None:
        log.critical("%s; the process ends with status %d, restart it", self.trouble, EXIT_STATUS)
        faulthandler.dump_traceback(file=STDERR, all_threads=True)
