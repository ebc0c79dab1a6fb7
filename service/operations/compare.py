"""Compare: are two images of one person?"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from model.calibration import PAIR_OPERATING_POINTS, Scoring, ScoringCalibration, Verdict
from model.crops.decode import CropProblem
from service.inference.pipeline import EmbeddedImage
from service.operations.explain import Explanation, explain_pair, images_to_explain
from service.problems import UnusableImages
from service.runtime import Runtime

PairOperatingPoint = Literal["pair_far_1e-2", "pair_far_1e-3", "pair_far_1e-4"]


@dataclass(frozen=True)
class Comparison:
    """How alike two images are; probability and verdict are those of the asked scoring.

    Attributes:
        explanation: what each region did to the asked score; None where it was not asked for.
    """

    cosine: float
    logit: float
    probability: float
    verdict: Verdict
    calibration_version: str
    model: str
    explanation: Explanation | None = None


async def compare(
    runtime: Runtime,
    first: bytes,
    second: bytes,
    scoring: Scoring = "mnet",
    operating_point: PairOperatingPoint = "pair_far_1e-3",
    explain: bool = False,
) -> Comparison:
    """Compares two images; the order does not matter.

    Raises:
        UnusableImages: where either is.
        QueueFull: nothing was compared.
    """
    with runtime.admission.places(images_to_explain(runtime) if explain else 2):
        embedded = await runtime.pipeline.embed([first, second])
        usable = [one.vector for one in embedded if isinstance(one, EmbeddedImage)]
        if len(usable) < 2:
            raise UnusableImages(
                [one if isinstance(one, CropProblem) else None for one in embedded]
            )
        compared = await asyncio.wrap_future(
            runtime.device.submit(lambda: _scores(runtime, usable[0], usable[1][None]))
        )
        explanation = None
        if explain:
            explanation = await explain_pair(
                runtime,
                [first, second],
                scoring,
                lambda one, others: _scores(runtime, one, others)[scoring],
            )
    score = float(compared[scoring][0])
    one = runtime.description.calibration.scorings[scoring]
    return Comparison(
        cosine=float(compared["cosine"][0]),
        logit=float(compared["mnet"][0]),
        probability=one.probability(score),
        verdict=_verdict(one, score, PAIR_OPERATING_POINTS[operating_point]),
        calibration_version=runtime.calibration_version,
        model=runtime.description.artefact_fingerprint,
        explanation=explanation,
    )


def _scores(
    runtime: Runtime, one: NDArray[np.float32], others: NDArray[np.float32]
) -> dict[Scoring, NDArray[np.float32]]:
    """Every score `(n,)` of one feature `(d,)` with others `(n, d)`; on the device thread."""
    cosine = np.array([_cosine(one, other) for other in others], np.float32)
    logits = runtime.networks.pair_scores(one[None], others)
    fused = runtime.description.calibration.fusion.fuse(cosine, logits)
    return {"cosine": cosine, "mnet": logits, "fused": fused}


def _cosine(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    p, q = first.astype(np.float64), second.astype(np.float64)
    return float(np.clip(p @ q / np.sqrt((p @ p) * (q @ q)), -1.0, 1.0))


def _verdict(calibration: ScoringCalibration, score: float, far: float) -> Verdict:
    if score >= calibration.pair_threshold(far):
        return "match"
    # Below the asked rate but above the most permissive one: somebody should look.
    if score >= calibration.pair_threshold(max(PAIR_OPERATING_POINTS.values())):
        return "uncertain"
    return "no_match"
