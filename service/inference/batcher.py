"""Micro-batches: whatever is ready when the device is free goes through one forward pass."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from service.device import DeviceThread
from service.metrics import Metrics

log = logging.getLogger(__name__)
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


class MicroBatcher:
    """Collects resized crops and embeds them together on the device thread.

    A batch is what is ready, up to `max_batch`. Only an idle device waits, at most `max_wait`
    seconds, and only while images that were announced are still being decoded.
    """

    def __init__(
        self,
        device: DeviceThread,
        embed: Embed,
        max_batch: int,
        max_wait: float,
        metrics: Metrics,
    ) -> None:
        self._device = device
        self._embed = embed
        self._max_batch = max_batch
        self._max_wait = max_wait
        self._metrics = metrics
        self._waiting: deque[_Waiting] = deque()
        self._announced = 0
        self._scheduled = False
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
                self._device.submit(self._run_batch)
                self._scheduled = True
        return item.future

    def _run_batch(self) -> None:
        batch = self._take()
        if not batch:
            return
        self._metrics.batch_size.observe(len(batch))
        try:
            self._embed_together(batch)
        except Exception:
            log.exception("a batch of %d images failed; embedding them one by one", len(batch))
            for item in batch:
                self._embed_alone(item)

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
            # What is left takes its turn behind the searches that are waiting by now.
            self._scheduled = bool(self._waiting)
            if self._scheduled:
                self._device.submit(self._run_batch)
            return batch

    def _embed_together(self, batch: list[_Waiting]) -> None:
        began = time.perf_counter()
        vectors = self._embed(np.stack([item.crop for item in batch]))
        seconds = time.perf_counter() - began
        self._metrics.images_embedded.inc(len(batch))
        for item, vector in zip(batch, vectors, strict=True):
            if np.isfinite(vector).all() and vector.any():
                item.future.set_result(Embedding(vector, seconds))
            else:
                item.future.set_exception(
                    EmbeddingFailed("the model gives no finite vector for this image")
                )

    def _embed_alone(self, item: _Waiting) -> None:
        if item.future.done():
            return
        try:
            self._embed_together([item])
        except Exception as error:
            item.future.set_exception(EmbeddingFailed(str(error)))
