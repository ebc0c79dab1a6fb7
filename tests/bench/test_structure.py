"""What `python -m bench.structure` prints of the code, and of the ways through it."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.structure import BOUNDS, circle, import_circle, measured, read_files, tokens
from bench.ways import summary

ROOT = Path(__file__).resolve().parents[2]


def test_a_way_counts_each_function_once_and_every_change_of_thread() -> None:
    way = [("a.py", "f", 1), ("a.py", "g", 1), ("b.py", "f", 2), ("a.py", "f", 1)]
    assert summary(way) == {"functions": 3, "files": 2, "calls": 4, "thread changes": 2}


def test_tokens_are_those_of_the_code_however_it_is_broken_into_lines() -> None:
    packed = 'def f(a):\n    """Return it."""\n    b, c = a, 1  # both\n    return b + c\n'
    assert tokens(packed) == 17
    assert tokens(packed.replace("b + c", "(\n        b\n        + c\n    )")) == 19


def test_a_circle_is_found_in_functions_for_types_alone_and_through_a_package() -> None:
    files = {
        "a/__init__.py": "",
        "a/one.py": "def f():\n    from a import two\n",
        "a/two.py": "if TYPE_CHECKING:\n    from a.three import T\n",
        "a/three.py": "import a.one, os\n",
        "a/four.py": "from a.one import f\nfrom a import VERSION\n",
    }
    found = import_circle(files)
    assert set(found) == {"a/one.py", "a/three.py", "a/two.py"}
    assert (found[0], len(found)) == (found[-1], 4)
    assert ("a/one.py", "a/two.py") in itertools.pairwise(found)
    assert import_circle(files | {"a/three.py": "import a, os\n"}) == ()


def test_no_files_import_each_other() -> None:
    """What two files need of each other belongs in a third one below both."""
    assert circle(read_files()) == ()


def test_the_code_is_within_its_bounds() -> None:
    """`BOUNDS` holds the numbers; the ways are measured below, where a service runs."""
    found = measured(read_files())
    assert len(found) == 6
    assert {name: count for name, count in found.items() if count > BOUNDS[name]} == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "ways"),
    [((), ("a query", "an enrolment")), (("--train",), ("a first update", "a step"))],
)
def test_the_command_counts_the_packages_and_traces_ways_within_their_bounds(
    options: tuple[str, ...], ways: tuple[str, ...]
) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "bench.structure", *options],
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
    assert figures["service"]["tokens"] > figures["service"]["files"] > 0
    for name in ways:
        way = figures[name]
        assert way["functions"] > way["files"] > 1
        assert way["functions"] <= BOUNDS[f"functions of {name}"]
        assert way["files"] <= BOUNDS[f"files of {name}"]
