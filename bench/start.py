"""`gmn bench start`: the processor time of a start of `gmn serve`, and its memory when it is idle.

Each start has a new data directory. Its processor time ends with the first answer 200 of `/readyz`,
and the memory is read after some seconds without a request. Starts of another checkout can
alternate with those of this one.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench.result import (
    BenchResult,
    alternate,
    artefacts_to_measure,
    compare,
    require_checkout,
)
from demo.service import PROGRAM, own_process, processor_seconds

IDLE_SECONDS = 5.0
# Without it no start would find its modules compiled by the one before.
VARIABLES = {"PYTHONDONTWRITEBYTECODE": ""}
Figures = dict[str, float]
"""Figures of one start, by name."""


def bench_start(artefact: str | None, against: Path | None) -> list[BenchResult]:
    """Measure starts, and divide their processor time by that of another checkout.

    Args:
        artefact: a file or a shipped name; without it `bundled` and `small` are measured.
        against: folder of the other checkout; without it the result has no ratio.

    Raises:
        InputProblem: the folder is no checkout, or a start fails.
    """
    programs = [PROGRAM]
    if against is not None:
        require_checkout(against)
        programs.append(against.resolve() / PROGRAM.name)
    return [_measure(name, programs) for name in artefacts_to_measure(artefact)]


def _measure(artefact: str, programs: Sequence[Path]) -> BenchResult:
    load_average = round(os.getloadavg()[0], 2)
    rounds = alternate(*[partial(_start, artefact, program) for program in programs])
    details: dict[str, Any] = {"artefact": artefact, "load_average_before": load_average}
    for prefix, starts in zip(("", "against_"), zip(*rounds, strict=True), strict=False):
        for name in starts[0]:
            measured = [start[name] for start in starts]
            details[prefix + name] = round(statistics.median(measured), 2)
            details[f"{prefix}{name}_range"] = round(min(measured), 2), round(max(measured), 2)
    if len(programs) == 1:
        return BenchResult("start", None, None, None, details)
    seconds = [(ours["cpu_seconds"], theirs["cpu_seconds"]) for ours, theirs in rounds]
    return compare("start", seconds, None, details)


def _start(artefact: str, program: Path) -> Figures:
    command = (sys.executable, str(program))
    with own_process(artefact, VARIABLES, command) as (_, process_id):
        seconds = processor_seconds(process_id)
        time.sleep(IDLE_SECONDS)
        return {"cpu_seconds": seconds, **_read_memory(process_id)}


def _read_memory(process_id: int) -> Figures:
    """Return the resident memory of a process in MiB, and its share of what processes share."""
    text = Path(f"/proc/{process_id}/smaps_rollup").read_text(encoding="ascii")
    kilobytes = {}
    for line in text.splitlines()[1:]:
        name, amount, _unit = line.split()
        kilobytes[name] = int(amount)
    return {"rss_mib": kilobytes["Rss:"] / 1024, "pss_mib": kilobytes["Pss:"] / 1024}
