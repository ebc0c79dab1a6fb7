"""`make load`: many clients at once against a real service, and the answers they get.

Usage: python -m tests.load.run [--clients 400] [--seconds 60] [--artefact bundled]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.load.clients import ACCEPTED, Account, Pictures, drive
from tests.load.wellness import how_it_ends, what_is_wrong
from tests.service.conftest import Served

REFUSED_WITHIN_S = 1.0
REPORT = Path(__file__).parents[2] / "runs" / "load.json"


def measure(
    served: Served,
    clients: int,
    seconds: float,
    say: Callable[[str], object],
    keep: Callable[[dict[str, Any]], object] = lambda _: None,
) -> list[str]:
    """Drive a load, print its figures, and return the broken promises."""
    port = served.http.base_url.port
    assert port is not None
    began = time.monotonic()
    used = _processor_seconds()
    account = asyncio.run(drive(port, clients, seconds, Pictures(seed=1)))
    took = time.monotonic() - began
    for line in lines(account, took, clients):
        say(line)
    say(
        f"driver: {(_processor_seconds() - used) / took:.0%} of a core, at most "
        f"{account.driver_late_s * 1e3:.0f} ms late by its own clock"
    )
    wrong = [*account.wrong]
    late = [
        seconds
        for seconds in account.refused_s
        if seconds > REFUSED_WITHIN_S + account.driver_late_s
    ]
    if late:
        wrong.append(f"{len(late)} refusals took over a second, the slowest {max(late):.2f} s")
    if not account.accepted_s:
        wrong.append("nothing was accepted")
    wrong += what_is_wrong(served)
    keep(figures(account, took, clients) | {"wrong": wrong})
    return wrong


def lines(account: Account, seconds: float, clients: int) -> list[str]:
    asked = sum(account.statuses.values())
    statuses = ", ".join(
        f"{count} {what} {status or 'without an answer'}"
        for (what, status), count in sorted(account.statuses.items())
    )
    accepted = sum(n for (_, status), n in account.statuses.items() if status in ACCEPTED)
    told = [
        f"{clients} clients, {seconds:.1f} s: {asked} requests, {accepted / seconds:.0f} "
        f"accepted a second",
        f"answers: {statuses}",
    ]
    for name, times in (("accepted", account.accepted_s), ("refused", account.refused_s)):
        if len(times) > 1:
            cuts = statistics.quantiles(times, n=100)
            told.append(
                f"{name}: p50 {cuts[49] * 1e3:.0f} ms, p99 {cuts[98] * 1e3:.0f} ms, "
                f"slowest {max(times) * 1e3:.0f} ms"
            )
    return told


def figures(account: Account, seconds: float, clients: int) -> dict[str, Any]:
    """Return what became of the requests, for a report."""
    measured: dict[str, Any] = {"clients": clients, "seconds": round(seconds, 1)}
    measured["requests"] = sum(account.statuses.values())
    measured["answers"] = {
        f"{what} {status or 'without an answer'}": count
        for (what, status), count in sorted(account.statuses.items())
    }
    for name, times in (("accepted", account.accepted_s), ("refused", account.refused_s)):
        if len(times) > 1:
            cuts = statistics.quantiles(times, n=100)
            ms = (cuts[49], cuts[98], max(times))
            measured[f"{name}, ms"] = {
                which: round(milliseconds * 1e3, 1)
                for which, milliseconds in zip(("p50", "p99", "slowest"), ms, strict=True)
            }
    return measured


def _keep(measured: dict[str, Any]) -> None:
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps(measured, indent=1) + "\n")


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> int:
    """Serve, drive a load and judge it; return the exit status."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--clients", type=int, default=400)
    options.add_argument("--seconds", type=float, default=60.0)
    options.add_argument("--artefact", default="bundled")
    asked = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="gmn-load-") as folder:
        place = Path(folder)
        served = Served(
            place / "log",
            forked=False,
            artefact=asked.artefact,
            data_dir=place / "data",
            runtime="auto",
            log_level="warning",
        )
        try:
            wrong = measure(served, asked.clients, asked.seconds, print, _keep)
            wrong += how_it_ends(served)
        finally:
            if served.process.poll() is None:
                served.kill()
    for line in wrong:
        print(f"WRONG: {line}", file=sys.stderr)  # noqa: T201
    print("the service is well" if not wrong else f"{len(wrong)} things are wrong")  # noqa: T201
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
