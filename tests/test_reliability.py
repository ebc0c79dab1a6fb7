"""The tables of docs/reliability.md are those of the stored runs."""

from __future__ import annotations

import json
import re

import pytest

from bench.tables import ROOT
from tests.reliability import RUNS, markdown

STORED = sorted(RUNS.glob("*.json"))
PAGE = ROOT / "docs" / "reliability.md"


@pytest.mark.parametrize("file", STORED, ids=lambda file: file.stem)
def test_a_table_is_that_of_the_run_that_is_kept(file):
    table = markdown(json.loads(file.read_text()))
    shown = f"<!-- {file.stem} -->\n{table}\n<!-- /{file.stem} -->"
    assert shown in PAGE.read_text()


def test_every_table_is_of_a_run():
    named = set(re.findall(r"<!-- /(\w+) -->", PAGE.read_text()))
    assert named == {file.stem for file in STORED}


def test_every_test_that_the_page_names_is_there():
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", PAGE.read_text())
    assert named
    for path, name in named:
        text = (ROOT / path).read_text()
        assert not name or re.search(rf"^(async )?def {name}\(", text, re.MULTILINE), (path, name)


def test_figures_are_shown_as_they_are():
    assert markdown({"cycles": 1200, "lost": 0, "p99_ms": 12.345, "well": True}) == (
        "| figure | measured |\n|---|---|\n| cycles | 1,200 |\n| lost | 0 |\n"
        "| p99 ms | 12.35 |\n| well | yes |"
    )
