"""Search thresholds without labels: a mixture over the order statistics of unlabelled searches.

A search's best identity scores M₁ ≥ M₂ ≥ … are those of other people, but for the first where the
person is enrolled. The upper tail of a maximum is close to an exponential one, so the spacings of
top order statistics are independent exponentials (Rényi), with a scale β that depends on the level
as a generalised Pareto tail's does. docs/calibration.md has the equations and the measurements.
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
# Share of different people's pairs whose cosine reaches τ (docs/calibration.md).
JOINING_SHARE = 1e-3
KEPT_SEARCHES = 256
LEAST_SEARCHES = 20
REFIT_AFTER_SEARCHES = 16
REFIT_AFTER_SECONDS = 60

# With fewer identities the best scores are no tail: r = ⌊K / 6⌋ spacings, and it takes three.
IDENTITIES_PER_SPACING = 6
FEWEST_SPACINGS = 3
FEW_IDENTITIES = IDENTITIES_PER_SPACING * FEWEST_SPACINGS
FAR_EXTRAPOLATION = 10.0
# A probability's impostor is the best of this many, before a gallery shows its own.
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
    """The scores of one search: no image, no feature and no name.

    Attributes:
        scores: the nine best identity scores, descending, in the gallery's scoring.
        identities: K, how many identities passed the filter; 9 at least.
        at: when it was, in Unix seconds.

    Raises:
        InputProblem: for anything else.
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
                f"a kept search has {RANKS} finite scores, descending, not {self.scores}; leave a "
                "search with fewer identities out"
            )
        if not RANKS <= self.identities < 2**32:
            raise InputProblem(
                f"a kept search covers {RANKS} identities at least, not {self.identities}"
            )

    def to_bytes(self) -> bytes:
        """Pack 49 bytes: a format version, K, the scores as float32, the time."""
        return _LAYOUT.pack(_FORMAT, self.identities, *self.scores, self.at)

    @classmethod
    def from_bytes(cls, data: bytes) -> SearchScores:
        """Reverse `to_bytes`; `InputProblem` for another length, version or content."""
        if len(data) != _LAYOUT.size or data[0] != _FORMAT:
            raise InputProblem(
                f"a kept search of {len(data)} bytes is not of format {_FORMAT}; drop it, the "
                "calibration starts from new searches"
            )
        _, identities, *rest = _LAYOUT.unpack(data)
        return cls(tuple(rest[:RANKS]), identities, rest[RANKS])


def leading_scores(
    scores: NDArray[np.floating],
    identities: NDArray[np.integer],
    units: NDArray[np.floating],
    joins_at: float,
) -> tuple[float, ...]:
    """Find the best scores of different people among a search's candidates: nine, descending.

    Greedy, from the top: the best remaining crop leads, and takes every crop of its own name and
    every crop whose cosine with it is at least `joins_at` where either has no name.

    Args:
        scores: scores of the candidates, `(n,)`, in any order.
        identities: a code for each name, `(n,)`; -1 for a crop without one.
        units: features of unit length, `(n, d)`.
        joins_at: τ, the pair threshold of the cosine at `JOINING_SHARE`.
    """
    remaining = np.argsort(-scores, kind="stable")
    if UNNAMED not in identities:
        _, first = np.unique(identities[remaining], return_index=True)
        best = remaining[np.sort(first)[:RANKS]]
        return tuple(scores[best].tolist())
    leaders: list[float] = []
    while len(remaining) and len(leaders) < RANKS:
        leader = remaining[0]
        leaders.append(float(scores[leader]))
        name = identities[leader]
        others = identities[remaining]
        taken = unnamed = others == UNNAMED
        if name == UNNAMED:
            taken = units[remaining] @ units[leader] >= joins_at
            # The names that an unnamed leader took are the same person, wherever their crops are.
            taken |= ~unnamed & np.isin(others, others[taken])
        elif unnamed.any():
            taken[unnamed] = units[remaining[unnamed]] @ units[leader] >= joins_at
        taken |= (others == name) & (name != UNNAMED)
        taken[0] = True
        remaining = remaining[~taken]
    return tuple(leaders)


class SearchCalibration(Stored):
    """Thresholds and probability for the searches of one gallery, in one scoring.

    Attributes:
        artefact: thresholds of the artefact's own calibration, one row for each of `RATES` and one
            column for each of `SIZES`.
        own: thresholds from the gallery's searches, the same shape; None where none are behind it.
        fitted: the fewest and the most identities that the searches behind `own` covered.
        scale: β of the best impostor scores, in units of the score.
        logits: of the probability at even odds, rising, at `places`.
        searches: how many searches are behind it, 0 for the artefact's.
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

        Between the operating points, and beyond them, the score follows −ln(far) on straight lines.
        """
        table = self.own or self.artefact
        place = math.log(max(1, identities))
        asked = -math.log(far)
        step = 0 if asked < RARITIES[1] else len(RARITIES) - 2
        common = float(np.interp(place, LOG_SIZES, table[step]))
        rare = float(np.interp(place, LOG_SIZES, table[step + 1]))
        run = RARITIES[step + 1] - RARITIES[step]
        return common + (asked - RARITIES[step]) / run * (rare - common)

    def extrapolated(self, identities: int) -> bool:
        """Return whether K lies beyond a factor of 10 of all that its searches covered."""
        if self.fitted is None:
            return False
        fewest, most = self.fitted
        return not fewest / FAR_EXTRAPOLATION <= identities <= most * FAR_EXTRAPOLATION

    def probability(self, scores: NDArray[np.floating]) -> Array:
        """Compute the probability at even odds that each score is genuine, same shape.

        It is strictly increasing. Even odds: the pair is as likely genuine as it is the best
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
    """Return whether these are too few for a tail, so that the artefact's thresholds decide."""
    return identities < FEW_IDENTITIES


def latest_searches(searches: Sequence[SearchScores]) -> list[SearchScores]:
    """Return the latest 256 searches that cover enough identities for a tail."""
    wide = [search for search in searches if not few_identities(search.identities)]
    return wide[-KEPT_SEARCHES:]


def artefact_search_calibration(one: ScoringCalibration) -> SearchCalibration:
    """Return the artefact's own calibration, for searches that cover K identities.

    The probability is that of the pair against the best impostor of 100 identities.
    """
    rows = []
    for rate in RATES:
        rows.append([one.search_threshold(rate, size) for size in SIZES])
    table = _table_of(np.array(rows))
    lowest = one.impostor_tail[0].score
    places = np.linspace(lowest, table[-1][-1], 25)
    logits = one.log_likelihood_ratios(places) - math.log(REFERENCE_IDENTITIES)
    return SearchCalibration(
        artefact=table,
        scale=_pair_scale(one, REFERENCE_IDENTITIES),
        places=tuple(np.round(places, 6).tolist()),
        logits=tuple(np.round(logits, 6).tolist()),
        searches=0,
    )


def _table_of(thresholds: Array) -> Table:
    return tuple(tuple(row) for row in np.round(thresholds, 6).tolist())


def _pair_scale(one: ScoringCalibration, identities: int) -> float:
    """Compute β of the artefact's tail at the level of the best of K."""
    low = one.pair_threshold(min(1.0, 4.0 / identities))
    high = one.pair_threshold(0.25 / identities)
    return max((high - low) / math.log(16.0), 1e-9)


def _genuine_excess(one: ScoringCalibration, identities: int) -> float:
    """Compute γ by the artefact: how far genuine scores exceed the best impostor of K."""
    points = one.impostor_tail
    shares, places = np.array([(point.share, point.score) for point in points]).T
    middles = (places[:-1] + places[1:]) / 2.0
    ratios = np.exp(np.minimum(one.log_likelihood_ratios(middles), 30.0))
    weights = -np.diff(shares) * ratios
    above = middles - one.pair_threshold(min(1.0, 1.0 / identities))
    weights = np.where(above > 0.0, weights, 0.0)
    total = weights.sum()
    return float((weights * above).sum() / total) if total > 0.0 else 0.0


def fit_searches(
    searches: Sequence[SearchScores],
    artefact: ScoringCalibration,
    previous: SearchCalibration | None = None,
) -> SearchCalibration:
    """Fit thresholds and probability to unlabelled searches.

    Args:
        searches: 20 at least, the latest last; of more than 256 the latest count.
        artefact: the artefact's calibration of the scoring, with the weight of 20 searches; it
            gives the shape of the tail.
        previous: the one before; a threshold that was fitted to searches moves by at most β/2.

    Raises:
        InputProblem: for too few searches, searches that cover too few identities, or scores
            without spread.
    """
    latest = latest_searches(searches)
    if len(latest) < LEAST_SEARCHES:
        raise InputProblem(
            f"{len(latest)} searches that cover {FEW_IDENTITIES} identities or more show no tail; "
            f"it takes {LEAST_SEARCHES}, until then keep the artefact's own calibration"
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
        own=_table_of(table),
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
    """Compute thresholds by rate and size; beyond a factor of 10 they grow as the artefact's."""
    fewest = sizes.min() / FAR_EXTRAPOLATION
    most = sizes.max() * FAR_EXTRAPOLATION
    columns = []
    for size in SIZES:
        near = min(max(size, fewest), most)
        second = shifted(fitted, scores[:, 1], near / sizes)
        third = shifted(fitted, scores[:, 2], near / sizes)
        column = solve(fitted, second, third, np.array(RATES))
        for place, rate in enumerate(RATES):
            there = artefact.threshold(rate, round(near))
            column[place] += artefact.threshold(rate, round(size)) - there
        columns.append(column)
    rising = np.maximum.accumulate(np.array(columns).T, axis=1)
    return np.maximum.accumulate(rising, axis=0)
