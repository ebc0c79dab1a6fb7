"""Micro-batches: whatever is ready when the device is free goes through one forward pass."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from service.engine.batch_limit import BatchLimit
from service.engine.device import DeviceThread
from service.engine.device_faults import explained, with_room
from service.engine.halving import in_halves
from service.errors import DeviceFull, DeviceLost, ServiceError
from service.ops.metrics import Metrics

log = logging.getLogger(__name__)
NO_FINITE_VECTOR = "the model gives no finite vector for this image"
Embed = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


class EmbeddingFailed(RuntimeError):
    """The model could not embed one image; the others of its batch are not touched by it."""


@dataclass(frozen=True)
class Embedding:
    """One image's feature `(d,)` float32, and how long its forward pass took."""

    vector: NDArray[np.float32]
    embed_seconds: float


@dataclass(frozen=True)
class _Waiting:
    crop: NDArray[np.uint8]
    future: Future[Embedding] = field(default_factory=Future)


_Suspect = tuple[_Waiting, Exception]


class MicroBatcher:
    """Collects resized crops and embeds them together on the device thread.

    A batch is what is ready, up to `max_batch`. Only an idle device waits, at most `max_wait`
    seconds, and only while images that were announced are still being decoded.

    Where a pass fails, its halves are tried, until the image that is to blame is alone. Where the
    device has too little memory, later batches are as small as those that had room, for a while.
    """

    def __init__(
        self,
        device: DeviceThread,
        embed: Embed,
        max_batch: int,
        max_wait: float,
        metrics: Metrics,
        probe: Callable[[], object] = lambda: None,
    ) -> None:
        """Starts nothing.

        Args:
            device: the thread that owns the device.
            embed: features `(B, d)` of resized crops `(B, height, width, 3)`.
            max_batch: images in one forward pass.
            max_wait: seconds.
            metrics: counts batches.
            probe: embeds an image that is known to be good. Where an image fails alone and this
                fails too, it was not the image's fault.
        """
        self._device = device
        self._embed = embed
        self._max_batch = max_batch
        self._max_wait = max_wait
        self._metrics = metrics
        self._waiting: deque[_Waiting] = deque()
        self._announced = 0
        self._scheduled = False
        self._limit = BatchLimit(max_batch, metrics)
        self._probe = probe
        self._changed = threading.Condition()

    def announce(self) -> None:
        """Says that an image is about to come; `submit` or `withdraw` follows."""
        with self._changed:
            self._announced += 1

    def withdraw(self) -> None:
        """Says that an announced image does not come."""
        with self._changed:
            self._announced -= 1
            self._changed.notify()

    def submit(self, crop: NDArray[np.uint8]) -> Future[Embedding]:
        """Queues an announced crop, `(height, width, 3)` uint8; a cancelled future is left out."""
        item = _Waiting(crop)
        with self._changed:
            self._announced -= 1
            self._waiting.append(item)
            self._changed.notify()
            if not self._scheduled:
                self._schedule()
        return item.future

    def _schedule(self) -> None:
        # First: a run that fails at once says by it that none is coming.
        self._scheduled = True
        try:
            self._device.submit(self._run_batch).add_done_callback(self._ran)
        except ServiceError as error:
            self._answer_all(error)

    def _ran(self, run: Future[None]) -> None:
        """Where the device thread begins no more batches, nobody waits for one."""
        error = run.exception()
        if error is not None:
            self._answer_all(error)

    def _answer_all(self, error: BaseException) -> None:
        with self._changed:
            waiting = list(self._waiting)
            self._waiting.clear()
            self._scheduled = False
        for item in waiting:
            if item.future.set_running_or_notify_cancel():
                item.future.set_exception(error)

    def _run_batch(self) -> None:
        batch = self._take()
        suspects: list[_Suspect] = []
        try:
            self._come_again()
            if batch:
                in_halves(
                    batch,
                    lambda group: self._embed_together(group, suspects),
                    lambda item, error: suspects.append((item, error)),
                )
            self._judge(suspects)
        except BaseException as error:
            for item in batch:
                if not item.future.done():
                    item.future.set_exception(error)
            raise

    def _take(self) -> list[_Waiting]:
        with self._changed:
            if self._device.waiting == 0:
                self._changed.wait_for(
                    lambda: len(self._waiting) >= self._max_batch or self._announced == 0,
                    timeout=self._max_wait,
                )
            batch: list[_Waiting] = []
            while self._waiting and len(batch) < self._max_batch:
                item = self._waiting.popleft()
                if item.future.set_running_or_notify_cancel():
                    batch.append(item)
            return batch

    def _come_again(self) -> None:
        """What is left takes its turn behind the searches that are waiting by now."""
        with self._changed:
            self._scheduled = False
            if self._waiting:
                self._schedule()

    def _embed_together(self, batch: Sequence[_Waiting], suspects: list[_Suspect]) -> None:
        if len(batch) > self._limit.now():
            # Not tried: so many had no room a moment ago.
            raise DeviceFull(f"{len(batch)} images")
        began = time.perf_counter()
        vectors = self._features(batch)
        seconds = time.perf_counter() - began
        self._metrics.images_embedded.inc(len(batch))
        for item, vector in zip(batch, vectors, strict=True):
            if np.isfinite(vector).all() and vector.any():
                item.future.set_result(Embedding(vector, seconds))
            else:
                suspects.append((item, EmbeddingFailed(NO_FINITE_VECTOR)))

    def _features(self, batch: Sequence[_Waiting]) -> NDArray[np.float32]:
        """Raises `DeviceFull` or `DeviceLost` where the device is to blame."""
        self._metrics.batch_size.observe(len(batch))
        crops = np.stack([item.crop for item in batch])
        try:
            # There are halves to try with freed memory, but not of one image.
            return with_room(lambda: self._embed(crops), tries=2 if len(batch) == 1 else 1)
        except DeviceFull:
            self._limit.ran_out(len(batch))
            raise
        except Exception as error:
            log.warning("a batch of %d images failed: %s", len(batch), error)
            raise

    def _judge(self, suspects: Sequence[_Suspect]) -> None:
        """Answers those that failed alone.

        Raises:
            DeviceLost: the device fails at what is known to be good, too.
        """
        blamed = [error for _, error in suspects if not isinstance(error, DeviceFull)]
        if blamed:
            log.error("%d images cannot be embedded", len(blamed), exc_info=blamed[0])
            self._require_device()
        for item, error in suspects:
            if isinstance(error, DeviceFull):
                item.future.set_exception(DeviceFull("a single image"))
            else:
                item.future.set_exception(EmbeddingFailed(str(error)))

    def _require_device(self) -> None:
        try:
            self._probe()
        except Exception as error:
            raised = explained(error)
            if isinstance(raised, DeviceFull):
                return
            if not isinstance(raised, DeviceLost):
                raised = DeviceLost(f"it fails at an image that is known to be good: {error}")
            raise raised from error
