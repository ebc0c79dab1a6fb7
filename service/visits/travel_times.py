"""Travel times: how far the times of two crops speak for one person, by pair of cameras.

The log-odds of a difference Δt are ln h₁(Δt) − ln h₀(Δt). h₁ is the distribution of the gallery's
own confident matches, h₀ that of its random pairs. docs/seen.md has what it gains.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations_with_replacement
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.arrays import Array, Codes, Floats
from service.index.moments import Moments, Names

# Bins of Δt are narrow near 0 and grow with it: about a second wide there, and an eighth of it far
# from there. Beyond LONGEST_SECONDS both signs share one bin, which says "another day".
SHORTEST_SECONDS = 10.0
LONGEST_SECONDS = 12 * 3600.0
BINS_PER_LOG = 8
REACH = math.ceil(BINS_PER_LOG * math.log1p(LONGEST_SECONDS / SHORTEST_SECONDS))
FAR = 2 * REACH + 1
BINS = FAR + 1
# Standard deviation of the kernel that smooths counts, in bins.
KERNEL_BINS = 1.0
# Below this number of matches a pair of cameras is silent.
FEWEST_MATCHES = 50
# h₀ has the weight of this many matches in h₁.
PRIOR_MATCHES = 50.0
# Share ε of matches whose times are as those of random pairs (people come back another day), and
# of strangers whose times are as those of matches (people walk together). It bounds the log-odds.
MIXED_SHARE = 0.01
MOST_LOG_ODDS = math.log((1.0 - MIXED_SHARE) / MIXED_SHARE)
# Number of random pairs of crops that h₀ is counted from, for each pair of cameras.
RANDOM_PAIRS = 200_000
# Rows of a block of cosines.
BLOCK = 1024

CameraPair = tuple[str, str]


class TimedCrops(NamedTuple):
    """Crops with a known camera and time.

    Attributes:
        units: vectors of unit length, `(n, d)`.
        cameras: names of the cameras, `(n,)`.
        captured: seconds since 1970, `(n,)`.
        people: codes of the identities, `(n,)`; negative without one.
        tracks: codes of the tracks, `(n,)`, a unique one for each crop without a track.
    """

    units: Floats
    cameras: Names
    captured: Array
    people: Codes
    tracks: Codes

    def at(self, rows: Codes) -> TimedCrops:
        return TimedCrops(
            units=self.units[rows],
            cameras=self.cameras[rows],
            captured=self.captured[rows],
            people=self.people[rows],
            tracks=self.tracks[rows],
        )


class Counts(NamedTuple):
    """Numbers of pairs of two cameras in each bin of Δt, `(BINS,)` each.

    Attributes:
        matches: of confident matches.
        random: of random pairs.
    """

    matches: Codes
    random: Codes


@dataclass(frozen=True)
class TravelTimes:
    """The evidence of times in one gallery.

    Attributes:
        tables: log-odds in each bin of Δt, `(BINS,)`, by pair of cameras in alphabetical order. Δt
            is the time at the second camera minus that at the first. A pair of cameras that is
            missing is silent.
        version: changes whenever something else was learned.
    """

    tables: Mapping[CameraPair, Array]
    version: str = ""

    def knows(self, camera: str) -> bool:
        return camera in self._tables_from

    def log_odds(self, camera: str, captured: float, crops: Moments) -> Array:
        """Compute how far the times of a query and of crops speak for one person.

        Args:
            camera, captured: the query's camera and time, in seconds since 1970.

        Returns:
            Log-odds `(n,)` within ±`MOST_LOG_ODDS`; 0 where nothing is known.
        """
        log_odds = np.zeros(len(crops.cameras))
        seconds = crops.captured - captured
        is_known = np.isfinite(seconds)
        bins = difference_bins(np.where(is_known, seconds, np.inf))
        for other, table in self._tables_from.get(camera, {}).items():
            is_there = is_known & (crops.cameras == other)
            log_odds[is_there] = table[bins[is_there]]
        return log_odds

    @cached_property
    def _tables_from(self) -> dict[str, dict[str, Array]]:
        """The log-odds by the first and the second camera, in both directions."""
        tables: dict[str, dict[str, Array]] = {}
        for (first, second), table in self.tables.items():
            way_back = np.append(table[:FAR][::-1], table[FAR])
            tables.setdefault(second, {})[first] = way_back
            tables.setdefault(first, {})[second] = table
        return tables


def difference_bins(seconds: Array) -> Codes:
    """Return the bin of each difference of two times, same shape."""
    logs = np.log1p(np.abs(seconds) / SHORTEST_SECONDS)
    places = np.sign(seconds) * np.rint(BINS_PER_LOG * logs) + REACH
    is_far = np.abs(seconds) > LONGEST_SECONDS
    return np.where(is_far, FAR, places).astype(np.int64)


def log_odds_of(counts: Counts) -> Array:
    """Compute the log-odds in each bin, `(BINS,)`, from the pairs of two cameras."""
    smooth_random = _smoothed(counts.random) + 1.0 / BINS
    random = smooth_random / smooth_random.sum()
    smooth_matches = _smoothed(counts.matches) + PRIOR_MATCHES * random
    matches = smooth_matches / smooth_matches.sum()
    mixed_matches = (1.0 - MIXED_SHARE) * matches + MIXED_SHARE * random
    mixed_random = (1.0 - MIXED_SHARE) * random + MIXED_SHARE * matches
    return np.asarray(np.log(mixed_matches / mixed_random), np.float64)


def learn_travel_times(
    crops: TimedCrops, lowest_cosine: float, between: Callable[[], None] = lambda: None
) -> TravelTimes:
    """Learn from the confident matches of a gallery, without labels.

    Args:
        lowest_cosine: the least cosine of a confident match.
        between: is called between steps of at most some tenths of a second.
    """
    tables = {
        pair: log_odds_of(counts)
        for pair, counts in count_pairs(crops, lowest_cosine, between)
        if counts.matches.sum() >= FEWEST_MATCHES
    }
    return TravelTimes(tables)


def count_pairs(
    crops: TimedCrops, lowest_cosine: float, between: Callable[[], None] = lambda: None
) -> Iterator[tuple[CameraPair, Counts]]:
    """Yield the pairs of cameras with the counts of Δt; takes the arguments of the learning."""
    random = np.random.default_rng(len(crops.cameras))
    rows_by_camera = {
        camera: np.flatnonzero(crops.cameras == camera)
        for camera in np.unique(crops.cameras).tolist()
    }
    for first, second in combinations_with_replacement(sorted(rows_by_camera), 2):
        one = crops.at(rows_by_camera[first])
        other = crops.at(rows_by_camera[second])
        is_one_camera = first == second
        matched = find_matches(one, other, lowest_cosine, is_one_camera, between)
        drawn = np.stack(
            [random.integers(len(side.captured), size=RANDOM_PAIRS) for side in (one, other)]
        )
        is_one_track = one.tracks[drawn[0]] == other.tracks[drawn[1]]
        drawn = drawn[:, ~is_one_track]
        counted = [
            _count(other.captured[rows[1]] - one.captured[rows[0]], is_one_camera)
            for rows in (matched, drawn)
        ]
        yield (first, second), Counts(*counted)


def find_matches(
    one: TimedCrops,
    other: TimedCrops,
    lowest_cosine: float,
    is_one_camera: bool,
    between: Callable[[], None],
) -> Codes:
    """Find confident matches of two cameras, as rows `(2, m)` of the crops of each.

    Two crops match if their cosine reaches the lowest and each is the other's nearest, or the
    nearest of the same name. Crops of different names or of one track never match, and two tracks
    match once.
    """
    nearest_of_one, cosines = _nearest(one, other, between)
    nearest_of_other, _ = _nearest(other, one, between)
    rows = np.arange(len(nearest_of_one))
    is_mutual = nearest_of_other[nearest_of_one] == rows
    is_named = (one.people >= 0) & (one.people == other.people[nearest_of_one])
    is_match = (cosines >= lowest_cosine) & (is_mutual | is_named)
    if is_one_camera:
        # Otherwise each mutual match of one camera would be found from both of its sides.
        is_match &= ~is_mutual | (rows < nearest_of_one)
    matched = np.stack([rows, nearest_of_one])[:, is_match]
    tracks = np.stack([one.tracks[matched[0]], other.tracks[matched[1]]])
    _, first_of_tracks = np.unique(tracks, axis=1, return_index=True)
    return np.asarray(matched[:, first_of_tracks], np.int64)


def _nearest(
    asking: TimedCrops, searched: TimedCrops, between: Callable[[], None]
) -> tuple[Codes, Floats]:
    """Return the nearest crop of each that may match, and its cosine, `(n,)`; −1 if none may."""
    nearest = np.zeros(len(asking.cameras), np.int64)
    cosines = np.full(len(asking.cameras), -1.0, np.float32)
    for start in range(0, len(nearest), BLOCK):
        between()
        part = slice(start, start + BLOCK)
        block = asking.units[part] @ searched.units.T
        names = asking.people[part, None]
        is_excluded: NDArray[np.bool_] = asking.tracks[part, None] == searched.tracks
        is_excluded |= (names >= 0) & (searched.people >= 0) & (names != searched.people)
        block[is_excluded] = -1.0
        nearest[part] = block.argmax(axis=1)
        cosines[part] = block.max(axis=1)
    return nearest, cosines


def _count(seconds: Array, both_ways: bool) -> Codes:
    """Count differences by bin; within one camera each pair counts in both directions."""
    if both_ways:
        seconds = np.concatenate([seconds, -seconds])
    return np.bincount(difference_bins(seconds), minlength=BINS)


def _smoothed(counts: Codes) -> Array:
    """Smooth the counts of near differences; those of another day are counted apart."""
    width = math.ceil(3 * KERNEL_BINS)
    kernel = np.exp(-0.5 * (np.arange(-width, width + 1) / KERNEL_BINS) ** 2)
    near = np.convolve(counts[:FAR], kernel / kernel.sum(), "same")
    return np.append(near, counts[FAR])
