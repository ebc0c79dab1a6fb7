"""Every fuzz target runs, finds nothing in a fixed number of inputs, and would find something."""

import os
import sys
from pathlib import Path

import pytest

from tests.outside import chosen_seed, run_command

TARGETS = sorted(
    path.stem for path in Path(__file__).parent.glob("[!t]*.py") if "__main__" in path.read_text()
)
RUNS = int(os.environ.get("REID_TEST_FUZZ_RUNS", "400"))
SPOILT = """
from tests.fuzz.harness import fuzz

def target(data):
    if data[:1] == b"x":
        raise KeyError("not declared")

fuzz(target, [b"abc", b"xyz"], ValueError)
"""


def test_there_is_a_target_for_each_kind_of_input():
    assert TARGETS == ["archives", "forms", "images", "manifests"]


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_finds_nothing(target, tmp_path):
    seed = chosen_seed()
    ran = _run(["-m", f"tests.fuzz.{target}", "--runs", str(RUNS), "--seed", str(seed)], tmp_path)
    print(f"REID_TEST_SEED={seed}\n{ran.stderr[-3000:]}")  # noqa: T201
    assert ran.returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_what_was_not_declared_is_a_find_and_kept(tmp_path):
    ran = _run(["-c", SPOILT, "--runs", "100"], tmp_path)
    assert ran.returncode != 0
    assert "KeyError: 'not declared'" in ran.stderr + ran.stdout
    (kept,) = tmp_path.iterdir()
    assert kept.name.startswith("crash-")
    assert kept.read_bytes().startswith(b"x")


def _run(arguments, artefacts):
    # libFuzzer counts the largest memory of the parent, too, which is a shell here and not pytest.
    shell = ("sh", "-c", '"$@"; exit $?', "sh")
    command = (sys.executable, *arguments, "--artefacts", str(artefacts))
    return run_command(*shell, *command, errors="replace")
