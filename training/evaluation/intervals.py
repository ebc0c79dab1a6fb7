"""95% bootstrap intervals over queries, of one figure or of the difference of two.

Queries are resampled by default, as the field does. Queries of one person are alike, so the
interval over people is wider and the more honest one: name `clusters` to have it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.problems import InputProblem

RESAMPLES = 1000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean and the ends of its bootstrap interval."""

    mean: float
    low: float
    high: float


def mean_interval(
    values: NDArray[np.float64],
    clusters: NDArray[np.int64] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """The mean of per-query values and its 95% percentile bootstrap interval.

    Args:
        values: one per query, `(N,)`.
        clusters: whose query it is, `(N,)`; people are then resampled instead of queries.
        resamples: how many; their memory is one weight row at a time.
        seed: of the resampling; the same values and seed give the same interval.

    Raises:
        InputProblem: without values.
    """
    if len(values) == 0:
        raise InputProblem("an interval needs one query at least; name data with queries")
    sums, counts = _cluster_sums(values, clusters)
    random = np.random.default_rng(seed)
    means = np.empty(resamples)
    for number in range(resamples):
        drawn = random.integers(0, len(sums), len(sums))
        means[number] = sums[drawn].sum() / counts[drawn].sum()
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(values.mean()), float(low), float(high))


def difference_interval(
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    clusters: NDArray[np.int64] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """The paired interval of mean(first) − mean(second), both over the same queries `(N,)`.

    Raises:
        InputProblem: where the two do not have the same number of queries.
    """
    if len(first) != len(second):
        raise InputProblem(
            f"a paired difference needs the same queries; got {len(first)} and {len(second)}"
        )
    return mean_interval(first - second, clusters, resamples, seed)


def _cluster_sums(
    values: NDArray[np.float64], clusters: NDArray[np.int64] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if clusters is None:
        return values, np.ones(len(values))
    _, member = np.unique(clusters, return_inverse=True)
    sums = np.bincount(member, weights=values).astype(np.float64)
    return sums, np.bincount(member).astype(np.float64)
