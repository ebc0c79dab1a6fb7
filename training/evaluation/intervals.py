"""95% intervals: bootstrap over queries or people, and over the seeds of a recipe.

Queries are resampled by default, as the field does. Queries of one person are alike, so the
interval over people is wider and the more honest one: name `clusters` to have it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from scipy import stats

from model.problems import InputProblem

RESAMPLES = 1000
LEVEL = 0.95
Runs = NDArray[np.float64]
"""A value per seed and query, `(S, N)`."""


class Estimate(BaseModel):
    """A mean and the ends of its 95% interval."""

    model_config = ConfigDict(frozen=True)

    mean: float
    low: float
    high: float


def mean_interval(
    values: NDArray[np.float64],
    clusters: NDArray[np.int64] | None = None,
) -> Estimate:
    """Return the mean of per-query values and its 95% percentile bootstrap interval.

    Args:
        values: one per query, `(N,)`.
        clusters: whose query it is, `(N,)`; people are then resampled instead of queries.

    Raises:
        InputProblem: without values.
    """
    return mean_intervals({"": values}, clusters)[""]


def mean_intervals(
    values: Mapping[str, NDArray[np.float64]],
    clusters: NDArray[np.int64] | None = None,
) -> dict[str, Estimate]:
    """Return `mean_interval` of several figures of the same queries, resampled together."""
    return average_intervals([(values, clusters)])


def average_intervals(
    sets: Sequence[tuple[Mapping[str, NDArray[np.float64]], NDArray[np.int64] | None]],
) -> dict[str, Estimate]:
    """Average several data sets' means, each set weighing the same, with an interval.

    Queries or people are resampled within every set: the interval is that of these sets, not
    of others. The same values give the same interval.

    Args:
        sets: of each set its per-query values by the name of the metric, `(N,)`, and whose queries
            they are or None.

    Raises:
        InputProblem: without a set, or with a set without values.
    """
    random = np.random.default_rng(0)
    tables = [np.stack(list(values.values())) for values, _ in sets]
    if not tables or any(table.shape[1] == 0 for table in tables):
        raise InputProblem("an interval needs one query at least; name data with queries")
    resampled = np.mean(
        [
            _resampled_means(table, clusters, random)
            for table, (_, clusters) in zip(tables, sets, strict=True)
        ],
        axis=0,
    )
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    means = np.mean([table.mean(axis=1) for table in tables], axis=0)
    return {
        name: Estimate(mean=float(mean), low=float(least), high=float(most))
        for name, mean, least, most in zip(sets[0][0], means, low, high, strict=True)
    }


def people_and_seeds_interval(
    sets: Sequence[tuple[Runs, Runs | None, NDArray[np.int64]]],
) -> Estimate:
    """Return the interval of a mean, or of a paired difference, over other people and other seeds.

    People are resampled. Seeds are too few for that: their part is Student's t interval, with the
    variance of a run's mean pooled over both sides. The two parts' half-widths add in quadrature.
    Where neither side has two seeds, nothing is known of other seeds and the interval is over
    people. The average of several sets weighs each the same; a seed's mean is then the average of
    its runs on all of them.

    Args:
        sets: of each data set a value per seed and query, `(S, N)`; the subtracted values of the
            same queries, `(T, N)`, or None for the mean itself; and whose queries they are, `(N,)`.
            S and T are the same in every set.
    """
    values = [
        ({"": ours.mean(axis=0) - (0.0 if theirs is None else theirs.mean(axis=0))}, clusters)
        for ours, theirs, clusters in sets
    ]
    over_people = average_intervals(values)[""]
    runs = [np.mean([ours.mean(axis=1) for ours, _, _ in sets], axis=0)]
    subtracted = [theirs.mean(axis=1) for _, theirs, _ in sets if theirs is not None]
    if subtracted:
        runs.append(np.mean(subtracted, axis=0))
    freedom = sum(len(run) - 1 for run in runs)
    if freedom == 0:
        return over_people
    pooled = sum(float(((run - run.mean()) ** 2).sum()) for run in runs) / freedom
    error = (pooled * sum(1 / len(run) for run in runs)) ** 0.5
    of_seeds = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * error
    mean = over_people.mean
    return Estimate(
        mean=mean,
        low=mean - float(np.hypot(mean - over_people.low, of_seeds)),
        high=mean + float(np.hypot(over_people.high - mean, of_seeds)),
    )


def _resampled_means(
    table: NDArray[np.float64],
    clusters: NDArray[np.int64] | None,
    random: np.random.Generator,
) -> NDArray[np.float64]:
    """Return means of every figure over resampled queries or people, `(resamples, M)`."""
    sums = table
    counts = np.ones(table.shape[1])
    if clusters is not None:
        _, member = np.unique(clusters, return_inverse=True)
        sums = np.stack([np.bincount(member, weights=values) for values in table])
        counts = np.bincount(member).astype(np.float64)
    means = np.empty((RESAMPLES, len(table)))
    for number in range(RESAMPLES):
        drawn = random.integers(0, len(counts), len(counts))
        means[number] = sums[:, drawn].sum(axis=1) / counts[drawn].sum()
    return means
