"""Pairs and features, as they go over the wire."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict

from model.calibration import Scoring, Verdict
from service.api.schemas.base import CalibrationOut, RefusedOut, Schema


class EmbeddingOut(Schema):
    """A feature as the embedder gives it, not of unit length."""

    embedding: list[float]


class EmbeddingsOut(Schema):
    """One entry per image, in order."""

    embedding_fingerprint: str
    dimension: int
    results: list[EmbeddingOut | RefusedOut]


class ExplanationOut(Schema):
    """What each region of two images did to the asked `score`, with `explain=true`.

    Every image, upright, is divided into `grid` = [rows, columns] equal cells. `first` and `second`
    hold a number for each, row by row from the top left: how much higher the score is than with
    this cell hidden under the image's mean colour. Positive spoke for one person, negative for
    two. The unit is the score's own: that of `cosine`, of M-Net's `logit`, or of fused log-odds.
    The numbers do not add up to the score.
    """

    scoring: Scoring
    score: float
    grid: tuple[int, int]
    first: list[list[float]]
    second: list[list[float]]


class PairOut(Schema):
    """How alike two images are; `explanation` is there where it was asked for.

    `logit` is M-Net's score, and not there where the artefact has no M-Net.
    `judged_as` says what `probability` and `verdict` are of: `pair`, two images that nobody
    searched for, at even odds and by the rates of pairs of different people; with a `gallery`
    `search`, as if one were a result of a search of the whole gallery by the other. `calibration`
    is there with a gallery.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "cosine": 0.83,
                "logit": 4.1,
                "probability": 0.97,
                "verdict": "match",
                "judged_as": "pair",
                "calibration_version": "9c1e5d0f7ab2",
                "model": "9c1e5d0f7ab2",
            }
        }
    )

    cosine: float
    logit: float | None = None
    probability: float
    verdict: Verdict
    judged_as: Literal["pair", "search"]
    calibration_version: str
    calibration: CalibrationOut | None = None
    model: str
    explanation: ExplanationOut | None = None
