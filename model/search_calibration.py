"""Thresholds of a gallery without names, fitted to the best scores of its unlabelled searches.

The best identity scores M₁ ≥ M₂ ≥ … of a search are those of other people, except for the first if
the person is enrolled. An upper tail is nearly exponential, so that the spacings of the top order
statistics are independent exponentials (Rényi). Their scale β depends on the level, like that of a
generalised Pareto tail. docs/calibration.md has the equations, and docs/alarms.md the measurements.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from model.arrays import Array, bounded_probability, continued
from model.calibration import DEFAULT_TAIL_SHAPE, SEARCH_OPERATING_POINTS, ScoringCalibration
from model.order_statistics import FEW_IDENTITIES, RANKS, fit_mixture
from model.stored import Metadata

FAR_EXTRAPOLATION = 10.0
# Without a fit to its searches, probabilities of a gallery compare a score with that of the best
# impostor of this number of identities.
REFERENCE_IDENTITIES = 100

RATES = tuple(SEARCH_OPERATING_POINTS.values())
RARITIES = -np.log(RATES)
SIZES = np.geomspace(1.0, 1e6, 25).tolist()
LOG_SIZES = np.log(SIZES)
# Searches of other formats are skipped, since new searches replace them.
FORMAT = 1
SEARCH = np.dtype(
    [("format", "u1"), ("identities", "<u4"), ("scores", "<f4", RANKS), ("at", "<f8")]
)
Searches = NDArray[np.void]
Table = tuple[tuple[float, ...], ...]


def pack_search(
    scores: Sequence[float],
    identities: int,
    at: float,
) -> bytes:
    """Pack the scores of one search into 49 bytes, without image, feature or name.

    Args:
        scores: the nine best identity scores, descending, in the scoring of the gallery.
        identities: K, the number of identities that passed the filter, at least 18.
        at: time of the search, in Unix seconds.
    """
    return np.array((FORMAT, identities, scores, at), SEARCH).tobytes()


def unpack_searches(packed: Sequence[bytes]) -> Searches:
    """Unpack searches into an array of `SEARCH`; skip those of other formats."""
    known = [row for row in packed if len(row) == SEARCH.itemsize and row[0] == FORMAT]
    searches = np.frombuffer(b"".join(known), SEARCH)
    return searches[searches["identities"] >= FEW_IDENTITIES]


class SearchCalibration(Metadata):
    """Thresholds and probabilities for the searches of one gallery by one scoring.

    Attributes:
        artefact: thresholds of the artefact's own calibration, with a row for each of `RATES` and a
            column for each of `SIZES`.
        own: thresholds that were fitted to searches, same shape; None without such a fit.
        fitted: the fewest and the most identities that these searches covered.
        places, logits: rising scores, and the logit of the probability at even odds there.
        searches: number of searches that were fitted; 0 for the artefact's own calibration.
    """

    artefact: Table
    own: Table | None = None
    fitted: tuple[int, int] | None = None
    places: tuple[float, ...]
    logits: tuple[float, ...]
    searches: int

    def threshold(self, far: float, identities: int) -> float:
        """Return the score that the best of `identities` other people reaches in a share `far`.

        Between the operating points and beyond them it is linear in −ln(far).
        """
        place = math.log(max(1, identities))
        thresholds = [np.interp(place, LOG_SIZES, row) for row in self.own or self.artefact]
        return float(continued(-math.log(far), RARITIES, thresholds))

    def extrapolated(self, identities: int) -> bool:
        """Return whether K is over ten times more, or less, than any fitted search covered."""
        fewest, most = self.fitted or (1, math.inf)
        return not fewest / FAR_EXTRAPOLATION <= identities <= most * FAR_EXTRAPOLATION

    def probability(self, scores: NDArray[np.floating]) -> Array:
        """Compute the probability at even odds that each score is genuine, same shape.

        It is strictly increasing. At even odds a pair is as likely genuine as it is the best
        impostor of a search.
        """
        return bounded_probability(continued(scores, self.places, self.logits))


def artefact_search_calibration(calibration: ScoringCalibration) -> SearchCalibration:
    """Return the artefact's own calibration for searches.

    Probabilities are those against the best impostor of 100 identities.
    """
    thresholds = [[calibration.search_threshold(rate, size) for size in SIZES] for rate in RATES]
    table = np.round(thresholds, 6)
    places = np.linspace(calibration.impostor_tail[0].score, table[-1, -1], 25)
    logits = calibration.log_likelihood_ratios(places) - math.log(REFERENCE_IDENTITIES)
    return SearchCalibration(
        artefact=table.tolist(),
        places=np.round(places, 6).tolist(),
        logits=np.round(logits, 6).tolist(),
        searches=0,
    )


def _pair_scale(
    calibration: ScoringCalibration,
    identities: int,
) -> float:
    """Compute β of the artefact's impostor tail at the level of the best of K."""
    low = calibration.pair_threshold(4.0 / identities)
    high = calibration.pair_threshold(0.25 / identities)
    return max((high - low) / math.log(16.0), 1e-9)


def _genuine_excess(
    calibration: ScoringCalibration,
    identities: int,
) -> float:
    """Compute γ of the artefact, the excess of genuine scores over the best impostor of K."""
    points = [(point.share, point.score) for point in calibration.impostor_tail]
    shares, places = np.array(points).T
    middles = (places[:-1] + places[1:]) / 2.0
    ratios = np.exp(np.minimum(calibration.log_likelihood_ratios(middles), 30.0))
    above = np.maximum(middles - calibration.pair_threshold(1.0 / identities), 0.0)
    weights = -np.diff(shares) * ratios * (above > 0.0)
    return float(weights @ above / max(weights.sum(), 1e-300))


def fit_searches(
    searches: Searches,
    artefact: ScoringCalibration,
    previous: SearchCalibration | None = None,
) -> SearchCalibration:
    """Fit thresholds and probabilities to unlabelled searches.

    Args:
        searches: at least 20 searches, of `unpack_searches`.
        artefact: the artefact's calibration of the scoring, a prior with the weight of 20 searches.
        previous: the previous fit; a threshold of it moves by at most β/2.

    Raises:
        InputProblem: the scores have no spread.
    """
    scores = searches["scores"].astype(np.float64)
    sizes = searches["identities"].astype(np.float64)
    fewest = int(sizes.min())
    most = int(sizes.max())
    typical = round(math.exp(np.log(sizes).mean()))
    mixture = fit_mixture(
        scores,
        sizes[:, None],
        _pair_scale(artefact, typical),
        _genuine_excess(artefact, typical),
        DEFAULT_TAIL_SHAPE if artefact.tail_shape is None else artefact.tail_shape,
    )
    base = artefact_search_calibration(artefact)
    columns = []
    for size in SIZES:
        # Beyond ten times more, or less, identities than the searches cover, thresholds grow as the
        # artefact's.
        near = min(max(size, fewest / FAR_EXTRAPOLATION), most * FAR_EXTRAPOLATION)
        growth = [
            base.threshold(rate, round(size)) - base.threshold(rate, round(near)) for rate in RATES
        ]
        columns.append(mixture.thresholds(near, RATES) + growth)
    rising = np.maximum.accumulate(np.array(columns).T, axis=1)
    table = np.maximum.accumulate(rising, axis=0)
    if previous and previous.own:
        step = mixture.scale(scores[:, 1:2]).mean() / 2.0
        before = np.array(previous.own)
        table = np.clip(table, before - step, before + step)
    places, logits = mixture.probability_line()
    return SearchCalibration(
        artefact=base.artefact,
        own=np.round(table, 6).tolist(),
        fitted=(fewest, most),
        places=np.round(places, 6).tolist(),
        logits=np.round(logits, 6).tolist(),
        searches=len(searches),
    )
