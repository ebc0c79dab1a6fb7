"""Queries of several galleries at once, as a client sees them."""

from __future__ import annotations

import json
import math
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.service.conftest import files
from tests.waiting import eventually


def ask(served, *images: bytes, **fields: Any):
    return served.http.post("/v1/queries", files=files(*images), data=fields)


def fill(served, gallery: str, crops) -> str:
    served.create(gallery)
    identities = [crop.identity for crop in crops]
    cameras = [crop.camera for crop in crops]
    images = [crop.png for crop in crops]
    assert served.enroll(gallery, *images, identity=identities, camera=cameras).is_success
    return gallery


@pytest.fixture(scope="module")
def two(start, drawn_crops):
    """Serve galleries `east` and `west`, which hold one camera each."""
    served = start()
    for camera in ("east", "west"):
        fill(served, camera, [crop for crop in drawn_crops if crop.camera == camera])
    return served


@pytest.fixture(scope="module")
def two_models(start, tmp_path_factory, drawn_crops, tiny_artefact, other_artefact):
    """Serve another model, and keep the model that filled the gallery `before` at hand."""
    data_dir = tmp_path_factory.mktemp("models") / "data"
    served = start(data_dir=data_dir)
    fill(served, "before", drawn_crops)
    assert served.stop() == 0
    again = start(data_dir=data_dir, artefact=other_artefact, previous=tiny_artefact)
    fill(again, "now", drawn_crops)
    fill(again, "also", drawn_crops[:8])
    return again


def without(result: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in result.items() if name not in names}


def own_ranking(
    served,
    gallery: str,
    *images: bytes,
    **fields: Any,
) -> list[dict[str, Any]]:
    answer = served.query(gallery, *images, **fields).json()
    return [without(result, "verdict") for result in answer["results"]]


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
        answer = ask(two, crop.png, galleries="east,west", **options).json()
        assert [entry["gallery"] for entry in answer["galleries"]] == ["east", "west"]
        for entry in answer["galleries"]:
            ranked = [without(result, "verdict") for result in entry["results"]]
            assert ranked == own_ranking(two, entry["gallery"], crop.png, **options)


def test_the_results_are_those_of_all_galleries_in_order_of_probability(two, drawn_crops):
    answer = ask(
        two,
        drawn_crops[0].png,
        galleries=["east", "west"],
        top_k=12,
    ).json()
    merged = answer["results"]
    assert [result["rank"] for result in merged] == list(range(1, 13))
    assert {result["gallery"] for result in merged} == {"east", "west"}
    probabilities = [result["probability"] for result in merged]
    assert probabilities == sorted(probabilities, reverse=True)
    everything = [result for entry in answer["galleries"] for result in entry["results"]]
    best = sorted(everything, key=lambda result: -result["probability"])[:12]
    assert [result["crop_id"] for result in merged] == [result["crop_id"] for result in best]
    for result in merged:
        (entry,) = (entry for entry in answer["galleries"] if entry["gallery"] == result["gallery"])
        shown = [without(shown_result, "rank") for shown_result in entry["results"]]
        assert without(result, "rank", "gallery") in shown


def test_crops_without_a_score_follow_those_with_one(two, drawn_crops):
    answer = ask(
        two,
        drawn_crops[0].png,
        galleries="east,west",
        rerank_depth=2,
        top_k=24,
    ).json()
    scored = [result["probability"] is not None for result in answer["results"]]
    assert scored == [True] * 4 + [False] * 20
    tail = [result["cosine"] for result in answer["results"][4:]]
    assert tail == sorted(tail, reverse=True)


def test_of_equal_results_the_gallery_that_was_named_first_comes_first(start, drawn_crops):
    served = start()
    for gallery in ("a", "b"):
        fill(served, gallery, drawn_crops[:4])
    for order in (["a", "b"], ["b", "a"]):
        answer = ask(
            served,
            drawn_crops[0].png,
            galleries=order,
            top_k=2,
        ).json()
        assert [result["gallery"] for result in answer["results"]] == order


def test_one_gallery_answers_as_its_own_query(two, drawn_crops):
    entry = ask(
        two,
        drawn_crops[5].png,
        galleries="west,west",
    ).json()["galleries"]
    single = two.query("west", drawn_crops[5].png).json()
    assert [without(answer, "gallery", "timing_ms") for answer in entry] == [
        without(single, "timing_ms")
    ]


def least_probability(far: float) -> float:
    """Compute the probability at the threshold of a rate, as docs/calibration.md defines it."""
    rarity = -math.log(far)
    logit = math.log(rarity) + 2 * rarity / 3 - 2 * math.log(3)
    return 1 / (1 + math.exp(-30 * math.tanh(logit / 30)))


def test_each_gallery_is_asked_at_its_share_of_the_rate(start, drawn_crops):
    served = start()
    names = [f"g{number:02d}" for number in range(20)]
    for name in names:
        fill(served, name, drawn_crops[::3])
    stricter = 0
    for crop in drawn_crops:
        alone = served.query("g00", crop.png).json()["results"]
        answer = ask(
            served,
            crop.png,
            galleries=",".join(names),
        ).json()
        assert answer["far"] == pytest.approx(0.01)
        assert answer["gallery_far"] == pytest.approx(0.0005)
        at_once = answer["galleries"][0]["results"]
        match = least_probability(0.01 / 20)
        uncertain = least_probability(0.1 / 20)
        for before, result in zip(alone, at_once, strict=True):
            probability = result["probability"]
            expected = "match" if probability >= match else "no_match"
            if match > probability >= uncertain:
                expected = "uncertain"
            assert result["verdict"] == expected
            stricter += before["verdict"] != result["verdict"]
    assert stricter > 0


def test_the_verdict_is_the_best_of_the_galleries(two, drawn_crops):
    two.http.post("/v1/galleries", data={"name": "empty"})
    order = ("match", "uncertain", "no_match", "nothing_searched")
    for crop in drawn_crops[::3]:
        answer = ask(
            two,
            crop.png,
            galleries="empty,east,west",
            identities="0002",
        ).json()
        verdicts = [entry["verdict"] for entry in answer["galleries"]]
        assert verdicts[0] == "nothing_searched"
        assert answer["verdict"] == min(verdicts, key=order.index)
    nothing = ask(two, drawn_crops[0].png, galleries="empty").json()
    assert (nothing["verdict"], nothing["results"]) == ("nothing_searched", [])


def test_images_are_embedded_once_by_each_model(two_models, drawn_crops):
    def embedded() -> float:
        metrics = two_models.http.get("/metrics").text
        return float(re.findall(r"^gmn_images_embedded_total (\S+)", metrics, re.M)[0])

    before = embedded()
    answer = ask(two_models, drawn_crops[0].png, galleries="now,before,also").json()
    assert embedded() - before == 2
    models = [entry["model"] for entry in answer["galleries"]]
    assert models[0] == models[2] != models[1]
    for entry in answer["galleries"]:
        ranked = [without(result, "verdict") for result in entry["results"]]
        assert ranked == own_ranking(two_models, entry["gallery"], drawn_crops[0].png)


def test_a_crop_is_compared_with_galleries_of_its_own_model(two_models, drawn_crops):
    served = two_models
    crop = served.http.get("/v1/galleries/now/crops", params={"limit": 1}).json()["results"][0]
    fields = {"crop_id": crop["crop_id"], "gallery": "now", "top_k": 24}
    answer = ask(served, galleries="also,before,now", **fields).json()
    also, before, now = answer["galleries"]
    # The same picture is in both: of its own gallery the crop itself is left out.
    assert also["results"][0]["cosine"] == pytest.approx(1.0, abs=1e-6)
    assert crop["crop_id"] not in [result["crop_id"] for result in now["results"]]
    assert [without(result, "verdict") for result in now["results"]] == own_ranking(
        served, "now", crop_id=crop["crop_id"], top_k=24
    )
    assert before["problem"]["type"].endswith("invalid_field")
    assert "send the image" in before["problem"]["detail"]
    assert len(answer["warnings"]) == 1
    elsewhere = ask(
        served,
        galleries="also",
        camera_disjoint=True,
        **fields,
    ).json()["results"]
    assert {result["camera"] for result in elsewhere} == {"east", "west"} - {crop["camera"]}
    gone = ask(served, galleries="also", gallery="now", crop_id="0" * 32)
    assert (gone.status_code, gone.json()["type"]) == (404, "urn:gmn:problem:unknown_crop")


def test_a_vector_is_compared_with_galleries_of_its_model(two_models, drawn_crops):
    served = two_models
    embedded = served.http.post("/v1/embeddings", files=files(drawn_crops[0].png)).json()
    fields = {
        "vector": json.dumps(embedded["results"][0]["embedding"]),
        "embedding_fingerprint": embedded["embedding_fingerprint"],
    }
    answer = ask(served, galleries="before,now", **fields).json()
    before, now = answer["galleries"]
    assert before["problem"]["status"] == 422
    own = own_ranking(served, "now", **fields)
    assert [without(result, "verdict") for result in now["results"]] == own
    refused = ask(served, galleries="before", **fields)
    assert (refused.status_code, refused.json()["detail"]) == (422, before["problem"]["detail"])


def test_a_gallery_that_needs_a_reindex_is_named_and_the_others_answer(
    start, tmp_path, drawn_crops, other_artefact
):
    served = start(data_dir=tmp_path / "data")
    fill(served, "old", drawn_crops[:4])
    served.kill()
    again = start(data_dir=tmp_path / "data", artefact=other_artefact)
    fill(again, "new", drawn_crops[:4])
    answered = ask(again, drawn_crops[0].png, galleries="old,new")
    answer = answered.json()
    old, new = answer["galleries"]
    assert answered.status_code == 200
    assert old["problem"]["type"] == "urn:gmn:problem:needs_reindex"
    assert (old["problem"]["status"], "reindex" in answer["warnings"][0]) == (409, True)
    assert {result["gallery"] for result in answer["results"]} == {"new"}
    assert new["results"]
    assert answer["gallery_far"] == pytest.approx(0.005)
    refused = ask(again, drawn_crops[0].png, galleries="old")
    assert (refused.status_code, refused.json()["detail"]) == (409, old["problem"]["detail"])


def test_a_gallery_that_is_gone_is_named_and_the_others_answer(two, drawn_crops):
    answer = ask(two, drawn_crops[0].png, galleries="gone,east").json()
    gone, east = answer["galleries"]
    assert gone["problem"]["type"] == "urn:gmn:problem:unknown_gallery"
    assert "gone" in answer["warnings"][0]
    assert east["results"]
    assert ask(two, drawn_crops[0].png, galleries="gone").status_code == 404


def test_without_names_every_gallery_is_searched_up_to_twenty(start, drawn_crops):
    served = start()
    for number in range(19):
        served.create(f"g{number}")
    answer = ask(served, drawn_crops[0].png).json()
    assert len(answer["galleries"]) == 20
    served.create("one-more")
    refused = ask(served, drawn_crops[0].png)
    assert refused.status_code == 422
    assert "galleries: 21 would be searched" in refused.json()["detail"]
    named = ask(
        served,
        drawn_crops[0].png,
        galleries=[f"g{number}" for number in range(21)],
    )
    assert (named.status_code, named.json()["errors"][0]["field"]) == (422, "galleries")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"keep": True}, "keep"),
        ({"min_version": 1}, "min_version"),
        ({"min_versions": '{"north": 1}'}, "min_versions"),
        ({"min_versions": "[7]"}, "min_versions"),
        ({"min_versions": '{"east": "new"}'}, "min_versions.east"),
        ({"gallery": "east"}, "gallery"),
        ({"top_k": 10_000}, "top_k"),
        ({"mode": "separate", "top_k": 5000}, "top_k"),
    ],
)
def test_options_of_one_gallery_and_answers_too_large_are_refused(two, drawn_crops, fields, named):
    images = [crop.png for crop in drawn_crops[:2]]
    refused = ask(two, *images, galleries="east,west", **fields)
    assert refused.status_code == 422
    assert refused.json()["detail"].startswith(f"{named}: ")


def test_with_mode_separate_each_image_is_answered_as_by_itself(two, drawn_crops):
    images = [drawn_crops[0].png, b"no image", drawn_crops[9].png]
    fields = {"galleries": "gone,east,west", "group_by": "identity"}
    answered = ask(two, *images, mode="separate", **fields)
    first, refused, last = answered.json()["results"]
    assert answered.status_code == 207
    assert refused["problem"]["type"] == "urn:gmn:problem:not_an_image"
    for image, answer in ((images[0], first), (images[2], last)):
        alone = ask(two, image, **fields).json()
        for entry in (alone, *alone["galleries"], answer, *answer["galleries"]):
            entry.pop("timing_ms", None)
        assert answer == alone
    assert ask(two, images[0], mode="separate", **fields).status_code == 200
    nothing = ask(two, b"no image", mode="separate", **fields)
    assert (nothing.status_code, nothing.json()["type"]) == (
        422,
        "urn:gmn:problem:unusable_images",
    )


def test_each_gallery_is_awaited_at_its_own_version(start, drawn_crops):
    served = start()
    versions = {}
    for name in ("a", "b"):
        served.create(name)
        for crop in drawn_crops[: 1 + (name == "b")]:
            versions[name] = served.enroll(name, crop.png).json()["gallery_version"]
    image = drawn_crops[0].png

    def ask_for(**asked: int):
        return ask(served, image, galleries="a,gone,b", min_versions=json.dumps(asked))

    first, gone, second = ask_for(**versions).json()["galleries"]
    assert [first["gallery_version"], second["gallery_version"]] == list(versions.values())
    assert gone["problem"]["type"] == "urn:gmn:problem:unknown_gallery"
    assert ask_for(**versions, gone=7).status_code == 404
    too_late = ask_for(a=versions["a"], b=versions["b"] + 1)
    assert (too_late.status_code, too_late.json()["type"]) == (
        503,
        "urn:gmn:problem:version_not_reached",
    )
    assert "'b'" in too_late.json()["detail"]
    with ThreadPoolExecutor(1) as beside:
        asked = beside.submit(ask_for, a=versions["a"] + 1)
        served.enroll("a", drawn_crops[5].png)
        assert asked.result().json()["galleries"][0]["gallery_version"] == versions["a"] + 1


def test_the_cost_is_that_of_all_galleries(start, drawn_crops):
    served = start(max_cost=1.4)
    for name in ("a", "b", "c", "d"):
        served.create(name)
        for crop in drawn_crops[:6]:
            assert served.enroll(name, crop.png).status_code == 201
    fields = {"top_k": 6, "include_vector": True}
    assert (
        ask(
            served,
            drawn_crops[0].png,
            galleries="a,b",
            **fields,
        ).status_code
        == 200
    )
    refused = ask(
        served,
        drawn_crops[0].png,
        galleries="a,b,c,d",
        **fields,
    ).json()
    assert refused["type"] == "urn:gmn:problem:too_costly"
    assert refused["detail"].startswith("galleries, images")


def test_an_image_that_cannot_be_used_is_left_out_and_named_once(two, drawn_crops):
    images = [drawn_crops[0].png, b"no image", drawn_crops[9].png]
    answer = ask(two, *images, galleries="east,west").json()
    assert [warning[:7] for warning in answer["warnings"]] == ["image 2"]
    usable = ask(
        two,
        images[0],
        images[2],
        galleries="east,west",
    ).json()
    assert answer["results"] == usable["results"]
    refused = ask(two, b"no image", galleries="east,west")
    assert (refused.status_code, refused.json()["type"]) == (422, "urn:gmn:problem:unusable_images")


def test_the_people_in_the_boxes_of_a_frame_are_searched(two, drawn_crops):
    box = json.dumps({"x": 0, "y": 0, "width": 32, "height": 64})
    answer = ask(
        two,
        drawn_crops[0].png,
        galleries="east,west",
        boxes=[box],
    ).json()
    whole = ask(two, drawn_crops[0].png, galleries="east,west").json()
    assert len(answer["results"]) == len(whole["results"])


def test_the_answer_is_the_same_whoever_else_asks(two, drawn_crops):
    def answer(number: int) -> list[Any]:
        asked = ask(
            two,
            drawn_crops[number].png,
            galleries="east,west",
            top_k=24,
        ).json()
        return [asked["verdict"], asked["results"]]

    numbers = [*range(0, 24, 3)] * 4
    alone = {number: answer(number) for number in set(numbers)}
    with ThreadPoolExecutor(8) as beside:
        assert [alone[number] for number in numbers] == list(beside.map(answer, numbers))


def test_the_audit_log_has_a_line_for_each_gallery_that_was_searched(start, tmp_path, drawn_crops):
    served = start(data_dir=tmp_path / "data")
    for gallery in ("a", "b"):
        fill(served, gallery, drawn_crops[:4])
    fields = {"galleries": "a,gone,b", "top_k": 3, "purpose": "case 7", "cameras": "east"}
    ask(served, drawn_crops[0].png, **fields)

    def lines() -> list[dict[str, Any]]:
        log = (tmp_path / "data" / "audit.jsonl").read_text()
        read = [json.loads(line) for line in log.splitlines()]
        return [line for line in read if line["event"] == "query"]

    eventually(lambda: len(lines()) == 2)
    assert [line["gallery"] for line in lines()] == ["a", "b"]
    for line in lines():
        shown = (line["count"], line["purpose"], line["filters"])
        assert shown == (2, "case 7", {"cameras": ["east"]})
        assert "query_id" not in line
