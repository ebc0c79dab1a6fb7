"""Turns between callers: a caller with a long queue does not delay the others."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from typing import Any, Generic, TypeVar

from service.ops.health import MonitoredThreadPool

Item = TypeVar("Item")
Result = TypeVar("Result")
# The key of the request, or name of the work, that the current context runs for. Tasks and calls of
# thread pools inherit it.
CALLER: ContextVar[str] = ContextVar("caller", default="service")


class Turns(Generic[Item]):
    """Queued items of several callers; not thread-safe."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[Item]] = {}

    def __len__(self) -> int:
        return sum(len(items) for items in self._waiting.values())

    def put(self, caller: str, item: Item) -> None:
        self._waiting.setdefault(caller, deque()).append(item)

    def take(self) -> Item:
        """Remove and return the next item, from the caller whose turn it is.

        Raises:
            StopIteration: nothing is queued.
        """
        caller = next(iter(self._waiting))
        items = self._waiting.pop(caller)
        item = items.popleft()
        if items:
            # Put the caller at the end: its next item waits until every other caller had a turn.
            self._waiting[caller] = items
        return item


class TurnTakingPool(MonitoredThreadPool):
    """A thread pool that runs the calls of several callers in turn.

    Calls whose future was cancelled before their turn are skipped.
    """

    def __init__(self, threads: int, name: str) -> None:
        super().__init__(threads, name)
        self._turns: Turns[tuple[Future[Any], Callable[[], Any]]] = Turns()
        self._turns_lock = threading.Lock()

    def submit(self, call: Callable[..., Result], /, *args: Any, **kwargs: Any) -> Future[Result]:
        """Queue a call for the current caller; raises `RuntimeError` after a shutdown."""
        return self._queue(CALLER.get(), lambda: call(*args, **kwargs), Future())

    def submit_after(
        self, awaited: Future[Item], call: Callable[[Future[Item]], Result]
    ) -> Future[Result]:
        """Queue a call on another future's result, from the thread that completes that future.

        Cancelling the call before then cancels that future, too.
        """
        future: Future[Result] = Future()
        caller = CALLER.get()
        context = copy_context()

        def ended(_: Future[Item]) -> None:
            try:
                context.run(self._queue, caller, lambda: call(awaited), future)
            except Exception as error:
                if future.set_running_or_notify_cancel():
                    future.set_exception(error)

        future.add_done_callback(lambda _: awaited.cancel())
        awaited.add_done_callback(ended)
        return future

    def _queue(
        self, caller: str, call: Callable[[], Result], future: Future[Result]
    ) -> Future[Result]:
        context = copy_context()
        with self._turns_lock:
            # Run each call with its own heartbeat and in its own context.
            ThreadPoolExecutor.submit(self, self._take_turn)
            self._turns.put(caller, (future, lambda: context.run(self._run, call)))
        return future

    def _take_turn(self) -> None:
        with self._turns_lock:
            future, call = self._turns.take()
        if not future.set_running_or_notify_cancel():
            return
        try:
            result = call()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)
