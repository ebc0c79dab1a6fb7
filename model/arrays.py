"""Types of NumPy arrays, as annotations name them; docstrings give the shapes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
Array = NDArray[np.float64]
Codes = NDArray[np.int64]
