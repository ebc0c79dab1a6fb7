"""Who waits until the indexes show a change."""

from __future__ import annotations

import heapq
import itertools
import threading
from concurrent.futures import Future


class Waiting:
    """Futures by the change that they wait for; used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shown = 0
        self._waiting: list[tuple[int, int, Future[None]]] = []
        self._numbers = itertools.count()

    @property
    def shown(self) -> int:
        """The number of the newest change that is shown."""
        return self._shown

    def until(self, sequence: int) -> Future[None]:
        """Done once a change is shown."""
        future: Future[None] = Future()
        with self._lock:
            if sequence > self._shown:
                heapq.heappush(self._waiting, (sequence, next(self._numbers), future))
                return future
        future.set_result(None)
        return future

    def show(self, sequence: int) -> None:
        """A change is shown, and all before it; after a record was replaced it may be an older."""
        ready = []
        with self._lock:
            self._shown = sequence
            while self._waiting and self._waiting[0][0] <= sequence:
                ready.append(heapq.heappop(self._waiting)[2])
        for future in ready:
            if future.set_running_or_notify_cancel():
                future.set_result(None)

    def fail(self, error: Exception) -> None:
        """Nobody need wait any longer."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
        for _, _, future in waiting:
            if future.set_running_or_notify_cancel():
                future.set_exception(error)
