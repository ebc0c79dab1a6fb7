"""The tables of docs/reliability.md are those of the marked tests and the stored runs."""

import pytest

from bench.tables import ROOT
from tests.reliability import DESCRIBED, RUNS, TABLES, marked_tests, read_promises

PAGE = (ROOT / "docs" / "reliability.md").read_text()


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_that_of_the_marks_and_of_the_runs_that_are_kept(name):
    assert f"<!-- {name} -->\n{TABLES[name]()}\n<!-- /{name} -->" in PAGE


def test_every_run_that_is_kept_is_in_a_table():
    assert {file.stem for file in RUNS.glob("*.json")} == {*DESCRIBED, "mutations"}


def test_every_promise_has_a_test_and_every_mark_names_a_promise():
    assert marked_tests().keys() == read_promises().keys()
