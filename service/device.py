"""The one thread that owns the model, the device and the indexes: work is handed to it."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from model.problems import InputProblem
from service.problems import ServiceStopping

Result = TypeVar("Result")
HEARTBEAT_SECONDS = 0.5
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Work:
    call: Callable[[], Any]
    future: Future[Any]


class DeviceThread:
    """Runs what is submitted to it, one after another, in the order of submission.

    Whatever a piece of work raises goes to its own future; the thread lives on. Work whose future
    was cancelled before its turn is not begun.
    """

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._submitting = threading.Lock()
        self._last_beat = time.monotonic()
        self._thread = threading.Thread(target=self._work, name="device", daemon=True)
        self._thread.start()

    def submit(self, call: Callable[[], Result]) -> Future[Result]:
        """Queues a call.

        Raises:
            ServiceStopping: once `close` was called.
        """
        future: Future[Result] = Future()
        with self._submitting:
            if self._closing.is_set():
                raise ServiceStopping("the service is shutting down; send the request again later")
            self._queue.put(_Work(call, future))
        return future

    @property
    def waiting(self) -> int:
        """How many pieces of work have not begun."""
        return self._queue.qsize()

    def seconds_since_heartbeat(self) -> float:
        """How long ago the thread last showed that it lives; infinite where it has ended."""
        if not self._thread.is_alive():
            return float("inf")
        return time.monotonic() - self._last_beat

    def close(self) -> None:
        """Finishes what was submitted, then ends the thread."""
        with self._submitting:
            if self._closing.is_set():
                return
            self._closing.set()
            self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while True:
            self._last_beat = time.monotonic()
            try:
                work = self._queue.get(timeout=HEARTBEAT_SECONDS)
            except queue.Empty:
                continue
            if work is None:
                return
            self._run(work)

    def _run(self, work: _Work) -> None:
        self._last_beat = time.monotonic()
        if not work.future.set_running_or_notify_cancel():
            return
        try:
            result = work.call()
        except InputProblem as problem:
            # A caller's mistake, which its answer explains: nothing failed here.
            work.future.set_exception(problem)
        except BaseException as error:
            # Also what is no Exception: a thread that ends here would leave every later caller
            # waiting for ever.
            log.exception("work on the device thread failed")
            work.future.set_exception(error)
        else:
            work.future.set_result(result)
