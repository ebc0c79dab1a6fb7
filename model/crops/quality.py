"""Whether a crop is fit to be recognised by: its size, shape, light and sharpness, measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

ROWS = 64
"""Height, pixels, at which light and sharpness are measured; a lower crop keeps its own.

Half of the 128 rows that networks of the field commonly see: what is blurred at this height has
lost what they look at, while a camera's noise, which reads as sharpness, is averaged away.
"""

MAX_COLUMNS = 4 * ROWS
SAMPLED = 256
"""Of a side at least twice this, pixels, only every n-th pixel is looked at."""

FAR = 4
"""Rows or columns over which the contrast is taken that `sharpness` is a share of."""

NOISE = 1e-4
"""Squared change of luma that says nothing: 2.5 of 255 grey levels."""


@dataclass(frozen=True)
class CropQuality:
    """What was measured of one crop; luma runs from 0, black, to 1, white.

    Attributes:
        width, height: pixels.
        sharpness: how much of the contrast over four pixels is there from one pixel to the next,
            0 to 1, at 64 rows: 0.25 where luma only slopes, 0.5 where it steps, 1 where it is
            noise, 0 where there is nothing to see. A ratio, so that neither dark nor plain clothes
            count as blurred.
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
    """Where a crop stops being fit to recognise a person by.

    Queries at the defaults for height, sharpness, brightness and shadow lose about half of their
    right answers or more, and none of these is passed by one in a hundred ordinary crops:
    docs/datasets.md has the figures.

    Attributes:
        min_height, min_width: pixels.
        min_sharpness, min_brightness, max_shadow: as in `CropQuality`.
        min_aspect, max_aspect: height by width. Walking people are 1.6 to 4.5 times as high as
            wide; what is wider than high is a frame, a lying picture or several people.
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
    """One way in which a crop passes a limit.

    Attributes:
        code: stable for programs: `low_resolution`, `not_person_shaped`, `dark`, `overexposed` or
            `blurred`.
        measured, limit: the value and the limit that it passes, as `CropQuality` has them.
        detail: for people: both values, and what to do.
    """

    code: str
    measured: float
    limit: float
    detail: str


def measure_quality(pixels: NDArray[np.uint8]) -> CropQuality:
    """Measures a crop, in 0.2 ms at 128×64 pixels, 0.5 ms at 1,000×500, 1 ms at 4,000×4,000.

    Args:
        pixels: `(height, width, 3)` uint8 RGB of any size, as decoded and not yet resized.
    """
    height, width = pixels.shape[:2]
    luma = _luma(pixels)
    shadow, brightness = np.percentile(luma, (10, 90))
    near, far = _change(luma, 1), _change(luma, FAR)
    return CropQuality(
        width=width,
        height=height,
        sharpness=min(1.0, float(np.sqrt(near / (far + NOISE)))),
        brightness=float(brightness),
        shadow=float(shadow),
    )


def quality_faults(quality: CropQuality, limits: QualityLimits) -> tuple[QualityFault, ...]:
    """Every limit that a crop passes, one fault per code; none where it is fit."""
    return tuple(_faults(quality, limits))


def _luma(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """`(rows, columns)` float32 from 0 to 1, of at most `ROWS` rows and `MAX_COLUMNS` columns."""
    height, width = pixels.shape[:2]
    sampled = pixels[:: max(1, height // SAMPLED), :: max(1, width // SAMPLED)]
    rows = min(height, ROWS)
    columns = min(max(1, round(width * rows / height)), MAX_COLUMNS)
    grey = Image.fromarray(np.ascontiguousarray(sampled)).convert("L")
    shrunk = grey.resize((columns, rows), Image.Resampling.BOX)
    return np.asarray(shrunk, dtype=np.float32) / np.float32(255)


def _change(luma: NDArray[np.float32], lag: int) -> float:
    """Mean squared change over `lag` rows plus that over `lag` columns.

    A side too short for the far change counts for no lag, so that near stays a share of far.
    """
    rows, columns = luma.shape
    change = 0.0
    if rows > FAR:
        change += float(np.square(luma[lag:] - luma[:-lag]).mean())
    if columns > FAR:
        change += float(np.square(luma[:, lag:] - luma[:, :-lag]).mean())
    return change


def _faults(quality: CropQuality, limits: QualityLimits) -> Iterator[QualityFault]:
    if quality.height < limits.min_height or quality.width < limits.min_width:
        too_low = quality.height < limits.min_height
        yield QualityFault(
            "low_resolution",
            quality.height if too_low else quality.width,
            limits.min_height if too_low else limits.min_width,
            f"the crop is {quality.width}×{quality.height} pixels, under the limit of "
            f"{limits.min_width}×{limits.min_height}: too few to recognise a person by; "
            "take it from the full-size frame or nearer to the camera",
        )
    if not limits.min_aspect <= quality.aspect <= limits.max_aspect:
        too_wide = quality.aspect < limits.min_aspect
        yield QualityFault(
            "not_person_shaped",
            quality.aspect,
            limits.min_aspect if too_wide else limits.max_aspect,
            f"the crop is {quality.aspect:.2f} times as high as wide, outside the limits of "
            f"{limits.min_aspect:g} to {limits.max_aspect:g}: hardly one upright person; "
            "send the box around one person",
        )
    if quality.brightness < limits.min_brightness:
        yield QualityFault(
            "dark",
            quality.brightness,
            limits.min_brightness,
            f"nine tenths of the crop are darker than {quality.brightness:.2f} of white, and the "
            f"limit is {limits.min_brightness:.2f}; send one in better light or expose longer",
        )
    if quality.shadow > limits.max_shadow:
        yield QualityFault(
            "overexposed",
            quality.shadow,
            limits.max_shadow,
            f"nine tenths of the crop are brighter than {quality.shadow:.2f} of white, and the "
            f"limit is {limits.max_shadow:.2f}; send one without glare or fog, or expose shorter",
        )
    if quality.sharpness < limits.min_sharpness:
        yield QualityFault(
            "blurred",
            quality.sharpness,
            limits.min_sharpness,
            f"the crop's sharpness is {quality.sharpness:.2f}, under the limit of "
            f"{limits.min_sharpness:.2f}: edges are smeared out; send a frame in focus and without "
            "motion, and not one that was enlarged",
        )
