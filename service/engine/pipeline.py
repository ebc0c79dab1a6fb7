"""From the bytes of images to features: decode in threads, embed in micro-batches."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.crops.decode import CropLimits, CropProblem, decode_crop
from model.crops.quality import QualityFault
from model.preprocessing import Preprocessing
from service.engine.batcher import EmbeddingFailed, MicroBatcher
from service.engine.quality_gate import QualityGate
from service.ops.pulse import Stage, WatchedPool

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EmbeddedImage:
    """One image's feature and where its time went, seconds.

    Attributes:
        vector: `(d,)` float32, not of unit length.
        decode, queue, embed: reading and resizing; waiting for a thread or the device; the forward
            pass it rode in.
        faults: what is poor of the crop; nothing where no gate was set before it.
    """

    vector: NDArray[np.float32]
    decode: float
    queue: float
    embed: float
    faults: tuple[QualityFault, ...] = ()


@dataclass(frozen=True)
class _Decoded:
    """One resized crop, `(height, width, 3)` uint8, what the gate found, and seconds it took."""

    crop: NDArray[np.uint8]
    faults: tuple[QualityFault, ...]
    seconds: float


class Pipeline:
    """Decodes, resizes and embeds; one bad image is that image's problem."""

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
        self._decoders = WatchedPool(decode_threads, "decode")

    @property
    def stage(self) -> Stage:
        """Its threads, for the watchdog."""
        return Stage("decode threads", self._decoders.silent_seconds)

    async def embed(
        self, images: Sequence[bytes], gate: QualityGate | None = None
    ) -> list[EmbeddedImage | CropProblem]:
        """One outcome per image, in order.

        Args:
            images: whole files.
            gate: what their quality is held against before they are embedded.
        """
        return await asyncio.gather(*(self._embed_one(image, gate) for image in images))

    async def resize(self, images: Sequence[bytes]) -> list[NDArray[np.uint8]]:
        """What the embedder sees of each image, `(height, width, 3)` uint8, in order.

        Raises:
            CropProblem: for an image that could not be embedded either.
        """
        loop = asyncio.get_running_loop()
        decoding = (loop.run_in_executor(self._decoders, self._decode, image) for image in images)
        return [decoded.crop for decoded in await asyncio.gather(*decoding)]

    def close(self) -> None:
        """Waits for the decoding under way."""
        self._decoders.shutdown()

    async def _embed_one(
        self, image: bytes, gate: QualityGate | None
    ) -> EmbeddedImage | CropProblem:
        began = time.perf_counter()
        loop = asyncio.get_running_loop()
        self._batcher.announce()
        try:
            decoded = await loop.run_in_executor(self._decoders, self._decode, image, gate)
        except BaseException as error:
            self._batcher.withdraw()
            if isinstance(error, CropProblem):
                return error
            raise
        try:
            embedding = await asyncio.wrap_future(self._batcher.submit(decoded.crop))
        except EmbeddingFailed as error:
            return CropProblem("not_embedded", f"{error}; send another crop of this person")
        total = time.perf_counter() - began
        queue = max(0.0, total - decoded.seconds - embedding.embed_seconds)
        return EmbeddedImage(
            embedding.vector, decoded.seconds, queue, embedding.embed_seconds, decoded.faults
        )

    def _decode(self, image: bytes, gate: QualityGate | None = None) -> _Decoded:
        began = time.perf_counter()
        try:
            pixels = decode_crop(image, self._limits)
            faults = gate.inspect(pixels) if gate else ()
            crop = self._preprocessing.resize(pixels)
        except CropProblem:
            raise
        except Exception as error:
            # Decoders meet hostile files; whatever they raise is about this file alone.
            log.exception("an image could not be decoded")
            raise CropProblem(
                "not_an_image", "the image data is damaged; send the file again or convert it"
            ) from error
        return _Decoded(crop, faults, time.perf_counter() - began)
