"""From the painted scene to the pixels a recorder keeps: colour, blur, noise, JPEG, resize."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from training.datasets.synthetic.cameras import Camera
from training.datasets.synthetic.raster import Plane

GREY = np.asarray((0.299, 0.587, 0.114), np.float32)


def expose(
    rng: np.random.Generator, scene: Plane, camera: Camera, height: int, width: int
) -> NDArray[np.uint8]:
    """Records a painted scene, `(h, w, 3)` float32, as a `(height, width, 3)` uint8 crop."""
    size = (max(12, round(width * camera.resolution)), max(24, round(height * camera.resolution)))
    light = Image.fromarray((np.clip(scene, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8))
    light = light.resize(size, Image.Resampling.BILINEAR)
    blur = camera.defocus * camera.resolution * float(rng.uniform(0.6, 1.3))
    if blur > 0.25:
        light = light.filter(ImageFilter.GaussianBlur(blur))
    smear = round(camera.motion * camera.resolution * float(rng.uniform(0.5, 1.2)))
    if smear > 0:
        light = light.filter(ImageFilter.BoxBlur((smear / 2, 0)))
    pixels = _develop(rng, np.asarray(light, np.float32) * np.float32(1 / 255), camera)
    noise = rng.standard_normal(pixels.shape, np.float32)
    pixels += camera.noise * noise
    recorded = Image.fromarray((np.clip(pixels, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8))
    stream = BytesIO()
    recorded.save(stream, "JPEG", quality=camera.quality)
    with Image.open(stream) as decoded:
        crop = decoded.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(crop, np.uint8)


def _develop(rng: np.random.Generator, pixels: Plane, camera: Camera) -> Plane:
    height, width = pixels.shape[:2]
    down = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    right = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    corner = 1.0 - camera.vignette * 0.5 * (down * down + right * right)
    gain = np.asarray(camera.white, np.float32) * float(rng.normal(1.0, 0.05))
    pixels = pixels * gain * corner[..., None]
    if abs(camera.gamma - 1.0) > 0.03:
        pixels = np.power(np.clip(pixels, 1e-4, None), camera.gamma, dtype=np.float32)
    grey = (pixels @ GREY)[..., None]
    pixels = grey + camera.saturation * (pixels - grey)
    middle = np.float32(0.42)
    developed: Plane = middle + camera.contrast * (pixels - middle)
    return developed
