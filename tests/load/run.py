"""`make load`: many clients at once against a real service, and the answers they get.

Usage: python -m tests.load.run [--clients 400] [--seconds 60] [--artefact bundled]
"""

import argparse
import asyncio
import contextlib
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from tests.load.clients import Pictures, drive
from tests.load.wellness import how_it_ends, what_is_wrong
from tests.service.conftest import Served

REFUSED_WITHIN_S = 1.0
RUNS = Path(__file__).parents[2] / "runs"


def measure(served, clients, seconds):
    """Drive a load and return its figures, with the broken promises under `wrong`."""
    began = time.monotonic()
    account = asyncio.run(drive(port_of(served), clients, seconds, Pictures(seed=1)))
    took = time.monotonic() - began
    wrong = list(account.wrong)
    limit = REFUSED_WITHIN_S + account.driver_late_s
    late = [seconds for seconds in account.refused_s if seconds > limit]
    if late:
        wrong.append(f"{len(late)} refusals took over a second, the slowest {max(late):.2f} s")
    if not account.accepted_s:
        wrong.append("nothing was accepted")
    wrong += what_is_wrong(served)
    about = {"clients": clients, "seconds": round(took, 1), "wrong": wrong}
    return about | figures(account)


def port_of(served):
    return int(served.http.base_url.port or 0)


def figures(account):
    """Return the outcomes of the requests, for a report."""
    measured = {
        "requests": sum(account.statuses.values()),
        "answers": {
            f"{what} {status or 'without an answer'}": count
            for (what, status), count in sorted(account.statuses.items())
        },
        "driver_late_ms": round(account.driver_late_s * 1e3, 1),
    }
    for name, times in (("accepted", account.accepted_s), ("refused", account.refused_s)):
        if len(times) > 1:
            cuts = statistics.quantiles(times, n=100)
            seconds = {"p50": cuts[49], "p99": cuts[98], "slowest": max(times)}
            measured[f"{name}, ms"] = {key: round(at * 1e3, 1) for key, at in seconds.items()}
    return measured


@contextlib.contextmanager
def served_from(artefact):
    """Yield a service of its own process on a new data directory."""
    with tempfile.TemporaryDirectory(prefix="gmn-load-") as folder:
        place = Path(folder)
        served = Served(
            place / "log",
            forked=False,
            artefact=artefact,
            data_dir=place / "data",
            runtime="auto",
            log_level="warning",
        )
        try:
            yield served
        finally:
            if served.process.poll() is None:
                served.kill()


def report(measured, name):
    """Keep the figures of a run below `runs`, print them, and return the exit status."""
    RUNS.mkdir(exist_ok=True)
    (RUNS / name).write_text(json.dumps(measured, indent=1) + "\n")
    shown = {key: value for key, value in measured.items() if key != "samples"}
    print(json.dumps(shown, indent=1))  # noqa: T201
    return 1 if measured["wrong"] else 0


def main():
    """Serve, drive a load and judge it; return the exit status."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--clients", type=int, default=400)
    options.add_argument("--seconds", type=float, default=60.0)
    options.add_argument("--artefact", default="bundled")
    asked = options.parse_args()
    with served_from(asked.artefact) as served:
        measured = measure(served, asked.clients, asked.seconds)
        measured["wrong"] += how_it_ends(served)
    return report(measured, "load.json")


if __name__ == "__main__":
    sys.exit(main())
