"""Frames: the crops that boxes cut out of one image."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gmn_client.models import Box
from model.crops.decode import CropProblem


def cut_out(boxes: Sequence[Box], pixels: NDArray[np.uint8]) -> list[bytes | CropProblem]:
    """The crop in each box as a PNG file, or why there is none.

    A PNG keeps the pixels, so that features are those of the frame, and the same box of the same
    frame is the same file.

    Args:
        pixels: of the frame, `(height, width, 3)` uint8 RGB.
    """
    return [_crop(box, pixels) for box in boxes]


def _crop(box: Box, pixels: NDArray[np.uint8]) -> bytes | CropProblem:
    height, width = pixels.shape[:2]
    right, lower = box.x + box.width, box.y + box.height
    shown = f"the box {box.width}×{box.height} at {box.x}, {box.y}"
    if box.width < 1 or box.height < 1:
        return CropProblem("too_small", f"{shown} is empty; send the box around one person")
    if box.x < 0 or box.y < 0 or right > width or lower > height:
        return CropProblem(
            "box_outside",
            f"{shown} leads out of the image of {width}×{height} pixels; cut it at the edge",
        )
    file = io.BytesIO()
    Image.fromarray(pixels[box.y : lower, box.x : right]).save(file, "PNG")
    return file.getvalue()
