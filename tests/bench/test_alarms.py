"""Galleries of people through a running service: the drawn people and the counts."""

import json

import pandas as pd
import pytest

from bench import alarms, figures
from bench.alarms import draw_gallery
from model.problems import InputProblem

DATA = "synthetic:3,identities=20,domains=1,cameras=4,crops=5"


@pytest.fixture(scope="module")
def crops():
    """30 people under four cameras, eight crops in each."""
    labels = [(f"p{person}", f"c{camera}") for person in range(30) for camera in range(4)] * 8
    frame = pd.DataFrame(labels, columns=["identity", "camera"])
    return frame.assign(crop_id=frame.index)


def test_searches_show_one_person_under_cameras_that_enroll_nobody(crops):
    enrolled, searches = draw_gallery(crops, 10, 4, seed=0)
    members = set(enrolled.identity)
    assert (len(members), len(enrolled)) == (10, 10 * 2 * 4)
    assert all(group.identity.nunique() == 1 for group in searches)
    assert not set(pd.concat(searches).camera) & set(enrolled.camera)
    for pictures in alarms.PICTURES:
        groups = [group for group in searches if len(group) == pictures]
        assert len(groups) == 30 * alarms.SEARCHES_OF_A_PERSON
    assert set(draw_gallery(crops, 10, 4, seed=1)[0].identity) != members


@pytest.mark.parametrize(("enrolled_by", "cameras"), [("own camera", 2), ("both", 4)])
def test_the_searching_cameras_enroll_other_crops_than_those_that_search(
    crops, enrolled_by, cameras
):
    enrolled, searches = draw_gallery(crops, 10, 4, 0, enrolled_by)
    searching = pd.concat(searches)
    assert len(enrolled) == 10 * cameras * 4
    assert set(searching.camera) <= set(enrolled.camera)
    assert not set(searching.index) & set(enrolled.index)


def test_alarms_are_of_strangers_and_an_enrolled_person_is_found_in_the_first_place():
    judged = [
        ("g", "s1", False, True, False, 0.9),
        *(("g", f"s{number}", False, False, False, 0.1) for number in range(2, 5)),
        ("g", "k1", True, True, True, 0.95),
        ("g", "k2", True, True, False, 0.99),
    ]
    columns = ["gallery", "identity", "known", "matched", "right", "score"]
    found = alarms.figures(pd.DataFrame(judged, columns=columns))
    assert found["strangers"] == 4
    assert (found["obtained"][0], found["found"], found["best"]) == (25.0, 50.0, 50.0)


def test_without_a_search_for_members_nothing_is_said_of_who_is_found():
    judged = [("g", f"s{number}", False, False, False, 0.1) for number in range(4)]
    columns = ["gallery", "identity", "known", "matched", "right", "score"]
    counted = alarms.figures(pd.DataFrame(judged, columns=columns))
    assert (counted["found"], counted["best"]) == (None, None)
    row = {
        "artefact": "a",
        "data": "d",
        "enrolled_by": "both",
        "crops": 4,
        "pictures": 4,
        "size": 5,
    }
    assert "0.0 [0.0-0.0] · –" in figures.TABLES["alarms"]([row | counted])


@pytest.mark.slow
def test_an_artefact_that_held_out_nobody_is_refused():
    with pytest.raises(InputProblem, match="held out no people"):
        alarms.main("open", DATA)


@pytest.mark.slow
def test_a_service_is_started_and_searched(tiny_artefact, capsys, monkeypatch):
    monkeypatch.setenv("GMN_DEVICE", "cpu")
    monkeypatch.setenv("GMN_RUNTIME", "torch")
    monkeypatch.setattr(alarms, "SIZES_OF", {"other cameras": (1, 9), "both": (9,)})
    alarms.main(str(tiny_artefact), DATA, test=True, galleries=1)
    rows = json.loads(capsys.readouterr().out)["results"]
    assert [row["size"] for row in rows] == [1, 1, 9, 9] * 2 + [9, 9] * 2
    for row in rows:
        rate, low, high = row["obtained"]
        assert 0.0 <= low <= rate <= high <= 100.0
