"""Costs of one call: processor time, and the growth of memory to its peak."""

import json
import time
from pathlib import Path

STATUS = Path("/proc/self/status")
REFERENCES = Path("/proc/self/clear_refs")


def print_cost(name, size, call):
    REFERENCES.write_text("5")  # resets the peak
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


def _memory(name):
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1])
