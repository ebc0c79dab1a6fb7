"""Collapse: every crop gets nearly the same feature, so that the scores cannot rank."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from model.embedder import Embedder
from model.metric_network import MetricNetwork, cosine_similarities, score_pairs
from model.preprocessing import Preprocessing
from model.problems import InputProblem

# Standard deviations under which a model has collapsed, of the cosines of different crops and of
# M-Net's scores, which are differences of logits.
SMALLEST_SPREAD = 1e-4
SMALLEST_SCORE_SPREAD = 1e-3
PATTERNS = 12


class CollapsedModel(InputProblem):
    """A model whose scores do not differ."""


def refuse_collapse(
    name: str, features: NDArray[np.float32], metric_network: MetricNetwork | None
) -> None:
    """Refuses a model whose scores of different crops are all alike.

    Args:
        name: of the model, for the message.
        features: of different crops, `(n, d)`, which are all paired; fewer than three pass.
        metric_network: in evaluation mode, on any device; None where there is none.

    Raises:
        CollapsedModel: naming the scoring and its spread.
    """
    if len(features) < 3:
        return
    units = torch.from_numpy(np.ascontiguousarray(features))
    rows, columns = torch.triu_indices(len(units), len(units), offset=1)
    cosines = cosine_similarities(units, units)[rows, columns]
    spreads = [("cosines", float(cosines.double().std()), SMALLEST_SPREAD)]
    if metric_network is not None:
        device = next(metric_network.parameters()).device
        scores = score_pairs(metric_network, units.to(device), units.to(device)).cpu()
        scored = scores[rows, columns].double()
        spreads.append(("M-Net's scores", float(scored.std()), SMALLEST_SCORE_SPREAD))
    for what, spread, smallest in spreads:
        if not spread >= smallest:
            raise CollapsedModel(
                f"{name}: the model has collapsed: the {what} of different crops are all alike "
                f"(standard deviation {spread:.1g}, a trained model has more than {smallest:g}), "
                "so that its scores cannot rank; train it for more epochs, with a lower learning "
                "rate, or from trained initial_weights"
            )


def drawn_patterns(preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """The same crops of coloured stripes every time, `(n, height, width, 3)` uint8 RGB."""
    random = np.random.default_rng(0)
    rows = np.arange(preprocessing.height)[:, None] / preprocessing.height
    columns = np.arange(preprocessing.width)[None, :] / preprocessing.width
    patterns = []
    for _ in range(PATTERNS):
        turns = random.uniform(0.5, 4, 2)
        wave = np.sin(2 * np.pi * (turns[0] * rows + turns[1] * columns + random.random()))
        low, high = random.uniform(0, 255, (2, 3))
        patterns.append(low + (high - low) * (wave[..., None] + 1) / 2)
    return np.stack(patterns).astype(np.uint8)


@torch.inference_mode()
def probe_collapse(
    name: str,
    embedder: Embedder,
    metric_network: MetricNetwork | None,
    preprocessing: Preprocessing,
) -> None:
    """`refuse_collapse` by drawn patterns; the networks are in evaluation mode, on one device."""
    device = next(embedder.parameters()).device
    crops = torch.from_numpy(drawn_patterns(preprocessing)).to(device)
    features = embedder(preprocessing.normalise(crops)).float().cpu().numpy()
    refuse_collapse(name, features, metric_network)
