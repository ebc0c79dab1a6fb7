"""95% intervals, by bootstrap over queries or people, and over the seeds of a recipe.

By default queries are resampled, as is usual in the field. Since queries of one person are alike,
the interval over people, with `clusters`, is wider and more honest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict
from scipy import stats

from model.arrays import Array, Codes
from model.problems import InputProblem

RESAMPLES = 1000
LEVEL = 0.95
# Upper bound on the figures of queries or people that are drawn together.
DRAWN_AT_ONCE = 1 << 17
Runs = Array
"""A value for each seed and query, `(S, N)`."""


class Estimate(BaseModel):
    """A mean and the ends of its 95% interval."""

    model_config = ConfigDict(frozen=True)

    mean: float
    low: float
    high: float


def mean_interval(
    values: Array,
    clusters: Codes | None = None,
) -> Estimate:
    """Return the mean of per-query values and its 95% percentile bootstrap interval.

    Args:
        values: a value for each query, `(N,)`.
        clusters: the person of each query, `(N,)`, to resample people instead of queries.

    Raises:
        InputProblem: there are no values.
    """
    return mean_intervals({"": values}, clusters)[""]


def mean_intervals(
    values: Mapping[str, Array],
    clusters: Codes | None = None,
) -> dict[str, Estimate]:
    """Return `mean_interval` for several figures of the same queries, which are drawn once."""
    return average_intervals([(values, clusters)])


def average_intervals(
    sets: Sequence[tuple[Mapping[str, Array], Codes | None]],
) -> dict[str, Estimate]:
    """Average the means of several data sets, which weigh the same, with an interval.

    Queries or people are resampled within every set, so that the interval holds for these sets and
    not for others. The resampling is deterministic.

    Args:
        sets: for each set the values of its queries by the name of the metric, `(N,)`, and the
            person of each query or None.

    Raises:
        InputProblem: there is no set, or a set has no values.
    """
    random = np.random.default_rng(0)
    tables = [np.stack(list(values.values())) for values, _ in sets]
    if not tables or any(table.shape[1] == 0 for table in tables):
        raise InputProblem("an interval needs at least one query; name data with queries")
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
    sets: Sequence[tuple[Runs, Runs | None, Codes]],
) -> Estimate:
    """Return the interval of a mean, or of a paired difference, over people and seeds.

    People are resampled. Seeds are too few for that: their part is Student's t interval, with the
    variance of a run's mean pooled over both sides. The half-widths of both parts are added in
    quadrature. If neither side has two seeds, the interval is over people alone. Several sets weigh
    the same; the mean of a seed is then the average over its runs on all of them.

    Args:
        sets: for each data set a value for each seed and query, `(S, N)`; the values to subtract,
            `(T, N)`, or None for the mean itself; and the person of each query, `(N,)`. S and T are
            the same in every set.
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
    table: Array,
    clusters: Codes | None,
    random: np.random.Generator,
) -> Array:
    """Compute the means of every figure over resampled queries or people, `(resamples, M)`."""
    sums = table
    counts = np.ones(table.shape[1])
    if clusters is not None:
        _, member = np.unique(clusters, return_inverse=True)
        sums = np.stack([np.bincount(member, weights=values) for values in table])
        counts = np.bincount(member).astype(np.float64)
    means = np.empty((RESAMPLES, len(table)))
    by_query = np.ascontiguousarray(sums.T)
    at_once = max(1, DRAWN_AT_ONCE // by_query.size)
    for first in range(0, RESAMPLES, at_once):
        part = means[first : first + at_once]
        drawn = random.integers(0, len(counts), (len(part), len(counts)))
        totals = counts[drawn].sum(axis=1, keepdims=True)
        np.divide(by_query[drawn].sum(axis=1), totals, out=part)
    return means
