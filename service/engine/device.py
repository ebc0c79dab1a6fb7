"""The one thread that owns the model, the device and the indexes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from model.problems import InputProblem
from service.engine.faults import device_error
from service.errors import DeviceLost, ServiceStopping
from service.ops.health import MonitoredThreadPool

Result = TypeVar("Result")
log = logging.getLogger(__name__)


class DeviceThread(MonitoredThreadPool):
    """Runs calls one after another, in the order of submission.

    An error goes to the call's future, and the thread lives on. A call whose future was cancelled
    before its turn is not begun. After a `DeviceLost` no call is begun: each gets that error.
    `shutdown` finishes what was submitted.
    """

    def __init__(self, on_loss: Callable[[str], None] = lambda _: None) -> None:
        """Starts nothing.

        Args:
            on_loss: called with the reason, once, when the device is lost.
        """
        super().__init__(1, "device")
        self._on_loss = on_loss
        self._lost: DeviceLost | None = None

    def submit(self, call: Callable[..., Result], /, *args: Any, **kwargs: Any) -> Future[Result]:
        """Queues a call.

        Raises:
            ServiceStopping: after `shutdown`.
            DeviceLost: after the loss of the device.
        """
        if self._lost is not None:
            raise self._lost
        try:
            return super().submit(self._guarded, call, *args, **kwargs)
        except RuntimeError as error:
            raise ServiceStopping(
                "the service is shutting down; send the request again later"
            ) from error

    @property
    def waiting(self) -> int:
        """Number of calls that have not begun."""
        return self._work_queue.qsize()

    def _guarded(self, call: Callable[..., Result], /, *args: Any, **kwargs: Any) -> Result:
        if self._lost is not None:
            raise self._lost
        try:
            return call(*args, **kwargs)
        except BaseException as error:
            # A caller's mistake is reported in the answer; nothing failed here.
            if not isinstance(error, InputProblem):
                log.error("work on the device thread failed", exc_info=error)
            raised = device_error(error)
            if isinstance(raised, DeviceLost) and self._lost is None:
                log.critical("the device is lost: %s", raised.why)
                self._lost = raised
                self._on_loss(raised.why)
            if raised is error:
                raise
            # Its frames hold device memory.
            raise raised from error.with_traceback(None)
