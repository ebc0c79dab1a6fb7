"""A service offers its artefact's scorings, and ranks by one where none is asked for."""

import pytest

from model.artefact import load_artefact
from tests.outside import refused_fields
from tests.service.conftest import files
from tests.service.test_search_calibration import ask, fill, fitted, verdicts
from training.evaluation.files import save_artefact


@pytest.fixture(scope="module")
def cosine(open_service, cosine_artefact, drawn_crops):
    served = open_service(artefact=cosine_artefact)
    served.fill(served.create("people"), drawn_crops)
    return served


def test_without_a_metric_network_searches_rank_by_cosine(cosine, drawn_crops):
    crop = drawn_crops[5]
    found = cosine.query("people", crop.png, top_k=3).json()
    assert found["scoring"] == "cosine"
    assert found["results"][0]["identity"] == crop.identity
    assert {result["pair_logit"] for result in found["results"]} == {None}
    assert found["results"][0]["probability"] > 0.5
    assert cosine.search("people", crop.png, top_k=3, scoring="cosine") == found["results"]
    (grouped,) = cosine.search("people", crop.png, group_by="identity", mode="separate")
    assert len(grouped["results"]) == 6


@pytest.mark.parametrize(
    ("scoring", "offered"), [("mnet", "it offers cosine"), ("fused", "'cosine' or 'mnet'")]
)
def test_a_scoring_that_is_not_offered_is_refused_with_those_that_are(
    cosine, images, scoring, offered
):
    crop_id = cosine.results("/v1/galleries/people/crops")[0]["crop_id"]
    pair = files(images[0], images[1])
    for answer in (
        cosine.query("people", images[0], scoring=scoring),
        cosine.query("people", crop_id=crop_id, scoring=scoring),
        cosine.http.post("/v1/pairs", files=pair, data={"scoring": scoring}),
    ):
        assert refused_fields(answer) == {"scoring"}
        assert offered in answer.json()["detail"]


@pytest.mark.parametrize("more", [{}, {"gallery": "people"}])
def test_without_a_metric_network_pairs_are_compared_and_explained(cosine, images, more):
    pair = files(images[0], images[2])
    found = cosine.http.post("/v1/pairs", files=pair, data={"explain": "true", **more}).json()
    assert "logit" not in found
    assert found["explanation"]["scoring"] == "cosine"
    assert found["explanation"]["score"] == pytest.approx(found["cosine"], abs=1e-4)


def test_the_model_and_the_gallery_name_the_scorings_that_are_offered(cosine):
    model = cosine.read("/v1/model")
    assert (model["scorings"], model["default_scoring"]) == (["cosine"], "cosine")
    assert set(model["operating_points"]) == {"gallery_size", "cosine"}
    calibration = cosine.read("/v1/galleries/people")["calibration"]
    assert (list(calibration["scorings"]), calibration["scoring"]) == (["cosine"], "cosine")


def test_without_a_metric_network_thresholds_follow_a_gallerys_searches(cosine):
    gallery = fill(cosine, cosine.create("own"))
    verdicts(cosine, gallery, range(300, 330))
    fitted(cosine, gallery)
    assert ask(cosine, gallery, 3)["calibration"]["state"] == "own"


@pytest.mark.slow
def test_the_scoring_that_the_artefact_names_ranks_where_none_is_asked_for(
    open_service, tiny_artefact, drawn_crops, images, tmp_path
):
    whole = load_artefact(tiny_artefact)
    path = tmp_path / "quick.safetensors"
    best = whole.description.model_copy(update={"best": "cosine"})
    save_artefact(path, best, whole.embedder, whole.metric_network)
    served = open_service(artefact=path)
    served.fill("default", drawn_crops[:8])
    plain = served.query("default", images[0]).json()
    assert plain["scoring"] == "cosine"
    assert plain["results"] == served.search("default", images[0], scoring="cosine")
    assert served.read("/v1/galleries/default")["calibration"]["scoring"] == "cosine"
    pair = files(images[0], images[2])
    answer = served.http.post("/v1/pairs", files=pair, data={"explain": "true"}).json()
    assert answer["explanation"]["scoring"] == "cosine"
