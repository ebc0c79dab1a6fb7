"""Device failures: retry after out-of-memory, bisection to a faulty item, a device that is lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from service.errors import DeviceFull, DeviceLost

Item = TypeVar("Item")
Result = TypeVar("Result")
Error = TypeVar("Error", bound=BaseException)
# Error codes of the CUDA runtime API after which every call of this process fails: no device, no
# context, uncorrectable memory, an illegal access, an assertion or a time-out in a kernel. Other
# errors, as a launch with wrong sizes, leave the device usable.
LOST_CODES = frozenset(
    [4, 46, 100, 101, 201, 214, 220, 226, 700, 702, 709, 710, *range(714, 720), 721, 999]
)
MEMORY_CODE = 2
# Messages of errors without a code: of cuBLAS, cuDNN and kernels that were not made by PyTorch.
LOST_MESSAGES = (
    "an illegal memory access was encountered",
    "device-side assert triggered",
    "unspecified launch failure",
    "cublas_status_execution_failed",
    "cudnn_status_execution_failed",
)
MEMORY_MESSAGES = ("out of memory", "cublas_status_alloc_failed", "cudnn_status_alloc_failed")


def device_error(error: Error) -> Error | DeviceFull | DeviceLost:
    """`DeviceFull` or `DeviceLost` for an error of a device's library; else the error itself."""
    if isinstance(error, torch.OutOfMemoryError):
        return DeviceFull("this")
    if not isinstance(error, RuntimeError):
        return error
    message, code = str(error), getattr(error, "error_code", None)

    def contains(known: Sequence[str]) -> bool:
        return any(one in message.lower() for one in known)

    if code == MEMORY_CODE or contains(MEMORY_MESSAGES):
        return DeviceFull("this")
    # An error of the device that has neither a code nor a known message may be any.
    unknown = isinstance(error, torch.AcceleratorError) and code is None
    if code in LOST_CODES or contains(LOST_MESSAGES) or unknown:
        return DeviceLost(message.splitlines()[0] if message else repr(error))
    return error


def retry_out_of_memory(call: Callable[[], Result]) -> Result:
    """Calls again, once, after an out-of-memory error, with PyTorch's cached memory freed.

    Raises:
        DeviceFull: the second call ran out of memory too; the cache is freed.
        DeviceLost: the device fails until the process ends.
    """
    for _ in range(2):
        try:
            return call()
        except Exception as error:
            failure = device_error(error)
            if failure is error:
                raise
        # Outside of the handler: until its end the frames of the failed call hold their tensors.
        if not isinstance(failure, DeviceFull):
            break
        _free_cached_memory()
    raise failure


def bisect_failures(
    items: Sequence[Item], work: Callable[[Sequence[Item]], None]
) -> list[tuple[Item, Exception]]:
    """Works on all items together; where that raises, on each half, down to single items.

    One faulty item among n costs 2·log₂ n more calls. After an out-of-memory error PyTorch's cached
    memory is freed, and a single item is tried once more.

    Args:
        items: in order.
        work: succeeds or fails for all items that it is given.

    Returns:
        The items on which `work` failed alone, each with its error.

    Raises:
        DeviceLost: from `work`; a further call would fail as well.
    """
    for _ in range(2 if len(items) == 1 else 1):
        try:
            work(items)
        except Exception as error:
            # Without its frames, which hold memory that the next call needs.
            failure = device_error(error.with_traceback(None))
        else:
            return []
        if isinstance(failure, DeviceLost):
            raise failure
        if not isinstance(failure, DeviceFull):
            break
        _free_cached_memory()
    if len(items) == 1:
        return [(items[0], failure)]
    middle = len(items) // 2
    return bisect_failures(items[:middle], work) + bisect_failures(items[middle:], work)


def _free_cached_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
