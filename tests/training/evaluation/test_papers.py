from types import SimpleNamespace

import pytest

from model.provenance import Provenance, TrainingData
from training.datasets.protocols import PROTOCOLS
from training.evaluation.papers import papers_table, published_rows
from training.recipe import read_recipe


def recipe(name: str, *settings: str) -> dict:
    return read_recipe(name, list(settings)).model_dump(mode="json")


def rows(name: str, *settings: str) -> list[str]:
    return [row.row for row in published_rows(recipe(name, *settings))]


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
    return papers_table([("ours", origin, results)]).markdown()


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("msfl-r50", [], ["(f) + MSFF"]),
        ("msfl-r50", ["seed=7", "workers=2"], ["(f) + MSFF"]),
        ("msfl-r50", ["embedder.multiscale.msff=false"], ["(e) + CSIP"]),
        ("msfl-r50", ["embedder.multiscale.msff=false", "optimisation.epochs=1"], []),
        ("msfl-msgr-r50", ["losses.gradient_regulariser.weight=0"], []),
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
    assert published_rows({}) == []
    assert papers_table([("ours", provenance({}), [])]).rows == []


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


def test_the_recipes_name_the_boxes_of_their_papers_figures():
    for name in ("msfl-r50", "msfl-msgr-r50", "msfl-baseline-r50"):
        for row in read_recipe(name).published:
            if "cuhk03np" in row.results:
                assert row.results["cuhk03np"].version == "detected boxes"
