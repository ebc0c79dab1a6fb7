"""What a search costs: the networks' size and work, and the speed and time measured in the run."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from model.artefact import Description
from model.metric_network import MetricNetwork, cosine_similarities, score_pairs
from training.cost import embedder_cost, pair_cost
from training.evaluation.results import CostResult, DatasetResult, DepthResult

SEARCHES = 5


def network_cost(description: Description, results: Sequence[DatasetResult]) -> CostResult:
    """Size and work of an artefact's networks, with the speed that an evaluation had.

    Args:
        description: the artefact's.
        results: of the evaluation; times come from their `seconds`.
    """
    embedder = embedder_cost(description.embedder, description.preprocessing)
    network = description.metric_network
    pair = None if network is None else pair_cost(description.embedder.dimension, network)
    return CostResult(
        embedder_parameters=embedder.parameters,
        embedder_multiply_adds=embedder.multiply_adds,
        metric_network_parameters=pair.parameters if pair else 0,
        pair_multiply_adds=pair.multiply_adds if pair else 0,
        crops_per_second=_rate(
            [
                (result.crops, result.seconds["embedding"])
                for result in results
                if "embedding" in result.seconds
            ]
        ),
        pairs_per_second=_rate(
            [
                (result.queries * result.gallery, result.seconds["scoring"])
                for result in results
                if "scoring" in result.seconds
            ]
        ),
    )


def time_depths(
    depths: Sequence[DepthResult],
    metric_network: MetricNetwork,
    queries: NDArray[np.float32],
    gallery: NDArray[np.float32],
    searches: int = SEARCHES,
) -> list[DepthResult]:
    """Adds the median time of one search to each re-rank depth.

    A search is the cosine with the whole gallery, the choice of the nearest, and M-Net's scores of
    these; the features are at hand. It runs where the network is.

    Args:
        depths: each 1 to G deep.
        metric_network: in evaluation mode.
        queries, gallery: features `(Q, d)` and `(G, d)`.
        searches: how many are timed, after one that is not.
    """
    device = next(metric_network.parameters()).device
    asked = torch.from_numpy(queries[: searches + 1]).to(device)
    everyone = torch.from_numpy(gallery).to(device)
    found = []
    for depth in depths:
        seconds = []
        for query in torch.split(asked, 1):
            began = time.perf_counter()
            nearest = cosine_similarities(query, everyone)[0].topk(depth.depth).indices
            # Fetching the answer waits until a GPU has computed it.
            score_pairs(metric_network, query, everyone[nearest]).cpu()
            seconds.append(time.perf_counter() - began)
        median = 1000.0 * float(np.median(seconds[1:] or seconds))
        found.append(depth.model_copy(update={"milliseconds": round(median, 3)}))
    return found


def _rate(done: Sequence[tuple[int, float]]) -> float | None:
    """Things per second over several steps of (things, seconds)."""
    seconds = sum(took for _, took in done)
    return round(sum(things for things, _ in done) / seconds, 1) if seconds > 0 else None
