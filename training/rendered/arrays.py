"""The types of arrays and of random numbers that the modules of this package share."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.floating[Any]]
Indices = NDArray[np.integer[Any]]
Random = np.random.Generator
