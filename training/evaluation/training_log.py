"""A run's `log.jsonl`, read back for its learning curves."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FILE_NAME = "log.jsonl"

Curve = tuple[list[float], list[float]]
"""Epochs and the values there."""


@dataclass(frozen=True)
class TrainingLog:
    """The log of a run.

    Attributes:
        losses: by term, its value over the epochs.
        gradient_norms: by term, the norm of its gradient at the embedding.
        mean_average_precision, rank_1: on held-out people, by `data set/scoring`, 0 to 1; empty
            where the run was not validated.
        crops_per_second: the speed when the last step was logged, or None.
    """

    losses: Mapping[str, Curve]
    gradient_norms: Mapping[str, Curve]
    crops_per_second: float | None = None
    mean_average_precision: Mapping[str, Curve] = field(default_factory=dict)
    rank_1: Mapping[str, Curve] = field(default_factory=dict)


def read_training_log(path: Path) -> TrainingLog:
    """Reads a log; empty where there is none. A line that was cut off is passed over.

    Where a run was resumed and logged a step twice, its later line counts.
    """
    lines: dict[str, dict[int, Mapping[str, Any]]] = {"step": {}, "validation": {}}
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        if isinstance(line, dict) and line.get("event") in lines:
            lines[line["event"]][int(line.get("step", 0))] = line
    steps, validations = ([own[step] for step in sorted(own)] for own in lines.values())
    speeds = [line["crops_per_second"] for line in steps if "crops_per_second" in line]
    return TrainingLog(
        _curves(steps, "loss", logarithmic=True),
        _curves(steps, "gradient_norm", logarithmic=True),
        speeds[-1] if speeds else None,
        _curves(validations, "mAP"),
        _curves(validations, "rank_1"),
    )


def _curves(
    lines: list[Mapping[str, Any]], what: str, logarithmic: bool = False
) -> dict[str, Curve]:
    curves: dict[str, Curve] = {}
    for line in lines:
        for term, value in line.get(what, {}).items():
            epochs, values = curves.setdefault(term, ([], []))
            epochs.append(float(line.get("epoch", line.get("step", 0))))
            # A term that is 0 has no place on a logarithmic axis: the curve has a gap there.
            values.append(math.nan if logarithmic and value <= 0 else float(value))
    return curves
