"""The best scores of a search, one for each person; unnamed crops are grouped into people."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model.calibration import ScoringCalibration
from model.search_calibration import RANKS

UNNAMED = -1
JOINING_SHARE = 1e-3


def joining_cosine(cosine: ScoringCalibration) -> float:
    """τ, the cosine from which an unnamed crop counts as the same person (docs/calibration.md)."""
    return cosine.pair_threshold(JOINING_SHARE)


def leading_scores(
    scores: NDArray[np.floating],
    identities: NDArray[np.integer],
    units: NDArray[np.floating],
    joins_at: float,
    ranks: int = RANKS,
) -> tuple[float, ...]:
    """The best scores of different people among a search's candidates, at most `ranks`, descending.

    Greedy, from the top: the best remaining crop leads, and takes every crop of its own name and
    every crop whose cosine with it is at least `joins_at` where either has no name.

    Args:
        scores: of the candidates, `(n,)`, in any order.
        identities: a code for each name, `(n,)`; -1 for a crop without one.
        units: features of unit length, `(n, d)`.
        joins_at: τ, from `joining_cosine`.
        ranks: the largest number of scores.
    """
    remaining = np.argsort(-scores, kind="stable")
    leaders: list[float] = []
    while len(remaining) and len(leaders) < ranks:
        leader = remaining[0]
        leaders.append(float(scores[leader]))
        name = identities[leader]
        others = identities[remaining]
        unnamed = others == UNNAMED
        near = units[remaining] @ units[leader] >= joins_at
        taken = (unnamed | (name == UNNAMED)) & near | (~unnamed & (others == name))
        taken[0] = True
        # The names that an unnamed leader took are the same person, wherever their crops are.
        taken |= ~unnamed & np.isin(others, others[taken])
        remaining = remaining[~taken]
    return tuple(leaders)
