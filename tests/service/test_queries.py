"""Queries as a client sees them."""

from __future__ import annotations

import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.service.conftest import files


def _identities(answer):
    return [result["identity"] for result in answer.json()["results"]]


def test_a_crop_is_found_first_by_its_own_image(served, filled, drawn_crops):
    for crop in drawn_crops[::5]:
        best = served.search(filled, crop.png)[0]
        assert (best["identity"], best["camera"], best["rank"]) == (crop.identity, crop.camera, 1)
        assert best["cosine"] == pytest.approx(1.0, abs=1e-6)


def test_an_answer_says_what_it_was_made_with_and_how_long_it_took(served, filled, drawn_crops):
    answer = served.query(filled, drawn_crops[0].png).json()
    model = served.read("/v1/model")
    timing = answer["timing_ms"]
    assert answer["gallery_version"] == 1
    assert answer["model"] == model["artefact_fingerprint"]
    assert answer["calibration_version"] == model["calibration_version"]
    assert answer["candidates_scored"] == len(drawn_crops)
    assert 0 < timing["embed"] < timing["total"]
    stages = ("decode", "queue", "embed", "search", "rerank")
    assert sum(timing[stage] for stage in stages) <= timing["total"]


def test_waiting_for_a_version_is_not_decoding(served, gallery, drawn_crops):
    version = served.enroll(gallery, drawn_crops[0].png).json()["gallery_version"]
    with ThreadPoolExecutor(1) as beside:
        asked = beside.submit(served.query, gallery, drawn_crops[0].png, min_version=version + 1)
        time.sleep(1)
        served.enroll(gallery, drawn_crops[1].png)
        answer = asked.result().json()
    assert answer["gallery_version"] > version
    assert answer["timing_ms"]["decode"] < 1000


def test_results_beyond_the_rerank_depth_follow_unscored_in_cosine_order(
    served, filled, drawn_crops
):
    answer = served.query(filled, drawn_crops[0].png, rerank_depth=5, top_k=24).json()
    head = answer["results"][:5]
    tail = answer["results"][5:]
    assert answer["candidates_scored"] == 5
    assert all(result["pair_logit"] is not None for result in head)
    assert all(result["pair_logit"] is None and result["probability"] is None for result in tail)
    assert [result["cosine"] for result in tail] == sorted(
        (result["cosine"] for result in tail), reverse=True
    )
    assert len({result["crop_id"] for result in answer["results"]}) == 24


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"cameras": "west"}, {"west"}),
        ({"exclude_cameras": "west"}, {"east"}),
        ({"cameras": "east, west"}, {"east", "west"}),
        ({"exclude_cameras": " west "}, {"east"}),
        ({"cameras": ["east", "west"]}, {"east", "west"}),
        ({"cameras": "north"}, set()),
    ],
)
def test_a_camera_filter_is_exact(served, filled, drawn_crops, asked, expected):
    answer = served.query(filled, drawn_crops[0].png, top_k=24, **asked).json()
    passing = [crop for crop in drawn_crops if crop.camera in expected]
    assert {result["camera"] for result in answer["results"]} == expected
    assert len(answer["results"]) == len(passing)


def test_a_filtered_score_is_the_unfiltered_one(served, filled, drawn_crops):
    everything = served.search(filled, drawn_crops[0].png, top_k=24)
    filtered = served.search(filled, drawn_crops[0].png, top_k=24, cameras="west")
    scores = {crop["crop_id"]: (crop["cosine"], crop["pair_logit"]) for crop in everything}
    assert {crop["crop_id"]: (crop["cosine"], crop["pair_logit"]) for crop in filtered} == {
        crop_id: scores[crop_id] for crop_id in (crop["crop_id"] for crop in filtered)
    }


def test_results_carry_what_the_client_stored_with_a_crop(served, gallery, drawn_crops):
    images = [crop.png for crop in drawn_crops[:3]]
    metadata = ['{"shift": "night", "door": 2}', "{}", ""]
    served.enroll(gallery, *images, external_id=["track 1", "", "track 3"], metadata=metadata)
    for asked in ({}, {"scoring": "cosine"}, {"mode": "separate"}):
        answer = served.query(gallery, images[0], **asked).json()
        results = (answer["results"][0] if "mode" in asked else answer)["results"]
        for result in results:
            stored = served.read(result["image_url"].removesuffix("/image"))
            assert result["external_id"] == stored["external_id"]
            assert result["metadata"] == stored["metadata"]
        first = next(result for result in results if result["external_id"] == "track 1")
        assert first["metadata"] == {"shift": "night", "door": 2}


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"identities": ["Ann", "Bob, jr."]}, {0, 1}),
        ({"identities": "Bob, jr."}, {1}),
        ({"identities": "unknown"}, set()),
        ({"unnamed": "true"}, {2, 3}),
        ({"metadata": '{"shift": "night"}'}, {0, 2}),
        ({"metadata": '{"shift": "night", "door": {"no": 2}}'}, {2}),
        ({"metadata": '{"shift": "night"}', "unnamed": "true"}, {2}),
        ({"metadata": '{"door": "2"}'}, set()),
        ({"metadata": '{"open": true}'}, {3}),
        ({"metadata": "{}"}, {0, 1, 2, 3}),
    ],
)
def test_a_filter_by_labels_is_exact(served, gallery, drawn_crops, asked, expected):
    images = [crop.png for crop in drawn_crops[:4]]
    metadata = [{"shift": "night"}, None, {"door": {"no": 2}, "shift": "night"}, {"open": True}]
    enrolled = served.enroll(
        gallery,
        *images,
        identity=["Ann", "Bob, jr.", "", ""],
        metadata=[json.dumps(fields) if fields else "" for fields in metadata],
    )
    ids = [result["crop_id"] for result in enrolled.json()["results"]]
    for more in ({}, {"group_by": "identity"}, {"scoring": "cosine"}):
        found = served.query(gallery, images[0], **asked, **more).json()
        assert {ids.index(result["crop_id"]) for result in found["results"]} == expected
    assert (found["verdict"] == "nothing_searched") == (not expected)


def test_a_filter_by_metadata_follows_changes_and_deletions(served, gallery, drawn_crops):
    images = [crop.png for crop in drawn_crops[:3]]
    enrolled = served.enroll(gallery, *images, metadata=['{"shift": "night"}'] * 3)
    url = f"/v1/galleries/{gallery}/crops"
    first, second, third = (result["crop_id"] for result in enrolled.json()["results"])
    asked = {"metadata": '{"shift": "night"}', "scoring": "cosine"}
    assert len(served.search(gallery, images[0], **asked)) == 3
    served.http.patch(f"{url}/{first}", data={"metadata": '{"shift": "day"}'})
    served.http.delete(f"{url}/{second}")
    served.enroll(gallery, drawn_crops[3].png, metadata='{"shift": "night"}', identity="late")
    found = served.search(gallery, images[0], **asked)
    assert sorted(crop["identity"] or crop["crop_id"] for crop in found) == sorted([third, "late"])


def test_a_filter_that_cannot_be_is_refused_with_its_name(served, gallery, drawn_crops):
    for asked, field in (
        ({"metadata": "night"}, "metadata"),
        ({"metadata": "[1]"}, "metadata"),
        ({"unnamed": "true", "identities": "Ann"}, "unnamed"),
        ({"unnamed": "maybe"}, "unnamed"),
    ):
        refused = served.query(gallery, drawn_crops[0].png, **asked)
        assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, field)
    # Empty fields count as left out, as `/docs` sends them.
    empty = {"metadata": "", "identities": "", "unnamed": ""}
    assert served.query(gallery, drawn_crops[0].png, **empty).status_code == 200


def test_grouped_by_identity_each_person_appears_once(served, filled, drawn_crops):
    answer = served.query(filled, drawn_crops[0].png, group_by="identity", top_k=6, rerank_depth=3)
    assert sorted(_identities(answer)) == sorted({crop.identity for crop in drawn_crops})
    assert _identities(answer)[0] == drawn_crops[0].identity


def test_several_images_are_one_query_whose_scores_are_means(served, filled, drawn_crops):
    images = [drawn_crops[0].png, drawn_crops[2].png]
    together = served.query(filled, *images, top_k=24).json()
    alone = [served.search(filled, image, top_k=24) for image in images]
    for result in together["results"]:
        singles = [
            next(crop for crop in answer if crop["crop_id"] == result["crop_id"])
            for answer in alone
        ]
        for score in ("cosine", "pair_logit"):
            mean = sum(answer[score] for answer in singles) / 2
            assert result[score] == pytest.approx(mean, abs=1e-4)


def test_separate_images_have_an_answer_each_and_a_bad_one_its_problem(served, filled, drawn_crops):
    answer = served.query(
        filled, drawn_crops[0].png, b"no image", drawn_crops[9].png, mode="separate"
    )
    assert answer.status_code == 207
    results = answer.json()["results"]
    assert len(results) == 3
    first, bad, last = results
    assert first["results"][0]["identity"] == drawn_crops[0].identity
    assert bad["problem"]["type"] == "urn:gmn:problem:not_an_image"
    assert last["results"][0]["identity"] == drawn_crops[9].identity


def test_separate_images_with_too_many_results_are_refused(served, gallery, drawn_crops):
    images = [crop.png for crop in drawn_crops[:3]]
    assert served.query(gallery, *images, mode="separate", top_k=3_333).status_code == 200
    problem = served.query(gallery, *images, mode="separate", top_k=3_334).json()
    assert problem["type"] == "urn:gmn:problem:answer_too_large"
    assert [error["field"] for error in problem["errors"]] == ["top_k"]
    assert "3 rankings of 3,334 results each are more than the 10,000" in problem["detail"]


def test_results_with_too_much_metadata_are_refused(served, gallery, drawn_crops):
    images = [crop.png for crop in drawn_crops]
    metadata = '{"note": "%s"}' % ("x" * 16_000)
    for camera in "abcde":
        for half in (images[:12], images[12:]):
            served.enroll(gallery, *half, camera=camera, metadata=metadata).raise_for_status()
    assert served.query(gallery, *images, mode="separate").status_code == 200
    problem = served.query(gallery, *images, mode="separate", top_k=120).json()
    assert problem["type"] == "urn:gmn:problem:answer_too_large"
    assert "metadata" in problem["detail"]


def test_a_long_ranking_is_the_shorter_one_with_more_behind_it(served, gallery, drawn_crops):
    for camera in "abcde":
        for half in (drawn_crops[:12], drawn_crops[12:]):
            images = [crop.png for crop in half]
            served.enroll(gallery, *images, camera=camera).raise_for_status()
    short, long = (
        served.query(gallery, drawn_crops[0].png, top_k=top_k).json() for top_k in (20, 120)
    )
    assert long.keys() == short.keys()
    assert len(long["results"]) == 5 * len(drawn_crops)
    assert long["results"][:20] == short["results"]


def test_a_bad_image_of_one_person_is_left_out_and_named(served, filled, drawn_crops):
    images = [drawn_crops[0].png, drawn_crops[2].png]
    good = served.query(filled, *images).json()
    answer = served.query(filled, images[0], b"no image", images[1])
    assert answer.status_code == 200
    (warning,) = answer.json()["warnings"]
    assert warning.startswith("image 2: left out of the search: the bytes are not a JPEG")
    assert [(result["crop_id"], result["pair_logit"]) for result in answer.json()["results"]] == [
        (result["crop_id"], pytest.approx(result["pair_logit"], abs=1e-4))
        for result in good["results"]
    ]


def test_a_query_without_one_usable_image_is_refused(served, filled, drawn_crops):
    answer = served.query(filled, b"no image", drawn_crops[0].png[:100])
    assert answer.status_code == 422
    assert "2 of 2 images cannot be used; image 1: " in answer.json()["detail"]
    assert [result["problem"]["status"] for result in answer.json()["results"]] == [422, 422]


def test_more_like_a_crop_ranks_as_its_image_does_without_itself(served, filled, drawn_crops):
    by_image = served.search(filled, drawn_crops[4].png, top_k=24)
    crop_id = by_image[0]["crop_id"]
    url = f"/v1/galleries/{filled}/queries"
    by_crop = served.http.post(url, data={"crop_id": crop_id, "top_k": 24}).json()["results"]
    assert [crop["crop_id"] for crop in by_crop] == [crop["crop_id"] for crop in by_image[1:]]


@pytest.mark.parametrize("method", ["POST", "PATCH", "DELETE"])
def test_a_form_field_in_the_query_string_is_refused_by_its_name(served, filled, method):
    path = "queries" if method == "POST" else "crops"
    url = f"/v1/galleries/{filled}/{path}"
    version = served.read(f"/v1/galleries/{filled}")["version"]
    crop_id = served.results(f"/v1/galleries/{filled}/crops")[0]["crop_id"]
    fields = {"crop_id": crop_id} if method == "POST" else {"crop_ids": crop_id}
    answer = served.http.request(method, url, data=fields, params={"captured_after": "2026-03-01"})
    assert answer.status_code == 422
    assert answer.json()["detail"] == (
        "captured_after: was sent as a query parameter; send it as a field of the form, in the body"
    )
    assert [error["field"] for error in answer.json()["errors"]] == ["captured_after"]
    assert served.read(f"/v1/galleries/{filled}")["version"] == version


def test_a_strict_operating_point_is_never_surer_than_a_lax_one(served, filled, drawn_crops):
    sureness = {"no_match": 0, "uncertain": 1, "match": 2}
    for crop in drawn_crops[::4]:
        strict, middle, lax = (
            sureness[served.query(filled, crop.png, operating_point=point).json()["verdict"]]
            for point in ("far_1e-3", "far_1e-2", "far_1e-1")
        )
        assert strict <= middle <= lax


@pytest.mark.parametrize("scoring", ["mnet", "cosine"])
def test_where_no_crop_was_searched_the_verdict_says_so(served, gallery, drawn_crops, scoring):
    url = f"/v1/galleries/{gallery}/queries"
    image = drawn_crops[0].png
    answers = [served.query(gallery, image, scoring=scoring).json()]
    served.enroll(gallery, image, identity="0000", camera="east")
    answers.append(served.query(gallery, image, scoring=scoring, cameras="west").json())
    (only,) = served.search(gallery, image, scoring=scoring)
    asked = {"crop_id": only["crop_id"], "scoring": scoring, "group_by": "identity"}
    answers.append(served.http.post(url, data=asked).json())
    for answer in answers:
        assert (answer["verdict"], answer["results"]) == ("nothing_searched", [])
        assert answer["candidates_scored"] == 0


def test_an_answer_does_not_depend_on_who_else_is_asking(served, filled, drawn_crops):
    alone = [served.search(filled, crop.png, top_k=24) for crop in drawn_crops]
    start_together = threading.Barrier(12)

    def ask(crop) -> list[dict[str, Any]]:
        start_together.wait(30)
        results: list[dict[str, Any]] = served.search(filled, crop.png, top_k=24)
        return results

    before = _images_beyond_the_first_of_a_batch(served)
    with ThreadPoolExecutor(12) as clients:
        crowded = list(clients.map(ask, drawn_crops[:24]))
    assert _images_beyond_the_first_of_a_batch(served) > before, "no two of them shared a batch"
    for expected, shared in zip(alone, crowded, strict=True):
        assert [result["crop_id"] for result in expected] == [crop["crop_id"] for crop in shared]
        for score in ("cosine", "pair_logit", "probability"):
            assert [result[score] for result in expected] == pytest.approx(
                [result[score] for result in shared], abs=1e-4
            )


def _images_beyond_the_first_of_a_batch(served) -> float:
    figures = dict(
        re.findall(r"^gmn_batch_images_(sum|count) (\S+)$", served.http.get("/metrics").text, re.M)
    )
    return float(figures["sum"]) - float(figures["count"])


def test_two_images_are_compared(served, drawn_crops):
    def pair(first, second):
        sent = files(first, second)
        return served.http.post("/v1/pairs", files=sent).json()

    same = pair(drawn_crops[0].png, drawn_crops[1].png)
    different = pair(drawn_crops[0].png, drawn_crops[12].png)
    assert same["probability"] > different["probability"]
    assert same["cosine"] > different["cosine"]
    assert same["logit"] == pair(drawn_crops[1].png, drawn_crops[0].png)["logit"]
    assert same["verdict"] in ("match", "uncertain", "no_match")


def test_embeddings_come_as_json_and_as_an_array(served, drawn_crops):
    import io

    import numpy as np

    sent = files(*(crop.png for crop in drawn_crops[:2]))
    listed = served.http.post("/v1/embeddings", files=sent).json()
    answer = served.http.post("/v1/embeddings", files=sent, headers={"Accept": "application/x-npy"})
    array = np.load(io.BytesIO(answer.content), allow_pickle=False)
    assert array.shape == (2, listed["dimension"])
    assert array.dtype == np.float32
    assert np.allclose(array, [result["embedding"] for result in listed["results"]])
