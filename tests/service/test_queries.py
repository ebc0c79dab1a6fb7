"""Queries as a client sees them."""

import io
import json
import re
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from service.gallery import registry
from service.gallery.registry import GalleryRegistry
from service.search.ranking import SHORT_DEPTH
from tests.outside import crop_ids, figure, problem, refused_fields
from tests.service.conftest import SHARED_LIMITS, files
from tests.waiting import LONGEST_SECONDS, eventually


@pytest.fixture(scope="module")
def served(served_here):
    return served_here


def test_an_answer_says_what_it_was_made_with_and_how_long_it_took(served, filled, drawn_crops):
    answer = served.query(filled, drawn_crops[0].png).json()
    model = served.read("/v1/model")
    timing = answer["timing_ms"]
    assert answer["gallery_version"] == 1
    assert answer["model"] == model["artefact_fingerprint"]
    assert answer["calibration_version"] == model["calibration_version"]
    assert answer["candidates_scored"] == len(drawn_crops)
    assert timing["embed"] > 0
    stages = ("decode", "queue", "embed", "search", "rerank")
    assert sum(timing[stage] for stage in stages) <= timing["total"]


@pytest.mark.parametrize("calibration", ["on", "off"])
def test_a_result_is_a_match_from_the_probability_that_is_needed_on(
    served, filled, images, calibration
):
    path = f"/v1/galleries/{filled}"
    assert served.http.patch(path, data={"calibration": calibration}).status_code == 200
    verdicts = Counter()
    for image in images[:12]:
        answer = served.query(filled, image, top_k=24, operating_point="far_1e-1").json()
        for result in answer["results"]:
            is_match = result["verdict"] == "match"
            assert is_match == (result["probability"] >= answer["needed"])
            verdicts[is_match] += 1
    assert verdicts[True] > 0
    assert verdicts[False] > 0


def test_an_answer_counts_the_crops_and_the_named_people_that_were_searched(served, drawn_crops):
    gallery = served.create("counted")
    ann, ben, nobody = drawn_crops[0], drawn_crops[4], drawn_crops[8]
    served.enrolled(gallery, ann.png, identity="Ann", camera="gate")
    served.enrolled(gallery, ben.png, identity="Ben", camera="hall")
    served.enrolled(gallery, nobody.png, camera="hall")
    everywhere = served.query(gallery, ann.png).json()
    assert (everywhere["crops_searched"], everywhere["people_searched"]) == (3, 2)
    in_the_hall = served.query(gallery, ann.png, cameras="hall").json()
    assert (in_the_hall["crops_searched"], in_the_hall["people_searched"]) == (2, 1)


def test_waiting_for_a_version_is_not_decoding(open_service, images, monkeypatch):
    waits = threading.Event()
    wait_for_version = GalleryRegistry.wait_for_version

    async def tell_and_wait(galleries, gallery, version):
        if version > gallery.version:
            waits.set()
        await wait_for_version(galleries, gallery, version)

    monkeypatch.setattr(registry, "VERSION_WITHIN_SECONDS", 60.0)
    monkeypatch.setattr(GalleryRegistry, "wait_for_version", tell_and_wait)
    served = open_service()
    served.enrolled("default", images[0])
    with ThreadPoolExecutor(1) as beside:
        asked = beside.submit(served.query, "default", images[0], min_version=2)
        assert waits.wait(LONGEST_SECONDS)
        began = time.monotonic()
        time.sleep(1)
        served.enrolled("default", images[1])
        waited = time.monotonic() - began
        answer = asked.result().json()
    assert answer["gallery_version"] == 2
    assert answer["timing_ms"]["decode"] < 1000 * waited


def test_results_beyond_the_rerank_depth_follow_unscored_in_cosine_order(served, filled, images):
    answer = served.query(filled, images[0], rerank_depth=5, top_k=24).json()
    results = answer["results"]
    assert answer["candidates_scored"] == 5
    for score in ("pair_logit", "probability"):
        assert [result[score] is None for result in results] == [False] * 5 + [True] * 19
    cosines = [result["cosine"] for result in results[5:]]
    assert cosines == sorted(cosines, reverse=True)
    assert len({result["crop_id"] for result in results}) == 24


@pytest.mark.promise("4")
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
    found = served.search(filled, drawn_crops[0].png, top_k=24, **asked)
    assert {result["camera"] for result in found} == expected
    assert len(found) == sum(crop.camera in expected for crop in drawn_crops)


@pytest.mark.promise("4")
def test_a_filtered_score_is_the_unfiltered_one(served, filled, images):
    everything, filtered = (
        {
            crop["crop_id"]: (crop["cosine"], crop["pair_logit"])
            for crop in served.search(filled, images[0], top_k=24, **asked)
        }
        for asked in ({}, {"cameras": "west"})
    )
    assert len(filtered) == 12
    assert filtered.items() <= everything.items()


@pytest.mark.parametrize("asked", [{}, {"scoring": "cosine"}, {"mode": "separate"}])
def test_results_carry_what_the_client_stored_with_a_crop(served, gallery, images, asked):
    images = images[:3]
    metadata = ['{"shift": "night", "door": 2}', "{}", ""]
    served.enrolled(gallery, *images, external_id=["track 1", "", "track 3"], metadata=metadata)
    results = served.search(gallery, images[0], **asked)
    if "mode" in asked:
        results = results[0]["results"]
    stored = served.results(f"/v1/galleries/{gallery}/crops")
    assert stored[0]["metadata"] == {"shift": "night", "door": 2}
    shown, expected = (
        {crop["crop_id"]: (crop["external_id"], crop["metadata"]) for crop in crops}
        for crops in (results, stored)
    )
    assert shown == expected


@pytest.mark.promise("4")
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
def test_a_filter_by_labels_is_exact(served, gallery, images, asked, expected):
    images = images[:4]
    ids = served.enrolled(
        gallery,
        *images,
        identity=["Ann", "Bob, jr.", "", ""],
        metadata=[
            '{"shift": "night"}',
            "",
            '{"door": {"no": 2}, "shift": "night"}',
            '{"open": true}',
        ],
    )
    for more in ({}, {"group_by": "identity"}, {"scoring": "cosine"}):
        found = served.found(gallery, images[0], **asked, **more)
        assert sorted(found) == sorted(ids[place] for place in expected)


NUMBERS = {
    "1.0": ["1", "1e0", "10e-1"],
    "2": ["2.0", "2.00", "0.2e1"],
    "1e2": ["100", "100.0"],
    "-0.0": ["0", "-0", "0e9"],
    "1e23": ["100000000000000000000000", "10e22"],
    "9007199254740993": ["9007199254740993"],
    "9007199254740992": ["9007199254740992.0", "9007199254740992"],
    "0.50": ["0.5", "5e-1"],
    "true": ["true"],
    '"7"': ['"7"'],
    '[3.0, {"a": 4}]': ['[3, {"a": 4.0}]'],
    "7": ["7.0"],
}


def test_equal_numbers_of_metadata_are_equal_to_a_filter_and_returned_as_sent(
    served, gallery, images
):
    metadata = [f'{{"lane": {value}}}' for value in NUMBERS]
    ids = served.enrolled(gallery, *images[: len(metadata)], metadata=metadata)
    for crop_id, sent, asked in zip(ids, metadata, NUMBERS.values(), strict=True):
        for value in asked:
            fields = {"metadata": f'{{"lane": {value}}}'}
            assert served.found(gallery, images[0], **fields) == [crop_id], (sent, value)
        crop = served.read(f"/v1/galleries/{gallery}/crops/{crop_id}")
        assert repr(crop["metadata"]) == repr(json.loads(sent))


def test_a_filter_by_metadata_follows_changes_and_deletions(served, gallery, images):
    images = images[:4]
    night = {"metadata": '{"shift": "night"}'}
    asked = {**night, "scoring": "cosine"}
    ids = served.enrolled(gallery, *images[:3], **night)
    assert len(served.found(gallery, images[0], **asked)) == 3
    changed = {"metadata": '{"shift": "day"}'}
    served.http.patch(f"/v1/galleries/{gallery}/crops/{ids[0]}", data=changed)
    served.delete_crop(gallery, ids[1])
    late = served.enrolled(gallery, images[3], **night)
    assert sorted(served.found(gallery, images[0], **asked)) == sorted(ids[2:] + late)
    assert served.found(gallery, images[0], **changed, scoring="cosine") == ids[:1]


INVERTED = {
    "captured_after": "2026-03-02T00:00:00Z",
    "captured_before": "2026-03-01T00:00:00Z",
}


@pytest.mark.parametrize(
    "asked",
    [
        {"metadata": "night"},
        {"metadata": "[1]"},
        {"unnamed": "true", "identities": "Ann"},
        {"unnamed": "maybe"},
        {"order": "alphabetical"},
        {"crop_id": "x"},
        {"track": "17"},
        {"vector": "[1]"},
        {"camera_disjoint": "true"},
        {"top_k": "ten"},
        {"group_by": "colour"},
        {"scoring": "none"},
        {"operating_point": "far_1e-9"},
        {"captured_before": "2026-03-01T09:30:00"},
        INVERTED,
    ],
    ids=" ".join,
)
def test_an_option_that_cannot_be_is_refused_with_its_name(served, gallery, images, asked):
    refused = served.query(gallery, images[0], **asked)
    assert problem(refused) == (422, "invalid_field")
    assert refused_fields(refused) == {*asked}
    for error in refused.json()["errors"]:
        assert refused.json()["detail"].count(error["message"]) == 1
    # Empty fields count as left out, as `/docs` sends them.
    empty = dict.fromkeys(asked, "")
    assert served.query(gallery, images[0], **empty).status_code == 200


def test_several_images_are_one_query_whose_scores_are_means(served, filled, images):
    images = [images[0], images[2]]
    together, first, second = (
        {crop["crop_id"]: crop for crop in served.search(filled, *asked, top_k=24)}
        for asked in (images, images[:1], images[1:])
    )
    assert len(together) == 24
    for crop_id, result in together.items():
        for score in ("cosine", "pair_logit"):
            mean = (first[crop_id][score] + second[crop_id][score]) / 2
            assert result[score] == pytest.approx(mean, abs=1e-4)


def test_separate_images_have_an_answer_each_and_a_bad_one_its_problem(
    served, filled, drawn_crops, images
):
    answer = served.query(filled, images[0], b"no image", images[9], mode="separate")
    assert answer.status_code == 207
    results = answer.json()["results"]
    assert len(results) == 3
    first, bad, last = results
    assert first["results"][0]["identity"] == drawn_crops[0].identity
    assert bad["problem"]["type"] == "urn:gmn:problem:not_an_image"
    assert last["results"][0]["identity"] == drawn_crops[9].identity


def test_separate_images_with_too_many_results_are_refused(served, gallery, images):
    images = images[:3]
    assert served.query(gallery, *images, mode="separate", top_k=3_333).status_code == 200
    refused = served.query(gallery, *images, mode="separate", top_k=3_334)
    assert problem(refused) == (422, "answer_too_large")
    assert [error["field"] for error in refused.json()["errors"]] == ["top_k"]
    assert "more than the 10,000" in refused.json()["detail"]


def test_results_with_too_much_metadata_are_refused(served, gallery, images):
    metadata = '{"note": "%s"}' % ("x" * 16_000)
    for camera in "abcde":
        for half in (images[:12], images[12:]):
            served.enrolled(gallery, *half, camera=camera, metadata=metadata)
    assert served.query(gallery, *images, mode="separate").status_code == 200
    refused = served.query(gallery, *images, mode="separate", top_k=120)
    assert problem(refused) == (422, "answer_too_large")
    assert "metadata" in refused.json()["detail"]


def test_metadata_of_many_small_values_take_the_memory_of_their_text(start, images):
    served = start(**SHARED_LIMITS)
    gallery = "default"
    metadata = json.dumps({"a": [{"": 0}] * 2_300}, separators=(",", ":"))
    for camera in "abcde":
        for half in (images[:12], images[12:]):
            served.enrolled(gallery, *half, camera=camera, metadata=metadata)
    process = Path(f"/proc/{served.process.pid}")
    (process / "clear_refs").write_text("5")
    before = _peak_mb(process)
    answers = served.query(gallery, *images, mode="separate", top_k=75).json()["results"]
    assert [len(answer["results"]) for answer in answers] == [75] * 24
    assert answers[0]["results"][74]["metadata"] == json.loads(metadata)
    assert _peak_mb(process) - before < 300


def _peak_mb(process):
    return int(re.search(r"VmHWM:\s+(\d+)", (process / "status").read_text())[1]) // 1024


def test_a_bad_image_of_one_person_is_left_out_and_named(served, filled, images):
    answer = served.query(filled, images[0], b"no image", images[2])
    assert answer.status_code == 200
    (warning,) = answer.json()["warnings"]
    assert warning.startswith("image 2: left out of the search: ")
    assert crop_ids(answer) == served.found(filled, images[0], images[2])


def test_a_query_without_one_usable_image_is_refused(served, filled, images):
    answer = served.query(filled, b"no image", images[0][:100])
    assert problem(answer) == (422, "unusable_images")
    assert "2 of 2 images cannot be used; image 1: " in answer.json()["detail"]
    assert [result["problem"]["status"] for result in answer.json()["results"]] == [422, 422]


def test_more_like_a_crop_ranks_as_its_image_does_without_itself(served, filled, images):
    crop_id, *others = served.found(filled, images[4], top_k=24)
    assert served.found(filled, crop_id=crop_id, top_k=24) == others


@pytest.mark.promise("fields-in-address")
@pytest.mark.parametrize("method", ["POST", "PATCH", "DELETE"])
def test_a_form_field_in_the_query_string_is_refused_by_its_name(served, filled, method):
    path = "queries" if method == "POST" else "crops"
    url = f"/v1/galleries/{filled}/{path}"
    version = served.read(f"/v1/galleries/{filled}")["version"]
    crop_id = served.results(f"/v1/galleries/{filled}/crops")[0]["crop_id"]
    fields = {"crop_id": crop_id} if method == "POST" else {"crop_ids": crop_id}
    answer = served.http.request(method, url, data=fields, params={"captured_after": "2026-03-01"})
    assert answer.status_code == 422
    assert "query parameter" in answer.json()["detail"]
    assert [error["field"] for error in answer.json()["errors"]] == ["captured_after"]
    assert served.read(f"/v1/galleries/{filled}")["version"] == version


@pytest.mark.parametrize("scoring", ["mnet", "cosine"])
def test_where_no_crop_was_searched_the_verdict_says_so(served, gallery, images, scoring):
    image = images[0]
    answers = [served.query(gallery, image, scoring=scoring)]
    (only,) = served.enrolled(gallery, image, identity="0000", camera="east")
    answers.append(served.query(gallery, image, scoring=scoring, cameras="west"))
    answers.append(served.query(gallery, crop_id=only, scoring=scoring, group_by="identity"))
    for answer in (answer.json() for answer in answers):
        assert (answer["verdict"], answer["results"]) == ("nothing_searched", [])
        assert answer["candidates_scored"] == 0


@pytest.mark.promise("3")
def test_an_answer_does_not_depend_on_who_else_is_asking(open_service, drawn_crops):
    # OpenVINO embeds each crop alone.
    served = open_service(runtime="torch")
    filled = served.create("filled")
    served.fill(filled, drawn_crops)
    alone = [served.search(filled, crop.png, top_k=24) for crop in drawn_crops]
    start_together = threading.Barrier(12)

    def ask(crop):
        start_together.wait(30)
        return served.search(filled, crop.png, top_k=24)

    before = _images_beyond_the_first_of_a_batch(served)
    crowded = []

    def two_shared_a_batch():
        with ThreadPoolExecutor(12) as clients:
            crowded[:] = clients.map(ask, drawn_crops)
        return _images_beyond_the_first_of_a_batch(served) > before

    # On a quick machine one may be embedded before the next arrives.
    eventually(two_shared_a_batch)
    for expected, shared in zip(alone, crowded, strict=True):
        assert [result["crop_id"] for result in expected] == [crop["crop_id"] for crop in shared]
        for score in ("cosine", "pair_logit", "probability"):
            assert [result[score] for result in expected] == [crop[score] for crop in shared]


def test_a_short_query_is_answered_like_a_long_one(served, filled, drawn_crops):
    # A query of so many candidates takes turns with others on the thread of the index.
    long = {"rerank_depth": SHORT_DEPTH + 1}
    for crop in drawn_crops[:4]:
        for options in ({}, {"group_by": "track"}, {"camera": crop.camera, "camera_disjoint": 1}):
            short = served.query(filled, crop.png, **options).json()
            other = served.query(filled, crop.png, **options, **long).json()
            short.pop("timing_ms"), other.pop("timing_ms")
            assert short == other


def _images_beyond_the_first_of_a_batch(served):
    return figure(served, "gmn_batch_images_sum") - figure(served, "gmn_batch_images_count")


def test_embeddings_come_as_json_and_as_an_array(served, images):
    sent = files(*images[:2])
    listed = served.http.post("/v1/embeddings", files=sent).json()
    answer = served.http.post("/v1/embeddings", files=sent, headers={"Accept": "application/x-npy"})
    array = np.load(io.BytesIO(answer.content), allow_pickle=False)
    assert array.shape == (2, listed["dimension"])
    assert array.dtype == np.float32
    # They may have been embedded in batches of different sizes.
    embeddings = [result["embedding"] for result in listed["results"]]
    np.testing.assert_allclose(array, embeddings, atol=1e-4)
