"""Two images compared: do they show one person, and which regions speak for that?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gmn_client.models import CalibrationState, Explanation, PairScore
from model.calibration import PAIR_OPERATING_POINTS, SEARCH_OPERATING_POINTS, Scoring
from model.crops.decode import CropProblem
from model.explanation import CELLS, COLUMNS, ROWS, Scores, explain, variants
from service.engine.batcher import EmbeddedImage
from service.engine.cost import PER_IMAGE
from service.engine.device import retry_out_of_memory
from service.engine.networks import LoadedModel
from service.errors import InvalidField, UnusableImages
from service.runtime import Runtime
from service.search.calibration import Judge
from service.search.options import PairOptions
from service.search.ranking import Array, every_score

VARIANTS = 1 + CELLS
# Other requests' work is done between two passes, which take some 50 ms on a CPU.
VARIANTS_PER_PASS = 3


async def compare(runtime: Runtime, first: bytes, second: bytes, options: PairOptions) -> PairScore:
    """Compares two images; the order does not matter.

    Raises:
        InvalidField: the operating point is of the other kind, or the artefact does not offer the
            scoring.
        UnusableImages: either is.
        UnknownGallery, NeedsReindex: the gallery cannot judge.
        QueueFull, TooCostly: nothing was compared.
    """
    name = options.gallery
    target = await runtime.galleries.find(name) if name is not None else None
    model = runtime.models[target.embedder] if target else runtime.model
    scoring = model.chosen_scoring(options.scoring)
    point = _operating_point(options)
    current = runtime.calibrations.current(target, scoring) if target else None
    cost = model.pipeline.cost([first, second])
    if options.explain:
        cost += 2 * VARIANTS * PER_IMAGE
    runtime.admission.require_affordable(cost, "images, explain", "smaller images")
    async with runtime.admission.admit(cost):
        embedded = await model.pipeline.embed([first, second])
        usable = [one.vector for one in embedded if isinstance(one, EmbeddedImage)]
        if len(usable) < 2:
            problems = [one if isinstance(one, CropProblem) else None for one in embedded]
            raise UnusableImages(problems)
        scores = await runtime.device.run(_scores, model, usable[0], usable[1][None])
        explanation = None
        if options.explain:

            def asked(one: Array, others: Array) -> Array:
                return _scores(model, one, others)[scoring]

            explanation = await explain_pair(runtime, model, [first, second], scoring, asked)
    score = float(scores[scoring][0])
    if target and current:
        level = current.published.level if current.published else None
        identities = target.index.identities
        known = await runtime.galleries.read(identities) if target.outside_index else identities()
        judge = current.judge(point, known, level)
    else:
        pairs = model.description.calibration.scorings[scoring]
        uncertain = pairs.pair_threshold(max(PAIR_OPERATING_POINTS.values()))
        match = pairs.pair_threshold(PAIR_OPERATING_POINTS[point])
        state = CalibrationState(state="artefact", version=model.calibration_version)
        judge = Judge(match, uncertain, np.vectorize(pairs.probability), state)
    return PairScore(
        cosine=float(scores["cosine"][0]),
        logit=float(scores["mnet"][0]) if "mnet" in scores else None,
        probability=float(judge.probability(np.array(score))),
        verdict=judge.verdict(score),
        judged_as="search" if target else "pair",
        calibration_version=str(judge.state.version),
        model=model.description.artefact_fingerprint,
        calibration=judge.state if target else None,
        explanation=explanation,
    )


def _operating_point(options: PairOptions) -> str:
    """The one asked for, or the usual one of pairs or, with a gallery, of searches."""
    if options.gallery is None:
        offered = PAIR_OPERATING_POINTS
        usual = "pair_far_1e-3"
        judged = "a pair; send a gallery for those of searches"
    else:
        offered = SEARCH_OPERATING_POINTS
        usual = "far_1e-2"
        judged = "a search"
    point = options.operating_point or usual
    if point not in offered:
        raise InvalidField(
            f"operating_point: {point} is not one of {', '.join(offered)}, which judge {judged}"
        )
    return point


def _scores(model: LoadedModel, one: Array, others: Array) -> dict[Scoring, Array]:
    """Every offered score `(n,)` of a feature `(d,)` with others `(n, d)`; on the device thread."""
    p = one.astype(np.float64)
    cosines = []
    for q in others.astype(np.float64):
        cosines.append(float(np.clip(p @ q / np.sqrt((p @ p) * (q @ q)), -1.0, 1.0)))
    cosine = logits = np.array(cosines, np.float32)
    if "mnet" in model.description.scorings:
        logits = model.networks.pair_scores(one[None], others)
    return every_score(model, cosine, logits)


async def explain_pair(
    runtime: Runtime, model: LoadedModel, images: Sequence[bytes], scoring: Scoring, scores: Scores
) -> Explanation:
    """Hides each region of both images in turn and scores what is left.

    Every pass is of one image's variants alone and of one size, so that the numbers do not depend
    on who else is asking; nothing further is begun once the task is cancelled.

    Args:
        runtime: the caller holds places for the images.
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
    found = await runtime.device.run(explain, features[0], features[1], scores)
    return Explanation(
        scoring=scoring,
        score=found.score,
        grid=(ROWS, COLUMNS),
        first=found.first.tolist(),
        second=found.second.tolist(),
    )


async def _embed_variants(runtime: Runtime, model: LoadedModel, crop: NDArray[np.uint8]) -> Array:
    """Features `(VARIANTS, d)` of one crop's variants, pass after pass."""
    size = min(VARIANTS_PER_PASS, runtime.settings.max_batch)
    parts: list[Array] = []
    for start in range(0, VARIANTS, size):
        batch = await model.pipeline.threads.run(variants, crop, range(start, start + size))
        embed = model.networks.runtime.embed
        parts.append(await runtime.device.run(retry_out_of_memory, embed, batch))
        runtime.metrics.images_embedded.inc(len(batch))
    return np.concatenate(parts)[:VARIANTS]
