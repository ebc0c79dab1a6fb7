"""The enrolment quality gate: poor crops are warned of, or refused, as they are decoded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.crops.decode import CropProblem
from model.crops.quality import QualityFault, QualityLimits, measure_quality, quality_faults


@dataclass(frozen=True)
class QualityGate:
    """What a crop to be enrolled is held against.

    Attributes:
        limits: where a crop stops being fit.
        refuse: whether a crop beyond a limit is a problem, or lands with a warning.
    """

    limits: QualityLimits
    refuse: bool = False

    def inspect(self, pixels: NDArray[np.uint8]) -> tuple[QualityFault, ...]:
        """The faults of a crop that may pass.

        Args:
            pixels: `(height, width, 3)` uint8 RGB, as decoded and not yet resized.

        Raises:
            CropProblem: where faults are refused: the first one's code, and what every one says.
        """
        faults = quality_faults(measure_quality(pixels), self.limits)
        if faults and self.refuse:
            raise CropProblem(faults[0].code, "; ".join(fault.detail for fault in faults))
        return faults
