"""From image files to features: a pool of decode threads in front of the micro-batches."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.crops.decode import CropLimits, CropProblem, decode_crop
from model.crops.quality import QualityFault, QualityLimits, measure_quality, quality_faults
from model.preprocessing import Preprocessing
from service.engine.batcher import Embedded, MicroBatcher, WaitingCrop
from service.ops.health import MonitoredThreadPool
from service.settings import Settings

log = logging.getLogger(__name__)
Prepare = Callable[[bytes, NDArray[np.uint8]], Any]


@dataclass(frozen=True)
class QualityGate:
    """Limits of a crop's quality, checked when it is decoded.

    Attributes:
        limits: where a crop stops being fit.
        refuse: whether a crop beyond a limit is a problem, with the first fault's code and the
            details of all, or is embedded with its faults noted.
    """

    limits: QualityLimits
    refuse: bool = False


def quality_gate(settings: Settings, refuse: bool) -> QualityGate | None:
    """The gate of the settings; None where they switch it off."""
    return None if settings.quality == "off" else QualityGate(settings.quality_limits, refuse)


class Pipeline:
    """Decodes, resizes and embeds images; a bad one does not affect the others."""

    def __init__(
        self,
        preprocessing: Preprocessing,
        limits: CropLimits,
        batcher: MicroBatcher,
        decode_threads: int,
    ) -> None:
        self._preprocessing = preprocessing
        self._limits = limits
        self._batcher = batcher
        self.threads = MonitoredThreadPool(decode_threads, "decode")

    async def embed(
        self,
        images: Sequence[bytes],
        gate: QualityGate | None = None,
        prepare: Prepare | None = None,
    ) -> list[Embedded]:
        """One outcome per image, in order; without the event loop between the two threads.

        Args:
            images: whole files.
            gate: checks the quality before the embedding.
            prepare: called on a decode thread with a good image's file and its pixels
                `(height, width, 3)` uint8 RGB, for `EmbeddedImage.prepared`.
        """
        self._batcher.announce(len(images))
        arrived = time.perf_counter()
        waited: list[asyncio.Future[Embedded]] = []
        for image in images:
            # Work is skipped where this future is cancelled before its turn.
            future: Future[Embedded] = Future()
            self.threads.submit(self._decode_and_queue, image, gate, prepare, arrived, future)
            waited.append(asyncio.wrap_future(future))
        return await asyncio.gather(*waited)

    async def resize(self, images: Sequence[bytes]) -> list[NDArray[np.uint8]]:
        """The embedder's input for each image, `(height, width, 3)` uint8, in order.

        Raises:
            CropProblem: for an image that cannot be decoded.
        """
        loop = asyncio.get_running_loop()
        decoding = (loop.run_in_executor(self.threads, self._decode, image) for image in images)
        return [pixels for pixels, _, _ in await asyncio.gather(*decoding)]

    def _decode_and_queue(
        self,
        image: bytes,
        gate: QualityGate | None,
        prepare: Prepare | None,
        arrived: float,
        future: Future[Embedded],
    ) -> None:
        began = time.perf_counter()
        try:
            if not future.cancelled():
                pixels, faults, prepared = self._decode(image, gate, prepare)
                seconds = time.perf_counter() - began
                self._batcher.submit(
                    WaitingCrop(pixels, future, faults, seconds, arrived, prepared)
                )
                return
        except CropProblem as problem:
            if future.set_running_or_notify_cancel():
                future.set_result(problem)
        self._batcher.withdraw()

    def _decode(
        self, image: bytes, gate: QualityGate | None = None, prepare: Prepare | None = None
    ) -> tuple[NDArray[np.uint8], tuple[QualityFault, ...], Any]:
        try:
            pixels = decode_crop(image, self._limits)
            faults = quality_faults(measure_quality(pixels), gate.limits) if gate else ()
            if gate and gate.refuse and faults:
                raise CropProblem(faults[0].code, "; ".join(fault.detail for fault in faults))
            prepared = prepare(image, pixels) if prepare else None
            return self._preprocessing.resize(pixels), faults, prepared
        except CropProblem:
            raise
        except Exception as error:
            # Decoders read hostile files: any error concerns this file alone.
            log.exception("an image could not be decoded")
            raise CropProblem(
                "not_an_image", "the image data is damaged; send the file again or convert it"
            ) from error
