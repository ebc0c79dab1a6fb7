"""A gallery's thresholds follow its own searches, through the running service."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import time
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from tests.service.conftest import files
from tests.waiting import eventually

BANDS = 8
ENROLLED = range(80)
STRANGERS = range(200, 240)
LEAST = 20


def draw(person: int, shot: int) -> bytes:
    """Draw a person in eight stripes of their own colours, with the noise of one shot."""
    colours = np.random.default_rng((9, person))
    noise = np.random.default_rng((9, person, shot))
    pixels = np.full((96, 48, 3), 118, np.float64)
    edges = np.linspace(4, 92, BANDS + 1).astype(int)
    for top, bottom in itertools.pairwise(edges):
        pixels[top:bottom, 8:40] = colours.integers(20, 236, 3)
    file = io.BytesIO()
    noisy = np.clip(pixels + noise.normal(0, 4, pixels.shape), 0, 255)
    Image.fromarray(noisy.astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def fill(
    served, gallery: str, people=ENROLLED, shots=(0,), named: bool = True, **fields: str
) -> str:
    crops = [(person, shot) for person in people for shot in shots]
    for first in range(0, len(crops), 20):
        part = crops[first : first + 20]
        names = {"identity": [str(person) for person, _ in part]} if named else {}
        answer = served.enroll(gallery, *(draw(*crop) for crop in part), **names, **fields)
        assert answer.status_code == 201, answer.text
    return gallery


def ask(served, gallery: str, person: int, shot: int = 7, scoring: str = "cosine", **fields):
    answer = served.query(gallery, draw(person, shot), scoring=scoring, **fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def verdicts(served, gallery: str, people, **fields) -> Counter:
    return Counter(ask(served, gallery, person, **fields)["verdict"] for person in people)


def state(served, gallery: str, scoring: str = "cosine") -> dict:
    described = served.read(f"/v1/galleries/{gallery}")
    return described["calibration"]["scorings"][scoring]


def fitted(served, gallery: str, scoring: str = "cosine", searches: int = 0) -> dict:
    def enough() -> bool:
        now = state(served, gallery, scoring)
        return now["state"] == "own" and now["searches"] >= searches

    eventually(enough)
    return state(served, gallery, scoring)


def change(served, gallery: str, **fields) -> dict:
    answer = served.http.patch(f"/v1/galleries/{gallery}", data=fields)
    assert answer.status_code == 200, answer.text
    return answer.json()["calibration"]["scorings"]["cosine"]


@pytest.fixture(scope="module")
def bundled(start):
    """Serve the bundled artefact, whose own scores tell drawn people apart."""
    return start(artefact="bundled")


@pytest.mark.slow
def test_the_first_fit_follows_the_18th_name_within_ten_seconds_without_a_search(bundled):
    gallery = fill(bundled, bundled.create("named"), range(17))
    time.sleep(3.0)
    before = state(bundled, gallery)
    assert (before["state"], before["reason"]) == ("artefact", "few_identities")
    fill(bundled, gallery, range(17, 18))
    eventually(lambda: state(bundled, gallery, "mnet")["state"] == "own", seconds=10.0)
    for scoring in ("cosine", "mnet"):
        now = state(bundled, gallery, scoring)
        assert (now["identities"], now["crops"], now["searches"]) == (18, 18, 0)
        assert now["basis"] == "Thresholds from 18 named people in this gallery."


@pytest.mark.parametrize("asked", [range(60), range(300, 360)], ids=["enrolled", "strangers"])
@pytest.mark.slow
def test_enrolled_people_are_found_whoever_was_searched_for(bundled, asked):
    gallery = fill(bundled, bundled.create(f"after.{asked[0]}"))
    eventually(lambda: state(bundled, gallery)["identities"] > 80 / 1.5)
    verdicts(bundled, gallery, asked)
    now = fitted(bundled, gallery, searches=16)
    rests_on = f"{now['identities']} named people in this gallery and {now['searches']} searches"
    assert now["basis"] == f"Thresholds from {rests_on}."
    found = verdicts(bundled, gallery, range(60, 80))
    assert found["no_match"] == 0, found
    strangers = verdicts(bundled, gallery, STRANGERS)
    assert strangers["match"] <= 2, strangers


@pytest.mark.slow
def test_a_restore_is_followed_by_a_fit_to_what_was_restored(served, gallery):
    fill(served, gallery, range(30))
    fitted(served, gallery)
    taken = served.http.post(f"/v1/galleries/{gallery}/snapshots").json()["snapshot_id"]
    fill(served, gallery, range(30, 60))
    eventually(lambda: state(served, gallery)["identities"] == 60)
    restored = served.http.post(f"/v1/galleries/{gallery}/snapshots/{taken}/restore")
    assert restored.status_code == 200
    eventually(lambda: state(served, gallery)["identities"] == 30)


def test_a_filter_is_judged_for_the_identities_that_pass_it(served, gallery):
    fill(served, gallery, range(60), camera="east")
    fill(served, gallery, range(60, 80), camera="west")
    fitted(served, gallery)
    for person in (3, 65, 200):
        everyone = ask(served, gallery, person)["calibration"]
        west = ask(served, gallery, person, cameras="west")["calibration"]
        assert west == everyone
        nobody = ask(served, gallery, person, cameras="north")
        assert nobody["calibration"]["reason"] == "few_identities"


def test_a_gallery_without_names_finds_its_people_too(served, gallery):
    fill(served, gallery, range(120), named=False)
    verdicts(served, gallery, range(60))
    assert fitted(served, gallery)["reason"] is None
    found = verdicts(served, gallery, range(60, 80))
    assert found["no_match"] <= 1, found


def test_a_picture_keeps_its_verdict_while_one_version_is_in_force(served, gallery):
    fill(served, gallery)
    seen: dict[str, set] = {}
    for person in range(45):
        ask(served, gallery, person)
        again = ask(served, gallery, 70)
        best = again["results"][0]
        told = (again["verdict"], best["verdict"], best["probability"])
        seen.setdefault(again["calibration_version"], set()).add(told)
        assert again["calibration"]["version"] == again["calibration_version"]
    assert all(len(told) == 1 for told in seen.values()), seen


def test_the_order_of_the_first_searches_does_not_matter(served, gallery):
    other = served.create(f"{gallery[:40]}.2")
    for name in (gallery, other):
        fitted(served, fill(served, name))
    people = [*range(8), *range(200, 207)]
    there = {person: ask(served, gallery, person)["verdict"] for person in people}
    back = {person: ask(served, other, person)["verdict"] for person in reversed(people)}
    assert there == back


def test_before_the_first_fit_an_answer_names_the_artefacts_thresholds(served, gallery):
    fill(served, gallery, range(80), named=False)
    shown = ask(served, gallery, 0)["calibration"]
    model = served.read("/v1/model")
    assert (shown["state"], shown["reason"], shown["date"]) == ("artefact", "not_fitted", None)
    assert shown["version"] == model["calibration_version"]
    assert "until 18 people are named" in shown["basis"]


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
    if people >= 18:
        fitted(served, gallery)
    for person in (3, 200):
        pictures = [draw(person, shot) for shot in (7, 8, 9)]
        for scoring in ("cosine", "mnet"):
            alone = ask(served, gallery, person, scoring=scoring)["calibration"]
            answer = served.query(gallery, *pictures, scoring=scoring).json()
            assert answer["calibration"].pop("basis") == f"{alone.pop('basis')} {note}"
            assert answer["calibration"] == alone
            assert answer["verdict"] == answer["results"][0]["verdict"]
            for crop in answer["results"]:
                assert crop["verdict"] == verdict_of(crop["probability"], "far_1e-2")


# Probabilities of scores that a tenth, a hundredth and a thousandth of strangers reach.
PROBABILITIES = {"far_1e-1": 0.54286, "far_1e-2": 0.91644, "far_1e-3": 0.98675}


def verdict_of(probability: float, operating_point: str) -> str:
    if probability >= PROBABILITIES[operating_point]:
        return "match"
    return "uncertain" if probability >= PROBABILITIES["far_1e-1"] else "no_match"


@pytest.mark.parametrize("people", [1, 3, 5, 10, 17])
def test_a_match_among_few_people_has_a_probability_above_one_half(served, gallery, people):
    fill(served, gallery, range(people), shots=(0, 1))
    judged = Counter()
    for scoring in ("cosine", "mnet"):
        for point in PROBABILITIES:
            asked = {"scoring": scoring, "operating_point": point, "top_k": str(2 * people)}
            shown = [draw(person, 7) for person in (0, 200, 201, 202)]
            answer = served.query(gallery, *shown, mode="separate", **asked)
            assert answer.status_code == 200, answer.text
            for search in answer.json()["results"]:
                assert search["verdict"] == search["results"][0]["verdict"]
                for crop in search["results"]:
                    assert crop["verdict"] == verdict_of(crop["probability"], point), crop
                    judged[crop["verdict"]] += 1
            images = files(draw(0, 0), draw(0, 7))
            fields = {"gallery": gallery, "scoring": scoring, "operating_point": point}
            pair = served.http.post("/v1/pairs", files=images, data=fields).json()
            assert pair["verdict"] == verdict_of(pair["probability"], point), pair
            judged[f"pair {pair['verdict']}"] += 1
    assert judged["match"] > 0, judged
    assert judged["pair match"] > 0, judged


def test_a_shallow_search_is_judged_by_the_artefact(served, gallery):
    fitted(served, fill(served, gallery), "mnet")
    shown = ask(served, gallery, 0, scoring="mnet", rerank_depth=5)["calibration"]
    assert (shown["state"], shown["reason"]) == ("artefact", "shallow_search")
    # With every crop scored no search is shallow.
    deep = ask(served, gallery, 0, scoring="mnet", rerank_depth=80)["calibration"]
    assert (deep["state"], deep["reason"]) == ("own", None)


def test_a_search_that_scores_fewer_than_nine_people_is_judged_by_the_artefact(served, gallery):
    fitted(served, fill(served, gallery, range(20), camera="east"))
    # Counted apart, and scored as one person.
    fill(served, gallery, [400], range(20), named=False, camera="west")
    answer = ask(served, gallery, 3, cameras="west")
    shown = answer["calibration"]
    assert (shown["state"], shown["reason"]) == ("artefact", "few_scored")
    assert answer["results"][0]["verdict"] is not None


def test_a_pair_judged_by_a_gallery_has_the_thresholds_of_a_standard_search(served, gallery):
    fitted(served, fill(served, gallery))
    frozen = change(served, gallery, calibration="frozen")

    def pair(person: int) -> dict:
        images = files(draw(person, 7), draw(3, 0))
        fields = {"scoring": "cosine", "gallery": gallery}
        return served.http.post("/v1/pairs", files=images, data=fields).json()

    same = pair(3)
    others = [pair(person) for person in range(200, 210)]
    assert (same["judged_as"], same["verdict"]) == ("search", "match")
    assert same["calibration"] | {"reason": None} == frozen
    assert {other["verdict"] for other in others} == {"no_match"}
    assert same["probability"] > 0.5 > max(other["probability"] for other in others)


def test_a_pair_without_a_gallery_is_judged_as_a_pair(served, gallery):
    images = files(draw(0, 0), draw(0, 1))
    pair = served.http.post("/v1/pairs", files=images).json()
    assert (pair["judged_as"], "calibration" in pair) == ("pair", False)
    for fields in ({"operating_point": "far_1e-2"}, {"gallery": "nowhere"}):
        assert served.http.post("/v1/pairs", files=images, data=fields).status_code in (404, 422)


@pytest.mark.slow
def test_freeze_reset_and_off(served, gallery):
    fill(served, gallery)
    fitted(served, gallery)
    verdicts(served, gallery, range(LEAST))
    own = fitted(served, gallery, searches=16)
    frozen = change(served, gallery, calibration="frozen")
    assert (frozen["state"], frozen["version"]) == ("frozen", own["version"])
    assert frozen["basis"].endswith(" searches, frozen.")
    fill(served, gallery, range(80, 150))
    verdicts(served, gallery, STRANGERS)
    on = change(served, gallery, calibration="on")
    assert (on["searches"], on["identities"]) == (own["searches"], 80)
    eventually(lambda: state(served, gallery)["identities"] == 150)
    reset = change(served, gallery, calibration="reset")
    assert (reset["state"], reset["searches"]) == ("artefact", 0)
    assert fitted(served, gallery)["searches"] == 0
    off = change(served, gallery, calibration="off")
    assert (off["state"], off["reason"], off["searches"]) == ("off", None, 0)
    assert off["basis"] == "The model's own thresholds: this gallery's calibration is off."
    verdicts(served, gallery, range(40))
    time.sleep(5.0)
    assert state(served, gallery) == off
    on = change(served, gallery, calibration="on")
    assert (on["state"], on["searches"]) == ("artefact", 0)
    assert fitted(served, gallery)["identities"] == 150


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
        served.query(gallery, draw(person, 7), draw(person, 8), scoring="cosine")
    form = {"crop_id": crop, "scoring": "cosine"}
    assert served.http.post(f"/v1/galleries/{gallery}/queries", data=form).status_code == 200
    verdicts(served, gallery, range(LEAST))
    assert fitted(served, gallery)["searches"] == LEAST


@pytest.mark.parametrize("fields", [{}, {"mode": "separate"}], ids=["multi-shot", "separate"])
def test_every_way_of_asking_is_judged_by_its_own_level(served, gallery, fields):
    fitted(served, fill(served, gallery, shots=(0, 1)))
    crop = ask(served, gallery, 5)["results"][0]["crop_id"]
    images = [draw(3, 7), draw(3, 8)]
    several = served.query(gallery, *images, scoring="cosine", **fields).json()
    one = served.http.post(
        f"/v1/galleries/{gallery}/queries", data={"crop_id": crop, "scoring": "cosine"}
    ).json()
    for answer in [one, *several.get("results" if fields else "none", [several])]:
        assert (answer["calibration"]["state"], answer["calibration"]["reason"]) == ("own", None)
        assert answer["verdict"] in ("match", "uncertain")


@pytest.mark.slow
def test_what_was_learnt_survives_a_kill(start, tmp_path):
    served = start(data_dir=tmp_path / "data")
    gallery = fill(served, served.create("lobby"))
    fitted(served, gallery)
    verdicts(served, gallery, range(LEAST))
    before = fitted(served, gallery, searches=16)
    served.kill()
    again = start(data_dir=tmp_path / "data")
    assert state(again, gallery) == before


@pytest.mark.slow
def test_a_key_that_does_not_learn_is_answered_and_changes_nothing(start, tmp_path):
    secret = "s" * 40
    keys = [
        {"key_id": name, "secret_sha256": hashlib.sha256(secret.encode()).hexdigest(), **fields}
        for name, fields in (
            ("admin", {"scopes": ["admin"]}),
            ("guest", {"scopes": ["query"], "learn": False}),
        )
    ]
    file = tmp_path / "keys"
    file.write_text("\n".join(json.dumps(key) for key in keys))
    served = start(api_keys_file=file)
    served.http.headers["Authorization"] = f"Bearer gmn_admin_{secret}"
    gallery = fill(served, served.create("lobby"), named=False)
    served.http.headers["Authorization"] = f"Bearer gmn_guest_{secret}"
    verdicts(served, gallery, range(300, 300 + 2 * LEAST))
    served.http.headers["Authorization"] = f"Bearer gmn_admin_{secret}"
    verdicts(served, gallery, range(LEAST))
    assert fitted(served, gallery)["searches"] == LEAST
