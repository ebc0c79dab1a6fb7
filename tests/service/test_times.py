"""Times as evidence, through the running service: learned from the gallery's own crops."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from tests.service.conftest import START
from tests.service.test_search_calibration import draw
from tests.waiting import eventually

PEOPLE = 80
OPENED = datetime(2026, 3, 2, 8, tzinfo=UTC)
# Seconds from the entrance to the yard.
WALK = 120.0
SPREAD = 10.0
LOOKS_OFTEN = (
    "from service.search import refit; refit.LOOK_EVERY_SECONDS = 0.1\n"
    "from service.visits import learned_times; learned_times.LOOK_EVERY_SECONDS = 0.1\n"
    f"{START}"
)


@pytest.fixture(scope="module")
def served(start):
    return start(program=LOOKS_OFTEN)


def arrivals():
    """Return the time of each person at the entrance, and at the yard."""
    random = np.random.default_rng(4)
    at_entrance = random.uniform(0.0, 8 * 3600.0, PEOPLE)
    at_yard = at_entrance + random.normal(WALK, SPREAD, PEOPLE)
    return [[OPENED + timedelta(seconds=s) for s in times] for times in (at_entrance, at_yard)]


def fill(served, gallery, named=True):
    """Enroll people who walk from the entrance to the yard."""
    names = {"identity": [f"p{person}" for person in range(PEOPLE)]} if named else {}
    for shot, (camera, times) in enumerate(zip(("entrance", "yard"), arrivals(), strict=True)):
        images = [draw(person, shot) for person in range(PEOPLE)]
        captured = [moment.isoformat() for moment in times]
        answer = served.enroll(gallery, *images, camera=camera, captured_at=captured, **names)
        assert answer.status_code == 201, answer.text
    return gallery


def ask(served, gallery, image, seconds=None, **fields):
    """Search by a picture of the entrance, taken `seconds` after it opened."""
    if seconds is not None:
        fields["captured_at"] = (OPENED + timedelta(seconds=seconds)).isoformat()
    answer = served.query(
        gallery, image, camera="entrance", scoring="cosine", cameras="yard", **fields
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


def has_learned(served, gallery):
    answer = ask(served, gallery, draw(0, 5), 0.0)
    return "time_log_odds" in answer["results"][0]


def entered(person):
    return (arrivals()[0][person] - OPENED).total_seconds()


def scores(answer):
    """Return what does not depend on when the answer was given."""
    return [
        (crop["crop_id"], crop["cosine"], crop["probability"], crop["verdict"])
        for crop in answer["results"]
    ]


@pytest.mark.slow
def test_who_comes_at_the_usual_time_rises_and_the_answer_says_by_how_much(served):
    gallery = fill(served, served.create("walk", time_evidence="true"))
    eventually(lambda: has_learned(served, gallery))

    stranger = draw(500, 1)
    without = ask(served, gallery, stranger, top_k=PEOPLE)
    usual = ask(served, gallery, stranger, entered(7), top_k=PEOPLE)
    rank = {crop["identity"]: crop["rank"] for crop in without["results"]}
    moved = {crop["identity"]: crop for crop in usual["results"]}
    assert moved["p7"]["time_log_odds"] > 1.0
    assert moved["p7"]["rank"] < rank["p7"]
    assert min(crop["time_log_odds"] for crop in usual["results"]) < 0.0
    # Its appearance is reported as it was.
    cosines = {crop["identity"]: crop["cosine"] for crop in without["results"]}
    assert moved["p7"]["cosine"] == cosines["p7"]

    found = ask(served, gallery, draw(7, 5), entered(7))["results"][0]
    assert (found["identity"], found["verdict"]) == ("p7", "match")
    crop_id = served.found(gallery, draw(7, 0), top_k=1, cameras="entrance")[0]
    by_crop = served.query(gallery, crop_id=crop_id, cameras="yard", scoring="cosine").json()
    assert by_crop["results"][0]["time_log_odds"] > 1.0


@pytest.mark.promise("times-off")
@pytest.mark.slow
def test_without_the_setting_or_a_time_results_are_those_of_appearance_to_the_last_bit(
    served,
):
    gallery = fill(served, served.create("appearance"))
    image = draw(7, 5)
    before = ask(served, gallery, image, entered(30))
    assert "time_log_odds" not in before["results"][0]

    def change(**fields):
        answer = served.http.patch(f"/v1/galleries/{gallery}", data=fields)
        assert answer.status_code == 200, answer.text
        return answer.json()["time_evidence"]

    assert change(time_evidence="true", calibration="off") is True
    eventually(lambda: has_learned(served, gallery))
    without_time = ask(served, gallery, image)
    kept = ask(served, gallery, image, entered(30), keep="true")
    assert change(time_evidence="false") is False
    off = ask(served, gallery, image, entered(30))
    for answer in (without_time, kept, off):
        assert "time_log_odds" not in answer["results"][0]
        assert [row[:2] for row in scores(answer)] == [row[:2] for row in scores(before)]
    assert scores(without_time) == scores(off)


@pytest.mark.slow
def test_a_gallery_without_names_learns_too(served):
    gallery = fill(served, served.create("unnamed", time_evidence="true"), named=False)
    eventually(lambda: has_learned(served, gallery))
    found = ask(served, gallery, draw(7, 5), entered(7))["results"][0]
    assert found["time_log_odds"] > 1.0
