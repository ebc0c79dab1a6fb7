"""Centring by camera: vectors of a camera lose what all vectors of this camera have in common.

The mean of a camera is learned without names, from one crop each of many people. The mean of few
people is mostly these people, and subtracting it destroys their rankings. So each mean needs
`LEAST_SHOWN` of them, and `measure_gain` says whether people who were left out of the means rank
better with them.

Cosines of strangers at a camera that enrolled nobody are less spread than those at a camera of the
gallery. `measure_spreads` measures by how much, of centred vectors and of others, so that one
gallery's thresholds hold for all its cameras.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.arrays import Array, Codes, Floats, in_turns, unit_rows

# A mean is learned from one crop each of at least this number of people or tracks.
LEAST_SHOWN = 50
# A gain is measured with people left out in this number of parts, one after the other.
PARTS = 5
# Upper bounds on the people who search, on the crops that each searches by, and on the crops that
# are searched.
MOST_PEOPLE = 300
CROPS_OF_A_PERSON = 3
MOST_SEARCHED = 3000
# Upper bound on the crops of a camera, and of the gallery, whose cosines show a spread.
MOST_SPREAD = 1000
# Fewer people do not show whether they rank better.
LEAST_PEOPLE = 18
UNKNOWN = -1


@dataclass(frozen=True)
class ShownCrops:
    """Crops of a gallery, in the order in which they were enrolled.

    Attributes:
        units: unit vectors, `(n, d)`.
        cameras: codes of cameras, `(n,)`; −1 for a crop without a camera.
        shown: codes of who is on the crops, `(n,)`: of people, or of tracks of unnamed people.
    """

    units: Floats
    cameras: Codes
    shown: Codes

    def at(self, positions: Codes | NDArray[np.bool_]) -> ShownCrops:
        """Return the crops at some positions, in their order."""
        return ShownCrops(self.units[positions], self.cameras[positions], self.shown[positions])


@dataclass(frozen=True)
class CameraMeans:
    """Means of unit vectors.

    Attributes:
        gallery: mean over the whole gallery, `(d,)`, for crops of all other cameras.
        cameras: mean `(d,)` of each camera that has shown enough, by its code.
    """

    gallery: Array
    cameras: Mapping[int, Array]

    def of(self, cameras: Codes) -> Array:
        """Return the means that crops of these cameras lose, `(n, d)`."""
        codes, inverse = np.unique(cameras, return_inverse=True)
        means = [self.cameras.get(code, self.gallery) for code in codes.tolist()]
        return np.array(means, np.float64).reshape(-1, len(self.gallery))[inverse]

    def subtract(self, units: Floats | Array, cameras: Codes) -> Array:
        """Return unit vectors `(n, d)` minus the means of their cameras.

        A vector of zeros, such as an erased one, stays as it is.
        """
        centred = units.astype(np.float64) - self.of(cameras)
        centred[~units.any(axis=1)] = 0.0
        return centred

    def centre(self, units: Floats, cameras: Codes) -> Floats:
        """Return unit vectors `(n, d)` minus the means of their cameras, at unit length again."""
        return unit_rows(self.subtract(units, cameras))


class Gain(NamedTuple):
    """How much better people who were left out of the means rank with centring.

    Attributes:
        gain: mean over people of the difference in average precision, −1 to 1.
        standard_error: its standard error.
        people: number of people who searched.
    """

    gain: float
    standard_error: float
    people: int

    @property
    def is_clear(self) -> bool:
        """True if the gain is larger than its standard error."""
        return self.gain > self.standard_error


def fit_means(crops: ShownCrops, least: int = LEAST_SHOWN) -> CameraMeans | None:
    """Learn the means of a gallery, and of each camera that has shown enough.

    Args:
        crops: named and unnamed crops.
        least: number of people or tracks that a mean needs, each of which gives its first crop.

    Returns:
        None if the whole gallery has too few.
    """
    gallery = _mean_of_first_crops(crops, least)
    if gallery is None:
        return None
    means = {
        camera: _mean_of_first_crops(crops.at(crops.cameras == camera), least)
        for camera in _known_cameras(crops)
    }
    return CameraMeans(
        gallery, {camera: mean for camera, mean in means.items() if mean is not None}
    )


def measure_spreads(
    crops: ShownCrops, named: NDArray[np.bool_], means: CameraMeans | None
) -> dict[int, float]:
    """Measure how far cosines of each camera's crops are spread, relative to the gallery's own.

    The spread of centred vectors is the median of the absolute cosines with named crops of other
    people. That of other vectors is the median of the absolute residuals: cosines without the mean
    over each searching crop, then over each searched crop. A median hardly changes where unnamed
    tracks show named people. Each person or track gives one crop.

    Args:
        crops: named and unnamed crops.
        named: the crops that are searched, of two people at least, `(n,)`.
        means: those by which vectors are centred; None if they are not.

    Returns:
        The spread of each camera that has shown at least `LEAST_SHOWN` people or tracks, by its
        code. That of any other camera is 1.
    """
    compared = crops
    measure = _median_residual
    if means is not None:
        compared = replace(crops, units=means.centre(crops.units, crops.cameras))
        measure = _median_cosine
    searched = _first_crops(compared.at(named))
    gallery = measure(searched, searched)
    spreads = {}
    for camera in _known_cameras(crops):
        searching = _first_crops(compared.at(crops.cameras == camera))
        if len(searching.shown) >= LEAST_SHOWN:
            spreads[camera] = measure(searching, searched) / gallery
    return spreads


def measure_gain(crops: ShownCrops, searching: NDArray[np.bool_]) -> Gain | None:
    """Compare rankings with and without centring of people who were left out of the means.

    Each person's crops search the crops of people under other cameras, of their own person too.

    Args:
        crops: named and unnamed crops, all of which means are learned from.
        searching: the crops whose code in `shown` is a person known under any camera, `(n,)`.

    Returns:
        None if too few people are under two cameras, or if there are too few for the means.
    """
    generator = np.random.default_rng(len(crops.shown))
    known = generator.permutation(np.flatnonzero(searching & (crops.cameras != UNKNOWN)))
    seen = np.stack([crops.shown[known], crops.cameras[known]])
    codes = np.unique(seen, axis=1, return_inverse=True)[1].reshape(-1)
    rows, turns = in_turns(np.arange(len(known)), codes)
    known = known[np.sort(rows[turns < CROPS_OF_A_PERSON])]
    people = generator.permutation(_under_several_cameras(crops.at(known)))[:MOST_PEOPLE]
    if len(people) < LEAST_PEOPLE:
        return None
    is_judged = np.isin(crops.shown[known], people)
    judged = known[is_judged]
    others = known[~is_judged][: max(0, MOST_SEARCHED - len(judged))]
    searched = crops.at(np.concatenate([judged, others]))
    gains = []
    for part in range(PARTS):
        left_out = people[part::PARTS]
        fitted_to = crops.at(~np.isin(crops.shown, left_out))
        means = fit_means(fitted_to, LEAST_SHOWN - LEAST_SHOWN // PARTS)
        if means is None:
            return None
        queries = np.flatnonzero(np.isin(searched.shown, left_out))
        centred = means.centre(searched.units, searched.cameras)
        with_means = average_precisions(searched, centred, queries)
        without = average_precisions(searched, searched.units, queries)
        for person in left_out.tolist():
            is_own = searched.shown[queries] == person
            gains.append(float(np.mean(with_means[is_own] - without[is_own])))
    error = float(np.std(gains, ddof=1) / np.sqrt(len(gains)))
    return Gain(float(np.mean(gains)), error, len(gains))


def average_precisions(crops: ShownCrops, units: Floats, queries: Codes) -> Array:
    """Return the average precision of some crops that search all crops, `(q,)`, 0 to 1.

    Crops of the query's own person and camera are left out, as in Market-1501's protocol. The
    precision is NaN for a query without a crop of its person under another camera.

    Args:
        units: the unit vectors to rank by, `(n, d)`.
        queries: positions of the crops that search, `(q,)`.
    """
    scores = units[queries] @ units.T
    is_same = crops.shown[queries, None] == crops.shown
    is_own_camera = crops.cameras[queries, None] == crops.cameras
    scores[is_same & is_own_camera] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")
    hits = np.take_along_axis(is_same & ~is_own_camera, order, axis=1)
    precision = np.cumsum(hits, axis=1) / np.arange(1, len(crops.shown) + 1)
    with np.errstate(invalid="ignore"):
        return np.asarray((precision * hits).sum(axis=1) / hits.sum(axis=1), np.float64)


def _mean_of_first_crops(crops: ShownCrops, least: int) -> Array | None:
    first = np.unique(crops.shown, return_index=True)[1]
    if len(first) < least:
        return None
    return np.asarray(crops.units[first].astype(np.float64).mean(axis=0), np.float64)


def _first_crops(crops: ShownCrops) -> ShownCrops:
    first = np.sort(np.unique(crops.shown, return_index=True)[1])
    return crops.at(first[:MOST_SPREAD])


def _median_cosine(searching: ShownCrops, searched: ShownCrops) -> float:
    """Return the median absolute cosine of crops of different people."""
    cosines = searching.units @ searched.units.T
    is_other = searching.shown[:, None] != searched.shown
    return float(np.median(np.abs(cosines[is_other])))


def _median_residual(searching: ShownCrops, searched: ShownCrops) -> float:
    """Return the median absolute residual of the cosines of crops of different people."""
    cosines = (searching.units @ searched.units.T).astype(np.float64)
    cosines[searching.shown[:, None] == searched.shown] = np.nan
    cosines -= np.nanmean(cosines, axis=1, keepdims=True)
    cosines -= np.nanmean(cosines, axis=0, keepdims=True)
    return float(np.nanmedian(np.abs(cosines)))


def _known_cameras(crops: ShownCrops) -> list[int]:
    codes: list[int] = np.unique(crops.cameras[crops.cameras != UNKNOWN]).tolist()
    return codes


def _under_several_cameras(crops: ShownCrops) -> Codes:
    pairs = np.unique(np.stack([crops.shown, crops.cameras]), axis=1)
    people, cameras = np.unique(pairs[0], return_counts=True)
    return np.asarray(people[cameras > 1], np.int64)
