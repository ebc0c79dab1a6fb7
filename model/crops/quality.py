"""The quality of a crop: its size, shape, light and sharpness, and limits of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from model.arrays import Floats

# Light and sharpness are measured at this height in pixels, or at that of a lower crop. It is half
# the input of common networks: blur at this height hides details that they need, and the noise of a
# camera, which counts as sharpness, is averaged away.
ROWS = 64
MAX_COLUMNS = 4 * ROWS
# If a side is at least twice as long as this, only every n-th pixel is used.
SAMPLED = 256
# The sharpness compares contrast between neighbours with contrast over this many pixels.
FAR = 4
# A squared change of luma by 2.5 of 255 grey levels, which is ignored.
NOISE = 1e-4


class CropQuality(NamedTuple):
    """The measures of a crop; luma is 0 for black and 1 for white.

    Attributes:
        width, height: size in pixels.
        sharpness: contrast between neighbouring pixels relative to contrast over four pixels, at a
            height of 64: 0.25 for slopes of luma, 0.5 for steps, 1 for noise, and 0 for a plain
            crop. It is a ratio, so that neither dark nor plain clothes count as blurred.
        brightness: luma that a tenth of the crop exceeds.
        shadow: luma that a tenth of the crop stays below.
    """

    width: int
    height: int
    sharpness: float
    brightness: float
    shadow: float

    @property
    def aspect(self) -> float:
        """Height divided by width."""
        return self.height / self.width


@dataclass(frozen=True)
class QualityLimits:
    """The limits beyond which a person in a crop cannot be recognised.

    Queries at the default height, sharpness, brightness and shadow lose about half of their right
    answers or more. Fewer than one in a hundred ordinary crops exceed a default; docs/datasets.md
    has the figures.

    Attributes:
        min_height, min_width: size in pixels.
        min_sharpness, min_brightness, max_shadow: see `CropQuality`.
        min_aspect, max_aspect: height divided by width. Walking people are 1.6 to 4.5 times as high
            as wide. A crop that is wider than high is a frame, is rotated, or shows several people.
    """

    min_height: int = 48
    min_width: int = 16
    min_sharpness: float = 0.32
    min_brightness: float = 0.15
    max_shadow: float = 0.55
    min_aspect: float = 1.0
    max_aspect: float = 6.0


class QualityFault(NamedTuple):
    """A limit that a crop exceeds.

    Attributes:
        code: `low_resolution`, `not_person_shaped`, `dark`, `overexposed` or `blurred`.
        detail: the measure, the limit and the remedy in words.
    """

    code: str
    detail: str


def measure_quality(crop: Image.Image) -> CropQuality:
    """Measure a crop, which takes 0.2 ms for 128×64 pixels and 1 ms for 4,000×4,000.

    Args:
        crop: a decoded crop in RGB, not resized.
    """
    width, height = crop.size
    luma = _luma(crop)
    ordered = np.sort(luma, axis=None)
    tenth = len(ordered) // 10
    shadow = float(ordered[tenth])
    brightness = float(ordered[-1 - tenth])
    near = _change(luma, 1)
    far = _change(luma, FAR)
    sharpness = min(1.0, float(np.sqrt(near / (far + NOISE))))
    return CropQuality(width, height, sharpness, brightness, shadow)


def quality_faults(quality: CropQuality, limits: QualityLimits) -> tuple[QualityFault, ...]:
    """Return a fault for each limit that a crop exceeds."""
    checks = (
        (
            quality.height < limits.min_height or quality.width < limits.min_width,
            "low_resolution",
            f"the crop is {quality.width}×{quality.height} pixels, under the limit of "
            f"{limits.min_width}×{limits.min_height}: too few to recognise a person by; "
            "take it from the full-size frame or nearer to the camera",
        ),
        (
            not limits.min_aspect <= quality.aspect <= limits.max_aspect,
            "not_person_shaped",
            f"the crop is {quality.aspect:.2f} times as high as wide, outside the limits of "
            f"{limits.min_aspect:g} to {limits.max_aspect:g}: hardly one upright person; "
            "send the box around one person",
        ),
        (
            quality.brightness < limits.min_brightness,
            "dark",
            f"nine tenths of the crop are darker than {quality.brightness:.2f} of white, and the "
            f"limit is {limits.min_brightness:.2f}; send one in better light or expose longer",
        ),
        (
            quality.shadow > limits.max_shadow,
            "overexposed",
            f"nine tenths of the crop are brighter than {quality.shadow:.2f} of white, and the "
            f"limit is {limits.max_shadow:.2f}; send one without glare or fog, or expose shorter",
        ),
        (
            quality.sharpness < limits.min_sharpness,
            "blurred",
            f"the crop's sharpness is {quality.sharpness:.2f}, under the limit of "
            f"{limits.min_sharpness:.2f}: edges are smeared out; send a frame in focus and without "
            "motion, and not one that was enlarged",
        ),
    )
    return tuple(QualityFault(code, detail) for is_exceeded, code, detail in checks if is_exceeded)


def _luma(crop: Image.Image) -> Floats:
    """Return luma `(rows, columns)` float32, at most `ROWS` rows and `MAX_COLUMNS` columns."""
    width, height = crop.size
    every_row = max(1, height // SAMPLED)
    every_column = max(1, width // SAMPLED)
    size = (-(-width // every_column), -(-height // every_row))
    # Each pixel of the sample shows the centre of the first of these columns and rows of the crop.
    places = (every_column, 0.0, 0.5 - every_column / 2, 0.0, every_row, 0.5 - every_row / 2)
    sampled = crop.transform(size, Image.Transform.AFFINE, places, Image.Resampling.NEAREST)
    rows = min(height, ROWS)
    columns = min(max(1, round(width * rows / height)), MAX_COLUMNS)
    shrunk = sampled.convert("L").resize((columns, rows), Image.Resampling.BOX)
    return np.asarray(shrunk, dtype=np.float32) / np.float32(255)


def _change(luma: Floats, lag: int) -> float:
    """Compute the mean squared change over `lag` rows plus that over `lag` columns.

    A side that is too short for the change over `FAR` pixels counts for no lag, since the sharpness
    is a ratio of two changes.
    """
    total = 0.0
    for side in (luma, luma.T):
        if len(side) > FAR:
            change = side[lag:] - side[:-lag]
            total += float(np.square(change).mean())
    return total
