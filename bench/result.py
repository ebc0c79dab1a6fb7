"""What every bench answers, and how its rounds become one ratio."""

from __future__ import annotations

import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from model.precision import HAS_TORCH

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
        ours, theirs: one figure per round, higher is better.
        bench, reach, details: as in `BenchResult`.
    """
    ratio, spread = ratio_of(ours, theirs)
    return BenchResult(
        bench=bench,
        ratio=ratio,
        spread=spread,
        reach=reach,
        reached=None if reach is None else ratio >= reach,
        details=details,
        machine=describe_machine(),
    )


def ratio_of(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """Median, and lowest and highest, of the rounds' ratios."""
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    return round(statistics.median(ratios), 4), (round(min(ratios), 4), round(max(ratios), 4))


def alternate(
    sides: dict[str, Callable[[], None]],
    images: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Images per second of each side in each round, after one round that does not count."""
    paces: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(ROUNDS + 1):
        for name, side in sides.items():
            started = clock()
            side()
            if number:
                paces[name].append(images / (clock() - started))
    return paces


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
