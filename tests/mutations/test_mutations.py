"""The list of what is broken on purpose fits the code as it is, and every entry was found."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from tests.mutations import failures
from tests.mutations.broken import OUTCOMES, ROOT, read_broken
from tests.mutations.run import is_found, run_test

LISTED = read_broken()


@pytest.mark.parametrize("one", LISTED, ids=lambda one: one.says)
def test_what_is_replaced_stands_once_in_its_file_and_the_test_is_there(one):
    text = (ROOT / one.file).read_text()
    assert text.count(one.old) == 1
    assert one.text(ROOT) != text
    assert re.fullmatch(r"tests/[\w/]+\.py::test_\w+", one.test), "name one test as file::test"
    path, _, name = one.test.partition("::")
    assert re.search(rf"^(async )?def {name}\(", (ROOT / path).read_text(), re.MULTILINE)


def test_every_one_was_seen_to_be_found():
    kept = json.loads(OUTCOMES.read_text())["broken"]
    assert [(row["promise"], row["says"], row["failed"], row["tests"]) for row in kept] == [
        (mutation.promise, mutation.says, True, [mutation.test.partition("::")[2]])
        for mutation in LISTED
    ]


def test_every_promise_is_among_them():
    assert {mutation.promise for mutation in LISTED} >= set(range(1, 8))


SUITE = """
import pytest

@pytest.fixture
def broken_fixture():
    assert False

def test_asserts():
    assert False

def test_expects_an_error():
    with pytest.raises(ValueError):
        pass

@pytest.mark.parametrize("case", ["first", "second"])
def test_has_cases(case):
    assert case == "first"

def test_has_a_broken_fixture(broken_fixture):
    pass

def test_is_broken_itself():
    raise ValueError

def test_gives_up():
    pytest.fail("there is no server")

def test_passes():
    pass
"""


@pytest.fixture
def suite(tmp_path):
    """A project of a few tests, with the plug-in that `make mutations` runs them by."""
    project = tmp_path / "project"
    (project / "tests" / "mutations").mkdir(parents=True)
    shutil.copy(failures.__file__, project / "tests" / "mutations")
    (project / "tests" / "test_it.py").write_text(SUITE)
    return project


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("test_asserts", True),
        ("test_expects_an_error", True),
        ("test_has_cases", True),
        ("test_has_a_broken_fixture", False),
        ("test_is_broken_itself", False),
        ("test_gives_up", False),
        ("test_passes", False),
    ],
)
def test_a_mutant_is_found_where_its_test_fails_by_an_assertion_alone(suite, name, found):
    test = f"tests/test_it.py::{name}"
    ran = run_test(suite, test)
    assert ran.passed == (name == "test_passes")
    assert is_found(test, ran) == found


@pytest.mark.slow
def test_a_mutant_is_not_found_where_another_test_fails(suite):
    ran = run_test(suite, "tests/test_it.py")
    assert [failure["test"] for failure in ran.failures] == ["tests/test_it.py::test_asserts"]
    assert not is_found("tests/test_it.py::test_passes", ran)
