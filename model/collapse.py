"""The refusal of a collapsed model, which gives every crop nearly the same feature."""

from __future__ import annotations

import numpy as np

from model.arrays import Floats, unit_rows
from model.pair_scores import PairScores
from model.problems import InputProblem

# A model has collapsed if the standard deviation of cosines, or of M-Net's scores, over different
# crops is smaller than this. The scores are differences of logits.
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
        name: name of the model for the message.
        features: features `(n, d)` of different crops, which are all compared with each other; a
            model is never refused for fewer than three crops.
        pair_scores: M-Net; None for a model without it.

    Raises:
        CollapsedModel: the message names the scoring and its spread.
    """
    if len(features) < 3:
        return
    units = unit_rows(features)
    cosines = units @ units.T
    scored = [("cosines", cosines[np.triu_indices(len(units), 1)], SMALLEST_SPREAD)]
    if pair_scores is not None:
        comparable = features if pair_scores.kind == "raw" else units
        parts = [
            pair_scores.scores_of(comparable[row:] - comparable[row - 1])
            for row in range(1, len(units))
        ]
        scored.append(("M-Net's scores", np.concatenate(parts), SMALLEST_SCORE_SPREAD))
    for what, scores, smallest in scored:
        spread = float(scores.std(dtype=np.float64, ddof=1))
        if not spread >= smallest:
            raise CollapsedModel(
                f"{name}: the model has collapsed: the {what} of different crops are all alike "
                f"(standard deviation {spread:.1g}, a trained model has more than {smallest:g}), "
                "so that its scores cannot rank; train it for more epochs, with a lower learning "
                "rate, or from trained initial_weights"
            )
