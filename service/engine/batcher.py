"""Micro-batches: crops that are ready when the device becomes free share one forward pass."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.crops.decode import CropProblem
from model.crops.quality import QualityFault
from service.engine.device import DeviceThread, bisect_failures, device_error
from service.errors import DeviceFull, DeviceLost
from service.ops.metrics import Metrics
from service.ops.threads import TurnQueue

log = logging.getLogger(__name__)
NO_FINITE_VECTOR = "the model gives no finite vector for this image"
Embed = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


@dataclass(frozen=True)
class PreparedImage:
    """The parts of an image file that are stored beside its vector.

    Attributes:
        sha256: of the file, hexadecimal.
        picture, content_type: the stored picture; None if none is stored.
        quality: None if it was not measured.
    """

    sha256: str
    picture: bytes | None = None
    content_type: str | None = None
    quality: float | None = None


NOTHING_PREPARED = PreparedImage("")


@dataclass(frozen=True)
class EmbeddedImage:
    """One image's feature and where its time went, seconds.

    Attributes:
        vector: `(d,)` float32, not of unit length.
        decode: reading and resizing.
        embed: the forward pass of its batch.
        faults: of the image's quality; empty without a quality gate.
        prepared: empty unless `Pipeline.embed` was asked for it.
    """

    vector: NDArray[np.float32]
    decode: float
    embed: float
    faults: tuple[QualityFault, ...] = ()
    prepared: PreparedImage = NOTHING_PREPARED


Embedded = EmbeddedImage | CropProblem


@dataclass(frozen=True)
class WaitingCrop:
    """A resized crop `(height, width, 3)` uint8 RGB and the future of its embedding.

    Attributes:
        decode: seconds that reading and resizing took.
    """

    pixels: NDArray[np.uint8]
    future: Future[Embedded] = field(default_factory=Future)
    decode: float = 0.0
    faults: tuple[QualityFault, ...] = ()
    prepared: PreparedImage = NOTHING_PREPARED


def pass_error(future: Future[Any], run: Future[None]) -> None:
    error = run.exception()
    if error is not None and not future.done() and future.set_running_or_notify_cancel():
        future.set_exception(error)


class MicroBatcher:
    """Batches resized crops that are ready together and embeds them on the device thread.

    Callers take turns. Without a device thread, the submitting thread embeds its crop alone. A
    batch that fails or runs out of memory is bisected until the crop at fault is isolated.
    """

    def __init__(
        self,
        device: DeviceThread | None,
        embed: Embed,
        max_batch: int,
        metrics: Metrics,
        probe: Callable[[], object] = lambda: None,
    ) -> None:
        """Start nothing.

        Args:
            device: None if any thread may embed, several at once.
            embed: computes features `(B, d)` of resized crops `(B, height, width, 3)`.
            max_batch: number of images in one forward pass.
            probe: embeds an image that is known to be good. If it fails after a crop that failed
                alone, the device is lost.
        """
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
                self._answer([crop])
            return
        with self._lock:
            self._waiting.put(crop)
            # The first call embeds the crops that are ready then, whose own calls find none left.
            # So the searches that have arrived since have their turns between two batches.
            run = self._device.submit(self._run_batch)
        run.add_done_callback(lambda run: pass_error(crop.future, run))

    def _run_batch(self) -> None:
        batch: list[WaitingCrop] = []
        with self._lock:
            while self._waiting.qsize() and len(batch) < self._max_batch:
                crop: WaitingCrop = self._waiting.get_nowait()
                if not crop.future.done() and crop.future.set_running_or_notify_cancel():
                    batch.append(crop)
        if batch:
            self._answer(batch)

    def _answer(self, batch: Sequence[WaitingCrop]) -> None:
        try:
            if failures := bisect_failures(batch, self._embed_batch):
                self._answer_failures(failures)
        except BaseException as error:
            for crop in batch:
                if not crop.future.done():
                    crop.future.set_exception(error)
            raise

    def _embed_batch(self, batch: Sequence[WaitingCrop]) -> None:
        began = time.perf_counter()
        self._metrics.batch_size.observe(len(batch))
        try:
            vectors = self._embed(np.stack([crop.pixels for crop in batch]))
            if not (np.isfinite(vectors).all() and vectors.any(axis=1).all()):
                raise ValueError(NO_FINITE_VECTOR)
        except Exception as error:
            log.warning("a batch of %d images failed: %s", len(batch), error)
            if len(batch) > 1 and isinstance(device_error(error), DeviceFull):
                self._metrics.device_out_of_memory.inc()
            raise
        seconds = time.perf_counter() - began
        self._metrics.images_embedded.inc(len(batch))
        for crop, vector in zip(batch, vectors, strict=True):
            answer = EmbeddedImage(vector, crop.decode, seconds, crop.faults, crop.prepared)
            crop.future.set_result(answer)

    def _answer_failures(self, failures: Sequence[tuple[WaitingCrop, Exception]]) -> None:
        faulty = [error for _, error in failures if not isinstance(error, DeviceFull)]
        if faulty:
            log.error("%d images cannot be embedded", len(faulty), exc_info=faulty[0])
            try:
                self._probe()
            except Exception as error:
                raised = device_error(error)
                if not isinstance(raised, DeviceFull | DeviceLost):
                    raised = DeviceLost(f"it fails at an image that is known to be good: {error}")
                if isinstance(raised, DeviceLost):
                    raise raised from error
        for crop, failure in failures:
            if isinstance(failure, DeviceFull):
                # A single image is tried twice but counted once.
                self._metrics.device_out_of_memory.inc()
                crop.future.set_exception(DeviceFull("a single image"))
            else:
                detail = f"{failure}; send another crop of this person"
                crop.future.set_result(CropProblem("not_embedded", detail))
