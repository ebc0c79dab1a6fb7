"""The gap between two domains in a feature space: MMD, and the accuracy of a domain classifier.

Features come in groups, because features of one person are alike; permutations, folds and
resampling keep a group together. Both domains have the same number of groups.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from model.arrays import Array, Floats

PERMUTATIONS = 1000
FOLDS = 5
BANDWIDTHS = (0.5, 1.0, 2.0)
REGULARISATION = 0.01
"""C of the logistic regression, which has more dimensions than features to learn from."""


class Discrepancy(NamedTuple):
    """A squared MMD, and the value that chance alone reaches.

    Attributes:
        squared: the unbiased estimate; near 0, or below it, if both domains are the same.
        by_chance: its 95% quantile if groups are assigned to the domains at random.
    """

    squared: float
    by_chance: float


def maximum_mean_discrepancy(
    first: Floats,
    second: Floats,
) -> Discrepancy:
    """Estimate the squared MMD (Gretton et al., JMLR 2012) without bias by groups of like features.

    The kernel is the mean of three Gaussians exp(−‖x−y‖²/(b·m)), where m is the median squared
    distance and b is 0.5, 1 and 2. Kernel values within a group are left out, just as the unbiased
    estimate leaves out those of a feature with itself.

    Args:
        first, second: features `(groups, per group, d)` of two domains, of the same shape.
    """
    between = _kernel_between_groups(np.concatenate([first, second]))
    groups = len(first)
    random = np.random.default_rng(0)
    dealt = np.zeros((PERMUTATIONS + 1, 2 * groups))
    dealt[0, :groups] = 1.0
    for row in dealt[1:]:
        row[random.permutation(2 * groups)[:groups]] = 1.0
    inside = dealt @ between
    outside = (1.0 - dealt) @ between
    within = (inside * dealt).sum(axis=1) + (outside * (1.0 - dealt)).sum(axis=1)
    across = (inside * (1.0 - dealt)).sum(axis=1)
    squared = within / (groups * (groups - 1)) - 2.0 * across / groups**2
    return Discrepancy(
        squared=float(squared[0]),
        by_chance=float(np.quantile(squared[1:], 0.95)),
    )


def domain_classifier(
    first: Floats,
    second: Floats,
) -> Array:
    """Measure how well a logistic regression recognises the domain of features, cross-validated.

    No group is in both training and test. Since the domains have the same size, the mean of the
    result is the balanced accuracy, which is one half by chance.

    Args:
        first, second: features `(groups, per group, d)` of two domains, of the same shape, with
            five groups or more.

    Returns:
        The share of correctly classified features in each group, `(2·groups,)`: first the groups
        of the first domain, then those of the second.
    """
    groups, size, _ = first.shape
    features = np.concatenate([first, second]).reshape(2 * groups * size, -1)
    domains = np.repeat([0, 1], groups * size)
    numbers = np.repeat(np.arange(2 * groups), size)
    regression = LogisticRegression(C=REGULARISATION, max_iter=1000)
    classifier = make_pipeline(StandardScaler(), regression)
    split = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    # Matrix products of this size are faster in one thread than in several.
    with threadpool_limits(limits=1):
        predicted = cross_val_predict(classifier, features, domains, groups=numbers, cv=split)
    right: Array = (predicted == domains).reshape(2 * groups, size).mean(axis=1)
    return right


def halves(features: Floats) -> tuple[Floats, Floats]:
    """Split a domain's groups alternately into two halves, between which there is no gap."""
    half = len(features) // 2
    return features[: 2 * half : 2], features[1 : 2 * half : 2]


def _kernel_between_groups(features: Floats) -> Array:
    """Compute the mean kernel value of every two groups, `(n, n)`; the diagonal is 0."""
    groups, size, _ = features.shape
    flat = features.reshape(groups * size, -1).astype(np.float64)
    distances = euclidean_distances(flat, squared=True)
    median = max(float(np.median(distances[np.triu_indices(len(flat), k=1)])), 1e-12)
    kernel = np.mean([np.exp(-distances / (factor * median)) for factor in BANDWIDTHS], axis=0)
    between: Array = kernel.reshape(groups, size, groups, size).mean(axis=(1, 3))
    np.fill_diagonal(between, 0.0)
    return between
