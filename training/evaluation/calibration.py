"""Fit an artefact's calibration to the pair scores of people who were held out of training.

The training of M-Net does not determine the zero of its scores; `settle_zero` moves it to the point
of equal error.
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

from model.arrays import Codes, Floats
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
    """Settle M-Net's zero, score the searches of several data sets, and fit a calibration.

    Args:
        metric_network: M-Net in evaluation mode, on any device; it is changed in place. None for an
            artefact without M-Net.
        features, searches: features and search of each data set, by its name.
        fitted_on: the names of the data sets that zero and calibration are fitted to.
        data: a description of these sets, which the calibration stores.
        progress_bar: shows the progress of the long steps.
        folder: the folder for the temporary file of these scores.
    """
    if metric_network is not None:
        with progress_bar("Settling M-Net's zero", 0):
            settle_zero(
                metric_network, [(features[name], searches[name].labels()) for name in fitted_on]
            )
    with score_searches(metric_network, features, searches, progress_bar, folder) as scores:
        with progress_bar("Calibrating", 0):
            calibration = calibrate_searches([scores[name] for name in fitted_on], data)
        yield calibration, scores


def calibrate_searches(domains: Sequence[SearchScores], data: str) -> Calibration:
    """Fit probabilities and impostor tails to cross-camera pairs, in bounded memory.

    Probabilities are fitted by maximum likelihood to all genuine pairs and at most 200,000 impostor
    pairs, each kind weighing one half. They are thus those of a pair that was as likely to show one
    person as two. Without M-Net's scores only the cosine is calibrated.

    Tails are fitted to all impostor pairs. Each domain has its own tail; of several tails the
    highest score at every share is kept, so that no domain exceeds the rate asked for. The tail
    shape of whole searches is that of the domain with the longest tail.

    Args:
        domains: the scores of each data set; all of them or none have M-Net's scores.
        data: a description of these sets, which the calibration stores.

    Raises:
        InputProblem: there is no genuine pair, or a set has fewer than two impostor pairs, under
            different cameras.
    """
    counts = [domain.labels.count_pairs() for domain in domains]
    genuine, impostors = (sum(column) for column in zip((0, 0), *counts, strict=True))
    if genuine < 1 or min((count for _, count in counts), default=0) < 2:
        raise InputProblem(
            f"a calibration needs pairs across cameras of one person and of two; {data} has "
            f"{genuine} and {impostors}; name data with more people under several cameras"
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
    """Fit P(one person | s) = 1 / (1 + exp(−(a·s + c))) with a ≥ 0.

    Both classes weigh one half at any size, so that the probability is that of a pair of which
    nothing was known beforehand. The targets are Platt's, (n+1)/(n+2) and 1/(m+2), which keep the
    weights finite if the classes do not overlap. If a higher score speaks against one person, a is
    0.

    Args:
        genuine, impostors: scores, `(n,)` and `(m,)`; a higher score should speak for one person.

    Returns:
        a and c.
    """
    n = len(genuine)
    m = len(impostors)
    high = (n + 1.0) / (n + 2.0)
    low = 1.0 / (m + 2.0)
    # A pair with a target between 0 and 1 is given once in each class, weighted by the target.
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
    """Shift M-Net's scores so that the error rates are equal at 0; no order changes.

    Then the share of genuine pairs below 0 is the share of impostor pairs above 0, so that two
    crops with a score above 0 rather show one person.

    Args:
        metric_network: M-Net in evaluation mode, on any device; it is changed in place.
        domains: features and labels of each data set's search, with pairs of both kinds under
            different cameras.
    """
    genuine: list[Floats] = []
    impostors: list[Floats] = []
    for features, labels in domains:
        random = np.random.default_rng(0)
        pairs = len(labels.query_identities) * len(labels.gallery_identities)
        share = IMPOSTORS_TO_FIT / max(1, pairs)
        for block in labels.blocks():
            same, other = labels.across_cameras(block)
            other &= random.random(other.shape, dtype=np.float32) < share
            for kind, mask in ((genuine, same), (impostors, other)):
                query, column = np.nonzero(mask)
                kind.append(mnet_scores(metric_network, features, query + block.start, column))
    zero = equal_error_score(np.concatenate(genuine), np.concatenate(impostors))
    with torch.no_grad():
        # The last parameter is the bias of both logits.
        *_, bias = metric_network.parameters()
        bias.add_(bias.new_tensor([zero / 2.0, -zero / 2.0]))


def equal_error_score(genuine: NDArray[np.floating], impostors: NDArray[np.floating]) -> float:
    """Return the score at which the shares of refused genuine and accepted impostors are equal."""
    places = np.unique(np.concatenate([genuine, impostors]).astype(np.float64))
    refused = np.searchsorted(np.sort(genuine), places) / len(genuine)
    accepted = 1.0 - np.searchsorted(np.sort(impostors), places) / len(impostors)
    after = int(np.searchsorted(refused - accepted, 0.0))
    return float(places[max(0, after - 1) : after + 1].mean())


@torch.inference_mode()
def mnet_scores(
    metric_network: MetricNetwork,
    features: SearchFeatures,
    queries: Codes,
    gallery: Codes,
) -> Floats:
    """Score pairs of a query and a gallery crop, which are given by their rows, `(n,)`."""
    device = next(metric_network.parameters()).device
    scores = np.empty(len(queries), np.float32)
    for start in range(0, len(queries), PAIRS_AT_ONCE):
        block = slice(start, start + PAIRS_AT_ONCE)
        first = torch.from_numpy(features.queries[queries[block]]).to(device)
        second = torch.from_numpy(features.gallery[gallery[block]]).to(device)
        pairs = metric_network.pair_features(
            metric_network.comparable(first),
            metric_network.comparable(second),
        )
        scores[block] = metric_network.scores(pairs).cpu().numpy()
    return scores
