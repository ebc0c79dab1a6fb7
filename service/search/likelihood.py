"""Likelihood ratios of a gallery, fitted to pairs of its named crops."""

from __future__ import annotations

import numpy as np

from model.arrays import Floats
from model.calibration import Scoring
from model.likelihood_ratio import LikelihoodRatio, fit_likelihood_ratio, sample_pairs
from service.engine.device import DeviceThread
from service.engine.networks import LoadedModel
from service.ops.threads import MonitoredThreadPool
from service.search.leave_one_out import NamedCrops


async def fit_likelihood_ratios(
    model: LoadedModel,
    crops: NamedCrops,
    device: DeviceThread,
    threads: MonitoredThreadPool,
) -> dict[Scoring, LikelihoodRatio | None]:
    """Fit the likelihood ratio of two crops by each scoring, to a bounded sample of pairs.

    The device thread scores the pairs of one crop at a time, so that no query waits longer.

    Args:
        crops: ordered by name.
        threads: the calibration's thread.
    """
    random = np.random.default_rng(len(crops.slots))
    pairs = await threads.run(sample_pairs, crops.names, crops.cameras, random)
    first = crops.slots[pairs.first]
    second = crops.slots[pairs.second]

    def cosines() -> Floats:
        products = np.einsum("nd,nd->n", crops.units(first), crops.units(second))
        return np.asarray(products, np.float32)

    scores = {"cosine": await threads.run(cosines)}
    if "mnet" in model.description.scorings:
        vectors = crops.columns.vectors
        # The pairs of a crop follow each other.
        starts = np.flatnonzero(np.diff(first, prepend=-1))
        parts = [
            await device.run(model.networks.pair_scores, vectors[part[:1]], vectors[others])
            for part, others in zip(
                np.split(first, starts[1:]), np.split(second, starts[1:]), strict=True
            )
        ]
        scores["mnet"] = np.concatenate(parts)
    return {
        scoring: await threads.run(fit_likelihood_ratio, scores[scoring], pairs)
        for scoring in model.description.scorings
    }
