"""Fits an artefact's calibration on the pair scores of people who were held out of training.

M-Net's training does not decide the zero of its scores: `settle_zero` puts it at equal error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import logit
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from model.calibration import SCORINGS, Calibration, Scoring, ScoringCalibration
from model.metric_network import MetricNetwork
from model.problems import InputProblem
from training.evaluation.embedding import ProgressBar, SearchFeatures
from training.evaluation.metrics import PairLabels
from training.evaluation.scoring import (
    IMPOSTORS_TO_FIT,
    SearchScores,
    labelled_scores,
    score_searches,
)
from training.evaluation.searches import Search
from training.evaluation.tails import combined_tail, fit_tail_shape, impostor_tail

PAIRS_AT_ONCE = 2048


@contextmanager
def calibrated_scores(
    metric_network: MetricNetwork | None,
    features: Mapping[str, SearchFeatures],
    searches: Mapping[str, Search],
    fitted_on: Sequence[str],
    data: str,
    progress_bar: ProgressBar,
    folder: Path,
) -> Iterator[tuple[Calibration, dict[str, SearchScores]]]:
    """Settles M-Net's zero, scores the searches of several data sets, and calibrates.

    Args:
        metric_network: in evaluation mode, on any device; changed in place. None where there is
            none.
        features, searches: of each data set, by its name.
        fitted_on: the names of the data sets that zero and calibration are fitted to.
        data: describes these sets; stored in the calibration.
        progress_bar: shows how far M-Net's scores are.
        folder: for the file of these scores.
    """
    if metric_network is not None:
        settle_zero(
            metric_network, [(features[name], searches[name].labels()) for name in fitted_on]
        )
    with score_searches(metric_network, features, searches, progress_bar, folder) as scores:
        yield calibrate_searches([scores[name] for name in fitted_on], data), scores


def calibrate_searches(domains: Sequence[SearchScores], data: str) -> Calibration:
    """Fits probabilities and impostor tails on cross-camera pairs, in bounded memory.

    The likelihood ratio is maximum likelihood with genuine and impostor pairs weighing one half
    each: `probability` is that of a pair that was as likely to be one person as
    two. They see all genuine pairs and at most 200,000 impostor pairs.

    Without M-Net's scores the calibration is of the cosine alone.

    The tails see every pair. Of several domains each has a tail of its own, and the one that is
    kept is the highest score at every share: the rate asked for is not exceeded in any of them. The
    shape of the tail of whole searches is that of the domain with the longest one.

    Args:
        domains: one for each data set; with M-Net's scores for all of them or for none.
        data: describes these sets; stored in the calibration.

    Raises:
        InputProblem: without a genuine pair or two impostor pairs under different cameras.
    """
    counts = [domain.labels.count_pairs() for domain in domains]
    genuine, impostors = (sum(column) for column in zip((0, 0), *counts, strict=True))
    if genuine < 1 or min((count for _, count in counts), default=0) < 2:
        raise InputProblem(
            f"a calibration needs pairs across cameras of one person and of two; {data} has "
            f"{genuine} and {impostors}; name data with more people under two cameras or more"
        )
    one_person, two_people = labelled_scores(domains, impostors)
    fitted: dict[Scoring, ScoringCalibration] = {}
    for column, scoring in enumerate(SCORINGS[: one_person.shape[1]]):
        tails = [
            impostor_tail(domain.impostor_scores(scoring), count)
            for domain, (_, count) in zip(domains, counts, strict=True)
        ]
        shape = fit_tail_shape([(domain.by_scoring[scoring], domain.labels) for domain in domains])
        slope, intercept = fit_logistic(one_person[:, column], two_people[:, column])
        each = [
            ScoringCalibration(
                slope=slope,
                intercept=intercept,
                impostor_tail=tail,
                tail_shape=shape,
            )
            for tail in tails
        ]
        if len(each) > 1:
            tail = combined_tail(each, max)
            each[0] = each[0].model_copy(update={"impostor_tail": tail})
        fitted[scoring] = each[0]
    return Calibration(
        scorings=fitted,
        genuine_pairs=genuine,
        impostor_pairs=impostors,
        data=data,
    )


def fit_logistic(
    genuine: NDArray[np.floating],
    impostors: NDArray[np.floating],
) -> tuple[float, float]:
    """Fits P(one person | s) = 1 / (1 + exp(−(a·s + c))) with a ≥ 0.

    Either class weighs one half at any size, so that the probability is the one for a pair of which
    nothing was known beforehand. The targets are Platt's, (n+1)/(n+2) and 1/(m+2): they keep the
    weights finite where the classes do not overlap. A score that speaks against gets no weight.

    Args:
        genuine, impostors: scores, `(n,)` and `(m,)`; a higher one must speak for one person.

    Returns:
        a and c.
    """
    n = len(genuine)
    m = len(impostors)
    high = (n + 1.0) / (n + 2.0)
    low = 1.0 / (m + 2.0)
    # A pair with a target between 0 and 1 is there once of either class, weighed by it.
    scores = np.concatenate([genuine, genuine, impostors, impostors]).astype(np.float64)[:, None]
    classes = np.repeat([1, 0, 1, 0], [n, n, m, m])
    shares = np.repeat([high / n, (1.0 - high) / n, low / m, (1.0 - low) / m], [n, n, m, m])
    scaled = make_pipeline(StandardScaler(), LogisticRegression(C=np.inf, tol=1e-9, max_iter=1000))
    scaled.fit(scores, classes, logisticregression__sample_weight=shares)
    slope = float(scaled[1].coef_[0, 0] / scaled[0].scale_[0])
    if slope < 0.0:
        return 0.0, float(logit((high + low) / 2.0))
    return slope, float(scaled[1].intercept_[0] - slope * scaled[0].mean_[0])


def settle_zero(
    metric_network: MetricNetwork,
    domains: Sequence[tuple[SearchFeatures, PairLabels]],
) -> None:
    """Moves M-Net's scores so that 0 lies at equal error; no order changes.

    Above 0 two crops rather show one person than two: the share of the pairs of one person that lie
    below it is the share of the pairs of two people above it.

    Args:
        metric_network: in evaluation mode, on any device; changed in place.
        domains: features and labels of one search for each data set, with pairs of both kinds
            under different cameras.
    """
    genuine: list[NDArray[np.float32]] = []
    impostors: list[NDArray[np.float32]] = []
    for features, labels in domains:
        random = np.random.default_rng(0)
        pairs = len(labels.query_identities) * len(labels.gallery_identities)
        share = IMPOSTORS_TO_FIT / max(1, pairs)
        for block in labels.blocks():
            same, other = labels.across_cameras(block)
            other &= random.random(other.shape, dtype=np.float32) < share
            for kind, mask in ((genuine, same), (impostors, other)):
                query, column = np.nonzero(mask)
                kind.append(_mnet_scores(metric_network, features, query + block.start, column))
    zero = equal_error_score(np.concatenate(genuine), np.concatenate(impostors))
    metric_network.move_scores(-zero)


def equal_error_score(genuine: NDArray[np.floating], impostors: NDArray[np.floating]) -> float:
    """Return the score that refuses as large a share of genuine pairs as it accepts impostors."""
    places = np.unique(np.concatenate([genuine, impostors]).astype(np.float64))
    refused = np.searchsorted(np.sort(genuine), places) / len(genuine)
    accepted = 1.0 - np.searchsorted(np.sort(impostors), places) / len(impostors)
    after = int(np.searchsorted(refused - accepted, 0.0))
    return float(places[max(0, after - 1) : after + 1].mean())


@torch.inference_mode()
def _mnet_scores(
    metric_network: MetricNetwork,
    features: SearchFeatures,
    queries: NDArray[np.int64],
    gallery: NDArray[np.int64],
) -> NDArray[np.float32]:
    """Score pairs of a query and a gallery crop, given by their rows, `(n,)`."""
    device = next(metric_network.parameters()).device
    scores = np.empty(len(queries), np.float32)
    for start in range(0, len(queries), PAIRS_AT_ONCE):
        some = slice(start, start + PAIRS_AT_ONCE)
        first = torch.from_numpy(features.queries[queries[some]]).to(device)
        second = torch.from_numpy(features.gallery[gallery[some]]).to(device)
        pairs = metric_network.pair_features(
            metric_network.comparable(first),
            metric_network.comparable(second),
        )
        scores[some] = metric_network.scores(pairs).cpu().numpy()
    return scores
