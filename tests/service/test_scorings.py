"""A service offers its artefact's scorings, and ranks by one where none is asked for."""

from __future__ import annotations

import pytest

from model.artefact import load_artefact
from tests.service.conftest import files
from tests.service.test_search_calibration import ask, fill, fitted, verdicts
from training.evaluation.files import save_artefact


@pytest.fixture(scope="module")
def cosine(start, cosine_artefact):
    """Return a service of an artefact without M-Net."""
    return start(artefact=cosine_artefact)


@pytest.fixture
def people(cosine, drawn_crops):
    """Return the drawn people in a gallery of it."""
    gallery = cosine.create(f"people.{len(cosine.results('/v1/galleries'))}")
    names = [crop.identity for crop in drawn_crops]
    cosine.enroll(gallery, *(crop.png for crop in drawn_crops), identity=names)
    return gallery


def test_without_a_metric_network_searches_rank_by_cosine(cosine, people, drawn_crops):
    crop = drawn_crops[5]
    answer = cosine.query(people, crop.png, top_k=3)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["scoring"] == "cosine"
    assert found["results"][0]["identity"] == crop.identity
    assert {result["pair_logit"] for result in found["results"]} == {None}
    assert found["results"][0]["probability"] > 0.5
    asked = cosine.query(people, crop.png, top_k=3, scoring="cosine").json()
    assert asked["results"] == found["results"]
    grouped = cosine.query(people, crop.png, group_by="identity", mode="separate").json()
    assert len(grouped["results"][0]["results"]) == 6


@pytest.mark.parametrize(
    ("scoring", "offered"), [("mnet", "it offers cosine"), ("fused", "'cosine' or 'mnet'")]
)
def test_a_scoring_that_is_not_offered_is_refused_with_those_that_are(
    cosine, people, drawn_crops, scoring, offered
):
    crop_id = cosine.results(f"/v1/galleries/{people}/crops")[0]["crop_id"]
    url = f"/v1/galleries/{people}/queries"
    pair = files(drawn_crops[0].png, drawn_crops[1].png)
    for answer in (
        cosine.query(people, drawn_crops[0].png, scoring=scoring),
        cosine.http.post(url, data={"crop_id": crop_id, "scoring": scoring}),
        cosine.http.post("/v1/pairs", files=pair, data={"scoring": scoring}),
    ):
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["field"] == "scoring"
        assert offered in answer.json()["detail"]


def test_without_a_metric_network_pairs_are_compared_and_explained(cosine, people, drawn_crops):
    pair = files(drawn_crops[0].png, drawn_crops[2].png)
    for more in ({}, {"gallery": people}):
        answer = cosine.http.post("/v1/pairs", files=pair, data={"explain": "true", **more})
        assert answer.status_code == 200, answer.text
        found = answer.json()
        assert "logit" not in found
        assert found["explanation"]["scoring"] == "cosine"
        assert found["explanation"]["score"] == pytest.approx(found["cosine"], abs=1e-4)


def test_the_model_and_the_gallery_name_the_scorings_that_are_offered(cosine, people):
    model = cosine.read("/v1/model")
    assert (model["scorings"], model["default_scoring"]) == (["cosine"], "cosine")
    assert set(model["operating_points"]) == {"gallery_size", "cosine"}
    calibration = cosine.read(f"/v1/galleries/{people}")["calibration"]
    assert (list(calibration["scorings"]), calibration["scoring"]) == (["cosine"], "cosine")


def test_without_a_metric_network_thresholds_follow_a_gallerys_searches(cosine):
    gallery = fill(cosine, cosine.create("own"))
    verdicts(cosine, gallery, range(300, 330))
    fitted(cosine, gallery)
    assert ask(cosine, gallery, 3)["calibration"]["state"] == "own"


@pytest.mark.slow
def test_the_scoring_that_the_artefact_names_ranks_where_none_is_asked_for(
    start, tiny_artefact, drawn_crops, tmp_path
):
    whole = load_artefact(tiny_artefact)
    path = tmp_path / "quick.safetensors"
    best = whole.description.model_copy(update={"best": "cosine"})
    save_artefact(path, best, whole.embedder, whole.metric_network)
    served = start(artefact=path)
    gallery = served.create("people")
    served.enroll(gallery, *(crop.png for crop in drawn_crops[:8]))
    plain = served.query(gallery, drawn_crops[0].png).json()
    asked = served.query(gallery, drawn_crops[0].png, scoring="cosine").json()
    assert plain["scoring"] == "cosine"
    assert plain["results"] == asked["results"]
    assert served.read(f"/v1/galleries/{gallery}")["calibration"]["scoring"] == "cosine"
    pair = files(drawn_crops[0].png, drawn_crops[2].png)
    answer = served.http.post("/v1/pairs", files=pair, data={"explain": "true"}).json()
    assert answer["explanation"]["scoring"] == "cosine"
