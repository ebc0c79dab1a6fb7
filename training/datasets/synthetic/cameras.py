"""Domains and cameras: what makes two drawn data sets, and two views of a person, differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from training.datasets.synthetic.clothes import pick
from training.datasets.synthetic.raster import Light, Plane
from training.datasets.synthetic.scenes import draw_scene

Range = tuple[float, float]

GREY = np.asarray((0.299, 0.587, 0.114), np.float32)
"""What red, green and blue add to the luma."""


@dataclass(frozen=True)
class Domain:
    """The style of one drawn data set; ranges are what its cameras draw from.

    Attributes:
        cold, vividness: how its people dress, see `draw_appearance`.
        scenes: backgrounds, with weights.
        pitch: radians the cameras look down.
        resolution: sensor pixels per output pixel.
        quality: JPEG quality.
        noise: standard deviation, 0 to 1.
        exposure, contrast, saturation: factors.
        sun: share of directed light, 0 to 1.
        cast: RGB factors common to the domain.
        fill: body height as a share of the crop's.
        slack: detection-box jitter, share of the crop.
    """

    cold: float
    vividness: float
    scenes: Mapping[str, float]
    pitch: Range
    resolution: Range
    quality: Range
    noise: Range
    exposure: Range
    contrast: Range
    saturation: Range
    sun: Range
    cast: tuple[float, float, float]
    fill: Range
    slack: float


DOMAINS: tuple[Domain, ...] = (
    # A summer campus, seen from above by good cameras, boxes drawn by hand.
    Domain(
        0.15, 0.28, {"campus": 0.5, "plaza": 0.3, "stairs": 0.2}, (0.25, 0.5), (0.7, 1.0),
        (70, 95), (0.005, 0.015), (1.0, 1.35), (0.95, 1.15), (0.95, 1.2), (0.4, 0.9),
        (1.0, 1.02, 0.95), (0.88, 0.94), 0.02,
    ),
    # A shopping street near eye level, detected boxes, bright and washed out.
    Domain(
        0.35, 0.33, {"street": 0.6, "plaza": 0.4}, (0.05, 0.2), (0.6, 0.95),
        (45, 80), (0.01, 0.02), (1.15, 1.6), (0.75, 1.0), (0.75, 1.05), (0.2, 0.8),
        (1.02, 1.0, 0.98), (0.82, 0.97), 0.06,
    ),
    # A winter station under fluorescent tubes.
    Domain(
        0.85, 0.18, {"corridor": 0.5, "tiles": 0.4, "stairs": 0.1}, (0.15, 0.4), (0.5, 0.8),
        (35, 75), (0.01, 0.02), (1.05, 1.45), (0.85, 1.15), (0.6, 0.9), (0.1, 0.35),
        (0.95, 1.02, 1.0), (0.85, 0.96), 0.05,
    ),
    # An evening gate: dim, warm, coarse.
    Domain(
        0.6, 0.25, {"street": 0.5, "tiles": 0.25, "campus": 0.25}, (0.1, 0.35), (0.42, 0.75),
        (30, 65), (0.015, 0.03), (0.65, 1.05), (0.9, 1.3), (0.6, 1.0), (0.3, 0.7),
        (1.1, 0.99, 0.85), (0.8, 0.93), 0.05,
    ),
)  # fmt: skip


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

    scene: Plane
    light: Light
    yaw: float
    pitch: float
    white: tuple[float, float, float]
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
    fill: Range
    slack: float


def domain_style(index: int) -> Domain:
    """The style of domain `index`; beyond the styles there are they repeat, with new cameras."""
    return DOMAINS[index % len(DOMAINS)]


def draw_camera(rng: np.random.Generator, domain: Domain, size: tuple[int, int]) -> Camera:
    """Draws a camera of `domain` whose canvas is `size`, (height, width) in pixels."""
    pitch = float(rng.uniform(*domain.pitch))
    sun = float(rng.uniform(*domain.sun))
    bearing = float(rng.uniform(-1.3, 1.3))
    height, width = size
    scene = draw_scene(rng, pick(rng, domain.scenes), (height, 4 * width), pitch / 0.5)
    exposure = float(rng.uniform(*domain.exposure))
    red, green, blue = (
        float(exposure * cast * factor)
        for cast, factor in zip(domain.cast, rng.normal(1.0, 0.05, 3), strict=True)
    )
    return Camera(
        scene=scene,
        light=Light(
            side=float(np.sin(bearing)),
            front=float(np.cos(bearing)),
            above=0.15 + 0.2 * sun,
            ambient=0.75 - 0.35 * sun,
            diffuse=0.3 + 0.5 * sun,
        ),
        yaw=float(rng.choice((0.0, 0.5, 1.1, 1.57, 2.2, 2.8, -0.5, -1.1, -1.57, -2.2))),
        pitch=pitch,
        white=(red, green, blue),
        gamma=float(np.exp(rng.normal(0.0, 0.12))),
        contrast=float(rng.uniform(*domain.contrast)),
        saturation=float(rng.uniform(*domain.saturation)),
        vignette=float(rng.uniform(0.0, 0.15)),
        resolution=float(rng.uniform(*domain.resolution)),
        defocus=float(rng.choice((0.0, 0.5, 0.9), p=(0.5, 0.3, 0.2))),
        motion=float(rng.choice((0.0, 2.0, 3.5), p=(0.6, 0.25, 0.15))),
        quality=int(rng.uniform(*domain.quality)),
        noise=float(rng.uniform(*domain.noise)),
        stretch=float(rng.uniform(0.9, 1.2)),
        fill=domain.fill,
        slack=domain.slack,
    )


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
