"""Signs of life: whoever works says now and then that it gets on, and `Watchdog` listens."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar

Result = TypeVar("Result")
DEAD = float("inf")


@dataclass(frozen=True)
class Stage:
    """A part of the service without which it is not whole.

    Attributes:
        name: as operators know it.
        silent_seconds: for how long it has had something to do and not got on with it; 0 where it
            has nothing to do, `DEAD` where it has ended.
        at_least: seconds that it may be silent whatever is set, as those who wait for Redis.
        patience: how many times as long as the others it may be silent.
    """

    name: str
    silent_seconds: Callable[[], float]
    at_least: float = 0.0
    patience: float = 1.0


class Pulse:
    """When a piece of work last got on; used from any thread.

    A beat is its parent's too: whoever waits for a piece of work gets on with it.
    """

    def __init__(self, parent: Pulse | None = None) -> None:
        self._parent = parent
        self._last: float | None = None

    def beat(self) -> None:
        """It gets on; says nothing while there is nothing to do."""
        if self._last is not None:
            self._last = time.monotonic()
        if self._parent is not None:
            self._parent.beat()

    def begin(self) -> None:
        """There is something to do."""
        self._last = time.monotonic()

    def rest(self) -> None:
        """There is nothing to do, for however long."""
        self._last = None

    def silent_seconds(self) -> float:
        """Since the last beat; 0 while there is nothing to do."""
        last = self._last
        return 0.0 if last is None else time.monotonic() - last

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Takes every `beat` of the block, and of what it calls in threads, for its own."""
        token = _current.set(self)
        self.begin()
        try:
            yield
        finally:
            self.rest()
            _current.reset(token)

    @contextlib.contextmanager
    def resting(self) -> Iterator[None]:
        """Amid work, waits for something that may take its time."""
        self.rest()
        try:
            yield
        finally:
            self.begin()


# Tasks and `asyncio.to_thread` carry it along.
_current: ContextVar[Pulse | None] = ContextVar("pulse", default=None)


def beat() -> None:
    """Whatever is at work here gets on; to be said between the steps of what may take minutes."""
    pulse = _current.get()
    if pulse is not None:
        pulse.beat()


@dataclass
class _Piece:
    pulse: Pulse
    begun: bool = False
    submitted: float = field(default_factory=time.monotonic)


class WatchedPool(ThreadPoolExecutor):
    """Threads of which it is known when one hangs, or when none takes what is waiting."""

    def __init__(self, threads: int, name: str) -> None:
        super().__init__(threads, thread_name_prefix=name)
        self._count = threads
        self._pieces: dict[int, _Piece] = {}
        self._changed = time.monotonic()
        self._looking = threading.Lock()

    def submit(self, call: Callable[..., Result], /, *args: Any, **kwargs: Any) -> Future[Result]:
        """As `ThreadPoolExecutor` does; a `beat` in the call is also that of whoever submits it."""
        piece = _Piece(Pulse(_current.get()))

        def run() -> Result:
            self._changed = time.monotonic()
            piece.begun = True
            with piece.pulse.working():
                return call(*args, **kwargs)

        with self._looking:
            self._pieces[id(piece)] = piece
        try:
            future = super().submit(run)
        except BaseException:
            self._done(piece)
            raise
        # Also of one that was cancelled before its turn.
        future.add_done_callback(lambda _: self._done(piece))
        return future

    def silent_seconds(self) -> float:
        """Of the piece that hangs for longest, or since when one waits and no thread takes it."""
        with self._looking:
            pieces = list(self._pieces.values())
        begun = [piece for piece in pieces if piece.begun]
        silent = max((piece.pulse.silent_seconds() for piece in begun), default=0.0)
        if len(begun) < min(self._count, len(pieces)):
            oldest = min(piece.submitted for piece in pieces if not piece.begun)
            silent = max(silent, time.monotonic() - max(oldest, self._changed))
        return silent

    def _done(self, piece: _Piece) -> None:
        self._changed = time.monotonic()
        with self._looking:
            self._pieces.pop(id(piece), None)
