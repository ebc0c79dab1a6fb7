"""The list of mutations fits the present code, and each of them was found."""

import json
import re
import shutil
import subprocess
import sys

import pytest

from tests.mutations import failures
from tests.mutations.broken import OUTCOMES, ROOT, read_broken
from tests.mutations.run import is_found, read_mutants, run_test

LISTED = read_broken()


@pytest.mark.parametrize("one", LISTED, ids=lambda one: one.says)
def test_what_is_replaced_stands_once_in_its_file_and_the_test_is_there(one):
    text = (ROOT / one.file).read_text()
    assert text.count(one.old) == 1
    assert one.text(ROOT) != text
    assert re.fullmatch(r"tests/[\w/]+\.py::test_\w+", one.test), "name one test as file::test"
    path, _, name = one.test.partition("::")
    assert re.search(rf"^(async )?def {name}\(", (ROOT / path).read_text(), re.MULTILINE)


def test_every_mutant_names_only_what_is_there(tmp_path):
    # A renamed local would end the mutant by an error, which proves nothing.
    for number, mutant in enumerate(LISTED):
        if mutant.file.endswith(".py"):
            (tmp_path / f"mutant_{number}.py").write_text(mutant.text(ROOT))
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select=F821", str(tmp_path)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


def test_every_one_was_seen_to_be_found():
    kept = json.loads(OUTCOMES.read_text())["broken"]
    assert [(row["promise"], row["says"], row["failed"], row["tests"]) for row in kept] == [
        (mutation.promise, mutation.says, True, [mutation.test.partition("::")[2]])
        for mutation in LISTED
    ]


def test_every_promise_is_among_them():
    assert {mutation.promise for mutation in LISTED} >= set(range(1, 8))


def test_only_runs_the_mutants_whose_description_has_one_of_the_texts():
    first, _, third, *_ = LISTED
    assert read_mutants(["--only", first.says, "--only", third.says]) == [first, third]
    assert read_mutants([]) == LISTED


def test_a_text_that_no_mutant_has_is_an_error(capsys):
    with pytest.raises(SystemExit) as ended:
        read_mutants(["--only", LISTED[0].says, "--only", "no such mutant"])
    assert ended.value.code == 2
    assert (
        "no entry of tests/mutations/broken.toml says 'no such mutant'" in capsys.readouterr().err
    )


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


FOUND = {"test_asserts", "test_expects_an_error", "test_has_cases"}
NOT_FOUND = {
    "test_has_a_broken_fixture",
    "test_is_broken_itself",
    "test_gives_up",
    "test_passes",
}


@pytest.mark.slow
def test_a_mutant_is_found_where_its_test_fails_by_an_assertion_alone(tmp_path):
    project = tmp_path / "project"
    (project / "tests" / "mutations").mkdir(parents=True)
    shutil.copy(failures.__file__, project / "tests" / "mutations")
    (project / "tests" / "test_it.py").write_text(SUITE)
    ran = run_test(project, "tests/test_it.py", most_failures=99)
    assert not ran.passed
    assert {name for name in FOUND if is_found(f"tests/test_it.py::{name}", ran)} == FOUND
    assert not any(is_found(f"tests/test_it.py::{name}", ran) for name in NOT_FOUND)
    passing = run_test(project, "tests/test_it.py::test_passes")
    assert (passing.passed, passing.failures) == (True, [])
