"""Thresholds of a gallery without names, fitted to the best scores of its unlabelled searches.

The best identity scores M₁ ≥ M₂ ≥ … of a search are those of other people, except for the first if
the person is enrolled. An upper tail is nearly exponential, so that the spacings of the top order
statistics are independent exponentials (Rényi). Their scale β depends on the level, like that of a
generalised Pareto tail. docs/calibration.md has the equations and the measurements.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from model.arrays import Array
from model.calibration import DEFAULT_TAIL_SHAPE, SEARCH_OPERATING_POINTS, ScoringCalibration
from model.order_statistics import (
    Mixture,
    bounded_probability,
    fit_mixture,
    probability_line,
    shifted,
    solve,
)
from model.problems import InputProblem
from model.stored import Stored

RANKS = 9
UNNAMED = -1
# The share of pairs of different people whose cosine reaches τ (docs/calibration.md).
JOINING_SHARE = 1e-3
KEPT_SEARCHES = 256
LEAST_SEARCHES = 20
REFIT_AFTER_SEARCHES = 16
REFIT_AFTER_SECONDS = 60

# Among K identities ⌊K / 6⌋ spacings belong to the tail, and a fit takes at least three.
IDENTITIES_PER_SPACING = 6
FEWEST_SPACINGS = 3
FEW_IDENTITIES = IDENTITIES_PER_SPACING * FEWEST_SPACINGS
FAR_EXTRAPOLATION = 10.0
# Before a gallery shows its own impostors, probabilities are those against the best of this number.
REFERENCE_IDENTITIES = 100

RATES = tuple(sorted(SEARCH_OPERATING_POINTS.values(), reverse=True))
RARITIES = tuple(-math.log(rate) for rate in RATES)
SIZES = tuple(float(size) for size in np.geomspace(1.0, 1e6, 25))
LOG_SIZES = np.log(SIZES)
_FORMAT = 1
_LAYOUT = struct.Struct(f"<BI{RANKS}fd")

Table = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class SearchScores:
    """The scores of one search, without image, feature or name.

    Attributes:
        scores: the nine best identity scores, descending, in the scoring of the gallery.
        identities: K, the number of identities that passed the filter, at least 9.
        at: time of the search, in Unix seconds.

    Raises:
        InputProblem: the values are others.
    """

    scores: tuple[float, ...]
    identities: int
    at: float

    def __post_init__(self) -> None:
        numbers = (*self.scores, self.at)
        finite = all(math.isfinite(number) for number in numbers)
        falling = sorted(self.scores, reverse=True) == list(self.scores)
        if len(self.scores) != RANKS or not falling or not finite:
            raise InputProblem(
                f"a stored search has {RANKS} finite scores in descending order, not "
                f"{self.scores}; leave out searches with fewer identities"
            )
        if not RANKS <= self.identities < 2**32:
            raise InputProblem(
                f"a stored search covers at least {RANKS} identities, not {self.identities}; leave "
                "it out"
            )

    def to_bytes(self) -> bytes:
        """Pack 49 bytes: a format version, K, the scores as float32, the time."""
        return _LAYOUT.pack(_FORMAT, self.identities, *self.scores, self.at)

    @classmethod
    def from_bytes(cls, data: bytes) -> SearchScores:
        """Unpack the bytes of `to_bytes`; `InputProblem` if they are anything else."""
        if len(data) != _LAYOUT.size or data[0] != _FORMAT:
            raise InputProblem(
                f"a stored search of {len(data)} bytes is not of format {_FORMAT}; drop it, since "
                "new searches take its place"
            )
        _, identities, *rest = _LAYOUT.unpack(data)
        return cls(tuple(rest[:RANKS]), identities, rest[RANKS])


def leading_scores(
    scores: NDArray[np.floating],
    identities: NDArray[np.integer],
    units: NDArray[np.floating],
    joins_at: float,
) -> tuple[float, ...]:
    """Find the nine best scores of different people among the candidates of a search, descending.

    From the top, the best remaining crop leads. It takes every crop of its own name and, if either
    of the two has no name, every crop whose cosine with it is at least `joins_at`.

    Args:
        scores: scores of the candidates, `(n,)`, in any order.
        identities: a code for each name, `(n,)`; -1 for a crop without a name.
        units: features of unit length, `(n, d)`.
        joins_at: τ, the pair threshold of the cosine at `JOINING_SHARE`.
    """
    remaining = np.argsort(-scores, kind="stable")
    leaders: list[float] = []
    while len(remaining) and len(leaders) < RANKS:
        leader = remaining[0]
        leaders.append(float(scores[leader]))
        name = identities[leader]
        names = identities[remaining]
        unnamed = names == UNNAMED
        if name == UNNAMED:
            taken = units[remaining] @ units[leader] >= joins_at
            # All crops of the names that it took show the same person.
            taken |= ~unnamed & np.isin(names, names[taken])
        else:
            taken = names == name
            if unnamed.any():
                taken[unnamed] = units[remaining[unnamed]] @ units[leader] >= joins_at
        taken[0] = True
        remaining = remaining[~taken]
    return tuple(leaders)


class SearchCalibration(Stored):
    """Thresholds and probabilities for the searches of one gallery by one scoring.

    Attributes:
        artefact: thresholds of the artefact's own calibration, with a row for each of `RATES` and a
            column for each of `SIZES`.
        own: thresholds that were fitted to searches, same shape; None without such a fit.
        fitted: the fewest and the most identities that these searches covered.
        scale: β of the best impostor scores, in units of the score.
        places, logits: rising scores, and the logit of the probability at even odds there.
        searches: number of searches that were fitted; 0 for the artefact's own calibration.
    """

    artefact: Table
    own: Table | None = None
    fitted: tuple[int, int] | None = None
    scale: float = Field(gt=0.0)
    places: tuple[float, ...] = Field(min_length=2)
    logits: tuple[float, ...] = Field(min_length=2)
    searches: int = Field(ge=0)

    def threshold(self, far: float, identities: int) -> float:
        """Return the score that the best of `identities` other people reaches in a share `far`.

        Between the operating points and beyond them it is linear in −ln(far).
        """
        table = self.own or self.artefact
        log_size = math.log(max(1, identities))
        rarity = -math.log(far)
        step = 0 if rarity < RARITIES[1] else len(RARITIES) - 2
        common = float(np.interp(log_size, LOG_SIZES, table[step]))
        rare = float(np.interp(log_size, LOG_SIZES, table[step + 1]))
        run = RARITIES[step + 1] - RARITIES[step]
        return common + (rarity - RARITIES[step]) / run * (rare - common)

    def extrapolated(self, identities: int) -> bool:
        """Return whether K is over ten times more, or less, than any fitted search covered."""
        if self.fitted is None:
            return False
        fewest, most = self.fitted
        return not fewest / FAR_EXTRAPOLATION <= identities <= most * FAR_EXTRAPOLATION

    def probability(self, scores: NDArray[np.floating]) -> Array:
        """Compute the probability at even odds that each score is genuine, same shape.

        It is strictly increasing. At even odds a pair is as likely genuine as it is the best
        impostor of a search.
        """
        places = np.array(self.places)
        logits = np.array(self.logits)
        values = np.asarray(scores, dtype=np.float64)
        slopes = np.diff(logits) / np.diff(places)
        inside = np.interp(values, places, logits)
        below = np.minimum(values - places[0], 0.0)
        above = np.maximum(values - places[-1], 0.0)
        return bounded_probability(inside + slopes[0] * below + slopes[-1] * above)


def few_identities(identities: int) -> bool:
    """Return whether these are too few for a tail, so that the artefact's thresholds apply."""
    return identities < FEW_IDENTITIES


def latest_searches(searches: Sequence[SearchScores]) -> list[SearchScores]:
    """Return the latest 256 of the searches that cover enough identities for a tail."""
    wide = [search for search in searches if not few_identities(search.identities)]
    return wide[-KEPT_SEARCHES:]


def artefact_search_calibration(calibration: ScoringCalibration) -> SearchCalibration:
    """Return the artefact's own calibration for searches.

    Probabilities are those against the best impostor of 100 identities.
    """
    rows = []
    for rate in RATES:
        rows.append([calibration.search_threshold(rate, size) for size in SIZES])
    table = _rounded_table(np.array(rows))
    lowest = calibration.impostor_tail[0].score
    highest = table[-1][-1]
    places = np.linspace(lowest, highest, 25)
    logits = calibration.log_likelihood_ratios(places) - math.log(REFERENCE_IDENTITIES)
    return SearchCalibration(
        artefact=table,
        scale=_pair_scale(calibration, REFERENCE_IDENTITIES),
        places=tuple(np.round(places, 6).tolist()),
        logits=tuple(np.round(logits, 6).tolist()),
        searches=0,
    )


def _rounded_table(thresholds: Array) -> Table:
    return tuple(tuple(row) for row in np.round(thresholds, 6).tolist())


def _pair_scale(calibration: ScoringCalibration, identities: int) -> float:
    """Compute β of the artefact's impostor tail at the level of the best of K."""
    low = calibration.pair_threshold(min(1.0, 4.0 / identities))
    high = calibration.pair_threshold(0.25 / identities)
    return max((high - low) / math.log(16.0), 1e-9)


def _genuine_excess(calibration: ScoringCalibration, identities: int) -> float:
    """Compute γ of the artefact: by how much genuine scores exceed the best impostor of K."""
    points = calibration.impostor_tail
    shares, places = np.array([(point.share, point.score) for point in points]).T
    middles = (places[:-1] + places[1:]) / 2.0
    log_ratios = calibration.log_likelihood_ratios(middles)
    ratios = np.exp(np.minimum(log_ratios, 30.0))
    weights = -np.diff(shares) * ratios
    above = middles - calibration.pair_threshold(min(1.0, 1.0 / identities))
    weights = np.where(above > 0.0, weights, 0.0)
    total = weights.sum()
    return float((weights * above).sum() / total) if total > 0.0 else 0.0


def fit_searches(
    searches: Sequence[SearchScores],
    artefact: ScoringCalibration,
    previous: SearchCalibration | None = None,
) -> SearchCalibration:
    """Fit thresholds and probabilities to unlabelled searches.

    Args:
        searches: at least 20 searches, the latest last; the latest 256 are used.
        artefact: the artefact's calibration of the scoring, a prior with the weight of 20 searches.
        previous: the previous fit; a threshold of it moves by at most β/2.

    Raises:
        InputProblem: there are too few searches, they cover too few identities, or the scores have
            no spread.
    """
    latest = latest_searches(searches)
    if len(latest) < LEAST_SEARCHES:
        raise InputProblem(
            f"{len(latest)} searches of {FEW_IDENTITIES} identities or more are too few to show a "
            f"tail; keep the artefact's own calibration until there are {LEAST_SEARCHES}"
        )
    scores = np.array([search.scores for search in latest])
    sizes = np.array([search.identities for search in latest], dtype=np.float64)
    mean_logarithm = float(np.log(sizes).mean())
    typical = round(math.exp(mean_logarithm))
    spacings = np.minimum(RANKS - 1, sizes // IDENTITIES_PER_SPACING)
    fitted = fit_mixture(
        scores,
        spacings.astype(np.int64),
        _pair_scale(artefact, typical),
        _genuine_excess(artefact, typical),
        DEFAULT_TAIL_SHAPE if artefact.tail_shape is None else artefact.tail_shape,
    )
    base = artefact_search_calibration(artefact)
    table = _table(fitted, scores, sizes, base)
    scale = float(np.mean(fitted.scale(scores[:, 1])))
    if previous is not None and previous.own is not None:
        step = scale / 2.0
        before = np.array(previous.own)
        table = np.clip(table, before - step, before + step)
    places, logits = probability_line(fitted, scores)
    return SearchCalibration(
        artefact=base.artefact,
        own=_rounded_table(table),
        fitted=(int(sizes.min()), int(sizes.max())),
        scale=scale,
        places=places,
        logits=logits,
        searches=len(latest),
    )


def _table(
    fitted: Mixture,
    scores: Array,
    sizes: Array,
    artefact: SearchCalibration,
) -> Array:
    """Compute thresholds by rate and size.

    Beyond ten times more, or less, identities than the searches cover, they grow as the artefact's.
    """
    fewest = sizes.min() / FAR_EXTRAPOLATION
    most = sizes.max() * FAR_EXTRAPOLATION
    columns = []
    for size in SIZES:
        near = min(max(size, fewest), most)
        second = shifted(fitted, scores[:, 1], near / sizes)
        third = shifted(fitted, scores[:, 2], near / sizes)
        column = solve(fitted, second, third, np.array(RATES))
        for row, rate in enumerate(RATES):
            at_near = artefact.threshold(rate, round(near))
            column[row] += artefact.threshold(rate, round(size)) - at_near
        columns.append(column)
    rising = np.maximum.accumulate(np.array(columns).T, axis=1)
    return np.maximum.accumulate(rising, axis=0)
