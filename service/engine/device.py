"""The thread that owns the device, its failures, and the micro-batches that it embeds."""

from __future__ import annotations

import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from model.arrays import Floats, Pixels, WaitForFeatures
from model.crops.decode import CropProblem
from model.crops.quality import QualityFault
from model.problems import InputProblem
from model.wording import counted
from service.errors import DeviceFull, DeviceLost, MachineFull, ServiceError, machine_error
from service.ops.metrics import Metrics
from service.ops.threads import MonitoredThreadPool, TurnQueue, holding

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
# The last ones are of the allocators of PyTorch on a CPU, OpenVINO and FAISS.
MEMORY_MESSAGES = re.compile(
    "out of memory|(cublas|cudnn)_status_alloc_failed|can(no|')t allocate memory|bad_alloc",
    re.IGNORECASE,
)
NO_FINITE_VECTOR = "the model gives no finite vector for this image"
Embed = Callable[[Pixels], Floats]


class DevicePool(MonitoredThreadPool):
    """One or more threads that run the calls of several callers in turn.

    An error is set on the call's future and the thread continues. A call is skipped if its future
    was cancelled before it started. After a `DeviceLost`, every call gets that error without
    running. `shutdown` finishes the calls already submitted.
    """

    def __init__(self, on_loss: Callable[[str], None], threads: int, name: str) -> None:
        """Start nothing; `on_loss` is called once, with the reason, when the device is lost."""
        super().__init__(threads, name)
        self.on_loss = on_loss
        self._lost: ServiceError | None = None

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


class DeviceThread(DevicePool):
    """The thread that does the device's work and long searches; others may take turns with it."""

    def __init__(self, on_loss: Callable[[str], None] = lambda _: None) -> None:
        super().__init__(on_loss, 1, "device thread")
        self._in_use = threading.Lock()

    def held(self) -> AbstractContextManager[None]:
        """Keep the thread from running calls: this one uses an index or M-Net.

        Hold it briefly: nothing gives turns to those who wait.
        """
        return holding(self._in_use)

    def _run(self, call: Callable[[], Result]) -> Result:
        def hold_and_call() -> Result:
            with self.held():
                return call()

        return super()._run(hold_and_call)


def device_error(error: Error) -> Error | ServiceError:
    """Return the answer for an error of a device's library or of the machine, else the error."""
    if failure := machine_error(error):
        return failure
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


@dataclass(frozen=True)
class PreparedImage:
    """The parts of an image file that are stored beside its vector.

    Attributes:
        sent_sha256: hash of the file that was sent, hexadecimal.
        picture, content_type: picture to store; None if none is stored.
        quality: sharpness times rows, of which at most 256 count, and a tenth of that for a crop
            with faults; None if it was not measured.
        other_sha256: hash of the picture to store; None if it is the file that was sent.
    """

    sent_sha256: str
    picture: bytes | None = None
    content_type: str | None = None
    quality: float | None = None
    other_sha256: str | None = None

    @property
    def sha256(self) -> str:
        return self.other_sha256 or self.sent_sha256


NOTHING_PREPARED = PreparedImage("")


@dataclass(frozen=True)
class EmbeddedImage:
    """The feature of an image, with the seconds that were spent on it.

    Attributes:
        vector: `(d,)` float32, not of unit length.
        decode: seconds of decoding and resizing.
        embed: seconds of the forward pass of its batch.
        faults: faults of the image's quality; empty if quality is not checked.
        prepared: picture to store; empty unless `Pipeline.embed` was given a `PicturePolicy`.
        height: height of the image in pixels; None if its vector was given.
    """

    vector: Floats
    decode: float
    embed: float
    faults: tuple[QualityFault, ...] = ()
    prepared: PreparedImage = NOTHING_PREPARED
    height: int | None = None


Embedded = EmbeddedImage | CropProblem


@dataclass(frozen=True)
class WaitingCrop:
    """A resized crop `(height, width, 3)` uint8 RGB and the future of its embedding.

    Attributes:
        decode: seconds of decoding and resizing.
        height: height in pixels before the resizing.
    """

    pixels: Pixels
    future: Future[Embedded] = field(default_factory=Future)
    decode: float = 0.0
    faults: tuple[QualityFault, ...] = ()
    prepared: PreparedImage = NOTHING_PREPARED
    height: int | None = None


def pass_error(future: Future[Any], run: Future[None]) -> None:
    error = run.exception()
    if error is not None and not future.done() and future.set_running_or_notify_cancel():
        future.set_exception(error)


def _stack(batch: Sequence[WaitingCrop]) -> Pixels:
    return np.stack([crop.pixels for crop in batch])


def _fail(batch: Sequence[WaitingCrop], error: BaseException) -> None:
    for crop in batch:
        if not crop.future.done():
            crop.future.set_exception(error)


class MicroBatcher:
    """Batches resized crops that are ready together and embeds them on the device thread.

    Callers take turns. Without a device thread, the submitting thread embeds its crop alone. A
    batch that fails or runs out of memory is bisected until the crop at fault is isolated.

    Attributes:
        embeds_at_once: True if the threads that submit crops embed them, without waiting for
            others.
    """

    def __init__(
        self,
        device: DeviceThread | None,
        embed: Embed,
        max_batch: int,
        metrics: Metrics,
        probe: Callable[[], object] = lambda: None,
        start: Callable[[Pixels], WaitForFeatures] | None = None,
    ) -> None:
        """Start nothing.

        Args:
            device: None if any thread may embed, several at once.
            embed: computes features `(B, d)` of resized crops `(B, height, width, 3)`.
            max_batch: number of images in one forward pass.
            probe: embeds an image that is known to be good. If it fails after a crop that failed
                alone, the device is lost.
            start: begins on a device what `embed` computes, and returns a function that waits for
                the features; None if the thread computes them itself.
        """
        self.embeds_at_once = device is None
        self._start = start
        self._device = device
        self._metrics = metrics
        self._embed = embed
        self._probe = probe
        self._max_batch = max_batch
        self._waiting = TurnQueue()
        self._lock = threading.Lock()

    def submit(self, crop: WaitingCrop) -> None:
        """Embed or queue a crop; it is skipped if its future is cancelled before its turn.

        Raises:
            DeviceLost: found while the crop was embedded on this thread.
            ServiceStopping: the device thread was shut down.
        """
        if self._device is None:
            if crop.future.set_running_or_notify_cancel():
                try:
                    self._answer([crop], self._begin([crop]))
                except BaseException as error:
                    _fail([crop], error)
                    raise
            return
        with self._lock:
            self._waiting.put(crop)
            # The first call embeds all crops that are ready by then, and their own calls find no
            # more. The calls keep their turns, so that searches run between two batches.
            run = self._device.submit(self._run_batch)
        run.add_done_callback(lambda run: pass_error(crop.future, run))

    def _run_batch(self) -> None:
        batches = [self._take_batch()]
        if self._start:
            # The device computes the second batch while this thread answers for the first one.
            batches.append(self._take_batch())
        begun = [(batch, self._begin(batch)) for batch in batches if batch]
        try:
            for batch, wait in begun:
                self._answer(batch, wait)
        except BaseException as error:
            for batch, _ in begun:
                _fail(batch, error)
            raise

    def _take_batch(self) -> list[WaitingCrop]:
        batch: list[WaitingCrop] = []
        with self._lock:
            while self._waiting.qsize() and len(batch) < self._max_batch:
                crop: WaitingCrop = self._waiting.get_nowait()
                if not crop.future.done() and crop.future.set_running_or_notify_cancel():
                    batch.append(crop)
        return batch

    def _begin(self, batch: Sequence[WaitingCrop]) -> WaitForFeatures:
        """Begin to embed a batch, and return a function that waits for it or raises its error."""
        if self._start is None:
            return lambda: self._embed(_stack(batch))
        try:
            return self._start(_stack(batch))
        except Exception as error:
            # Drop the traceback, whose frames hold memory that the next call needs.
            failure = error.with_traceback(None)

            def fail() -> Floats:
                raise failure

            return fail

    def _answer(self, batch: Sequence[WaitingCrop], wait: WaitForFeatures) -> None:
        begun = [wait]

        def embed(part: Sequence[WaitingCrop]) -> None:
            self._embed_batch(part, begun.pop() if begun else self._begin(part))

        if failures := bisect_failures(batch, embed):
            self._answer_failures(failures)

    def _embed_batch(self, batch: Sequence[WaitingCrop], wait: WaitForFeatures) -> None:
        began = time.perf_counter()
        self._metrics.batch_size.observe(len(batch))
        try:
            vectors = wait()
            if not (np.isfinite(vectors).all() and vectors.any(axis=1).all()):
                raise ValueError(NO_FINITE_VECTOR)
        except Exception as error:
            log.warning("a batch of %s failed: %s", counted(len(batch), "image"), error)
            if len(batch) > 1 and isinstance(device_error(error), DeviceFull):
                self._metrics.device_out_of_memory.inc()
            raise
        seconds = time.perf_counter() - began
        self._metrics.images_embedded.inc(len(batch))
        for crop, vector in zip(batch, vectors, strict=True):
            answer = EmbeddedImage(
                vector, crop.decode, seconds, crop.faults, crop.prepared, crop.height
            )
            crop.future.set_result(answer)

    def _answer_failures(self, failures: Sequence[tuple[WaitingCrop, Exception]]) -> None:
        full = (DeviceFull, MachineFull)
        faulty = [error for _, error in failures if not isinstance(error, full)]
        if faulty:
            log.error("%s cannot be embedded", counted(len(faulty), "image"), exc_info=faulty[0])
            try:
                self._probe()
            except Exception as error:
                raised = device_error(error)
                if not isinstance(raised, (*full, DeviceLost)):
                    raised = DeviceLost(f"it fails at an image that is known to be good: {error}")
                if isinstance(raised, DeviceLost):
                    raise raised from error
        for crop, failure in failures:
            if isinstance(failure, DeviceFull):
                # A single image is tried twice but counted once.
                self._metrics.device_out_of_memory.inc()
                crop.future.set_exception(DeviceFull("a single image"))
            elif isinstance(failure, MachineFull):
                crop.future.set_exception(failure)
            else:
                detail = f"{failure}; send another crop of this person"
                crop.future.set_result(CropProblem("not_embedded", detail))
