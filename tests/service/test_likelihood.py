"""Likelihood ratios in answers, through the running service."""

import io
import zipfile
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from gmn_client.models import QueryAnswer
from model.likelihood_ratio import fit_likelihood_ratio, sample_pairs
from tests.service.test_search_calibration import draw
from tests.service.test_times import LOOKS_OFTEN
from tests.waiting import eventually
from training.evaluation.likelihood import cosine_scores

pytestmark = pytest.mark.slow

PEOPLE = 110
CAMERAS = ("entrance", "yard")
OPENED = datetime(2026, 3, 2, 8, tzinfo=UTC)
WALK = timedelta(seconds=120)


@pytest.fixture(scope="module")
def served(start):
    return start(program=LOOKS_OFTEN)


def entered(person):
    return OPENED + timedelta(seconds=200) * person


def fill(served, gallery, people, cameras=CAMERAS):
    """Enroll people whom each camera sees once, two minutes after the one before."""
    for shot, camera in enumerate(cameras):
        images = [draw(person, shot) for person in people]
        names = [f"p{person}" for person in people]
        seen_at = [(entered(person) + shot * WALK).isoformat() for person in people]
        served.enrolled(gallery, *images, identity=names, camera=camera, captured_at=seen_at)


def create(served, gallery, people, cameras=CAMERAS, **settings):
    """Create a gallery that is fitted once, to all of its people."""
    served.create(gallery, calibration="off", **settings)
    fill(served, gallery, people, cameras)
    patched = served.http.patch(f"/v1/galleries/{gallery}", data={"calibration": "on"})
    assert patched.status_code == 200, patched.text
    eventually(lambda: ask(served, gallery, 0)["calibration"]["state"] == "own")
    return gallery


@pytest.fixture(scope="module")
def filled(served):
    return create(served, "evidence", range(PEOPLE), time_evidence="true")


def ask(served, gallery, *people, camera="gate", **fields):
    images = [draw(person, 7) for person in people]
    answer = served.query(gallery, *images, camera=camera, scoring="cosine", **fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def ratios(answer):
    return {result["crop_id"]: result["likelihood_ratio"] for result in answer["results"]}


@pytest.mark.promise("likelihood-ratio")
def test_a_ratio_is_that_of_the_gallerys_own_pairs_as_an_evaluation_computes_it(served, filled):
    answer = ask(served, filled, 3, top_k=2 * PEOPLE, include_vector=True)
    results = answer["results"]
    assert len(results) == 2 * PEOPLE
    # In the order of the people, each by the first camera and then the other.
    results.sort(key=lambda result: (int(result["identity"][1:]), result["camera"]))
    names = np.repeat(np.arange(PEOPLE), 2)
    cameras = np.tile([0, 1], PEOPLE)
    vectors = np.array([result["vector"] for result in results], np.float32)
    pairs = sample_pairs(names, cameras, np.random.default_rng(len(names)))
    fitted = fit_likelihood_ratio(cosine_scores(vectors)(pairs.first, pairs.second), pairs)
    expected = fitted.of(np.array([result["cosine"] for result in results]))
    answered = [result["likelihood_ratio"] for result in results]
    assert answered == pytest.approx(expected.tolist(), rel=1e-3)


def test_each_scoring_has_ratios_of_its_own_that_rise_with_its_score(served, filled):
    answer = served.query(filled, draw(3, 7), scoring="mnet", order="score", top_k=50)
    results = answer.json()["results"]
    logits = [result["pair_logit"] for result in results]
    by_logit = [result["likelihood_ratio"] for result in results]
    assert logits == sorted(logits, reverse=True)
    assert by_logit == sorted(by_logit, reverse=True)
    assert by_logit[0] > 1.0 > by_logit[-1]
    assert set(by_logit) - set(ratios(ask(served, filled, 3, top_k=50)).values())


@pytest.mark.promise("likelihood-ratio")
def test_no_ratio_exceeds_the_number_of_people_and_the_answer_says_how_many_were_searched(
    served, filled
):
    answer = QueryAnswer.model_validate(ask(served, filled, 3, top_k=PEOPLE, cameras="yard"))
    assert (answer.likelihood_people, answer.people_searched) == (PEOPLE, PEOPLE)
    best, *others = answer.results
    assert best.identity == "p3"
    assert best.likelihood_ratio > PEOPLE / 4
    assert all(1.0 / PEOPLE <= other.likelihood_ratio <= PEOPLE for other in others)
    assert sum(other.likelihood_ratio > 1.0 for other in others) < len(others) / 4
    bounds = [answer.is_likelihood_bound(ratio) for ratio in (PEOPLE, 1.0, 1.0 / PEOPLE)]
    assert bounds == [True, False, True]


@pytest.mark.promise("likelihood-ratio")
def test_times_that_move_the_results_do_not_change_a_ratio(served, filled):
    def ask_for_yard(**fields):
        # A search by an own camera's time; the ratios are those of the other camera's crops.
        return ask(served, filled, 500, camera="entrance", cameras="yard", top_k=PEOPLE, **fields)

    def with_times():
        return ask_for_yard(captured_at=entered(7).isoformat())

    eventually(lambda: "time_log_odds" in with_times()["results"][0])
    by_times = with_times()
    by_appearance = ask_for_yard()
    assert list(ratios(by_times)) != list(ratios(by_appearance))
    assert ratios(by_times) == ratios(by_appearance)
    assert None not in ratios(by_times).values()
    assert by_times["likelihood_people"] == by_appearance["likelihood_people"]


def test_crops_of_the_querys_own_camera_and_searches_by_several_pictures_have_no_ratio(
    served, filled
):
    by_yard = ask(served, filled, 3, camera="yard", top_k=2 * PEOPLE)["results"]
    assert {result["camera"] for result in by_yard} == set(CAMERAS)
    for result in by_yard:
        assert (result["likelihood_ratio"] is None) == (result["camera"] == "yard")

    several = ask(served, filled, 3, 4)
    assert several["likelihood_people"] is None
    assert set(ratios(several).values()) == {None}
    apart = ask(served, filled, 3, 4, mode="separate")["results"]
    assert [answer["likelihood_people"] for answer in apart] == [PEOPLE, PEOPLE]


def test_a_kept_search_has_the_ratios_of_its_time(served, filled):
    kept = ask(served, filled, 3, keep="true")
    opened = served.read(f"/v1/galleries/{filled}/queries/{kept['query_id']}")["answer"]
    assert opened["likelihood_people"] == kept["likelihood_people"]
    assert ratios(opened) == ratios(kept)
    assert None not in ratios(kept).values()


def test_the_exported_page_of_a_case_says_the_ratio_of_a_confirmed_pair(served, filled):
    kept = ask(served, filled, 3, keep="true")
    best = kept["results"][0]
    with served.connect(gallery=filled) as client:
        client.review(kept["query_id"], best["crop_id"], decision="confirmed")
        case_id = client.create_case("Bag at gate 3").case_id
        client.hold_search(case_id, kept["query_id"])
        archive = zipfile.ZipFile(io.BytesIO(client.export_case(case_id)))
    page = " ".join(archive.read("index.html").decode().split())
    times = f"{best['likelihood_ratio']:.3g} times as probable if both pictures show one person"
    assert times in page
    assert f"fitted to {PEOPLE} people, and {PEOPLE} people were searched" in page


@pytest.mark.promise("likelihood-ratio")
def test_ratios_come_with_the_100th_named_person_and_go_with_that_person(served):
    gallery = create(served, "growing", range(99))
    answer = ask(served, gallery, 0)
    assert answer["likelihood_people"] is None
    assert set(ratios(answer).values()) == {None}

    # Both crops at once: a fit after the first one would find no pair of this person.
    images = [draw(99, shot) for shot in range(len(CAMERAS))]
    served.enrolled(gallery, *images, identity=["p99"] * len(CAMERAS), camera=CAMERAS)
    eventually(lambda: ask(served, gallery, 0)["likelihood_people"] == 100)
    forgotten = served.http.delete(f"/v1/galleries/{gallery}/identities/p99")
    assert forgotten.status_code == 200, forgotten.text
    eventually(lambda: ask(served, gallery, 0)["likelihood_people"] is None)


def test_people_whom_one_camera_alone_has_seen_have_no_ratio(served):
    gallery = create(served, "one.camera", range(PEOPLE), cameras=("yard",))
    assert ask(served, gallery, 0)["likelihood_people"] is None
