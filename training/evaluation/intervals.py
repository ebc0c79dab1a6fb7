"""95% intervals: bootstrap over queries or people, and Student's t over the seeds of a run.

Queries are resampled by default, as the field does. Queries of one person are alike, so the
interval over people is wider and the more honest one: name `clusters` to have it. A few seeds are
too few to resample: their interval takes the runs for normally distributed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

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
    return mean_intervals({"": values}, clusters, resamples, seed)[""]


def mean_intervals(
    values: Mapping[str, NDArray[np.float64]],
    clusters: NDArray[np.int64] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Interval]:
    """`mean_interval` of several figures of the same queries, resampled together, each `(N,)`.

    Raises:
        InputProblem: without values.
    """
    return average_intervals([(values, clusters)], resamples, seed)


def average_intervals(
    sets: Sequence[tuple[Mapping[str, NDArray[np.float64]], NDArray[np.int64] | None]],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Interval]:
    """The average of several data sets' means, each set weighing the same, with its interval.

    Queries or people are resampled within every set: the interval is that of these sets, and says
    nothing of a set that is not among them.

    Args:
        sets: of each set its per-query values by the name of the metric, `(N,)`, and whose queries
            they are or None.
        resamples, seed: as in `mean_interval`.

    Raises:
        InputProblem: without a set, or with a set without values.
    """
    random = np.random.default_rng(seed)
    tables = [np.stack(list(values.values())) for values, _ in sets]
    if not tables or any(table.shape[1] == 0 for table in tables):
        raise InputProblem("an interval needs one query at least; name data with queries")
    resampled = np.mean(
        [
            _resampled_means(table, clusters, resamples, random)
            for table, (_, clusters) in zip(tables, sets, strict=True)
        ],
        axis=0,
    )
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    means = np.mean([table.mean(axis=1) for table in tables], axis=0)
    return {
        name: Interval(float(means[number]), float(low[number]), float(high[number]))
        for number, name in enumerate(sets[0][0])
    }


@dataclass(frozen=True)
class SeedInterval(Interval):
    """A mean over runs that differ in their seed alone, and the 95% interval of that mean.

    Attributes:
        spread: standard deviation of a run, with n − 1; not a number for one run.
        runs: n. The ends are Student's t with n − 1 degrees of freedom; one run has none.
    """

    spread: float
    runs: int


def seed_interval(values: NDArray[np.float64]) -> SeedInterval:
    """The mean of one figure over runs `(n,)`, its spread and its interval.

    Raises:
        InputProblem: without a run.
    """
    runs = len(values)
    if runs == 0:
        raise InputProblem("an interval over seeds needs one run at least; name a run's report")
    mean = float(values.mean())
    if runs == 1:
        return SeedInterval(mean, float("nan"), float("nan"), float("nan"), 1)
    spread = float(values.std(ddof=1))
    reach = float(stats.t.ppf((1 + LEVEL) / 2, runs - 1)) * spread / float(np.sqrt(runs))
    return SeedInterval(mean, mean - reach, mean + reach, spread, runs)


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


def _resampled_means(
    table: NDArray[np.float64],
    clusters: NDArray[np.int64] | None,
    resamples: int,
    random: np.random.Generator,
) -> NDArray[np.float64]:
    """Means of every figure over resampled queries or people, `(resamples, M)`."""
    sums, counts = _cluster_sums(table, clusters)
    means = np.empty((resamples, len(table)))
    for number in range(resamples):
        drawn = random.integers(0, len(counts), len(counts))
        means[number] = sums[:, drawn].sum(axis=1) / counts[drawn].sum()
    return means


def _cluster_sums(
    table: NDArray[np.float64], clusters: NDArray[np.int64] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums of every figure by cluster, `(M, C)`, and how many queries each has, `(C,)`."""
    if clusters is None:
        return table, np.ones(table.shape[1])
    _, member = np.unique(clusters, return_inverse=True)
    sums = np.stack([np.bincount(member, weights=values) for values in table]).astype(np.float64)
    return sums, np.bincount(member).astype(np.float64)
