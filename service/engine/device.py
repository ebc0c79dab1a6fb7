"""The thread that owns the device, and how device failures are handled."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextvars import copy_context
from typing import Any, TypeVar

from model.problems import InputProblem
from service.errors import DeviceFull, DeviceLost, ServiceError
from service.ops.threads import CALLER, MonitoredThreadPool

log = logging.getLogger(__name__)
Result = TypeVar("Result")
Item = TypeVar("Item")
Error = TypeVar("Error", bound=BaseException)
# CUDA runtime error codes after which every call of this process fails: no device, no context,
# uncorrectable memory errors, illegal access, kernel assertions and time-outs. After other errors,
# such as a launch with wrong sizes, the device stays usable.
LOST_CODES = frozenset(
    [4, 46, 100, 101, 201, 214, 220, 226, 700, 702, 709, 710, *range(714, 720), 721, 999]
)
MEMORY_CODE = 2
# Messages of errors without a code, from cuBLAS, cuDNN and kernels outside PyTorch.
LOST_MESSAGES = re.compile(
    "an illegal memory access was encountered|device-side assert triggered|"
    "unspecified launch failure|(cublas|cudnn)_status_execution_failed",
    re.IGNORECASE,
)
MEMORY_MESSAGES = re.compile("out of memory|(cublas|cudnn)_status_alloc_failed", re.IGNORECASE)


class DeviceThread(MonitoredThreadPool):
    """One or more threads that run the calls of several callers in turn.

    An error is set on the call's future and the thread continues. A call is skipped if its future
    was cancelled before it started. After a `DeviceLost`, every call gets that error without
    running. `shutdown` finishes the calls already submitted.
    """

    def __init__(
        self,
        on_loss: Callable[[str], None] = lambda _: None,
        threads: int = 1,
        name: str = "device thread",
    ) -> None:
        """Start nothing; `on_loss` is called once, with the reason, when the device is lost."""
        super().__init__(threads, name)
        self.on_loss = on_loss
        self._lost: ServiceError | None = None

    def change(self, call: Callable[[], Result]) -> Future[Result]:
        """Queue a change of an index: all changes run in the order of their submission.

        Raises:
            ServiceStopping: after `shutdown`.
        """
        context = copy_context()
        context.run(CALLER.set, "changes of an index")
        return context.run(self.submit, call)

    def _run(self, call: Callable[[], Result]) -> Result:
        if self._lost is not None:
            raise self._lost
        try:
            return super()._run(call)
        except BaseException as error:
            # The answer reports a caller's mistake, so nothing is logged here.
            if not isinstance(error, InputProblem):
                log.error("work on the device thread failed", exc_info=error)
            raised = device_error(error)
            if isinstance(raised, DeviceLost) and self._lost is None:
                log.critical("the device is lost: %s", raised.why)
                self._lost = raised
                self.on_loss(raised.why)
            if raised is error:
                raise
            # The frames of the traceback hold device memory.
            raise raised from error.with_traceback(None)


def device_error(error: Error) -> Error | ServiceError:
    """Return `DeviceFull` or `DeviceLost` for an error of a device's library, else the error."""
    # A service on OpenVINO never imports PyTorch.
    torch: Any = sys.modules.get("torch")
    if torch and isinstance(error, torch.OutOfMemoryError):
        return DeviceFull("this")
    if not isinstance(error, RuntimeError):
        return error
    message = str(error)
    code = getattr(error, "error_code", None)

    if code == MEMORY_CODE or MEMORY_MESSAGES.search(message):
        return DeviceFull("this")
    # The error has no code and no known message, so it may be any device error.
    unknown = torch and isinstance(error, torch.AcceleratorError) and code is None
    if code in LOST_CODES or LOST_MESSAGES.search(message) or unknown:
        return DeviceLost(message.splitlines()[0] if message else repr(error))
    return error


def retry_out_of_memory(call: Callable[..., Result], *args: Any) -> Result:
    """Call a function, and once more after an out-of-memory error, with cached memory freed.

    Raises:
        DeviceFull: the second call ran out of memory too; the cache is freed.
        DeviceLost: the device fails until the process ends.
    """
    for _ in range(2):
        try:
            return call(*args)
        except Exception as error:
            failure = device_error(error)
            if failure is error:
                raise
        # Leave the handler first: until then the frames of the failed call hold its tensors.
        if not isinstance(failure, DeviceFull):
            break
        _free_cached_memory()
    raise failure


def bisect_failures(
    items: Sequence[Item], work: Callable[[Sequence[Item]], None]
) -> list[tuple[Item, Exception]]:
    """Process all items together; if that raises, process each half, down to single items.

    One faulty item among n costs about 2·log₂ n additional calls. After an out-of-memory error,
    PyTorch's cached memory is freed and a single item is retried once.

    Args:
        items: in order.
        work: succeeds or fails for all items it is given.

    Returns:
        The items on which `work` failed alone, each with its error.

    Raises:
        DeviceLost: raised by `work`; further calls would fail as well.
    """
    try:
        if len(items) == 1:
            retry_out_of_memory(work, items)
        else:
            work(items)
        return []
    except Exception as error:
        # Drop the traceback, whose frames hold memory that the next call needs.
        failure = device_error(error.with_traceback(None))
    if isinstance(failure, DeviceLost):
        raise failure
    if isinstance(failure, DeviceFull):
        _free_cached_memory()
    if len(items) == 1:
        return [(items[0], failure)]
    middle = len(items) // 2
    return bisect_failures(items[:middle], work) + bisect_failures(items[middle:], work)


def _free_cached_memory() -> None:
    torch: Any = sys.modules.get("torch")
    if torch and torch.cuda.is_available():
        torch.cuda.empty_cache()
