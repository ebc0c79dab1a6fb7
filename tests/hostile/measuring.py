"""The costs of one call: processor time, and memory at its peak beyond what was held before."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

STATUS = Path("/proc/self/status")
REFERENCES = Path("/proc/self/clear_refs")


def print_cost(name: str, size: int, call: Callable[[], str]) -> None:
    """Prints it as a line of JSON, with what the call answered."""
    REFERENCES.write_text("5")  # sets the peak back to what is held now
    held = _memory("VmRSS")
    began = time.process_time()
    outcome = call()
    cost = {
        "input": name,
        "bytes": size,
        "outcome": outcome,
        "cpu_s": round(time.process_time() - began, 2),
        "peak_mb": (_memory("VmHWM") - held) // 1024,
    }
    print(json.dumps(cost))  # noqa: T201


def _memory(name: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1])
