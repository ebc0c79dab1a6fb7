"""A gallery's thresholds follow its own searches, through the running service."""

import itertools
import time
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from service.search import refit
from tests.outside import bearer, encoded
from tests.service.conftest import START, files
from tests.waiting import eventually

BANDS = 8
ENROLLED = range(80)
STRANGERS = range(200, 240)
LEAST = 20
# As many as a request may have, so that the first fit is made for all of them.
ENROLLED_AT_ONCE = 128
LOOKS_OFTEN = f"from service.search import refit; refit.LOOK_EVERY_SECONDS = 0.1; {START}"


def draw(person, shot):
    """Draw a person in eight stripes of their own colours, with the noise of one shot."""
    colours = np.random.default_rng((9, person))
    noise = np.random.default_rng((9, person, shot))
    pixels = np.full((96, 48, 3), 118, np.float64)
    edges = np.linspace(4, 92, BANDS + 1).astype(int)
    for top, bottom in itertools.pairwise(edges):
        pixels[top:bottom, 8:40] = colours.integers(20, 236, 3)
    noisy = np.clip(pixels + noise.normal(0, 4, pixels.shape), 0, 255)
    return encoded(Image.fromarray(noisy.astype(np.uint8)))


def fill(served, gallery, people=ENROLLED, shots=(0,), named=True, **fields):
    crops = [(person, shot) for person in people for shot in shots]
    for first in range(0, len(crops), ENROLLED_AT_ONCE):
        part = crops[first : first + ENROLLED_AT_ONCE]
        names = {"identity": [str(person) for person, _ in part]} if named else {}
        answer = served.enroll(gallery, *(draw(*crop) for crop in part), **names, **fields)
        assert answer.status_code == 201, answer.text
    return gallery


def ask(served, gallery, person, shot=7, scoring="cosine", **fields):
    answer = served.query(gallery, draw(person, shot), scoring=scoring, **fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def verdicts(served, gallery, people, **fields):
    return Counter(ask(served, gallery, person, **fields)["verdict"] for person in people)


def state(served, gallery, scoring="cosine"):
    described = served.read(f"/v1/galleries/{gallery}")
    return described["calibration"]["scorings"][scoring]


def fitted(served, gallery, scoring="cosine", searches=0):
    def enough():
        now = state(served, gallery, scoring)
        return now["state"] == "own" and now["searches"] >= searches

    eventually(enough)
    return state(served, gallery, scoring)


def shown_state(answer):
    return answer["calibration"]["state"], answer["calibration"]["reason"]


def change(served, gallery, **fields):
    answer = served.http.patch(f"/v1/galleries/{gallery}", data=fields)
    assert answer.status_code == 200, answer.text
    return answer.json()["calibration"]["scorings"]["cosine"]


@pytest.fixture(scope="module")
def served(start):
    """Serve the tiny artefact, without the two seconds between looks for galleries to fit."""
    return start(program=LOOKS_OFTEN)


@pytest.fixture(scope="module")
def small(open_service):
    """Serve a shipped artefact, whose own scores tell drawn people apart."""
    return open_service(artefact="small", runtime="openvino")


@pytest.mark.slow
def test_the_first_fit_follows_the_18th_name_soon_without_a_search(small):
    # The galleries are looked at each time after this pause.
    assert refit.LOOK_EVERY_SECONDS <= 5.0
    gallery = fill(small, small.create("named"), range(17))
    time.sleep(3.0)
    before = state(small, gallery)
    assert (before["state"], before["reason"]) == ("artefact", "few_identities")
    fill(small, gallery, range(17, 18))
    eventually(lambda: state(small, gallery, "mnet")["state"] == "own")
    for scoring in ("cosine", "mnet"):
        now = state(small, gallery, scoring)
        assert (now["identities"], now["crops"], now["searches"]) == (18, 18, 0)
        assert now["basis"] == "Thresholds from 18 named people in this gallery."


def test_the_basis_says_of_how_many_people_the_thresholds_are(served, gallery):
    fill(served, gallery, range(40))
    eventually(lambda: state(served, gallery)["identities"] == 40)
    change(served, gallery, calibration="frozen")
    fill(served, gallery, range(40, 41))
    before = ask(served, gallery, 3)["calibration"]
    assert before["basis"] == "Thresholds from 40 of 41 named people in this gallery, frozen."
    assert (before["identities"], before["identities_now"]) == (40, 41)
    change(served, gallery, calibration="on")
    # One person is far less than a fifth of them.
    eventually(lambda: state(served, gallery)["identities"] == 41)
    assert state(served, gallery)["basis"] == "Thresholds from 41 named people in this gallery."
    change(served, gallery, calibration="frozen")
    for person in (39, 40):
        forgotten = served.http.delete(f"/v1/galleries/{gallery}/identities/{person}")
        assert forgotten.status_code == 200, forgotten.text
    after = state(served, gallery)
    assert after["basis"] == (
        "Thresholds from 41 named people in this gallery, which has 39 now, frozen."
    )
    change(served, gallery, calibration="on")
    eventually(lambda: state(served, gallery)["identities"] == 39)


@pytest.mark.parametrize("asked", [range(60), range(300, 360)], ids=["enrolled", "strangers"])
@pytest.mark.promise("thresholds-of-names")
@pytest.mark.slow
def test_as_many_enrolled_people_are_found_whoever_was_searched_for(small, asked):
    gallery = fill(small, small.create(f"after.{asked[0]}"))
    eventually(lambda: state(small, gallery)["identities"] == 80)
    before = state(small, gallery)
    found = verdicts(small, gallery, range(60, 80))
    assert found["no_match"] == 0, found
    strangers = verdicts(small, gallery, STRANGERS)
    assert strangers["match"] <= 2, strangers

    verdicts(small, gallery, asked)
    # A fit to searches would follow within this time.
    time.sleep(2.0 * refit.STORED_WITHIN_SECONDS)
    assert state(small, gallery) == before
    assert verdicts(small, gallery, range(60, 80)) == found


@pytest.mark.promise("thresholds-of-names")
def test_crops_of_a_persons_own_camera_count_as_those_of_any_other(served):
    probabilities = []
    for cameras in ((None, None), ("west", "east")):
        gallery = served.create("cameras" if cameras[0] else "no.cameras")
        # Spreads of cameras would move the probabilities.
        change(served, gallery, calibration="off", centring="off")
        for shot, camera in enumerate(cameras):
            fill(served, gallery, range(60), (shot,), **({"camera": camera} if camera else {}))
        change(served, gallery, calibration="on")
        fitted(served, gallery)
        answers = [ask(served, gallery, person)["results"][0] for person in (3, 300, 301)]
        probabilities.append([best["probability"] for best in answers])
    # Features vary in their last digits with the batch of the images.
    assert probabilities[0] == pytest.approx(probabilities[1], rel=1e-5)


def test_a_gallery_without_names_finds_its_people_too(served, gallery):
    fill(served, gallery, range(120), named=False)
    verdicts(served, gallery, range(60))
    assert fitted(served, gallery)["reason"] is None
    found = verdicts(served, gallery, range(60, 80))
    assert found["no_match"] <= 1, found


def test_a_picture_keeps_its_verdict_while_one_version_is_in_force(served, gallery):
    fill(served, gallery)
    seen = {}
    for person in range(45):
        ask(served, gallery, person)
        again = ask(served, gallery, 70)
        best = again["results"][0]
        assert again["calibration"]["version"] == again["calibration_version"]
        told = (again["verdict"], best["verdict"], best["probability"])
        assert seen.setdefault(again["calibration_version"], told) == told


def test_before_the_first_fit_an_answer_names_the_artefacts_thresholds(served, gallery):
    fill(served, gallery, range(80), named=False)
    answer = ask(served, gallery, 0)
    assert shown_state(answer) == ("artefact", "not_fitted")
    assert answer["calibration_version"] == served.read("/v1/model")["calibration_version"]
    assert "until 18 people are named" in answer["calibration"]["basis"]


SEVERAL = "They are for 3 pictures together."
ONE = "They are those of one picture, until 18 people in this gallery have several."


@pytest.mark.parametrize(
    ("people", "shots", "note"),
    [(30, range(4), SEVERAL), (30, range(1), ONE), (10, range(4), ONE)],
    ids=["several crops a person", "one crop a person", "few people"],
)
def test_the_basis_says_whether_thresholds_are_those_of_several_pictures(
    served, gallery, people, shots, note
):
    fill(served, gallery, range(people), shots, camera="east")
    for scoring, person in itertools.product(("cosine", "mnet"), (3, 200)):
        if people >= 18:
            fitted(served, gallery, scoring)
        pictures = [draw(person, shot) for shot in (7, 8, 9)]
        alone = ask(served, gallery, person, scoring=scoring)["calibration"]
        answer = served.query(gallery, *pictures, scoring=scoring).json()
        assert answer["calibration"].pop("basis") == f"{alone.pop('basis')} {note}"
        code = "pictures_together" if note == SEVERAL else "one_picture"
        assert (alone.pop("notes"), answer["calibration"].pop("notes")) == ([], [code])
        assert answer["calibration"] == alone
        for crop in answer["results"]:
            assert crop["verdict"] == verdict_of(crop["probability"], "far_1e-2")


# Probabilities of scores that a tenth, a hundredth and a thousandth of strangers reach.
PROBABILITIES = {"far_1e-1": 0.54286, "far_1e-2": 0.91644, "far_1e-3": 0.98675}


def verdict_of(probability, operating_point):
    if probability >= PROBABILITIES[operating_point]:
        return "match"
    return "uncertain" if probability >= PROBABILITIES["far_1e-1"] else "no_match"


@pytest.mark.promise("verdict-intervals")
@pytest.mark.parametrize("people", [1, 3, 5, 10, 17])
def test_a_match_among_few_people_has_a_probability_above_one_half(served, gallery, people):
    fill(served, gallery, range(people), shots=(0, 1))
    shown = [draw(person, 7) for person in (0, 200, 201, 202)]
    images = files(draw(0, 0), draw(0, 7))
    judged = Counter()
    for scoring, point in itertools.product(("cosine", "mnet"), PROBABILITIES):
        asked = {"scoring": scoring, "operating_point": point}
        answers = served.search(gallery, *shown, mode="separate", top_k=2 * people, **asked)
        for answer in answers:
            assert answer["verdict"] == answer["results"][0]["verdict"]
            for crop in answer["results"]:
                assert crop["verdict"] == verdict_of(crop["probability"], point), crop
                judged[crop["verdict"]] += 1
        fields = {"gallery": gallery, **asked}
        pair = served.http.post("/v1/pairs", files=images, data=fields).json()
        assert pair["verdict"] == verdict_of(pair["probability"], point), pair
        judged[f"pair {pair['verdict']}"] += 1
    assert judged["match"] > 0, judged
    assert judged["pair match"] > 0, judged


def test_a_shallow_search_is_judged_by_the_artefact(served, gallery):
    fitted(served, fill(served, gallery), "mnet")
    shallow = ask(served, gallery, 0, scoring="mnet", rerank_depth=5)
    assert shown_state(shallow) == ("artefact", "shallow_search")
    # With every crop scored no search is shallow.
    deep = ask(served, gallery, 0, scoring="mnet", rerank_depth=80)
    assert shown_state(deep) == ("own", None)


def test_a_search_that_scores_fewer_than_nine_people_is_judged_by_the_artefact(served, gallery):
    fitted(served, fill(served, gallery, range(20), camera="east"))
    # Counted apart, and scored as one person.
    fill(served, gallery, [400], range(20), named=False, camera="west")
    answer = ask(served, gallery, 3, cameras="west")
    assert shown_state(answer) == ("artefact", "few_scored")
    assert answer["results"][0]["verdict"] is not None


def test_a_pair_judged_by_a_gallery_has_the_thresholds_of_a_standard_search(served, gallery):
    fitted(served, fill(served, gallery))
    frozen = change(served, gallery, calibration="frozen")

    def pair(person):
        images = files(draw(person, 7), draw(3, 0))
        fields = {"scoring": "cosine", "gallery": gallery}
        return served.http.post("/v1/pairs", files=images, data=fields).json()

    same = pair(3)
    others = [pair(person) for person in range(200, 210)]
    assert (same["judged_as"], same["verdict"]) == ("search", "match")
    assert same["calibration"] | {"reason": None} == frozen
    assert {other["verdict"] for other in others} == {"no_match"}
    assert same["probability"] > 0.5 > max(other["probability"] for other in others)


def test_a_pair_without_a_gallery_is_judged_as_a_pair(served):
    images = files(draw(0, 0), draw(0, 1))
    pair = served.http.post("/v1/pairs", files=images).json()
    assert (pair["judged_as"], "calibration" in pair) == ("pair", False)
    for fields, status in (({"operating_point": "far_1e-2"}, 422), ({"gallery": "nowhere"}, 404)):
        assert served.http.post("/v1/pairs", files=images, data=fields).status_code == status


@pytest.mark.slow
def test_freeze_reset_and_off(served, gallery):
    fitted(served, fill(served, gallery))
    own = fitted(served, gallery)
    frozen = change(served, gallery, calibration="frozen")
    assert (frozen["state"], frozen["version"]) == ("frozen", own["version"])
    assert frozen["basis"].endswith(" named people in this gallery, frozen.")
    fill(served, gallery, range(80, 150))
    verdicts(served, gallery, STRANGERS)
    on = change(served, gallery, calibration="on")
    assert (on["searches"], on["identities"]) == (own["searches"], own["identities"])
    eventually(lambda: state(served, gallery)["identities"] == 150)
    reset = change(served, gallery, calibration="reset")
    assert (reset["state"], reset["searches"]) == ("artefact", 0)
    assert fitted(served, gallery)["searches"] == 0
    off = change(served, gallery, calibration="off")
    assert (off["state"], off["reason"], off["searches"]) == ("off", None, 0)
    verdicts(served, gallery, range(40))
    time.sleep(1.0)
    assert state(served, gallery) == off
    on = change(served, gallery, calibration="on")
    assert (on["state"], on["searches"]) == ("artefact", 0)
    assert fitted(served, gallery)["identities"] == 150


@pytest.mark.slow
def test_equal_galleries_of_two_services_answer_with_equal_probabilities(start, served):
    people = range(60)
    answers = []
    for service in (served, start(program=LOOKS_OFTEN)):
        gallery = service.create("equal")
        change(service, gallery, calibration="off")
        # Of four pictures of a person, a fit takes three.
        fill(service, gallery, people, shots=range(4))
        change(service, gallery, calibration="on")
        fitted(service, gallery)
        change(service, gallery, calibration="frozen")
        best = [ask(service, gallery, person)["results"][0] for person in (3, 300, 301)]
        answers.append([row["probability"] for row in best])
    # Features vary in their last digits with the batch of the images.
    assert answers[0] == pytest.approx(answers[1], rel=1e-5)


def test_the_pictures_of_one_passage_count_once(served, gallery):
    fill(served, gallery, named=False)
    for shot in range(LEAST + 5):
        ask(served, gallery, 0, shot)
    for person in range(1, LEAST):
        ask(served, gallery, person)
    assert fitted(served, gallery)["searches"] == LEAST


def test_other_ways_of_asking_are_answered_and_not_kept(served, gallery):
    fill(served, gallery, named=False)
    crop = ask(served, gallery, 0)["results"][0]["crop_id"]
    change(served, gallery, calibration="reset")
    for person in range(1, LEAST + 5):
        served.search(gallery, draw(person, 7), draw(person, 8), scoring="cosine")
    served.search(gallery, crop_id=crop, scoring="cosine")
    verdicts(served, gallery, range(LEAST))
    assert fitted(served, gallery)["searches"] == LEAST


def test_every_way_of_asking_is_judged_by_its_own_level(served, gallery):
    fitted(served, fill(served, gallery, shots=(0, 1)))
    crop = ask(served, gallery, 5)["results"][0]["crop_id"]
    images = [draw(3, 7), draw(3, 8)]
    answers = [
        served.query(gallery, crop_id=crop, scoring="cosine").json(),
        served.query(gallery, *images, scoring="cosine").json(),
        *served.search(gallery, *images, scoring="cosine", mode="separate"),
    ]
    for answer in answers:
        assert shown_state(answer) == ("own", None)
        assert answer["verdict"] in ("match", "uncertain")


@pytest.mark.slow
def test_what_was_learnt_survives_a_kill(start, tmp_path):
    served = start(data_dir=tmp_path, program=LOOKS_OFTEN)
    fill(served, "default", named=False)
    verdicts(served, "default", range(LEAST))
    before = fitted(served, "default", searches=LEAST)
    served.kill()
    assert state(start(data_dir=tmp_path), "default") == before


@pytest.mark.slow
def test_a_key_that_does_not_learn_is_answered_and_changes_nothing(open_service):
    served = open_service()
    _, admin = served.make_key("admin")
    served.http.headers.update(admin)
    made = served.http.post("/v1/keys", data={"scopes": "query", "learn": "false"}).json()
    guest = bearer(made["key"])
    fill(served, "default", named=False)
    for headers, people in ((guest, range(300, 300 + 2 * LEAST)), (admin, range(LEAST))):
        served.http.headers.update(headers)
        verdicts(served, "default", people)
    assert fitted(served, "default")["searches"] == LEAST
