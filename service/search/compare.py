"""Compare: are two images of one person?"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gmn_client.answers import PairScore
from gmn_client.models import CalibrationState
from model.calibration import (
    PAIR_OPERATING_POINTS,
    SEARCH_OPERATING_POINTS,
    Scoring,
    Verdict,
)
from model.crops.decode import CropProblem
from service.engine.batcher import EmbeddedImage
from service.engine.networks import LoadedModel
from service.errors import InvalidField, UnusableImages
from service.gallery.gallery import Gallery
from service.runtime import Runtime, calibration_version
from service.search.explain import explain_pair, images_to_explain
from service.search.ranking import OperatingPoint

PairOperatingPoint = Literal["pair_far_1e-2", "pair_far_1e-3", "pair_far_1e-4"]


@dataclass(frozen=True)
class ComparisonOptions:
    """How two images are compared.

    Attributes:
        scoring: None for the default of the artefact that answers.
        operating_point: of pairs, or with a gallery of searches; None for the usual one.
        gallery: whose calibration judges; None judges them as a pair.
        explain: also tell which regions spoke for one person and which against.
    """

    scoring: Scoring | None = None
    operating_point: PairOperatingPoint | OperatingPoint | None = None
    gallery: str | None = None
    explain: bool = False


async def compare(
    runtime: Runtime, first: bytes, second: bytes, options: ComparisonOptions
) -> PairScore:
    """Compares two images; the order does not matter.

    Raises:
        InvalidField: the operating point is of the other kind, or the artefact does not offer the
            scoring.
        UnusableImages: where either is.
        UnknownGallery, NeedsReindex: the gallery cannot judge.
        QueueFull: nothing was compared.
    """
    target = None if options.gallery is None else runtime.galleries.get(options.gallery)
    model = runtime.model if target is None else runtime.model_of(target)
    scoring = model.chosen_scoring(options.scoring)
    judged = _judge(runtime, model, target, scoring, options)
    with runtime.admission.image_slots(images_to_explain(runtime) if options.explain else 2):
        embedded = await model.pipeline.embed([first, second])
        usable = [one.vector for one in embedded if isinstance(one, EmbeddedImage)]
        if len(usable) < 2:
            raise UnusableImages(
                [one if isinstance(one, CropProblem) else None for one in embedded]
            )
        compared = await asyncio.wrap_future(
            runtime.device.submit(lambda: _scores(model, usable[0], usable[1][None]))
        )
        explanation = None
        if options.explain:
            explanation = await explain_pair(
                runtime,
                model,
                [first, second],
                scoring,
                lambda one, others: _scores(model, one, others)[scoring],
            )
    score = float(compared[scoring][0])
    return PairScore(
        cosine=float(compared["cosine"][0]),
        logit=float(compared["mnet"][0]) if "mnet" in compared else None,
        probability=judged.probability(score),
        verdict=judged.verdict(score),
        judged_as="pair" if target is None else "search",
        calibration_version=judged.version,
        model=model.description.artefact_fingerprint,
        calibration=judged.calibration,
        explanation=explanation,
    )


@dataclass(frozen=True)
class _Judged:
    """What judges one pair: from which scores on it is a match, and perhaps one."""

    probability: Callable[[float], float]
    match: float
    uncertain: float
    version: str
    calibration: CalibrationState | None = None

    def verdict(self, score: float) -> Verdict:
        if score >= self.match:
            return "match"
        return "uncertain" if score >= self.uncertain else "no_match"


def _judge(
    runtime: Runtime,
    model: LoadedModel,
    target: Gallery | None,
    scoring: Scoring,
    options: ComparisonOptions,
) -> _Judged:
    kinds: Mapping[str, float] = (
        PAIR_OPERATING_POINTS if target is None else SEARCH_OPERATING_POINTS
    )
    usual = "pair_far_1e-3" if target is None else "far_1e-2"
    point = options.operating_point or usual
    if point not in kinds:
        raise InvalidField(
            f"operating_point: {point} is not one of {', '.join(kinds)}, which judge "
            + ("a pair; send a gallery for those of searches" if target is None else "a search")
        )
    far = kinds[point]
    # Below the asked rate but above the most permissive one: somebody should look.
    permissive = max(kinds.values())
    if target is None:
        one = model.description.calibration.scorings[scoring]
        return _Judged(
            one.probability,
            one.pair_threshold(far),
            one.pair_threshold(permissive),
            calibration_version(model),
        )
    in_force = runtime.calibrations.of(target, scoring)
    identities = target.index.table.identities
    calibration = in_force.calibration
    match = calibration.threshold(far, identities)
    return _Judged(
        lambda score: float(calibration.probability(np.array(score))),
        match,
        min(match, calibration.threshold(permissive, identities)),
        in_force.version,
        in_force.for_search(identities),
    )


def _scores(
    model: LoadedModel, one: NDArray[np.float32], others: NDArray[np.float32]
) -> dict[Scoring, NDArray[np.float32]]:
    """Every offered score `(n,)` of a feature `(d,)` with others `(n, d)`; on the device thread."""
    cosine = np.array([_cosine(one, other) for other in others], np.float32)
    fusion = model.description.calibration.fusion
    if fusion is None:
        return {"cosine": cosine}
    logits = model.networks.pair_scores(one[None], others)
    return {"cosine": cosine, "mnet": logits, "fused": fusion.fuse(cosine, logits)}


def _cosine(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    p, q = first.astype(np.float64), second.astype(np.float64)
    return float(np.clip(p @ q / np.sqrt((p @ p) * (q @ q)), -1.0, 1.0))
