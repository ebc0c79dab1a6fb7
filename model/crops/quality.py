"""The quality of a crop: size, shape, light and sharpness, measured and held against limits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from model.arrays import Floats, Pixels

ROWS = 64
"""Height, pixels, at which light and sharpness are measured; a lower crop keeps its own.

Half of the 128 rows of common networks' inputs: blur at this height hides what they need, while a
camera's noise, which counts as sharpness, is averaged away.
"""

MAX_COLUMNS = 4 * ROWS
SAMPLED = 256
"""Of a side at least twice this, pixels, only every n-th pixel is used."""

FAR = 4
"""Rows or columns over which the contrast in the denominator of `sharpness` is measured."""

NOISE = 1e-4
"""Squared change of luma that is ignored: 2.5 of 255 grey levels."""


@dataclass(frozen=True)
class CropQuality:
    """The measures of one crop; luma is 0 for black and 1 for white.

    Attributes:
        width, height: pixels.
        sharpness: the contrast between neighbouring pixels as a share of that over four pixels,
            0 to 1, at 64 rows: 0.25 for slopes of luma, 0.5 for steps, 1 for noise, 0 for a plain
            crop. A ratio, so that neither dark nor plain clothes count as blurred.
        brightness: the luma that a tenth of the crop exceeds.
        shadow: the luma that a tenth of the crop stays below.
    """

    width: int
    height: int
    sharpness: float
    brightness: float
    shadow: float

    @property
    def aspect(self) -> float:
        """Height by width."""
        return self.height / self.width


@dataclass(frozen=True)
class QualityLimits:
    """The limits beyond which a crop is unfit to recognise a person.

    Queries at the defaults for height, sharpness, brightness and shadow lose about half of their
    right answers or more, and fewer than one in a hundred ordinary crops are beyond any of these:
    docs/datasets.md has the figures.

    Attributes:
        min_height, min_width: pixels.
        min_sharpness, min_brightness, max_shadow: as in `CropQuality`.
        min_aspect, max_aspect: height by width. Walking people are 1.6 to 4.5 times as high as
            wide; a crop wider than high is a frame, a lying picture or several people.
    """

    min_height: int = 48
    min_width: int = 16
    min_sharpness: float = 0.32
    min_brightness: float = 0.15
    max_shadow: float = 0.55
    min_aspect: float = 1.0
    max_aspect: float = 6.0


@dataclass(frozen=True)
class QualityFault:
    """One limit that a crop is beyond.

    Attributes:
        code: `low_resolution`, `not_person_shaped`, `dark`, `overexposed` or `blurred`.
        detail: the measure, the limit and the remedy in words.
    """

    code: str
    detail: str


def measure_quality(pixels: Pixels) -> CropQuality:
    """Measure a crop, in 0.2 ms at 128×64 pixels, 0.5 ms at 1,000×500, 1 ms at 4,000×4,000.

    Args:
        pixels: `(height, width, 3)` uint8 RGB of any size, as decoded and not yet resized.
    """
    height, width = pixels.shape[:2]
    luma = _luma(pixels)
    ordered = np.sort(luma, axis=None)
    tenth = len(ordered) // 10
    shadow = float(ordered[tenth])
    brightness = float(ordered[-1 - tenth])
    near = _change(luma, 1)
    far = _change(luma, FAR)
    sharpness = min(1.0, float(np.sqrt(near / (far + NOISE))))
    return CropQuality(width, height, sharpness, brightness, shadow)


def quality_faults(quality: CropQuality, limits: QualityLimits) -> tuple[QualityFault, ...]:
    """Return every limit that a crop is beyond, one fault per code; none if it is fit."""
    faults: list[QualityFault] = []
    if quality.height < limits.min_height or quality.width < limits.min_width:
        detail = (
            f"the crop is {quality.width}×{quality.height} pixels, under the limit of "
            f"{limits.min_width}×{limits.min_height}: too few to recognise a person by; "
            "take it from the full-size frame or nearer to the camera"
        )
        faults.append(QualityFault("low_resolution", detail))
    if not limits.min_aspect <= quality.aspect <= limits.max_aspect:
        detail = (
            f"the crop is {quality.aspect:.2f} times as high as wide, outside the limits of "
            f"{limits.min_aspect:g} to {limits.max_aspect:g}: hardly one upright person; "
            "send the box around one person"
        )
        faults.append(QualityFault("not_person_shaped", detail))
    if quality.brightness < limits.min_brightness:
        detail = (
            f"nine tenths of the crop are darker than {quality.brightness:.2f} of white, and the "
            f"limit is {limits.min_brightness:.2f}; send one in better light or expose longer"
        )
        faults.append(QualityFault("dark", detail))
    if quality.shadow > limits.max_shadow:
        detail = (
            f"nine tenths of the crop are brighter than {quality.shadow:.2f} of white, and the "
            f"limit is {limits.max_shadow:.2f}; send one without glare or fog, or expose shorter"
        )
        faults.append(QualityFault("overexposed", detail))
    if quality.sharpness < limits.min_sharpness:
        detail = (
            f"the crop's sharpness is {quality.sharpness:.2f}, under the limit of "
            f"{limits.min_sharpness:.2f}: edges are smeared out; send a frame in focus and without "
            "motion, and not one that was enlarged"
        )
        faults.append(QualityFault("blurred", detail))
    return tuple(faults)


def _luma(pixels: Pixels) -> Floats:
    """Return luma `(rows, columns)` float32, at most `ROWS` rows and `MAX_COLUMNS` columns."""
    height, width = pixels.shape[:2]
    every_row = max(1, height // SAMPLED)
    every_column = max(1, width // SAMPLED)
    sampled = pixels[::every_row, ::every_column]
    rows = min(height, ROWS)
    columns = min(max(1, round(width * rows / height)), MAX_COLUMNS)
    grey = Image.fromarray(np.ascontiguousarray(sampled)).convert("L")
    shrunk = grey.resize((columns, rows), Image.Resampling.BOX)
    return np.asarray(shrunk, dtype=np.float32) / np.float32(255)


def _change(luma: Floats, lag: int) -> float:
    """Compute the mean squared change over `lag` rows plus that over `lag` columns.

    A side too short for the far change counts for no lag, so that near stays a share of far.
    """
    total = 0.0
    for side in (luma, luma.T):
        if len(side) > FAR:
            change = side[lag:] - side[:-lag]
            total += float(np.square(change).mean())
    return total
