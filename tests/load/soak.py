"""`make soak`: whether the service grows under a load that it can bear for long.

Usage: GMN_SOAK_MINUTES=30 python -m tests.load.soak [--artefact bundled]

At its start it measures how many requests a second eight clients are answered, and then asks 80 %
of that. The first fifth of its samples counts as warming up. The results go to
`runs/soak-….json`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from tests.load.clients import Pictures, drive
from tests.load.growth import FEWEST, growth
from tests.load.run import port_of, report, served_from
from tests.load.wellness import how_it_ends, what_is_wrong

CLIENTS = 8
SHARE = 0.8
WARM_UP = 0.2
MEASURED_SECONDS = 20.0
SAMPLES_EVERY_SECONDS = 5.0
# An hour. Less than that is no leak that anybody would meet between two upgrades.
ALLOWED_MIB = 10.0
ALLOWED_FILES = 2.0


@dataclass
class Samples:
    """Resident memory and open files of a process, and when they were looked at."""

    seconds: list[float] = field(default_factory=list)
    resident_mib: list[float] = field(default_factory=list)
    open_files: list[float] = field(default_factory=list)

    def take(self, process):
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
        self.seconds.append(time.monotonic())
        self.resident_mib.append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
        self.open_files.append(float(len(list(Path(f"/proc/{process}/fd").iterdir()))))

    def since(self, share):
        """Return those after a share of the time."""
        begin = self.seconds[0] + share * (self.seconds[-1] - self.seconds[0])
        first = next(place for place, seconds in enumerate(self.seconds) if seconds >= begin)
        return Samples(*(series[first:] for series in vars(self).values()))


@contextlib.contextmanager
def sampled(process, every):
    """Sample a process again and again while the block runs."""
    samples = Samples()
    stop = threading.Event()

    def look():
        with contextlib.suppress(FileNotFoundError):
            while not stop.wait(every):
                samples.take(process)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        stop.set()
        thread.join(10)


def judge_growth(samples):
    """Return figures of how a process grew after its warm-up, and violations."""
    warm = samples.since(WARM_UP)
    memory = growth(warm.seconds, warm.resident_mib, ALLOWED_MIB)
    files = growth(warm.seconds, warm.open_files, ALLOWED_FILES)
    wrong = [
        f"{what} grows by {figure.slope:.1f} {unit} an hour (95 %: {figure.low:.1f} to "
        f"{figure.high:.1f}), more than the {figure.allowed:.0f} that count as none"
        for what, unit, figure in (
            ("resident memory", "MiB", memory),
            ("open files", "files", files),
        )
        if figure.leaks
    ]
    figures = {
        "resident_mib": memory.as_json(),
        "open_files": files.as_json(),
        "samples": {
            name: [round(value, 2) for value in series] for name, series in vars(samples).items()
        },
    }
    return figures, wrong


def soak(served, seconds, measured_seconds):
    """Soak a service and return the measurements, with violations under `wrong`."""
    port = port_of(served)
    pictures = Pictures(seed=2)
    full = asyncio.run(drive(port, CLIENTS, measured_seconds, pictures))
    pace = SHARE * len(full.accepted_s) / measured_seconds
    # So that a short run has enough of them too.
    every = min(SAMPLES_EVERY_SECONDS, seconds * (1 - WARM_UP) / (2 * FEWEST))
    with sampled(served.process.pid, every) as samples:
        account = asyncio.run(drive(port, CLIENTS, seconds, pictures, pace))
    figures, growing = judge_growth(samples)
    return {
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
        "minutes": round(seconds / 60, 2),
        "pace": round(pace, 2),
        "requests": sum(account.statuses.values()),
        "accepted": len(account.accepted_s),
        **figures,
        "wrong": [*full.wrong, *account.wrong, *growing, *what_is_wrong(served)],
    }


def main():
    """Serve, soak and judge; return the exit status."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--artefact", default="bundled")
    asked = options.parse_args()
    # The service reads the environment itself, and knows no such setting.
    minutes = float(os.environ.pop("GMN_SOAK_MINUTES", "30"))
    with served_from(asked.artefact) as served:
        measured = soak(served, minutes * 60, MEASURED_SECONDS)
        measured["wrong"] += how_it_ends(served)
    return report(measured, f"soak-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json")


if __name__ == "__main__":
    sys.exit(main())
