"""Queries of several galleries at once, as a client sees them."""

import json
import math
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.outside import audit_lines, figure, problem, refused_fields
from tests.service.conftest import files
from tests.waiting import eventually


def ask(served, *images, **fields):
    return served.http.post("/v1/queries", files=files(*images), data=fields)


def answer_of(served, *images, **fields):
    answer = ask(served, *images, **fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.fixture(scope="module")
def two(open_service, drawn_crops):
    served = open_service()
    for camera in ("east", "west"):
        # The searches of these tests would change the probabilities that the next answer has.
        gallery = served.create(camera, calibration="off")
        served.fill(gallery, [crop for crop in drawn_crops if crop.camera == camera])
    return served


@pytest.fixture(scope="module")
def two_models(open_service, tmp_path_factory, drawn_crops, tiny_artefact, other_artefact):
    """Serve another model, and keep the model that filled the gallery `before` at hand."""
    data_dir = tmp_path_factory.mktemp("models") / "data"
    served = open_service(data_dir=data_dir)
    served.fill(served.create("before"), drawn_crops)
    assert served.stop() == 0
    again = open_service(data_dir=data_dir, artefact=other_artefact, previous=tiny_artefact)
    again.fill(again.create("now"), drawn_crops)
    again.fill(again.create("also"), drawn_crops[:8])
    return again


def without(results, *names):
    return [
        {name: value for name, value in result.items() if name not in names} for result in results
    ]


def is_same(one, other):
    """Check that two answers differ in the last digits of numbers at most.

    A network rounds otherwise for an image that it computes in one batch with another, and which
    images of a request come together depends on how fast they arrive.
    """
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(is_same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(is_same, one, other))
    if isinstance(one, float):
        return one == pytest.approx(other, rel=1e-4, abs=1e-5)
    return one == other


def ranks_as_by_itself(served, entry, *images, **fields):
    """Check that a gallery's results are those of its own query, but for their verdicts."""
    own = served.search(entry["gallery"], *images, **fields)
    return is_same(without(entry["results"], "verdict"), without(own, "verdict"))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"scoring": "cosine"},
        {"group_by": "identity", "top_k": 3},
        {"rerank_depth": 2, "top_k": 20},
        {"identities": "0001", "include_vector": True},
        {"metadata": '{"shift": "night"}'},
    ],
)
def test_each_gallery_ranks_as_its_own_query_does(two, drawn_crops, options):
    for crop in drawn_crops[::7]:
        entries = answer_of(two, crop.png, galleries="east,west", **options)["galleries"]
        assert [entry["gallery"] for entry in entries] == ["east", "west"]
        assert all(ranks_as_by_itself(two, entry, crop.png, **options) for entry in entries)


def test_the_results_are_those_of_all_galleries_in_order_of_probability(two, images):
    answer = answer_of(two, images[0], galleries=["east", "west"], top_k=12)
    merged = answer["results"]
    assert [result["rank"] for result in merged] == list(range(1, 13))
    everything = [
        {**result, "gallery": entry["gallery"]}
        for entry in answer["galleries"]
        for result in entry["results"]
    ]
    best = sorted(everything, key=lambda result: -result["probability"])[:12]
    assert without(merged, "rank") == without(best, "rank")
    assert {result["gallery"] for result in merged} == {"east", "west"}


def test_crops_without_a_score_follow_those_with_one(two, images):
    asked = {"galleries": "east,west", "rerank_depth": 2, "top_k": 24}
    results = answer_of(two, images[0], **asked)["results"]
    scored = [result["probability"] is not None for result in results]
    assert scored == [True] * 4 + [False] * 20
    tail = [result["cosine"] for result in results[4:]]
    assert tail == sorted(tail, reverse=True)


def test_of_equal_results_the_gallery_that_was_named_first_comes_first(two, drawn_crops):
    for gallery in ("a", "b"):
        two.fill(two.create(gallery), drawn_crops[:4])
    for order in (["a", "b"], ["b", "a"]):
        results = answer_of(two, drawn_crops[0].png, galleries=order, top_k=2)["results"]
        assert [result["gallery"] for result in results] == order


def least_probability(far):
    """Compute the probability at the threshold of a rate, as docs/calibration.md defines it."""
    rarity = -math.log(far)
    logit = math.log(rarity) + 2 * rarity / 3 - 2 * math.log(3)
    return 1 / (1 + math.exp(-30 * math.tanh(logit / 30)))


def test_up_to_twenty_galleries_are_searched_each_at_its_share_of_the_rate(
    open_service, drawn_crops, images
):
    served = open_service()
    names = ["default", *(served.create(f"g{number}") for number in range(19))]
    served.fill("default", drawn_crops[::3])
    match, uncertain = (least_probability(far / 20) for far in (0.01, 0.1))
    stricter = 0
    for crop in drawn_crops:
        answer = answer_of(served, crop.png)
        assert {entry["gallery"] for entry in answer["galleries"]} == set(names)
        assert answer["far"] == pytest.approx(0.01)
        assert answer["gallery_far"] == pytest.approx(0.0005)
        alone = served.search("default", crop.png)
        for before, result in zip(alone, answer["results"], strict=True):
            expected = "match" if result["probability"] >= match else "no_match"
            if match > result["probability"] >= uncertain:
                expected = "uncertain"
            assert result["verdict"] == expected
            stricter += before["verdict"] != result["verdict"]
    assert stricter > 0
    served.create("one-more")
    refused = ask(served, images[0])
    assert "galleries: 21 would be searched" in refused.json()["detail"]
    named = ask(served, images[0], galleries=[*names, "one-more"])
    assert refused_fields(named) == {"galleries"}


def test_the_verdict_is_the_best_of_the_galleries(two, drawn_crops):
    two.create("empty")
    order = ("match", "uncertain", "no_match", "nothing_searched")
    for crop in drawn_crops[::3]:
        answer = answer_of(two, crop.png, galleries="empty,east,west", identities="0002")
        verdicts = [entry["verdict"] for entry in answer["galleries"]]
        assert verdicts[0] == "nothing_searched"
        assert answer["verdict"] == min(verdicts, key=order.index)


def test_images_are_embedded_once_by_each_model(two_models, images):
    before = figure(two_models, "gmn_images_embedded_total")
    image = images[0]
    entries = answer_of(two_models, image, galleries="now,before,also")["galleries"]
    assert figure(two_models, "gmn_images_embedded_total") - before == 2
    now, before, also = (entry["model"] for entry in entries)
    assert now == also != before
    assert all(ranks_as_by_itself(two_models, entry, image) for entry in entries)


def test_a_crop_is_compared_with_galleries_of_its_own_model(two_models):
    crop = two_models.results("/v1/galleries/now/crops")[0]
    fields = {"crop_id": crop["crop_id"], "top_k": 24}
    answer = answer_of(two_models, galleries="also,before,now", gallery="now", **fields)
    also, before, now = answer["galleries"]
    # The same picture is in both: of its own gallery the crop itself is left out.
    assert also["results"][0]["cosine"] == pytest.approx(1.0, abs=1e-6)
    assert ranks_as_by_itself(two_models, now, **fields)
    assert before["problem"]["type"].endswith("invalid_field")
    assert "send the image" in before["problem"]["detail"]
    assert len(answer["warnings"]) == 1
    disjoint = {"galleries": "also", "gallery": "now", "camera_disjoint": True}
    elsewhere = answer_of(two_models, **disjoint, **fields)["results"]
    assert {result["camera"] for result in elsewhere} == {"east", "west"} - {crop["camera"]}
    gone = ask(two_models, galleries="also", gallery="now", crop_id="0" * 32)
    assert problem(gone) == (404, "unknown_crop")


def test_a_vector_is_compared_with_galleries_of_its_model(two_models, images):
    image = files(images[0])
    embedded = two_models.http.post("/v1/embeddings", files=image).json()
    fields = {
        "vector": json.dumps(embedded["results"][0]["embedding"]),
        "embedding_fingerprint": embedded["embedding_fingerprint"],
    }
    before, now = answer_of(two_models, galleries="before,now", **fields)["galleries"]
    assert ranks_as_by_itself(two_models, now, **fields)
    refused = ask(two_models, galleries="before", **fields)
    assert (refused.status_code, refused.json()["detail"]) == (422, before["problem"]["detail"])


def test_a_gallery_that_is_gone_is_named_and_the_others_answer(two, images):
    answer = answer_of(two, images[0], galleries="gone,east")
    gone, east = answer["galleries"]
    assert gone["problem"]["type"] == "urn:gmn:problem:unknown_gallery"
    assert "gone" in answer["warnings"][0]
    assert east["results"]
    assert ask(two, images[0], galleries="gone").status_code == 404


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"keep": True}, "keep"),
        ({"min_version": 1}, "min_version"),
        ({"min_versions": '{"north": 1}'}, "min_versions"),
        ({"min_versions": '{"east": -1}'}, "min_versions.east"),
        ({"min_versions": "[7]"}, "min_versions"),
        ({"min_versions": '{"east": "new"}'}, "min_versions.east"),
        ({"gallery": "east"}, "gallery"),
        ({"top_k": 10_000}, "top_k"),
        ({"mode": "separate", "top_k": 5000}, "top_k"),
    ],
)
def test_options_of_one_gallery_and_answers_too_large_are_refused(two, images, fields, named):
    images = images[:2]
    refused = ask(two, *images, galleries="east,west", **fields)
    assert refused.status_code == 422
    assert refused.json()["detail"].startswith(f"{named}: ")


def test_with_mode_separate_each_image_is_answered_as_by_itself(two, drawn_crops):
    images = [drawn_crops[0].png, b"no image", drawn_crops[9].png]
    fields = {"galleries": "gone,east,west", "group_by": "identity"}
    answered = ask(two, *images, mode="separate", **fields)
    assert answered.status_code == 207
    first, refused, last = answered.json()["results"]
    assert refused["problem"]["type"] == "urn:gmn:problem:not_an_image"
    for image, answer in ((images[0], first), (images[2], last)):
        alone = answer_of(two, image, **fields)
        for shown in (alone, answer):
            shown.pop("timing_ms", None)
            shown["galleries"] = without(shown["galleries"], "timing_ms")
        assert is_same(answer, alone)
    nothing = ask(two, b"no image", mode="separate", **fields)
    assert problem(nothing) == (422, "unusable_images")


def test_an_image_that_cannot_be_used_is_left_out_and_named_once(two, drawn_crops):
    images = [drawn_crops[0].png, b"no image", drawn_crops[9].png]
    answer = answer_of(two, *images, galleries="east,west")
    assert [warning[:7] for warning in answer["warnings"]] == ["image 2"]
    usable = answer_of(two, images[0], images[2], galleries="east,west")
    assert is_same(answer["results"], usable["results"])


def test_each_gallery_is_awaited_at_its_own_version(open_service, images):
    served = open_service()
    served.create("b")
    for gallery, image in (("default", images[0]), ("b", images[0]), ("b", images[1])):
        served.enrolled(gallery, image)

    def ask_for(**versions):
        asked = {"galleries": "default,gone,b", "min_versions": json.dumps(versions)}
        return ask(served, images[0], **asked)

    first, gone, second = ask_for(default=1, b=2).json()["galleries"]
    assert (first["gallery_version"], second["gallery_version"]) == (1, 2)
    assert gone["problem"]["type"] == "urn:gmn:problem:unknown_gallery"
    assert ask_for(default=1, gone=7).status_code == 404
    too_late = ask_for(default=1, b=3)
    assert problem(too_late) == (503, "version_not_reached")
    assert "'b'" in too_late.json()["detail"]
    with ThreadPoolExecutor(1) as beside:
        asked = beside.submit(ask_for, default=2)
        served.enrolled("default", images[5])
        assert asked.result().json()["galleries"][0]["gallery_version"] == 2


def test_the_audit_log_has_a_line_for_each_gallery_that_was_searched(
    open_service, tmp_path, drawn_crops
):
    served = open_service(tmp_path)
    for gallery in ("a", "b"):
        served.fill(served.create(gallery), drawn_crops[:4])
    fields = {"galleries": "a,gone,b", "top_k": 3, "purpose": "case 7", "cameras": "east"}
    answer_of(served, drawn_crops[0].png, **fields)
    eventually(lambda: len(audit_lines(tmp_path, "query")) == 2)
    for line, gallery in zip(audit_lines(tmp_path, "query"), "ab", strict=True):
        shown = (line["gallery"], line["count"], line["purpose"], line["filters"])
        assert shown == (gallery, 2, "case 7", {"cameras": ["east"]})
        assert "query_id" not in line
