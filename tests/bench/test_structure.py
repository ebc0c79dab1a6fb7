"""What `python -m bench.structure` prints of the code and of a request's way through it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.structure import summary

ROOT = Path(__file__).resolve().parents[2]


def test_a_way_counts_each_function_once_and_every_change_of_thread() -> None:
    way = [("a.py", "f", 1), ("a.py", "g", 1), ("b.py", "f", 2), ("a.py", "f", 1)]
    assert summary(way) == {"functions": 3, "files": 2, "calls": 4, "thread changes": 2}


@pytest.mark.slow
def test_the_command_counts_the_packages_and_traces_a_query_and_an_enrolment() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "bench.structure"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert ran.stderr == ""
    shown = dict(line.split(": ", 1) for line in ran.stdout.splitlines())
    figures = {
        name: {what: int(count) for count, what in re.findall(r"(\d+) ([a-z ]+)", text)}
        for name, text in shown.items()
    }
    assert figures["service"]["lines"] > figures["service"]["files"] > 0
    for way in (figures["query"], figures["enrolment"]):
        assert way["functions"] > way["files"] > 1
