"""What a device's failure means: no memory left, the device lost, or a fault of what was asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from service.errors import DeviceFull, DeviceLost

Result = TypeVar("Result")
# As CUDA's documentation of its error codes has it: after these everything that is asked of the
# device in this process fails, and only another process can go on. The others, as a launch with
# wrong sizes, leave the device as it was.
LOST_CODES = frozenset(
    {
        4,  # the driver is being unloaded
        46,  # every device is busy or unavailable
        100,  # no device is there any more
        101,
        201,  # the context is gone
        214,  # ECC: memory whose error cannot be corrected
        220,  # NVLink: the same
        226,  # contained by the hardware, with this process
        700,  # illegal address
        702,  # a kernel ran for too long
        709,  # the context is being destroyed
        710,  # an assertion on the device
        714,  # the hardware's stack
        715,  # illegal instruction
        716,  # misaligned address
        717,  # address space
        718,  # program counter
        719,  # a kernel failed
        721,  # the same, contained
        999,  # unknown
    }
)
MEMORY_CODES = frozenset({2})
# Of errors that come without a code: from cuBLAS, cuDNN and older ways of torch's own.
LOST_WORDS = (
    "an illegal memory access was encountered",
    "an illegal instruction was encountered",
    "device-side assert triggered",
    "unspecified launch failure",
    "launch timed out and was terminated",
    "misaligned address",
    "uncorrectable ecc error",
    "uncorrectable nvlink error",
    "hardware stack error",
    "invalid program counter",
    "invalid address space",
    "context is destroyed",
    "no cuda-capable device is detected",
    "cuda-capable device(s) is/are busy or unavailable",
    "driver shutting down",
    "cublas_status_execution_failed",
    "cudnn_status_execution_failed",
)
MEMORY_WORDS = (
    "cuda error: out of memory",
    "cuda out of memory",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
)


def explained(error: BaseException) -> BaseException:
    """What to raise instead of an error: `DeviceFull`, `DeviceLost`, or the error itself."""
    if isinstance(error, torch.OutOfMemoryError):
        return DeviceFull("this")
    if not isinstance(error, RuntimeError):
        return error
    said = str(error).lower()
    # Read off the exception by torch 2.9 and newer, where the driver gave one.
    code = getattr(error, "error_code", None)
    if code in MEMORY_CODES or any(words in said for words in MEMORY_WORDS):
        return DeviceFull("this")
    lost = code in LOST_CODES or any(words in said for words in LOST_WORDS)
    # One that tells neither a code nor anything known is taken for the worst.
    unknown = isinstance(error, torch.AcceleratorError) and code is None
    if lost or unknown:
        return DeviceLost(str(error).splitlines()[0] if str(error) else repr(error))
    return error


def with_room(call: Callable[[], Result], tries: int = 2) -> Result:
    """Answers a call, and where memory runs out once more with what was held for later given back.

    Raises:
        DeviceFull: there was no room the last time either; what was held is given back.
        DeviceLost: only another process can go on.
    """
    raised: BaseException | None = None
    for _ in range(tries):
        try:
            return call()
        except Exception as error:
            raised = explained(error)
            if raised is error:
                raise
        # Outside of the handler: until its end the frames of the failed call hold their tensors.
        if not isinstance(raised, DeviceFull):
            break
        _free_cached_memory()
    raise raised or ValueError("tries is below 1")


def _free_cached_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
