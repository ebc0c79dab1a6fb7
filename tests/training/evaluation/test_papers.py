from types import SimpleNamespace

import pytest

from model.provenance import Provenance, TrainingData
from training.datasets.protocols import PROTOCOLS
from training.papers import paper_rows, paper_tables, papers_table
from training.recipe import read_recipe

# What ends the source, and the row.
MSFF = ["Table I (f) + MSFF", "able II (c) + MSFF", "able IV + MSFF"]


def recipe(name: str, *settings: str) -> dict:
    return read_recipe(name, list(settings)).model_dump(mode="json")


def rows(name: str, *settings: str) -> list[str]:
    stored = recipe(name, *settings)
    return [f"{row.source[-7:]} {row.name}" for row in paper_rows() if row.is_of(stored)]


def provenance(stored: dict, *names: str, splits=("train",), share: float = 0.0) -> Provenance:
    data = tuple(
        TrainingData(
            name=name,
            spec=f"{name}:x",
            terms="",
            crops=9,
            identities=3,
            cameras=2,
            splits=splits,
        )
        for name in names
    )
    return Provenance.model_construct(data=data, recipe=stored, held_out={"fraction": share})


def beside(origin: Provenance, *results: object) -> str:
    return papers_table(origin, results).markdown()


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
    assert papers_table(provenance({}), []).rows == []


def test_a_row_needs_the_data_that_its_paper_trains_on():
    msfl = recipe("msfl-r50")
    assert "81.9 / 92.3" in beside(provenance(msfl, "market1501"))
    assert "75.4 / 85.7" not in beside(provenance(msfl, "market1501"))
    assert "81.9 / 92.3" not in beside(provenance(msfl, "market1501", "msmt17"))
    gmn = recipe("gmn-r50")
    sources = set(PROTOCOLS["P2"].sources) - {"market1501"}
    by_p2 = beside(provenance(gmn, *sources))
    assert "72.3 / 87.1" in by_p2
    assert "75.9 / 89.0" not in by_p2
    by_p3 = beside(provenance(gmn, *sources, splits=("train", "query", "gallery")))
    assert "75.9 / 89.0" in by_p3
    assert "72.3 / 87.1" not in by_p3


def test_a_row_names_the_share_of_people_that_trained():
    assert "of the people" not in beside(provenance(recipe("msfl-r50"), "market1501"))
    part = beside(provenance(recipe("msfl-r50"), "market1501", share=0.15))
    assert "trained on 85% of the people" in part


@pytest.mark.parametrize("version", ["labelled boxes", "detected boxes"])
def test_figures_of_detected_boxes_do_not_stand_beside_labelled_ones(version):
    metrics = {"mAP": SimpleNamespace(mean=0.777), "rank_1": SimpleNamespace(mean=0.888)}
    result = SimpleNamespace(
        name="cuhk03np", version=version, scorings={"cosine": SimpleNamespace(metrics=metrics)}
    )
    found = beside(provenance(recipe("msfl-r50"), "cuhk03np"), result)
    assert ("77.7 / 88.8" in found) is (version == "detected boxes")
    assert "cuhk03np, detected boxes" in found
    other = "measured on labelled boxes, not on detected boxes"
    assert (other in found) is (version == "labelled boxes")


@pytest.mark.parametrize("version", ["labelled boxes", "detected boxes"])
def test_a_run_trained_on_other_boxes_than_the_paper_states_it(version):
    run = provenance(recipe("msfl-r50"), "cuhk03np")
    data = run.data[0].model_copy(update={"spec": f"cuhk03np:x ({version})"})
    found = beside(run.model_copy(update={"data": (data,)}))
    trained = "trained on cuhk03np:x (labelled boxes), not on detected boxes"
    assert (trained in found) is (version == "labelled boxes")


def test_msfls_table_names_the_boxes_of_its_figures():
    rows = paper_tables()["msfl/table4"].rows
    assert [row.figures["cuhk03np"].version for row in rows] == ["detected boxes"] * 5


def test_a_figure_that_several_tables_repeat_stands_there_once_with_all_of_them():
    result = SimpleNamespace(name="market1501", version="", scorings={})
    table = papers_table(provenance(recipe("msfl-r50"), "market1501"), [result])
    (line,) = table.rows
    assert line[-1].count("Table I; ") == line[-1].count("Table II; ") == 1
    assert line[-1].endswith("Table IV")


def test_a_figure_stands_beside_the_ranking_that_the_row_is_measured_by():
    metrics = {"mAP": SimpleNamespace(mean=0.777), "rank_1": SimpleNamespace(mean=0.888)}
    scorings = {"cosine": SimpleNamespace(metrics=metrics)}
    result = SimpleNamespace(name="market1501", version="", scorings=scorings)
    origin = provenance(recipe("msfl-msgr-r50"), "market1501")
    plain, re_ranked = papers_table(origin, [result]).rows
    assert plain[2:4] == ["83.6 / 93.7", "cosine 77.7 / 88.8"]
    assert re_ranked[2:4] == ["89.5 / 94.4", "not measured by k_reciprocal"]
