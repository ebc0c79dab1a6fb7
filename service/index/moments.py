"""When and where crops were taken."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.arrays import Array

Names = NDArray[np.str_]


class Moments(NamedTuple):
    """Cameras and times of crops.

    Attributes:
        cameras: names, `(n,)`; empty if unknown.
        captured: seconds since 1970, `(n,)`; NaN if unknown.
    """

    cameras: Names
    captured: Array
