"""Bounds of the code's size, legibility and ways, and the command that prints them."""

import functools
import itertools
import re
from pathlib import Path

import pytest

from tests.forked import run_forked
from tests.legibility import Legibility, PythonFile
from tests.structure import (
    BOUNDS,
    CEILINGS,
    bounded_sizes,
    count_packages,
    import_circle,
    read_files,
)

ROOT = Path(__file__).resolve().parents[1]
# The trace changes its process, in which PyTorch is imported already.
TRACE = "from tests.structure import {0}, print_ways; print_ways({0}(), list_=False)"
HARD_TO_READ = '''"""What is counted."""
from operator import attrgetter
import operator

# That this follows
# is one comment, of what it is.
first, second = 1, 2
pair = first, second


class Gallery:
    """Those that it holds."""

    @property
    def crops(self):
        """The crops."""
        return threads.map(self.read, sorted(pair, key=attrgetter("id")))

    def age(self):
        """The age: map(x)."""
        for name, found in list(map(str, pair)):  # noqa: B007
            yield [own for own in operator.itemgetter(1)(found)]

    def names(self):
        """Return them."""
        first, second = self.pair
        return [crop.name for crop in self]
'''


@functools.cache
def count_package(name):
    files = {
        path: text
        for path, text in read_files().items()
        if path.startswith(f"{name}/") and path.endswith(".py")
    }
    return count_packages(files)[name]


def test_tokens_are_those_of_the_code_however_it_is_broken_into_lines():
    packed = 'def f(a):\n    """Return it."""\n    b, c = a, 1  # both\n    return b + c\n'
    broken = packed.replace("b + c", "(\n        b\n        + c\n    )")
    assert PythonFile(packed).counts()["tokens"] == 17
    assert PythonFile(broken).counts()["tokens"] == 19


def test_places_that_are_hard_to_read_are_found_by_kind_and_line():
    places = PythonFile(HARD_TO_READ).places()
    assert sorted((place.kind, place.line) for place in places) == [
        *[("clause", 1), ("clause", 5), ("clause", 12)],
        ("noun", 20),
        *[("opening", 1), ("opening", 5), ("opening", 12)],
        ("packed", 7),
        *[("terse", 17), ("terse", 21), ("terse", 22)],
        *[("vague", 21), ("vague", 22)],
    ]


def test_a_circle_is_found_in_functions_for_types_alone_and_through_a_package():
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


def test_no_files_import_each_other():
    """Code that two files need of each other belongs in a third one below both."""
    assert import_circle(read_files()) == ()


@pytest.mark.parametrize(
    "package",
    [pytest.param(name, marks=pytest.mark.slow if name == "tests" else ()) for name in CEILINGS],
)
def test_a_package_has_no_more_places_that_are_hard_to_read_than_its_ceilings(package):
    """`python -m tests.structure --places KIND` lists them."""
    counts = Legibility.of(count_package(package))._asdict()
    ceilings = CEILINGS[package]._asdict()
    above = {name: count for name, count in counts.items() if count > ceilings[name]}
    assert above == {}, {name: ceilings[name] for name in above}


def test_the_tokens_and_files_of_the_code_are_within_their_bounds():
    packages = {name: count_package(name) for name in CEILINGS if name != "tests"}
    sizes = bounded_sizes(packages)
    assert len(sizes) == 7
    assert {name: size for name, size in sizes.items() if size > BOUNDS[name]} == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("traced", "ways"),
    [
        ("request_ways", ("a query", "an enrollment")),
        ("training_ways", ("a first update", "a step")),
    ],
)
def test_ways_are_traced_within_their_bounds(traced, ways):
    ran = run_forked(TRACE.format(traced), cwd=ROOT)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert ran.stderr == ""
    shown = dict(line.split(": ", 1) for line in ran.stdout.splitlines())
    figures = {
        name: {what: int(count) for count, what in re.findall(r"(\d+) ([a-z ]+)", text)}
        for name, text in shown.items()
    }
    for name in ways:
        way = figures[name]
        assert way["functions"] > way["files"] > 1
        assert way["functions"] <= BOUNDS[f"functions of {name}"]
        assert way["files"] <= BOUNDS[f"files of {name}"]
