"""Frames: boxes of one image are crops to enroll, or to search by."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from service.gallery.labels import MAX_METADATA_BYTES
from tests.outside import encoded, problem
from tests.service.conftest import files


@pytest.fixture(scope="module")
def served(served_here):
    return served_here


def _pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


@pytest.fixture(scope="module")
def frame(drawn_crops):
    """Return a frame with the first crops of three people side by side, and the box of each."""
    whole = Image.new("RGB", (180, 300), (90, 120, 90))
    boxes = []
    for place, crop in enumerate(drawn_crops[:12:4]):
        picture = Image.open(io.BytesIO(crop.png))
        x = 10 + 55 * place
        y = 20 * place
        whole.paste(picture, (x, y))
        boxes.append({"x": x, "y": y, "width": picture.width, "height": picture.height})
    return encoded(whole), boxes


def _sent(*boxes):
    return [json.dumps(box) for box in boxes]


def test_each_box_is_a_crop_with_its_own_labels_and_the_frame_is_not_kept(
    served, gallery, frame, drawn_crops
):
    image, boxes = frame
    labelled = [
        {**boxes[0], "identity": "Ann", "metadata": {"seat": 4}},
        {**boxes[1], "camera": "west", "captured_at": "2026-03-01T09:30:00Z"},
        boxes[2],
    ]
    answer = served.enroll(gallery, image, boxes=_sent(*labelled), camera="east", identity="Bob")
    assert answer.status_code == 201, answer.text
    landed = answer.json()["results"]
    labels = [(crop["identity"], crop["camera"]) for crop in landed]
    assert labels == [("Ann", "east"), ("Bob", "west"), ("Bob", "east")]
    urls = [f"/v1/galleries/{gallery}/crops/{crop['crop_id']}" for crop in landed]
    for url, crop in zip(urls, drawn_crops[:12:4], strict=True):
        kept = served.http.get(f"{url}/image")
        assert kept.headers["content-type"] == "image/png"
        assert np.array_equal(_pixels(kept.content), _pixels(crop.png))
    assert served.read(urls[0])["metadata"] == {"seat": 4}
    assert served.read(urls[1])["captured_at"] == "2026-03-01T09:30:00Z"
    # The same box of the same frame is the same crop.
    again = served.enroll(gallery, image, boxes=_sent(labelled[0]), camera="east")
    (repeated,) = again.json()["results"]
    assert (repeated["duplicate"], repeated["crop_id"]) == (True, landed[0]["crop_id"])


def test_a_box_that_cannot_be_used_is_a_problem_of_its_own(served, gallery, frame):
    image, boxes = frame
    wrong = ({"x": -1}, {"width": 5000}, {"height": 0}, {"width": 4, "height": 4})
    bad = [{**boxes[0], **change} for change in wrong]
    answer = served.enroll(gallery, image, boxes=_sent(boxes[1], *bad))
    assert answer.status_code == 207
    landed, *refused = answer.json()["results"]
    assert landed["crop_id"]
    codes = [result["problem"]["type"].rpartition(":")[2] for result in refused]
    assert codes == ["box_outside", "box_outside", "too_small", "too_small"]
    assert "cut it at the edge" in refused[0]["problem"]["detail"]
    none = served.enroll(gallery, image, boxes=_sent(*bad))
    assert (none.status_code, len(none.json()["results"])) == (422, 4)


def test_boxes_are_one_query_or_one_each(served, filled, frame, drawn_crops):
    image, boxes = frame
    outside = {**boxes[0], "x": -1}
    one = served.search(filled, image, boxes=_sent(boxes[0]))
    alone = served.search(filled, drawn_crops[0].png)
    assert [crop["cosine"] for crop in one] == [crop["cosine"] for crop in alone]
    both = served.query(
        filled, image, boxes=_sent(outside, boxes[0]), keep=True, keep_picture=True
    ).json()
    assert both["warnings"][0].startswith("image 1: left out of the search: the box")
    assert both["results"][0]["cosine"] == one[0]["cosine"]
    picture = served.http.get(f"/v1/galleries/{filled}/queries/{both['query_id']}/image")
    assert np.array_equal(_pixels(picture.content), _pixels(drawn_crops[0].png))
    each = served.query(filled, image, boxes=_sent(*boxes, outside), mode="separate", top_k=1)
    assert each.status_code == 207
    *found, refused = each.json()["results"]
    people = [answer["results"][0]["identity"] for answer in found]
    assert people == [crop.identity for crop in drawn_crops[:12:4]]
    assert refused["problem"]["type"].endswith(":box_outside")


BOX = {"x": 1, "y": 0, "width": 9, "height": 9}


@pytest.mark.parametrize(
    ("boxes", "named"),
    [
        (["{}"], "box 1, x: is missing; send it"),
        (["[1, 2]"], "box 1"),
        (_sent({**BOX, "x": 1.5}), "whole pixels"),
        (_sent({**BOX, "name": "Ann"}), "box 1, name"),
        (_sent(BOX) * 25, "25 were sent, a request may have 24"),
        (_sent(BOX, {**BOX, "camera": "a,b"}), "boxes: box 2, camera: 'a,b' has a comma"),
    ],
)
def test_a_text_that_is_no_box_is_named(served, gallery, frame, boxes, named):
    answer = served.enroll(gallery, frame[0], boxes=boxes)
    assert problem(answer) == (422, "invalid_field")
    assert named in answer.json()["detail"]


def test_metadata_of_a_box_may_be_as_long_as_that_of_an_image(served, gallery, frame):
    metadata = {"note": "ü" * (MAX_METADATA_BYTES // 2 - 20)}
    image, (box, *_) = frame
    answer = served.enroll(gallery, image, boxes=_sent({**box, "metadata": metadata}))
    (enrolled,) = answer.json()["results"]
    crop = served.read(f"/v1/galleries/{gallery}/crops/{enrolled['crop_id']}")
    assert crop["metadata"] == metadata


def test_boxes_are_of_one_image_that_can_be_decoded(served, gallery, frame):
    image, boxes = frame
    two = served.enroll(gallery, image, image, boxes=_sent(boxes[0]))
    assert "boxes: are of one frame, and 2 images were sent" in two.json()["detail"]
    text = served.enroll(gallery, b"notes", boxes=_sent(boxes[0]))
    assert problem(text) == (422, "unusable_images")
    label = served.query(gallery, image, boxes=_sent({**boxes[0], "identity": "Ann"}))
    assert "box 1, identity" in label.json()["detail"]


def test_a_request_under_one_key_with_another_box_is_refused(served, gallery, frame):
    image, boxes = frame

    def post(box):
        return served.http.post(
            f"/v1/galleries/{gallery}/crops",
            files=files(image),
            data={"boxes": _sent(box)},
            headers={"Idempotency-Key": "evening"},
        )

    assert post(boxes[0]).status_code == 201
    assert post(boxes[0]).headers["idempotent-replayed"] == "true"
    assert problem(post(boxes[1])) == (422, "request_conflict")
