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
from service.problems import UnusableImages
from service.runtime import Runtime

PairOperatingPoint = Literal["pair_far_1e-2", "pair_far_1e-3", "pair_far_1e-4"]


@dataclass(frozen=True)
class Comparison:
    """How alike two images are; probability and verdict are those of the asked scoring."""

    cosine: float
    logit: float
    probability: float
    verdict: Verdict
    calibration_version: str
    model: str


async def compare(
    runtime: Runtime,
    first: bytes,
    second: bytes,
    scoring: Scoring = "mnet",
    operating_point: PairOperatingPoint = "pair_far_1e-3",
) -> Comparison:
    """Compares two images; the order does not matter.

    Raises:
        UnusableImages: where either is.
        QueueFull: nothing was compared.
    """
    with runtime.admission.places(2):
        embedded = await runtime.pipeline.embed([first, second])
        usable = [one.vector for one in embedded if isinstance(one, EmbeddedImage)]
        if len(usable) < 2:
            raise UnusableImages(
                [one if isinstance(one, CropProblem) else None for one in embedded]
            )
        p, q = (vector[None] for vector in usable)
        logits = await asyncio.wrap_future(
            runtime.device.submit(lambda: runtime.networks.pair_scores(p, q))
        )
    cosine = np.float32(_cosine(usable[0], usable[1]))
    calibration = runtime.description.calibration
    fused = calibration.fusion.fuse(np.array([cosine]), logits)
    score = float({"cosine": cosine, "mnet": logits[0], "fused": fused[0]}[scoring])
    one = calibration.scorings[scoring]
    return Comparison(
        cosine=float(cosine),
        logit=float(logits[0]),
        probability=one.probability(score),
        verdict=_verdict(one, score, PAIR_OPERATING_POINTS[operating_point]),
        calibration_version=runtime.calibration_version,
        model=runtime.description.artefact_fingerprint,
    )


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
