"""Frames: boxes of one image are crops to enroll, or to search by."""

from __future__ import annotations

import io
import json

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.outside import problem
from tests.service.conftest import files


def _opened(png):
    return Image.open(io.BytesIO(png)).convert("RGB")


@pytest.fixture(scope="module")
def frame(drawn_crops):
    """Return a frame with the first crops of three people side by side, and the box of each."""
    people = {crop.identity: _opened(crop.png) for crop in reversed(drawn_crops)}
    pictures = [people[name] for name in sorted(people)[:3]]
    whole = Image.new(
        "RGB", (20 + sum(picture.width + 5 for picture in pictures), 300), (90, 120, 90)
    )
    boxes = []
    x = 10
    for place, picture in enumerate(pictures):
        whole.paste(picture, (x, 20 * place))
        boxes.append({"x": x, "y": 20 * place, "width": picture.width, "height": picture.height})
        x += picture.width + 5
    whole.save(file := io.BytesIO(), "PNG")
    return file.getvalue(), boxes, pictures


def _sent(*boxes):
    return [json.dumps(box) for box in boxes]


def test_each_box_is_a_crop_with_its_own_labels_and_the_frame_is_not_kept(served, gallery, frame):
    image, boxes, pictures = frame
    labelled = [
        {**boxes[0], "identity": "Ann", "metadata": {"seat": 4}},
        {**boxes[1], "camera": "west", "captured_at": "2026-03-01T09:30:00Z"},
        boxes[2],
    ]
    answer = served.enroll(gallery, image, boxes=_sent(*labelled), camera="east", identity="Bob")
    assert answer.status_code == 201, answer.text
    landed = answer.json()["results"]
    assert [(crop["identity"], crop["camera"]) for crop in landed] == [
        ("Ann", "east"),
        ("Bob", "west"),
        ("Bob", "east"),
    ]
    url = f"/v1/galleries/{gallery}/crops"
    for crop, picture in zip(landed, pictures, strict=True):
        kept = served.http.get(f"{url}/{crop['crop_id']}/image")
        assert kept.headers["content-type"] == "image/png"
        assert np.array_equal(np.asarray(_opened(kept.content)), np.asarray(picture))
    first, second, _ = (served.read(f"{url}/{crop['crop_id']}") for crop in landed)
    assert first["metadata"] == {"seat": 4}
    assert second["captured_at"] == "2026-03-01T09:30:00Z"
    # The same box of the same frame is the same crop.
    again = served.enroll(gallery, image, boxes=_sent(labelled[0]), camera="east")
    (repeated,) = again.json()["results"]
    assert (repeated["duplicate"], repeated["crop_id"]) == (True, landed[0]["crop_id"])


def test_a_box_that_cannot_be_used_is_a_problem_of_its_own(served, gallery, frame):
    image, boxes, _ = frame
    bad = [
        {**boxes[0], "x": -1},
        {**boxes[0], "width": 5000},
        {**boxes[0], "height": 0},
        {**boxes[0], "width": 4, "height": 4},
    ]
    answer = served.enroll(gallery, image, boxes=_sent(boxes[1], *bad))
    assert answer.status_code == 207
    landed, *refused = answer.json()["results"]
    assert landed["crop_id"]
    codes = [result["problem"]["type"].rpartition(":")[2] for result in refused]
    assert codes == ["box_outside", "box_outside", "too_small", "too_small"]
    assert "cut it at the edge" in refused[0]["problem"]["detail"]
    none = served.enroll(gallery, image, boxes=_sent(*bad))
    assert (none.status_code, len(none.json()["results"])) == (422, 4)


def test_boxes_are_one_query_or_one_each(served, filled, frame):
    image, boxes, pictures = frame
    one = served.query(filled, image, boxes=_sent(boxes[0])).json()
    pictures[0].save(file := io.BytesIO(), "PNG")
    alone = served.query(filled, file.getvalue()).json()
    assert [hit["cosine"] for hit in one["results"]] == [hit["cosine"] for hit in alone["results"]]
    outside = {**boxes[0], "x": -1}
    both = served.query(filled, image, boxes=_sent(outside, boxes[0])).json()
    assert both["warnings"][0].startswith("image 1: left out of the search: the box")
    assert both["results"][0]["cosine"] == one["results"][0]["cosine"]
    each = served.query(filled, image, boxes=_sent(*boxes, outside), mode="separate", top_k=1)
    assert each.status_code == 207
    found = each.json()["results"]
    assert found[0]["results"][0]["crop_id"] == one["results"][0]["crop_id"]
    assert len({answer["results"][0]["identity"] for answer in found[:3]}) == 3
    assert found[3]["problem"]["type"].endswith(":box_outside")
    kept = served.query(filled, image, boxes=_sent(outside, boxes[0]), keep=True, keep_picture=True)
    picture = served.http.get(f"/v1/galleries/{filled}/queries/{kept.json()['query_id']}/image")
    assert np.array_equal(np.asarray(_opened(picture.content)), np.asarray(pictures[0]))


@pytest.mark.parametrize(
    ("boxes", "named"),
    [
        (["{}"], "box 1, x: Field required"),
        (["[1, 2]"], "box 1"),
        (['{"x": 1.5, "y": 0, "width": 9, "height": 9}'], "whole pixels"),
        (['{"x": 1, "y": 0, "width": 9, "height": 9, "name": "Ann"}'], "box 1, name"),
        (['{"x": 1, "y": 0, "width": 9, "height": 9}'] * 25, "25 were sent, a request may have 24"),
    ],
)
def test_a_text_that_is_no_box_is_named(served, gallery, frame, boxes, named):
    answer = served.enroll(gallery, frame[0], boxes=boxes)
    assert problem(answer) == (422, "invalid_field")
    assert named in answer.json()["detail"]


def test_boxes_are_of_one_image_that_can_be_decoded(served, gallery, frame):
    image, boxes, _ = frame
    two = served.enroll(gallery, image, image, boxes=_sent(boxes[0]))
    assert "boxes: are of one frame, and 2 images were sent" in two.json()["detail"]
    text = served.enroll(gallery, b"notes", boxes=_sent(boxes[0]))
    assert problem(text) == (422, "unusable_images")
    label = served.query(gallery, image, boxes=_sent({**boxes[0], "identity": "Ann"}))
    assert "box 1, identity" in label.json()["detail"]


def test_a_request_under_one_key_with_another_box_is_refused(served, gallery, frame):
    image, boxes, _ = frame
    url = f"/v1/galleries/{gallery}/crops"
    sent = {"Idempotency-Key": "evening"}

    def post(box) -> httpx.Response:
        return served.http.post(url, files=files(image), data={"boxes": _sent(box)}, headers=sent)

    assert post(boxes[0]).status_code == 201
    assert post(boxes[0]).headers["idempotent-replayed"] == "true"
    assert post(boxes[1]).json()["type"] == "urn:gmn:problem:request_conflict"
