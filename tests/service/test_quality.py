"""The enrolment quality gate as a client sees it."""

from __future__ import annotations

import io

import pytest
from PIL import Image, ImageFilter

from model.problems import InputProblem
from service.settings import Settings, read_settings
from tests.service.conftest import files


@pytest.fixture(scope="module")
def refusing(start):
    return start(quality="refuse", min_crop_height=64)


@pytest.fixture(scope="module")
def indifferent(start):
    return start(quality="off")


@pytest.fixture(scope="module")
def blurred(drawn_crops) -> bytes:
    return _changed(drawn_crops[0].png, lambda crop: crop.filter(ImageFilter.GaussianBlur(5)))


def _changed(image: bytes, change) -> bytes:
    file = io.BytesIO()
    change(Image.open(io.BytesIO(image))).save(file, "PNG")
    return file.getvalue()


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
    served, gallery, drawn_crops, blurred
):
    answer = served.enroll(gallery, drawn_crops[1].png, blurred)
    good, poor = answer.json()["results"]
    assert answer.status_code == 201
    assert good["warnings"] == []
    (warning,) = poor["warnings"]
    assert "sharpness is 0.2" in warning
    assert "under the limit of 0.32" in warning
    assert served.read(f"/v1/galleries/{gallery}")["crops"] == 2


def test_a_crop_with_several_faults_is_warned_of_each(served, gallery, drawn_crops):
    small_and_dark = _changed(
        drawn_crops[0].png, lambda crop: crop.resize((20, 40)).point(lambda value: value // 10)
    )
    (landed,) = served.enroll(gallery, small_and_dark).json()["results"]
    small, dark = landed["warnings"]
    assert "20×40 pixels" in small
    assert "darker than" in dark


@pytest.mark.parametrize(
    ("image", "fault"),
    [
        (Image.new("RGB", (1920, 1080), "grey"), "hardly one upright person"),
        (Image.new("RGB", (8, 8), "grey"), "8×8 pixels, under the limit"),
    ],
)
def test_a_query_by_a_poor_image_is_answered_with_the_warnings_of_an_enrolment(
    served, gallery, drawn_crops, image, fault
):
    file = io.BytesIO()
    image.save(file, "PNG")
    served.enroll(gallery, drawn_crops[1].png)
    answer = served.query(gallery, file.getvalue()).json()
    (landed,) = served.enroll(gallery, file.getvalue()).json()["results"]
    assert len(answer["results"]) == 1
    assert answer["warnings"] == landed["warnings"]
    assert any(fault in warning for warning in answer["warnings"])


def test_of_several_images_of_a_query_the_poor_one_is_named(served, gallery, drawn_crops, blurred):
    good = drawn_crops[1].png
    served.enroll(gallery, good)
    (together,) = served.query(gallery, good, blurred).json()["warnings"]
    assert together.startswith("image 2: ")
    assert "sharpness is 0.2" in together
    separate = served.search(gallery, good, blurred, mode="separate")
    assert [result["warnings"] for result in separate] == [[], [together.removeprefix("image 2: ")]]
    assert served.query(gallery, good).json()["warnings"] == []


@pytest.mark.slow
def test_a_service_that_refuses_poor_crops_still_answers_a_query_by_one(
    refusing, indifferent, drawn_crops, blurred
):
    for service, warnings in ((refusing, 1), (indifferent, 0)):
        service.create("asked")
        service.enroll("asked", drawn_crops[1].png)
        answer = service.query("asked", blurred)
        assert answer.status_code == 200
        assert len(answer.json()["warnings"]) == warnings


def test_the_same_poor_crop_again_is_warned_of_again(served, gallery, blurred):
    served.enroll(gallery, blurred)
    (again,) = served.enroll(gallery, blurred).json()["results"]
    assert again["duplicate"] is True
    assert "sharpness" in again["warnings"][0]


def test_where_poor_crops_are_refused_each_is_its_own_problem(refusing, drawn_crops, blurred):
    low = _changed(drawn_crops[0].png, lambda crop: crop.resize((30, 60)))
    answer = refusing.enroll("default", drawn_crops[1].png, blurred, low)
    good, first, second = answer.json()["results"]
    assert answer.status_code == 207
    assert good["warnings"] == []
    assert first["problem"]["type"] == "urn:gmn:problem:blurred"
    assert "under the limit of 0.32" in first["problem"]["detail"]
    assert second["problem"]["type"] == "urn:gmn:problem:low_resolution"
    assert "under the limit of 16×64" in second["problem"]["detail"]


def test_switched_off_nothing_is_said_of_a_poor_crop(indifferent, blurred):
    (landed,) = indifferent.enroll("default", blurred).json()["results"]
    assert landed["warnings"] == []


def test_limits_that_no_crop_could_meet_keep_the_service_from_starting(monkeypatch):
    monkeypatch.setenv("GMN_MIN_CROP_ASPECT", "7")
    with pytest.raises(InputProblem, match=r"min_crop_aspect \(7\) is above max_crop_aspect \(6\)"):
        read_settings()


def test_an_empty_setting_is_as_one_that_is_not_set(monkeypatch):
    for name in ("REDIS_URL", "PREVIOUS", "DATA_DIR", "IMPORT_DIR", "API_KEYS_FILE", "PORT"):
        monkeypatch.setenv(f"GMN_{name}", "")
    assert read_settings() == Settings()
    assert not Settings(redis_url="").redis_url


def test_an_unknown_policy_is_named(monkeypatch):
    monkeypatch.setenv("GMN_QUALITY", "strict")
    with pytest.raises(InputProblem, match="GMN_QUALITY"):
        read_settings()
