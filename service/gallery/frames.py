"""Frames: an image whose boxes are the crops to enroll, or to search by."""

from __future__ import annotations

from collections.abc import Sequence

from model.crops.decode import CropProblem
from service.engine.frames import Box
from service.engine.images import ImageFile
from service.errors import InvalidField, UnusableImages
from service.gallery.gallery import Gallery
from service.runtime import Runtime

__all__ = ["Box", "ImageFile", "cut_boxes"]


async def cut_boxes(
    runtime: Runtime, gallery: Gallery, images: Sequence[bytes], boxes: Sequence[Box]
) -> list[ImageFile]:
    """The crops in the boxes of the one image, each as its file or its problem, in order.

    Raises:
        InvalidField: for another number of images.
        UnusableImages: the image cannot be decoded.
        NeedsReindex: no loaded model answers for the gallery.
    """
    if len(images) != 1:
        raise InvalidField(
            f"boxes: are of one frame, and {len(images)} images were sent; send one image with its "
            "boxes"
        )
    try:
        return await runtime.models[gallery.embedder].pipeline.cut_out(images[0], boxes)
    except CropProblem as problem:
        raise UnusableImages([problem]) from problem
