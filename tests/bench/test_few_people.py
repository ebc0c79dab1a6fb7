"""Galleries of few people: who is drawn, and what is counted."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from bench import few_people, figures
from bench.few_people import draw_galleries
from model.problems import InputProblem
from training.datasets.record import CropRecord

DATA = "synthetic:3,identities=40,domains=1,cameras=2,crops=2"


def _crops() -> list[CropRecord]:
    return [
        CropRecord(f"{person}{camera}{shot}", "set", str(person), camera, "set")
        for person in range(10)
        for camera in ("a", "b")
        for shot in range(3)
    ]


def test_a_gallery_has_two_crops_of_each_person_and_the_other_camera_searches_it():
    crops = _crops()
    for draw in draw_galleries(crops, size=3, number=5):
        gallery = [crops[place] for place in draw.gallery]
        searches = [crops[place] for place in draw.searches]
        assert {crop.identity for crop in gallery} == draw.members
        assert (len(draw.members), len(gallery), len(searches)) == (3, 6, 30)
        assert len({crop.camera for crop in gallery}) == 1
        assert not {crop.camera for crop in gallery} & {crop.camera for crop in searches}


def test_alarms_are_of_strangers_and_an_enrolled_person_is_found_in_the_first_place():
    judged = [
        (0, "s1", False, True, False, 0.9, 0.6),
        *((0, f"s{number}", False, False, False, 0.1, 0.0) for number in range(2, 5)),
        (0, "k1", True, True, True, 0.95, 1.0),
        (0, "k2", True, True, False, 0.99, 1.0),
    ]
    columns = ["gallery", "identity", "known", "matched", "right", "score", "probability"]
    found = few_people.figures(pd.DataFrame(judged, columns=columns))
    assert (found["strangers"], found["members"], found["galleries"]) == (4, 2, 1)
    assert (found["obtained"][0], found["found"], found["best"]) == (0.25, 0.5, 0.5)
    assert (found["least"], found["error"]) == (0.6, 0.325)


@pytest.mark.slow
def test_an_artefact_that_held_out_nobody_is_refused(tmp_path):
    with pytest.raises(InputProblem, match="held out no people"):
        few_people.main("open", [DATA], tmp_path / "few.json", galleries=1)


@pytest.mark.slow
def test_held_out_people_are_measured_and_become_a_table(tiny_artefact, tmp_path):
    out = tmp_path / "few.json"
    few_people.main(str(tiny_artefact), [DATA], out, galleries=2)
    rows = json.loads(out.read_text())
    assert [(row["scoring"], row["size"]) for row in rows[:2]] == [("cosine", 1), ("mnet", 1)]
    assert "K = 17" in figures.markdown(rows)
