from types import SimpleNamespace

from training.evaluation.papers_section import papers_section, published_rows
from training.recipe import read_recipe

RECIPE = {
    "losses": {"gmn": 0.0, "regulariser": {"weight": 0.01}},
    "published": [
        {
            "row": "full",
            "source": "Table I",
            "results": {"market1501": {"mean_average_precision": 83.6, "rank_1": 93.7}},
        },
        {
            "row": "without",
            "source": "Table I",
            "setting": "losses.regulariser=none",
            "results": {"market1501": {"mean_average_precision": 81.9, "rank_1": None}},
        },
    ],
}


def test_a_recipe_as_written_is_the_row_that_names_no_setting():
    assert [row["row"] for row in published_rows(RECIPE)] == ["full"]
    assert published_rows({"losses": {}}) == []


def test_a_setting_makes_another_row():
    without = RECIPE | {"losses": {"gmn": 0.0, "regulariser": None}}
    assert [row["row"] for row in published_rows(without)] == ["without"]


def test_a_papers_figures_stand_beside_what_was_measured():
    html = papers_section([("ours", RECIPE, [])])
    assert "83.6 / 93.7" in html
    assert "Table I" in html
    assert "81.9" not in html
    assert papers_section([("ours", {}, [])]) == ""


def test_figures_of_detected_boxes_do_not_stand_beside_labelled_ones():
    figures = {"mean_average_precision": 61.2, "rank_1": 65.1, "version": "detected boxes"}
    row = {"row": "full", "source": "Table IV", "results": {"cuhk03np": figures}}
    scorings = {
        "cosine": SimpleNamespace(
            metrics={"mAP": SimpleNamespace(mean=0.777), "rank_1": SimpleNamespace(mean=0.888)}
        )
    }
    for version, stands in (("labelled boxes", False), ("detected boxes", True)):
        result = SimpleNamespace(name="cuhk03np", version=version, scorings=scorings)
        html = papers_section([("ours", {"published": [row]}, [result])])
        assert ("77.7 / 88.8" in html) is stands
        assert "cuhk03np, detected boxes" in html
        assert ("measured on labelled boxes, not on detected boxes" in html) is not stands


def test_the_recipes_name_the_boxes_of_their_papers_figures():
    for name in ("msfl-r50", "msfl-msgr-r50", "msfl-baseline-r50"):
        for row in read_recipe(name).published:
            if "cuhk03np" in row.results:
                assert row.results["cuhk03np"].version == "detected boxes"
