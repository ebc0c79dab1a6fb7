"""Features drawn as points of a plane, near ones near each other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from model.problems import InputProblem

PERPLEXITY = 30.0


def project(features: NDArray[np.float32], seed: int = 0) -> NDArray[np.float32]:
    """t-SNE (van der Maaten and Hinton, JMLR 2008) from its PCA; one seed, one picture.

    Args:
        features: `(n, d)`, four at least; a few thousand take seconds.
        seed: of what is random in it.

    Returns:
        Points `(n, 2)`, centred, the farthest coordinate at 1.

    Raises:
        InputProblem: with too few features.
    """
    if len(features) < 4:
        raise InputProblem(f"a t-SNE needs four features or more; got {len(features)}")
    # Threads would add up the same forces in an order of their own each time.
    with threadpool_limits(limits=1):
        points = TSNE(
            perplexity=min(PERPLEXITY, (len(features) - 1) / 3),
            init="pca",
            random_state=seed,
        ).fit_transform(features)
    points = points - points.mean(axis=0)
    return np.asarray(points / max(float(np.abs(points).max()), 1e-12), dtype=np.float32)
