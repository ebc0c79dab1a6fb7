"""The one thread that owns the model, the device and the indexes: work is handed to it."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from model.problems import InputProblem
from service.errors import DeviceLost, ServiceStopping
from service.ops.pulse import DEAD, Pulse

Result = TypeVar("Result")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Work:
    call: Callable[[], Any]
    future: Future[Any]


class DeviceThread:
    """Runs what is submitted to it, one after another, in the order of submission.

    Whatever a piece of work raises goes to its own future; the thread lives on. Work whose future
    was cancelled before its turn is not begun. Once a piece of work has found that the device is
    lost, by raising `DeviceLost`, none is begun any more: all is answered that.
    """

    def __init__(
        self,
        explained: Callable[[BaseException], BaseException] = lambda error: error,
        on_loss: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Starts the thread.

        Args:
            explained: what to raise instead of what a device's library raised.
            on_loss: told why, once, when the device is lost.
        """
        self._explained = explained
        self._on_loss = on_loss
        self._lost: DeviceLost | None = None
        self._queue: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._submitting = threading.Lock()
        self._pulse = Pulse()
        self._thread = threading.Thread(target=self._work, name="device", daemon=True)
        self._thread.start()

    def submit(self, call: Callable[[], Result]) -> Future[Result]:
        """Queues a call.

        Raises:
            ServiceStopping: once `close` was called.
            DeviceLost: once the device is.
        """
        future: Future[Result] = Future()
        with self._submitting:
            if self._lost is not None:
                raise self._lost
            if self._closing.is_set():
                raise ServiceStopping("the service is shutting down; send the request again later")
            self._queue.put(_Work(call, future))
        return future

    @property
    def waiting(self) -> int:
        """How many pieces of work have not begun."""
        return self._queue.qsize()

    def silent_seconds(self) -> float:
        """For how long it has been at one piece of work that does not `beat`; `DEAD` at its end."""
        return self._pulse.silent_seconds() if self._thread.is_alive() else DEAD

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
            work = self._queue.get()
            if work is None:
                return
            with self._pulse.working():
                self._run(work)

    def _run(self, work: _Work) -> None:
        if not work.future.set_running_or_notify_cancel():
            return
        if self._lost is not None:
            work.future.set_exception(self._lost)
            return
        try:
            result = work.call()
        except BaseException as error:
            # Also what is no Exception: a thread that ends here would leave every later caller
            # waiting for ever.
            work.future.set_exception(self._judged(error))
        else:
            work.future.set_result(result)

    def _judged(self, error: BaseException) -> BaseException:
        explained = self._explained(error)
        # A caller's mistake its answer explains: nothing failed here.
        if not isinstance(error, InputProblem):
            log.error("work on the device thread failed", exc_info=error)
        if isinstance(explained, DeviceLost) and self._lost is None:
            log.critical("the device is lost: %s", explained.why)
            with self._submitting:
                self._lost = explained
            self._on_loss(explained.why)
        return explained
