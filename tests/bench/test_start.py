"""`gmn bench start` alternates starts of two checkouts; no service runs here."""

import os
from contextlib import contextmanager

import pytest

import gmn
from bench import start
from bench.start import bench_start
from demo.service import PROGRAM


@pytest.fixture
def started(monkeypatch):
    """List the programs of starts; this process stands in for their services."""
    programs = []

    @contextmanager
    def stand_in(artefact, variables, program):
        programs.append((artefact, program[-1]))
        assert variables["PYTHONDONTWRITEBYTECODE"] == ""
        yield None, os.getpid()

    monkeypatch.setattr(start, "own_process", stand_in)
    monkeypatch.setattr(start, "IDLE_SECONDS", 0)
    monkeypatch.setattr("bench.result.ROUNDS", 2)
    return programs


def test_the_processor_time_of_a_start_is_divided_by_that_of_another_checkout(started, tmp_path):
    other = tmp_path / "gmn.py"
    other.touch()
    (result,) = bench_start("small", tmp_path)
    ours, theirs = ("small", str(PROGRAM)), ("small", str(other))
    assert started == [ours, theirs, theirs, ours, ours, theirs]
    low, high = result.spread
    assert low <= result.ratio <= high
    for side in ("", "against_"):
        for name in ("cpu_seconds", "rss_mib", "pss_mib"):
            least, most = result.details[f"{side}{name}_range"]
            assert 0 < least <= result.details[side + name] <= most


def test_without_another_checkout_both_artefacts_are_measured_without_a_ratio(started):
    results = bench_start(None, None)
    assert started == [("bundled", str(PROGRAM))] * 3 + [("small", str(PROGRAM))] * 3
    assert [(result.ratio, result.spread) for result in results] == [(None, None)] * 2


def test_a_folder_that_is_no_checkout_is_bad_input(tmp_path, capsys):
    assert gmn.run(["bench", "start", "--against", str(tmp_path)]) == 2
    assert "has no gmn.py; name the folder of a checkout" in capsys.readouterr().err.replace(
        "\n", " "
    )
