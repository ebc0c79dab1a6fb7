"""What every bench answers, and how its rounds become one ratio."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

ROUNDS = 5


class BenchResult(BaseModel):
    """One measured ratio.

    Attributes:
        bench: its name.
        ratio: ours divided by what it is compared with, both of one run; the median over rounds.
        spread: lowest and highest ratio of a round.
        reach: the ratio that is aimed at; None where there is no aim yet.
        reached: whether the median is at least that.
        details: what was measured on each side, with units in the names.
        machine: where.
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
    """Divides paced rounds, ours and theirs taken in turn so that the machine's moods hit both.

    Args:
        bench: its name.
        ours, theirs: one figure per round, higher is better.
        reach: the ratio that is aimed at, if any.
        details: beside the medians of both sides.
    """
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    ratio = statistics.median(ratios)
    return BenchResult(
        bench=bench,
        ratio=round(ratio, 4),
        spread=(round(min(ratios), 4), round(max(ratios), 4)),
        reach=reach,
        reached=None if reach is None else ratio >= reach,
        details=details,
        machine=describe_machine(),
    )


def alternate(sides: dict[str, Callable[[], None]], images: int) -> dict[str, list[float]]:
    """Images per second of each side in each round, after one round that does not count."""
    paces: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(ROUNDS + 1):
        for name, side in sides.items():
            started = time.perf_counter()
            side()
            if number:
                paces[name].append(images / (time.perf_counter() - started))
    return paces


def describe_machine() -> dict[str, Any]:
    """Processor, cores, system and the libraries that compute."""
    import torch

    cuda = torch.cuda.is_available()
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "gpu": torch.cuda.get_device_name() if cuda else None,
    }


def _processor() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
            names = (line.split(":", 1)[1].strip() for line in lines if "model name" in line)
            return next(names, platform.machine())
    except OSError:
        return platform.machine()
