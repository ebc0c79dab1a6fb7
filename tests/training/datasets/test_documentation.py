"""docs/datasets.md describes every kind of data set as the registry knows it."""

import re
from copy import copy
from pathlib import Path

import pytest

from training.datasets import registry
from training.datasets.registry import KINDS

PAGE = (Path(__file__).parents[3] / "docs" / "datasets.md").read_text(encoding="utf-8")


def rows(kind):
    return [
        line
        for line in PAGE.splitlines()
        if line.startswith("|") and f"`{kind.name}`" in line.split("|")[1]
    ]


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_both_tables_have_a_row_of_every_kind(kind):
    layout, source = rows(kind)
    for name, values in kind.options.items():
        assert f"`{name}={values[0]}`" in layout
        assert all(value in layout for value in values)
    for count in kind.published:
        assert count.images is None or f"{count.images:,}" in layout
        assert f"{count.identities:,}" in layout
    assert kind.obtain.split(";")[0].split(",")[0] in source


def test_the_kind_of_one_s_own_on_the_page_is_read(tmp_path, draw_image, monkeypatch):
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names = {}
    exec(example, names)
    monkeypatch.setattr(registry, "KINDS", copy(KINDS))
    names["add"]()
    for name in ("train/12_c1_3", "query/13_c1_1", "gallery/13_c2_1"):
        draw_image(tmp_path / f"{name}.jpg")
    records = registry.read_dataset(f"gate:{tmp_path}").records
    found = [(record.identity, record.camera, record.split) for record in records]
    assert found == [("12", "c1", "train"), ("13", "c1", "query"), ("13", "c2", "gallery")]
