"""From the bytes of images to features: decode in threads, embed in micro-batches."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.crops.decode import CropLimits, CropProblem, decode_crop
from model.preprocessing import Preprocessing
from service.inference.batcher import EmbeddingFailed, MicroBatcher

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EmbeddedImage:
    """One image's feature and where its time went, seconds.

    Attributes:
        vector: `(d,)` float32, not of unit length.
        decode, queue, embed: reading and resizing; waiting for a thread or the device; the forward
            pass it rode in.
    """

    vector: NDArray[np.float32]
    decode: float
    queue: float
    embed: float


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
        self._decoders = ThreadPoolExecutor(decode_threads, thread_name_prefix="decode")

    async def embed(self, images: Sequence[bytes]) -> list[EmbeddedImage | CropProblem]:
        """One outcome per image, in order."""
        return await asyncio.gather(*(self._embed_one(image) for image in images))

    async def resize(self, images: Sequence[bytes]) -> list[NDArray[np.uint8]]:
        """What the embedder sees of each image, `(height, width, 3)` uint8, in order.

        Raises:
            CropProblem: for an image that could not be embedded either.
        """
        loop = asyncio.get_running_loop()
        decoding = (loop.run_in_executor(self._decoders, self._decode, image) for image in images)
        return [crop for crop, _ in await asyncio.gather(*decoding)]

    def close(self) -> None:
        """Waits for the decoding under way."""
        self._decoders.shutdown()

    async def _embed_one(self, image: bytes) -> EmbeddedImage | CropProblem:
        began = time.perf_counter()
        loop = asyncio.get_running_loop()
        self._batcher.announce()
        try:
            crop, decode = await loop.run_in_executor(self._decoders, self._decode, image)
        except BaseException as error:
            self._batcher.withdraw()
            if isinstance(error, CropProblem):
                return error
            raise
        try:
            embedding = await asyncio.wrap_future(self._batcher.submit(crop))
        except EmbeddingFailed as error:
            return CropProblem("not_embedded", f"{error}; send another crop of this person")
        total = time.perf_counter() - began
        queue = max(0.0, total - decode - embedding.embed_seconds)
        return EmbeddedImage(embedding.vector, decode, queue, embedding.embed_seconds)

    def _decode(self, image: bytes) -> tuple[NDArray[np.uint8], float]:
        began = time.perf_counter()
        try:
            crop = self._preprocessing.resize(decode_crop(image, self._limits))
        except CropProblem:
            raise
        except Exception as error:
            # Decoders meet hostile files; whatever they raise is about this file alone.
            log.exception("an image could not be decoded")
            raise CropProblem(
                "not_an_image", "the image data is damaged; send the file again or convert it"
            ) from error
        return crop, time.perf_counter() - began
