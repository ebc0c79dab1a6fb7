import pytest

from training.papers import paper_rows, paper_tables
from training.recipe import read_recipe

# What ends the source, and the row.
MSFF = ["Table I (f) + MSFF", "able II (c) + MSFF", "able IV + MSFF"]


def recipe(name, *settings):
    return read_recipe(name, list(settings)).model_dump(mode="json")


def rows(name, *settings):
    stored = recipe(name, *settings)
    return [f"{row.source[-7:]} {row.name}" for row in paper_rows() if row.is_of(stored)]


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("msfl-r50", [], MSFF),
        (
            "msfl-r50",
            ["seed=7", "workers=2", "held_out.fraction=0"],
            MSFF,
        ),
        (
            "msfl-r50",
            ["embedder.multiscale.msff=false"],
            ["Table I (e) P2 to P5 with laterals, + CSIP", "able IV + CSIP"],
        ),
        ("msfl-msgr-r50", ["losses.msgr.weight=0"], MSFF),
        ("msfl-r50", ["embedder.multiscale.msff=false", "optimisation.epochs=1"], []),
        ("msfl-msgr-r50", ["losses.msgr.weight=1e-3"], []),
        ("msfl-baseline-r50", ["sampling.order=crops"], []),
        ("gmn-r50", ["losses.pic=0", "metric_network.layers=linear"], []),
        ("gmn-r50", ["embedder.backbone=resnet18"], []),
        ("gmn-r50", ["metric_fit.steps=10"], []),
        ("quick", [], []),
    ],
)
def test_a_papers_row_stands_beside_the_recipe_that_is_the_row_in_every_setting(
    name, settings, expected
):
    assert rows(name, *settings) == expected


def test_an_artefact_without_a_recipe_is_no_papers_row():
    assert not any(row.is_of({}) for row in paper_rows())


def test_msfls_table_names_the_boxes_of_its_figures():
    rows = paper_tables()["msfl/table4"].rows
    assert [row.figures["cuhk03np"].version for row in rows] == ["detected boxes"] * 5
