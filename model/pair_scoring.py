"""The reference pair scorer: every query against every gallery feature, in bounded memory."""

from __future__ import annotations

import torch

from model.metric_network import MetricNetwork, unit_features
from model.problems import InputProblem

PAIRS_PER_CHUNK = 2048


@torch.inference_mode()
def score_pairs(
    metric_network: MetricNetwork,
    queries: torch.Tensor,
    gallery: torch.Tensor,
    pairs_per_chunk: int = PAIRS_PER_CHUNK,
) -> torch.Tensor:
    """M-Net's score s(p, q) of every pair, `(Q, G)` float32 on the features' device.

    A pair's score depends on its two features alone, never on the other candidates.

    Args:
        metric_network: in evaluation mode.
        queries, gallery: features `(Q, d)` and `(G, d)`.
        pairs_per_chunk: how many pair features exist at once; each takes 4·d bytes.

    Raises:
        InputProblem: when the features are not `(n, d)` with this network's d, or it is training.
    """
    for name, features in (("queries", queries), ("gallery", gallery)):
        if features.ndim != 2 or features.shape[1] != metric_network.dimension:
            raise InputProblem(
                f"{name} have shape {tuple(features.shape)}, but this M-Net compares features "
                f"(n, {metric_network.dimension}); embed them with the same artefact"
            )
    if metric_network.training:
        raise InputProblem("the metric network is in training mode; call .eval() before scoring")
    queries, gallery = unit_features(queries), unit_features(gallery)
    scores = queries.new_empty((len(queries), len(gallery)))
    columns = max(1, min(len(gallery), pairs_per_chunk))
    rows = max(1, pairs_per_chunk // columns)
    for row in range(0, len(queries), rows):
        for column in range(0, len(gallery), columns):
            first = queries[row : row + rows, None, :]
            second = gallery[None, column : column + columns, :]
            pairs = metric_network.pair_features(first, second)
            block = metric_network.scores(pairs.flatten(0, 1)).view(pairs.shape[:2])
            scores[row : row + rows, column : column + columns] = block
    return scores


@torch.inference_mode()
def cosine_similarities(queries: torch.Tensor, gallery: torch.Tensor) -> torch.Tensor:
    """Cosine of every pair, `(Q, G)` float32, of features `(Q, d)` and `(G, d)`."""
    return unit_features(queries) @ unit_features(gallery).T
