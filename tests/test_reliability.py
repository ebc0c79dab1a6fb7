"""The tables of docs/reliability.md are those of the stored runs."""

import re

import pytest

from bench.tables import ROOT
from tests.reliability import DESCRIBED, RUNS, TABLES

PAGE = (ROOT / "docs" / "reliability.md").read_text()


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_that_of_the_runs_that_are_kept(name):
    assert f"<!-- {name} -->\n{TABLES[name]()}\n<!-- /{name} -->" in PAGE


def test_every_run_that_is_kept_is_in_a_table():
    assert {file.stem for file in RUNS.glob("*.json")} == {*DESCRIBED, "mutations"}


def test_every_test_that_the_page_names_is_there():
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", PAGE)
    assert named
    for path, name in named:
        text = (ROOT / path).read_text()
        assert not name or re.search(rf"^(async )?def {name}\(", text, re.MULTILINE), (path, name)
