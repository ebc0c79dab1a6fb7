"""Domains and cameras: what makes two drawn data sets, and two views of a person, differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from training.datasets.synthetic.clothes import pick
from training.datasets.synthetic.raster import Light, Plane
from training.datasets.synthetic.scenes import draw_scene

GREY = np.asarray((0.299, 0.587, 0.114), np.float32)
"""What red, green and blue add to the luma."""


Style = Mapping[str, Any]
"""The style of one drawn data set, a table of `looks.toml`."""


@dataclass(frozen=True)
class Camera:
    """One camera: everything about a crop that is neither the person nor the moment.

    Attributes:
        scene: `(h, 4 w, 3)` float32, of which each crop sees a window.
        yaw: direction in which most people walk past it, radians.
        white, gamma, contrast, saturation: its colour response.
        vignette: darkening at the crop's corners.
        defocus: blur, output pixels.
        motion: horizontal smear, output pixels.
        stretch: horizontal stretch from the box's aspect ratio.
    """

    style: Style
    scene: Plane
    light: Light
    yaw: float
    pitch: float
    white: NDArray[np.float32]
    gamma: float
    contrast: float
    saturation: float
    vignette: float
    resolution: float
    defocus: float
    motion: float
    quality: int
    noise: float
    stretch: float


def draw_camera(rng: np.random.Generator, style: Style, size: tuple[int, int]) -> Camera:
    """Draws a camera of this style whose canvas is `size`, (height, width) in pixels."""
    pitch = rng.uniform(*style["pitch"])
    sun = rng.uniform(*style["sun"])
    bearing = rng.uniform(-1.3, 1.3)
    scene = draw_scene(rng, pick(rng, style["scenes"]), (size[0], 4 * size[1]), pitch / 0.5)
    exposure = rng.uniform(*style["exposure"])
    light = Light(
        side=float(np.sin(bearing)),
        front=float(np.cos(bearing)),
        above=0.15 + 0.2 * sun,
        ambient=0.75 - 0.35 * sun,
        diffuse=0.3 + 0.5 * sun,
    )
    return Camera(
        style,
        scene,
        light,
        white=np.asarray(
            exposure * np.asarray(style["cast"]) * rng.normal(1.0, 0.05, 3), np.float32
        ),
        yaw=float(rng.choice((0.0, 0.5, 1.1, 1.57, 2.2, 2.8, -0.5, -1.1, -1.57, -2.2))),
        pitch=pitch,
        gamma=float(np.exp(rng.normal(0.0, 0.12))),
        contrast=rng.uniform(*style["contrast"]),
        saturation=rng.uniform(*style["saturation"]),
        vignette=rng.uniform(0.0, 0.15),
        resolution=rng.uniform(*style["resolution"]),
        defocus=float(rng.choice((0.0, 0.5, 0.9), p=(0.5, 0.3, 0.2))),
        motion=float(rng.choice((0.0, 2.0, 3.5), p=(0.6, 0.25, 0.15))),
        quality=int(rng.uniform(*style["quality"])),
        noise=rng.uniform(*style["noise"]),
        stretch=rng.uniform(0.9, 1.2),
    )


def expose(
    rng: np.random.Generator, scene: Plane, camera: Camera, height: int, width: int
) -> NDArray[np.uint8]:
    """Records a painted scene, `(h, w, 3)` float32, as a `(height, width, 3)` uint8 crop."""
    size = (max(12, round(width * camera.resolution)), max(24, round(height * camera.resolution)))
    light = _image(scene).resize(size, Image.Resampling.BILINEAR)
    blur = camera.defocus * camera.resolution * rng.uniform(0.6, 1.3)
    if blur > 0.25:
        light = light.filter(ImageFilter.GaussianBlur(blur))
    smear = round(camera.motion * camera.resolution * rng.uniform(0.5, 1.2))
    if smear > 0:
        light = light.filter(ImageFilter.BoxBlur((smear / 2, 0)))
    pixels = _develop(rng, np.asarray(light, np.float32) * np.float32(1 / 255), camera)
    pixels += camera.noise * rng.standard_normal(pixels.shape, np.float32)
    stream = BytesIO()
    _image(pixels).save(stream, "JPEG", quality=camera.quality)
    with Image.open(stream) as decoded:
        return np.asarray(decoded.resize((width, height), Image.Resampling.BICUBIC), np.uint8)


def _image(pixels: Plane) -> Image.Image:
    return Image.fromarray((np.clip(pixels, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8))


def _develop(rng: np.random.Generator, pixels: Plane, camera: Camera) -> Plane:
    """Return the camera's colour response and its darker corners."""
    height, width = pixels.shape[:2]
    down = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    right = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    corner = 1.0 - camera.vignette * 0.5 * (down * down + right * right)
    pixels = pixels * (camera.white * rng.normal(1.0, 0.05)) * corner[..., None]
    if abs(camera.gamma - 1.0) > 0.03:
        pixels = np.power(np.clip(pixels, 1e-4, None), camera.gamma, dtype=np.float32)
    grey = (pixels @ GREY)[..., None]
    pixels = grey + camera.saturation * (pixels - grey)
    middle = np.float32(0.42)
    developed: Plane = middle + camera.contrast * (pixels - middle)
    return developed
