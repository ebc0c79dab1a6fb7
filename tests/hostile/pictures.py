"""One drawn person in every format that is taken, and what one file among the hostile ones is."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image

from tests.outside import encoded

HEIGHT = 96
WIDTH = 48


class HostileFile(NamedTuple):
    """A file, its description, and whether it has to land; None if both are right."""

    name: str
    data: bytes
    lands: bool | None


def drawn(person=0):
    """Return a head, a coat and trousers, with enough noise that no two people are alike."""
    random = np.random.default_rng(person)
    colours = random.integers(30, 226, size=(2, 3))
    pixels = np.full((HEIGHT, WIDTH, 3), 112, dtype=np.float64)
    pixels[4:18, 16:30] = (205, 165, 140)
    pixels[18:54, 8:40] = colours[0]
    pixels[54:92, 12:34] = colours[1]
    pixels += random.normal(0.0, 3.0, pixels.shape)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def in_every_format():
    image = drawn()
    return {
        "jpeg": encoded(image, "JPEG", quality=90),
        "progressive": encoded(image, "JPEG", progressive=True, quality=90),
        "restarts": encoded(image, "JPEG", restart_marker_blocks=4),
        "png": encoded(image, "PNG"),
        "palette": encoded(image.quantize(16), "PNG"),
        "webp": encoded(image, "WEBP"),
        "lossless": encoded(image, "WEBP", lossless=True),
        "bmp": encoded(image, "BMP"),
    }
