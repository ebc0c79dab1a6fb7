"""Embed: the vectors of images, nothing stored."""

from __future__ import annotations

from collections.abc import Sequence

from model.crops.decode import CropProblem
from service.inference.pipeline import EmbeddedImage
from service.runtime import Runtime


async def embed(runtime: Runtime, images: Sequence[bytes]) -> list[EmbeddedImage | CropProblem]:
    """One outcome per image, in order.

    Raises:
        QueueFull: nothing was embedded.
    """
    with runtime.admission.places(len(images)):
        return await runtime.pipeline.embed(images)
