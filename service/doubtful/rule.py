"""The rule by which a named crop is doubtful: its agreement with its own person and with others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.arrays import Array, Codes, Floats
from model.calibration import ScoringCalibration

# Increase this with every change of the rule: each gallery is then checked anew.
RULE = 1
# A crop's agreement with a person is the mean of its highest cosines to this many of its crops.
CROPS_COMPARED = 3
# Number of other people compared with each crop: those who have the crops nearest to it.
RIVALS = 5
# Weight of the own person's agreement: a cut picture resembles everybody little, and its own person
# least of all in comparison with other crops.
OWN_WEIGHT = 2.0
# Lowest log-odds of another person, less those of the own person, of a doubtful crop whose person
# has this many further crops; the last one also holds for more. A person with many crops has some
# that are near to each good crop. The first is for an only crop, whose own person says nothing.
# `python -m bench.doubtful` says for each number what 2% of the good crops of one half of the
# people exceed, and judges the other half.
MARGINS = (12.0, 14.5, 6.0, 4.0, -2.0, -4.0, -8.0)


@dataclass(frozen=True)
class Agreement:
    """How well n crops agree with their own person, and with the other person they agree with most.

    Attributes:
        own_crops: number of further crops of the own person, `(n,)`.
        own, other: mean cosine to the nearest crops of either person, `(n,)`; `own` is NaN without
            further crops.
        nearest: position of the other person's nearest crop, `(n,)`.
    """

    own_crops: NDArray[np.int64]
    own: Floats
    other: Floats
    nearest: NDArray[np.int64]

    def doubts(self, calibration: ScoringCalibration) -> Array:
        """Return by how much each crop exceeds its margin, `(n,)`; one from 0 on is doubtful."""
        own = np.nan_to_num(calibration.log_likelihood_ratios(self.own), nan=0.0)
        other = calibration.log_likelihood_ratios(self.other)
        margins = np.array(MARGINS)[np.minimum(self.own_crops, len(MARGINS) - 1)]
        return np.asarray(other - OWN_WEIGHT * own - margins, np.float64)


def measure_agreement(cosines: Floats, own_names: Codes, names: Codes) -> Agreement:
    """Compare n crops with the people of a gallery of at least two.

    Both means are over equally many crops, so that a person with many crops has no advantage over
    one with few.

    Args:
        cosines: cosines of n crops to all N named crops, `(n, N)`; −∞ for the crop itself.
        own_names: codes of the people of the n crops, `(n,)`.
        names: codes of the people of the N crops, ascending, `(N,)`; includes those of `own_names`.
    """
    starts = np.flatnonzero(np.diff(names, prepend=names[0] - 1))
    ends = np.append(starts[1:], len(names))
    best = np.maximum.reduceat(cosines, starts, axis=1)
    own_people = np.searchsorted(names[starts], own_names)
    rows = np.arange(len(cosines))
    best[rows, own_people] = -np.inf
    rivals = min(RIVALS, len(starts) - 1)
    nearest_people = np.argpartition(best, -rivals, axis=1)[:, len(starts) - rivals :]

    own_crops = ends[own_people] - starts[own_people] - 1
    own = np.full(len(cosines), np.nan, np.float32)
    other = np.full(len(cosines), -np.inf, np.float32)
    nearest = np.zeros(len(cosines), np.int64)
    for row in rows.tolist():
        person = own_people[row]
        compared = min(CROPS_COMPARED, int(own_crops[row])) or CROPS_COMPARED
        if own_crops[row]:
            own[row] = _mean_of_largest(cosines[row, starts[person] : ends[person]], compared)
        for rival in nearest_people[row].tolist():
            of_rival = cosines[row, starts[rival] : ends[rival]]
            mean = _mean_of_largest(of_rival, compared)
            if mean > other[row]:
                other[row] = mean
                nearest[row] = starts[rival] + int(of_rival.argmax())
    return Agreement(own_crops, own, other, nearest)


def _mean_of_largest(cosines: Floats, count: int) -> np.float32:
    if len(cosines) > count:
        cosines = np.partition(cosines, -count)[-count:]
    return np.float32(cosines.mean())
