from training.evaluation.papers_section import papers_section, published_rows

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
