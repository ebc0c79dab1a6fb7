"""The enrolment quality gate as a client sees it."""

import io

import pytest
from PIL import Image, ImageFilter

from tests.outside import encoded
from tests.service.conftest import files


@pytest.fixture(scope="module")
def served(served_here):
    return served_here


@pytest.fixture(scope="module")
def refusing(open_service):
    return open_service(quality="refuse", min_crop_height=64)


@pytest.fixture(scope="module")
def blurred(images):
    crop = Image.open(io.BytesIO(images[0]))
    return encoded(crop.filter(ImageFilter.GaussianBlur(5)))


def test_a_request_that_is_sent_again_is_answered_with_the_warnings_it_had(
    served, gallery, drawn_crops, blurred
):
    url = f"/v1/galleries/{gallery}/crops"
    key = {"Idempotency-Key": "night-2"}
    served.enroll(gallery, drawn_crops[1].png, identity="7")
    images = files(drawn_crops[1].png, blurred, b"no image")
    answers = [
        served.http.post(url, files=images, data={"identity": "8"}, headers=key) for _ in range(2)
    ]
    assert answers[1].headers["Idempotent-Replayed"] == "true"
    first, again = (answer.json()["results"] for answer in answers)
    assert [len(result.get("warnings", [])) for result in first] == [1, 1, 0]
    assert again[:2] == first[:2]
    assert again[2]["problem"]["detail"] == first[2]["problem"]["detail"]


def test_a_poor_crop_lands_with_a_warning_that_tells_value_and_limit(
    served, gallery, images, blurred
):
    for is_duplicate in (False, True):
        good, poor = served.enroll(gallery, images[1], blurred).json()["results"]
        assert (good["warnings"], poor["duplicate"]) == ([], is_duplicate)
        assert "sharpness is 0.2" in poor["warnings"][0]
        assert "under the limit of 0.32" in poor["warnings"][0]
    assert served.read(f"/v1/galleries/{gallery}")["crops"] == 2


@pytest.mark.parametrize(
    ("size", "fault"),
    [((1920, 1080), "hardly one upright person"), ((8, 8), "8×8 pixels, under the limit")],
)
def test_a_query_by_a_poor_image_is_answered_with_the_warnings_of_an_enrolment(
    served, gallery, images, size, fault
):
    image = encoded(Image.new("RGB", size, "grey"))
    served.enrolled(gallery, images[1])
    answer = served.query(gallery, image).json()
    (landed,) = served.enroll(gallery, image).json()["results"]
    assert len(answer["results"]) == 1
    assert answer["warnings"] == landed["warnings"]
    assert any(fault in warning for warning in answer["warnings"])


def test_of_several_images_of_a_query_the_poor_one_is_named(served, gallery, images, blurred):
    good = images[1]
    served.enrolled(gallery, good)
    (together,) = served.query(gallery, good, blurred).json()["warnings"]
    assert together.startswith("image 2: ")
    separate = served.search(gallery, good, blurred, mode="separate")
    assert [result["warnings"] for result in separate] == [[], [together.removeprefix("image 2: ")]]


@pytest.mark.slow
def test_switched_off_or_refusing_a_service_answers_a_query_by_a_poor_crop(
    refusing, open_service, images, blurred
):
    for service, warnings, status in ((refusing, 1, 422), (open_service(quality="off"), 0, 201)):
        service.create("asked")
        service.enrolled("asked", images[1])
        answer = service.query("asked", blurred)
        assert answer.status_code == 200
        assert len(answer.json()["warnings"]) == warnings
        enrolled = service.enroll("asked", blurred)
        assert enrolled.status_code == status
        assert not enrolled.json()["results"][0].get("warnings")


def test_where_poor_crops_are_refused_each_is_its_own_problem(refusing, images, blurred):
    low = encoded(Image.open(io.BytesIO(images[0])).resize((30, 60)))
    answer = refusing.enroll("default", images[1], blurred, low)
    assert answer.status_code == 207
    good, *refused = answer.json()["results"]
    assert good["warnings"] == []
    for result, code, limit in zip(
        refused, ("blurred", "low_resolution"), ("0.32", "16×64"), strict=True
    ):
        assert result["problem"]["type"] == f"urn:gmn:problem:{code}"
        assert f"under the limit of {limit}" in result["problem"]["detail"]
