"""Explain: which regions of two images spoke for one person, and which against."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from gmn_client.answers import Explanation
from model.calibration import Scoring
from model.crops.decode import CropProblem
from model.explanation import CELLS, COLUMNS, ROWS, Scores, explain, variants
from service.engine.faults import retry_out_of_memory
from service.engine.networks import LoadedModel
from service.errors import UnusableImages
from service.runtime import Runtime

VARIANTS = 1 + CELLS
# Three passes an image. Other requests' work is done between two of them.
VARIANTS_PER_PASS = 11


def images_to_explain(runtime: Runtime) -> int:
    """How many images an explained pair counts as: those it embeds, at most half of the queue."""
    return min(2 + 2 * VARIANTS, max(2, runtime.settings.max_queued_images // 2))


async def explain_pair(
    runtime: Runtime,
    model: LoadedModel,
    images: Sequence[bytes],
    scoring: Scoring,
    scores: Scores,
) -> Explanation:
    """Hides each region of both images in turn and scores what is left.

    Every pass is of one image's variants alone and of one size, so that the numbers do not depend
    on who else is asking; nothing further is begun once the task is cancelled.

    Args:
        runtime: the caller holds places for `images_to_explain`.
        model: whose features are compared.
        images: two that could be embedded.
        scoring: what `scores` are.
        scores: called on the device thread.

    Raises:
        UnusableImages: where the model has no finite vector for a variant.
    """
    crops = await model.pipeline.resize(images)
    features = [await _embed_variants(runtime, model, crop) for crop in crops]
    usable = [bool(np.isfinite(one).all()) for one in features]
    if not all(usable):
        problem = CropProblem(
            "not_embedded", "the model gives no finite vector for a part of it; ask without explain"
        )
        raise UnusableImages([None if good else problem for good in usable])
    found = await asyncio.wrap_future(
        runtime.device.submit(lambda: explain(features[0], features[1], scores))
    )
    return Explanation(
        scoring=scoring,
        score=found.score,
        grid=(ROWS, COLUMNS),
        first=found.first.tolist(),
        second=found.second.tolist(),
    )


async def _embed_variants(
    runtime: Runtime, model: LoadedModel, crop: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """Features `(VARIANTS, d)` of one crop's variants, pass after pass."""
    size = min(VARIANTS_PER_PASS, runtime.settings.max_batch)
    parts = []
    for number in range(math.ceil(VARIANTS / size)):
        batch = await asyncio.to_thread(variants, crop, range(number * size, (number + 1) * size))
        embed = partial(model.networks.embed, batch)
        parts.append(
            await asyncio.wrap_future(runtime.device.submit(partial(retry_out_of_memory, embed)))
        )
        runtime.metrics.images_embedded.inc(len(batch))
    return np.concatenate(parts)[:VARIANTS]
