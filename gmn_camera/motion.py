"""Tells by a small grey picture whether something moves before a camera."""

from __future__ import annotations

import numpy as np

from gmn_camera.frame import Frame, Pixels

# A person of a tenth of the frame's height covers five cells in height and two in width.
WIDTH = 96
HEIGHT = 54
# Two cells have to become brighter or darker by 6 of 255. At 768×432 pixels, noise with a standard
# deviation of 8 changes two cells by 5, and such a person by 33 in a quarter of a second.
MIN_CHANGE = 6
MIN_CELLS = 2


def view_of(frame: Frame) -> Pixels:
    """Return a small grey picture of a frame, `(54, 96)`."""
    return frame.resized(WIDTH, HEIGHT, "gray")


def has_changed(before: Pixels, now: Pixels) -> bool:
    changes = np.abs(now.astype(np.int16) - before)
    return bool(np.count_nonzero(changes >= MIN_CHANGE) >= MIN_CELLS)
