"""The result of a bench, and the ratio of its rounds."""

from __future__ import annotations

import os
import platform
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from model.precision import HAS_TORCH

ROUNDS = 5


class BenchResult(BaseModel):
    """One measured ratio.

    Attributes:
        bench: its name.
        ratio: our figure divided by the other side's, both of one run; the median over rounds.
        spread: lowest and highest ratio of a round.
        reach: the ratio that is aimed at; None where there is no aim yet.
        reached: whether the median is at least that.
        details: figures of each side, with units in the names.
        machine: processor, system and libraries.
    """

    model_config = ConfigDict(frozen=True)

    bench: str
    ratio: float
    spread: tuple[float, float]
    reach: float | None
    reached: bool | None
    details: dict[str, Any]
    machine: dict[str, Any]


def compare(
    bench: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    reach: float | None,
    details: dict[str, Any],
) -> BenchResult:
    """Divide paced rounds, ours and theirs taken in turn so that the machine's moods hit both.

    Args:
        ours, theirs: one figure per round, higher is better.
        bench, reach, details: as in `BenchResult`.
    """
    ratios = [our / their for our, their in zip(ours, theirs, strict=True)]
    ratio = round(statistics.median(ratios), 4)
    return BenchResult(
        bench=bench,
        ratio=ratio,
        spread=(round(min(ratios), 4), round(max(ratios), 4)),
        reach=reach,
        reached=None if reach is None else ratio >= reach,
        details=details,
        machine=describe_machine(),
    )


def describe_machine() -> dict[str, Any]:
    """Return the processor, cores, system and the libraries that compute."""
    known = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    processor = re.search(r"^model name\s*: (.*)$", known, re.MULTILINE)
    libraries: dict[str, Any] = {"torch": None, "gpu": None}
    if HAS_TORCH:
        import torch

        libraries["torch"] = torch.__version__
        libraries["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "processor": processor[1] if processor else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
        "python": platform.python_version(),
        **libraries,
    }
