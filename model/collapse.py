"""Collapse: every crop gets nearly the same feature, so that the scores cannot rank."""

from __future__ import annotations

import numpy as np

from model.arrays import Floats
from model.pair_scores import PairScores, unit_rows
from model.problems import InputProblem

# Standard deviations under which a model has collapsed, of the cosines of different crops and of
# M-Net's scores, which are differences of logits.
SMALLEST_SPREAD = 1e-4
SMALLEST_SCORE_SPREAD = 1e-3


class CollapsedModel(InputProblem):
    """A model whose scores do not differ."""


def refuse_collapse(
    name: str,
    features: Floats,
    pair_scores: PairScores | None,
) -> None:
    """Refuse a model whose scores of different crops are all alike.

    Args:
        name: of the model, for the message.
        features: of different crops, `(n, d)`, which are all paired; fewer than three pass.
        pair_scores: M-Net's; None where there is none.

    Raises:
        CollapsedModel: naming the scoring and its spread.
    """
    if len(features) < 3:
        return
    units = unit_rows(features)
    cosines = units @ units.T
    cosines = cosines[np.triu_indices(len(units), 1)]
    spreads = [("cosines", _spread(cosines), SMALLEST_SPREAD)]
    if pair_scores is not None:
        comparable = features if pair_scores.kind == "raw" else units
        rows = range(1, len(units))
        scores = np.concatenate(
            [pair_scores.scores_of(comparable[row:] - comparable[row - 1]) for row in rows]
        )
        spreads.append(("M-Net's scores", _spread(scores), SMALLEST_SCORE_SPREAD))
    for what, spread, smallest in spreads:
        if not spread >= smallest:
            raise CollapsedModel(
                f"{name}: the model has collapsed: the {what} of different crops are all alike "
                f"(standard deviation {spread:.1g}, a trained model has more than {smallest:g}), "
                "so that its scores cannot rank; train it for more epochs, with a lower learning "
                "rate, or from trained initial_weights"
            )


def _spread(values: Floats) -> float:
    return float(values.std(dtype=np.float64, ddof=1))
