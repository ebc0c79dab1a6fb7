"""Gives M-Net's scores their zero, which its training does not decide: at equal error."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from model.metric_network import MetricNetwork
from training.evaluation.embedding import SearchFeatures
from training.evaluation.ranking import PairLabels, blocks

IMPOSTORS_OF_A_DOMAIN = 200_000
PAIRS_AT_ONCE = 2048


def settle_zero(
    metric_network: MetricNetwork, domains: Sequence[tuple[SearchFeatures, PairLabels]]
) -> None:
    """Moves M-Net's scores so that 0 lies at equal error; no order changes.

    Above 0 two crops rather show one person than two: the share of the pairs of one person that lie
    below it is the share of the pairs of two people above it.

    Args:
        metric_network: in evaluation mode, on any device; changed in place.
        domains: features and labels of one search for each data set, with pairs of both kinds
            under different cameras.
    """
    drawn = [_pair_scores(metric_network, *domain) for domain in domains]
    genuine, impostors = (np.concatenate(parts) for parts in zip(*drawn, strict=True))
    metric_network.move_scores(-equal_error_score(genuine, impostors))


def equal_error_score(genuine: NDArray[np.floating], impostors: NDArray[np.floating]) -> float:
    """The score at which as large a share of genuine pairs is refused as of impostors accepted."""
    places = np.unique(np.concatenate([genuine, impostors]).astype(np.float64))
    refused = np.searchsorted(np.sort(genuine), places) / len(genuine)
    accepted = 1.0 - np.searchsorted(np.sort(impostors), places) / len(impostors)
    after = int(np.searchsorted(refused - accepted, 0.0))
    return float(places[max(0, after - 1) : after + 1].mean())


def _pair_scores(
    metric_network: MetricNetwork, features: SearchFeatures, labels: PairLabels
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """M-Net's scores of all genuine pairs and of some 200,000 impostor pairs."""
    queries, gallery = len(labels.query_identities), len(labels.gallery_identities)
    random = np.random.default_rng(0)
    share = IMPOSTORS_OF_A_DOMAIN / max(1, queries * gallery)
    found: tuple[list[NDArray[np.float32]], ...] = ([], [])
    for block in blocks(labels):
        genuine, impostor = labels.across_cameras(block)
        impostor &= random.random(impostor.shape, dtype=np.float32) < share
        for kind, mask in zip(found, (genuine, impostor), strict=True):
            query, other = np.nonzero(mask)
            kind.append(_scores(metric_network, features, query + block.start, other))
    return np.concatenate(found[0]), np.concatenate(found[1])


@torch.inference_mode()
def _scores(
    metric_network: MetricNetwork,
    features: SearchFeatures,
    queries: NDArray[np.int64],
    gallery: NDArray[np.int64],
) -> NDArray[np.float32]:
    """Of the pairs of a query and a gallery crop, by their rows, `(n,)`."""
    device = next(metric_network.parameters()).device
    scores = np.empty(len(queries), np.float32)
    for start in range(0, len(queries), PAIRS_AT_ONCE):
        some = slice(start, start + PAIRS_AT_ONCE)
        first, second = (
            metric_network.comparable(torch.from_numpy(own[rows[some]]).to(device))
            for own, rows in ((features.queries, queries), (features.gallery, gallery))
        )
        pairs = metric_network.pair_features(first, second)
        scores[some] = metric_network.scores(pairs).cpu().numpy()
    return scores
