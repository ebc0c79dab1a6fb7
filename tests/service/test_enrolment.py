"""Enrolment as a client sees it."""

from __future__ import annotations

import io
import struct
import zlib
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from PIL import Image, ImageFilter

from tests.outside import pages, problem


def _encoded(kind: str, size: tuple[int, int] = (32, 64)) -> bytes:
    pixels = np.random.default_rng(3).integers(0, 256, (size[1], size[0], 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def _announcing(width: int, height: int) -> bytes:
    """Return a PNG whose header announces a size that nobody should allocate."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(b"\0"))


def _chunk(kind: bytes, data: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + checksum


BAD_IMAGES = {
    "empty": (b"", "empty"),
    "text": (b"this is no image", "not_an_image"),
    "half a JPEG": (_encoded("JPEG")[:900], "truncated"),
    "half a PNG": (_encoded("PNG")[:900], "truncated"),
    "a GIF": (_encoded("GIF"), "not_an_image"),
    "one pixel": (_encoded("PNG", (1, 1)), "too_small"),
    "a bomb": (_announcing(50_000, 50_000), "too_many_pixels"),
    "over the limit": (_encoded("BMP", (300, 300)), "file_too_large"),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_a_bad_image_among_good_ones_fails_alone(served, gallery, drawn_crops, name):
    image, code = BAD_IMAGES[name]
    answer = served.enroll(gallery, drawn_crops[0].png, image, drawn_crops[1].png)
    first, bad, last = answer.json()["results"]
    assert answer.status_code == 207
    assert first["crop_id"] != last["crop_id"]
    assert bad["problem"]["type"].endswith(code)
    assert bad["problem"]["status"] == (413 if code == "file_too_large" else 422)
    assert bad["problem"]["detail"]
    assert served.read(f"/v1/galleries/{gallery}")["crops"] == 2


def test_where_no_image_lands_the_answer_is_a_problem_with_every_reason(served, gallery):
    answer = served.enroll(gallery, b"", b"nothing")
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert [result["problem"]["type"] for result in answer.json()["results"]] == [
        "urn:gmn:problem:empty",
        "urn:gmn:problem:not_an_image",
    ]


def test_the_same_bytes_again_count_as_landed(served, gallery, drawn_crops):
    image = drawn_crops[0].png
    first = served.enroll(gallery, image, identity="0007", camera="east").json()
    again = served.enroll(gallery, image, image, identity="0007", camera="east")
    assert again.status_code == 201
    for result in again.json()["results"]:
        assert result["duplicate"] is True
        assert result["crop_id"] == first["results"][0]["crop_id"]
    assert again.json()["gallery_version"] == first["gallery_version"]
    assert served.read(f"/v1/galleries/{gallery}")["crops"] == 1


def test_what_the_same_bytes_would_change_is_kept_and_named_in_a_warning(
    served, gallery, drawn_crops
):
    image = drawn_crops[0].png
    known = {"captured_at": "2026-03-01T09:30:00Z", "metadata": '{"shift": "night"}'}
    crop_id = served.enrolled(gallery, image, **known)[0]
    again = served.enroll(gallery, image, **known).json()["results"][0]
    other = served.enroll(gallery, image, captured_at="2026-03-02T09:30:00Z").json()["results"][0]
    assert (again["duplicate"], again["warnings"]) == (True, [])
    assert other["duplicate"] is True
    assert len(other["warnings"]) == 1
    assert "keeps its captured_at" in other["warnings"][0]
    crop = served.read(f"/v1/galleries/{gallery}/crops/{crop_id}")
    assert crop["captured_at"] == "2026-03-01T09:30:00Z"


@pytest.mark.parametrize("other", [{"identity": "0008"}, {"camera": "west"}])
def test_the_same_bytes_under_another_name_are_stored_with_a_warning(
    served, gallery, drawn_crops, other
):
    known = {"identity": "0007", "camera": "east"}
    first = served.enroll(gallery, drawn_crops[0].png, **known).json()["results"][0]
    second = served.enroll(gallery, drawn_crops[0].png, **(known | other)).json()["results"][0]
    assert first["warnings"] == []
    assert second["duplicate"] is False
    assert second["crop_id"] != first["crop_id"]
    # A key that may only enroll must not learn who is enrolled, and where.
    for secret in known.values():
        assert secret not in second["warnings"][0]


def test_a_field_given_once_applies_to_every_image(served, gallery, drawn_crops):
    images = [crop.png for crop in drawn_crops[:3]]
    answer = served.enroll(gallery, *images, identity="0042", camera="007").json()
    assert [result["identity"] for result in answer["results"]] == ["0042"] * 3
    assert [result["camera"] for result in answer["results"]] == ["007"] * 3


def test_a_field_given_for_each_image_belongs_to_it_and_empty_means_unknown(
    served, gallery, drawn_crops
):
    images = [crop.png for crop in drawn_crops[:3]]
    answer = served.enroll(gallery, *images, identity=["a", "", "c"]).json()
    assert [result["identity"] for result in answer["results"]] == ["a", None, "c"]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"identity": ["a", "b"]}, "identity"),
        ({"captured_at": "yesterday"}, "captured_at"),
        ({"captured_at": "2026-03-01T09:30:00"}, "time zone"),
        ({"captured_at": "1700000000"}, "captured_at"),
        ({"captured_at": "0001-01-01T00:00:00+23:59"}, "captured_at"),
        ({"metadata": "[1]"}, "metadata"),
        ({"metadata": '{"a": NaN}'}, "metadata"),
        ({"metadata": '{"a": 1e999}'}, "metadata"),
        ({"metadata": r'{"a": "\ud800"}'}, "metadata"),
        ({"metadata": '{"a":' * 900 + "1" + "}" * 900}, "metadata"),
        ({"camera": "hall,2"}, "camera"),
        ({"camera": " hall"}, "camera"),
        ({"identity": "x" * 300}, "identity"),
        ({"identity": "a\0b"}, "identity"),
        ({"idenity": "a"}, "idenity"),
    ],
)
def test_a_field_that_cannot_be_used_stores_nothing(served, gallery, drawn_crops, fields, named):
    images = [crop.png for crop in drawn_crops[:3]]
    answer = served.enroll(gallery, *images, **fields)
    assert answer.status_code == 422
    assert named in answer.json()["detail"]
    assert served.read(f"/v1/galleries/{gallery}")["crops"] == 0


def test_a_crop_reads_back_as_it_was_sent(served, gallery, drawn_crops):
    image = drawn_crops[0].png
    enrolled = served.enroll(
        gallery,
        image,
        identity="0001",
        camera="east",
        captured_at="2026-03-01T10:30:00+01:00",
        external_id="frame-17",
        metadata='{"shift": "night"}',
    ).json()["results"][0]
    crop = served.read(f"/v1/galleries/{gallery}/crops/{enrolled['crop_id']}")
    picture = served.http.get(crop["image_url"])
    assert crop["captured_at"] == "2026-03-01T09:30:00Z"
    assert crop["external_id"] == "frame-17"
    assert crop["metadata"] == {"shift": "night"}
    assert picture.content == image
    assert picture.headers["content-type"] == "image/png"


def test_an_image_from_the_future_fails_alone(served, gallery, drawn_crops):
    moments = [datetime.now(UTC) + timedelta(minutes=minutes) for minutes in (50, 70)]
    answer = served.enroll(
        gallery,
        *(crop.png for crop in drawn_crops[:3]),
        captured_at=[*(moment.isoformat() for moment in moments), ""],
    )
    first, refused, last = answer.json()["results"]
    assert answer.status_code == 207
    assert first["crop_id"] != last["crop_id"]
    assert refused["problem"]["type"] == "urn:gmn:problem:captured_in_future"
    assert "camera's clock" in refused["problem"]["detail"]


@pytest.mark.parametrize("call", ["enroll", "query"])
def test_a_request_whose_images_are_all_too_large_is_413(served, gallery, call):
    send = getattr(served, call)
    large = _encoded("BMP", (300, 300))
    alone = send(gallery, large)
    assert alone.status_code == alone.json()["status"] == 413
    assert alone.json()["type"] == "urn:gmn:problem:unusable_images"
    (refused,) = alone.json()["results"]
    assert refused["problem"]["status"] == 413
    assert send(gallery, large, b"no image").status_code == 422


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "bmp"])
def test_an_image_keeps_its_own_type(served, gallery, kind):
    image = _encoded(kind)
    crop_id = served.enrolled(gallery, image)[0]
    picture = served.http.get(f"/v1/galleries/{gallery}/crops/{crop_id}/image")
    assert picture.headers["content-type"] == f"image/{kind}"


def test_pages_of_a_listing_hold_every_crop_once(served, filled, drawn_crops):
    listed = pages(served.http, f"/v1/galleries/{filled}/crops", limit=7)
    assert [crop["identity"] for crop in listed] == [crop.identity for crop in drawn_crops]


def test_identities_are_listed_with_their_counts(served, filled):
    identities = served.results(f"/v1/galleries/{filled}/identities")
    first = identities[0]
    assert (first["identity"], first["crops"], first["cameras"]) == ("0000", 4, 2)
    assert len(identities) == 6
    one = served.read(f"/v1/galleries/{filled}/identities/0000")
    assert (one["identity"], one["crops"], one["cameras"]) == ("0000", 4, ["east", "west"])
    assert (one["crop_id"], one["last_seen"]) == (first["crop_id"], first["last_seen"])
    assert one["first_seen"] <= one["last_seen"]
    unknown = served.http.get(f"/v1/galleries/{filled}/identities/nobody")
    assert problem(unknown) == (404, "unknown_identity")


def test_an_identity_is_shown_by_its_sharpest_crop(served, gallery, drawn_crops):
    sharp = Image.open(io.BytesIO(drawn_crops[0].png)).convert("RGB")
    blurred = sharp.filter(ImageFilter.GaussianBlur(3))
    images = []
    for picture in (blurred, sharp, blurred.rotate(180)):
        picture.save(file := io.BytesIO(), "PNG")
        images.append(file.getvalue())
    landed = served.enroll(gallery, *images, identity="Ann").json()["results"]
    url = f"/v1/galleries/{gallery}/identities"
    (listed,) = served.results(url, params={"sort": "last_seen"})
    assert listed["crop_id"] == landed[1]["crop_id"]
    assert served.http.get(listed["image_url"]).content == images[1]
    served.http.delete(f"/v1/galleries/{gallery}/crops/{listed['crop_id']}")
    assert served.read(f"{url}/Ann")["crop_id"] in {
        landed[0]["crop_id"],
        landed[2]["crop_id"],
    }
    refused = served.http.get(url, params={"sort": "crops", "cursor": "Ann"})
    assert refused.json()["errors"][0]["field"] == "cursor"


def test_identities_are_searched_page_by_page(served, gallery, drawn_crops):
    names = [f"Guest {number}" for number in range(5)] + ["0042"]
    served.enroll(gallery, *(crop.png for crop in drawn_crops[:6]), identity=names)
    url = f"/v1/galleries/{gallery}/identities"
    found = pages(served.http, url, query="gUEST", limit=2)
    assert [person["identity"] for person in found] == names[:5]


@pytest.mark.parametrize("name", [".", ".."])
def test_a_name_that_no_path_can_hold_is_refused(served, gallery, drawn_crops, name):
    refused = served.enroll(gallery, drawn_crops[0].png, identity=name)
    assert problem(refused) == (422, "invalid_field")
    url = f"/v1/galleries/{gallery}/identities/somebody"
    assert served.http.patch(url, data={"new_identity": name}).status_code == 422
