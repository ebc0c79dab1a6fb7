"""Cameras: where they hang, what they see behind people, and how they develop a picture."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from model.arrays import Pixels
from training.rendered.arrays import Numbers, Random
from training.rendered.difficulty import Difficulty
from training.rendered.scenes import draw_scene

BLURRED = 0.12
"""The share of crops that are blurred by movement, besides the lens."""
PIVOT = 0.3
"""The grey that contrast leaves as it is."""


@dataclass(frozen=True)
class Light:
    """Light on people.

    Attributes:
        direction: a unit vector towards the sun or lamp; x is right, y up, z to the camera.
        sun, sky: `(3)`, the light from there and from everywhere, as factors of colours.
    """

    direction: Numbers
    sun: Numbers
    sky: Numbers


@dataclass(frozen=True)
class Camera:
    """A camera.

    Attributes:
        scene: what it sees without people.
        horizon: the share of the scene's height above the ground.
        height: its height above the ground in metres.
        near, far: how far people are from it in metres.
        headings: the directions in which people walk, in degrees; 0 is towards the camera.
        light: the light on people before it.
        mixing: `(3, 3)`, the share of each channel of the light, by rows, in each of the picture.
        tint: a factor of each channel.
        black: how bright black is.
        gamma: an exponent of each channel.
        contrast, saturation: of its development.
        blur: the radius of its lens, as a share of a crop's height.
        noise: the standard deviation, as a share of white.
        pixels: the smallest and the largest height of its crops.
        quality: of its JPEG files.
        slack: the standard deviation of the edges of its crops, as a share of the height.
        occluded, cut_off, shaded: the shares of its crops with something in front of the person,
            without the person's feet, and with light of two strengths.
    """

    scene: Pixels
    horizon: float
    height: float
    near: float
    far: float
    headings: tuple[float, ...]
    light: Light
    mixing: Numbers
    tint: Numbers
    black: float
    gamma: Numbers
    contrast: float
    saturation: float
    blur: float
    noise: float
    pixels: tuple[int, int]
    quality: int
    slack: float
    occluded: float
    cut_off: float
    shaded: float


def draw_camera(random: Random, difficulty: Difficulty) -> Camera:
    """Draw a camera and its scene."""
    far_apart = difficulty.cameras
    horizon = random.uniform(0.2, 0.5)
    heading = random.uniform(0, 360)
    lowest = int(random.choice(difficulty.heights))
    near = random.uniform(3, 8)
    warmth = far_apart * random.normal(0, 0.1)
    exposure = np.exp(random.normal(0.12, 0.22 * far_apart))
    return Camera(
        scene=draw_scene(random, horizon),
        horizon=horizon,
        height=random.uniform(1.6, 5.5),
        near=near,
        far=near * random.uniform(1.2, 2.5),
        headings=(heading, heading + random.normal(180, 15), heading + random.choice([-90, 90])),
        light=_draw_light(random),
        mixing=_draw_mixing(random, far_apart),
        tint=exposure * np.array([1 + warmth, random.normal(1, 0.05 * far_apart), 1 - warmth]),
        black=far_apart * random.uniform(0, 0.06),
        gamma=(0.9 + far_apart * random.uniform(-0.25, 0.25))
        * np.exp(random.normal(0, 0.06 * far_apart, 3)),
        contrast=1 + far_apart * random.uniform(-0.25, 0.3),
        saturation=1 + far_apart * random.uniform(-0.7, 0.25),
        blur=far_apart * random.uniform(0, 0.008),
        noise=random.uniform(0.002, 0.02),
        pixels=(lowest, int(lowest * random.uniform(1.1, 1.8))),
        quality=int(random.choice([45, 60, 75, 85, 92])),
        slack=random.uniform(0.01, 0.05),
        occluded=difficulty.occluded,
        cut_off=difficulty.cut_off,
        shaded=difficulty.shaded,
    )


def _draw_mixing(random: Random, far_apart: float) -> Numbers:
    """Draw a matrix by which grey stays grey."""
    mixing = np.eye(3) + random.normal(0, 0.08 * far_apart, (3, 3))
    return mixing / mixing.sum(axis=0)


def develop(random: Random, camera: Camera, picture: Numbers) -> bytes:
    """Return a picture as the camera writes it, as JPEG.

    Args:
        picture: `(height, width, 3)` from 0 to 1.
    """
    exposed = picture @ camera.mixing * camera.tint * np.exp(random.normal(0, 0.12))
    grey = exposed.mean(axis=2, keepdims=True)
    coloured = grey + camera.saturation * (exposed - grey)
    contrasted = PIVOT + camera.contrast * (coloured - PIVOT)
    lifted = camera.black + (1 - camera.black) * contrasted.clip(0, 1)
    developed = 255 * lifted**camera.gamma
    radius = camera.blur
    if random.random() < BLURRED:
        radius += random.uniform(0.002, 0.012)
    blurred = Image.fromarray(developed.astype(np.uint8)).filter(
        ImageFilter.GaussianBlur(radius * len(picture))
    )
    pixels = np.asarray(blurred, np.float32)
    grain = random.normal(0, 255 * camera.noise, (*pixels.shape[:2], 1))
    grain = grain + random.normal(0, 100 * camera.noise, pixels.shape)
    noisy = Image.fromarray((pixels + grain).round().clip(0, 255).astype(np.uint8))
    file = io.BytesIO()
    noisy.save(file, "JPEG", quality=camera.quality)
    return file.getvalue()


def _draw_light(random: Random) -> Light:
    upward = random.uniform(0.15, 1)
    angle = random.uniform(0, 2 * np.pi)
    across = np.sqrt(1 - upward**2)
    sun = random.uniform(0, 0.9)
    warmth = random.uniform(-0.02, 0.15)
    sky = random.uniform(0.6, 0.95) * (1 - 0.3 * sun)
    return Light(
        direction=np.array([across * np.cos(angle), upward, across * np.sin(angle)]),
        sun=sun * np.array([1 + warmth, 1, 1 - warmth]),
        sky=sky * np.array([1 - warmth / 2, 1, 1 + warmth / 2]),
    )
