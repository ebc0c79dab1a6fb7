"""A logistic regression whose weights cannot be negative, for Platt scaling and for the fusion."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit


def fit_logistic(
    positives: NDArray[np.float64], negatives: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """Fits P(positive | x) = 1 / (1 + exp(−(w·x + c))) with w ≥ 0.

    Either class weighs one half at any size, so that the probability is the one for a pair
    of which nothing was known beforehand. The targets are Platt's, (n₊+1)/(n₊+2) and 1/(n₋+2):
    they keep the weights finite where the classes do not overlap.

    Args:
        positives, negatives: rows of k values, `(n, k)`; a higher value must speak for positive.

    Returns:
        w, `(k,)`, and c.
    """
    values = np.concatenate([positives, negatives])
    centre, scale = values.mean(axis=0), values.std(axis=0)
    scale[scale == 0.0] = 1.0
    values = (values - centre) / scale
    high = (len(positives) + 1.0) / (len(positives) + 2.0)
    low = 1.0 / (len(negatives) + 2.0)
    targets = np.repeat([high, low], [len(positives), len(negatives)])
    weights = np.repeat(
        [0.5 / len(positives), 0.5 / len(negatives)], [len(positives), len(negatives)]
    )

    def loss(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        logits = values @ parameters[:-1] + parameters[-1]
        # −[t·log σ(x) + (1−t)·log(1−σ(x))] = log(1+eˣ) − t·x, without overflow.
        cross_entropy = np.logaddexp(0.0, logits) - targets * logits
        residual = weights * (expit(logits) - targets)
        gradient = np.append(residual @ values, residual.sum())
        return float(weights @ cross_entropy), gradient

    free = values.shape[1]
    fitted = minimize(
        loss,
        np.append(np.ones(free), 0.0),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0.0, None)] * free + [(None, None)],
        options={"maxiter": 1000, "ftol": 1e-12, "gtol": 1e-8},
    ).x
    slope = fitted[:-1] / scale
    return slope, float(fitted[-1] - slope @ centre)
