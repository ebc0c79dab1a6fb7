"""Measure likelihood ratios: fit them to some people, and apply them to pairs of others.

Cllr, the log-likelihood-ratio cost, is the mean of log2(1 + 1/LR) over pairs of one person and of
log2(1 + LR) over pairs of two, which weigh one half each; 0 is perfect, and 1 what a ratio of 1 for
every pair obtains. minCllr is the cost of the best ratios that rise with the score, found by
isotonic regression on the measured pairs themselves; Cllr − minCllr is what calibration costs
(Brümmer and du Preez, Computer Speech & Language 20, 2006).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr
from sklearn.isotonic import IsotonicRegression

from model.arrays import Array, Codes, Floats, unit_rows
from model.likelihood_ratio import SampledPairs, fit_likelihood_ratio, sample_pairs
from model.metric_network import MetricNetwork
from training.datasets.record import Dataset
from training.datasets.registry import showing_people
from training.evaluation.calibration import mnet_scores
from training.evaluation.embedding import SearchFeatures
from training.evaluation.results import LikelihoodResult
from training.evaluation.searches import Search, camera_name

# Scores pairs of crops, which are given by their rows, `(n,)` each.
ScorePairs = Callable[[Codes, Codes], Floats]
STRONG = 10.0


def measure_halves(
    dataset: Dataset,
    search: Search,
    features: SearchFeatures,
    network: MetricNetwork | None,
    rankings: Sequence[str],
) -> dict[str, LikelihoodResult]:
    """Fit likelihood ratios to one half of the people and measure them on the other, both ways.

    Args:
        dataset, search: the data set and its search, whose people are divided.
        features: features of the search.
        network: M-Net, for the ranking `mnet`.
        rankings: those without a pair score are left out.

    Returns:
        The means of both halves by ranking; none if one half has fewer than 100 people with crops
        under two cameras.
    """
    crops = features.queries
    if search.gallery is not search.queries:
        crops = np.concatenate(features)
    people = {record.identity for record in showing_people(dataset.spec, search.records)}
    rows = np.array([record.identity in people for record in search.records])
    shown = [record for record in search.records if record.identity in people]
    names = np.unique([record.identity for record in shown], return_inverse=True)[1]
    cameras = np.unique([camera_name(record) for record in shown], return_inverse=True)[1]
    crops = crops[rows]
    scorings: dict[str, ScorePairs] = {"cosine": cosine_scores(crops)}
    if network is not None:
        scorings["mnet"] = partial(mnet_scores, network, SearchFeatures(crops, crops))

    results = {}
    for ranking in rankings:
        if ranking not in scorings:
            continue
        random = np.random.default_rng(0)
        order = random.permutation(names.max() + 1)
        halves = order[::2], order[1::2]
        measured = [
            measure(names, cameras, scorings[ranking], fitted_on, measured_on, random)
            for fitted_on, measured_on in (halves, halves[::-1])
        ]
        of_halves = [result for result in measured if result is not None]
        if len(of_halves) == len(halves):
            results[ranking] = mean_result(of_halves)
    return results


def cosine_scores(features: Floats) -> ScorePairs:
    """Return a function that computes cosines of features `(n, d)`, given by their rows."""
    units = unit_rows(features)

    def score(first: Codes, second: Codes) -> Floats:
        return np.asarray(np.einsum("nd,nd->n", units[first], units[second]), np.float32)

    return score


def measure(
    names: Codes,
    cameras: Codes,
    score: ScorePairs,
    fitted_on: Codes,
    measured_on: Codes,
    random: np.random.Generator,
) -> LikelihoodResult | None:
    """Fit likelihood ratios as a gallery of some people does, and measure them on others.

    Args:
        names, cameras: codes of identities and cameras, `(n,)`.
        score: scores pairs of these crops.
        fitted_on, measured_on: codes of the people.
        random: draws the pairs.

    Returns:
        The figures; None if the people to fit are too few.
    """

    def sample(people: Codes) -> tuple[SampledPairs, Floats]:
        rows = np.flatnonzero(np.isin(names, people))
        pairs = sample_pairs(names[rows], cameras[rows], random)
        return pairs, score(rows[pairs.first], rows[pairs.second])

    pairs, scores = sample(fitted_on)
    fitted = fit_likelihood_ratio(scores, pairs)
    if fitted is None:
        return None
    pairs, scores = sample(measured_on)
    if not pairs.same.any() or pairs.same.all():
        return None
    ratios = fitted.of(scores)
    # The weights of one kind of pairs add up to one half.
    shares = 2.0 * pairs.weights()
    return LikelihoodResult(
        people=fitted.people,
        cllr=cost(ratios, pairs),
        min_cllr=minimum_cost(scores, pairs),
        same_below_1=float(shares @ (pairs.same & (ratios < 1.0))),
        different_from_10=float(shares @ (~pairs.same & (ratios >= STRONG))),
    )


def mean_result(results: Sequence[LikelihoodResult]) -> LikelihoodResult:
    """Return the means of several results, and the smallest number of people."""
    rows = [result.model_dump() for result in results]
    means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    return LikelihoodResult(**means | {"people": min(result.people for result in results)})


def cost(ratios: Array, pairs: SampledPairs) -> float:
    """Compute Cllr of likelihood ratios `(n,)` of pairs."""
    wrong = np.where(pairs.same, 1.0 / ratios, ratios)
    return float(pairs.weights() @ np.log2(1.0 + wrong))


def minimum_cost(scores: NDArray[np.floating], pairs: SampledPairs) -> float:
    """Compute minCllr of scores `(n,)` of pairs."""
    weights = pairs.weights()
    regression = IsotonicRegression()
    share = regression.fit_transform(
        scores.astype(np.float64), pairs.same.astype(np.float64), sample_weight=weights
    )
    # Pairs of equal shares are of one person in this share: their cost is its entropy.
    return float(weights @ (entr(share) + entr(1.0 - share)) / np.log(2.0))
