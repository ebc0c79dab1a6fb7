"""Enrolment as a client sees it."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from PIL import Image

from tests.hostile.pngs import announcing
from tests.outside import encoded, pages, problem, refused_fields


@pytest.fixture(scope="module")
def served(served_here):
    return served_here


def _encoded(kind, size=(32, 64)):
    pixels = np.random.default_rng(3).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return encoded(Image.fromarray(pixels), kind)


BAD_IMAGES = {
    "empty": (b"", "empty"),
    "text": (b"this is no image", "not_an_image"),
    "half a JPEG": (_encoded("JPEG")[:900], "truncated"),
    "a GIF": (_encoded("GIF"), "not_an_image"),
    "one pixel": (_encoded("PNG", (1, 1)), "too_small"),
    "a bomb": (announcing(50_000, 50_000), "too_many_pixels"),
    "over the limit": (_encoded("BMP", (300, 300)), "file_too_large"),
}


@pytest.mark.promise("one-bad-image")
@pytest.mark.parametrize(("image", "code"), BAD_IMAGES.values(), ids=BAD_IMAGES)
def test_a_bad_image_among_good_ones_fails_alone(served, gallery, images, image, code):
    answer = served.enroll(gallery, images[0], image, images[1])
    first, bad, last = answer.json()["results"]
    assert answer.status_code == 207
    assert first["crop_id"] != last["crop_id"]
    assert bad["problem"]["type"].endswith(code)
    assert bad["problem"]["status"] == (413 if code == "file_too_large" else 422)
    assert bad["problem"]["detail"]
    assert served.read(f"/v1/galleries/{gallery}")["crops"] == 2


def test_the_same_bytes_again_count_as_landed(served, gallery, images):
    image = images[0]
    first = served.enroll(gallery, image, identity="0007", camera="east").json()
    again = served.enroll(gallery, image, image, identity="0007", camera="east")
    assert again.status_code == 201
    for result in again.json()["results"]:
        assert result["duplicate"] is True
        assert result["crop_id"] == first["results"][0]["crop_id"]
    assert again.json()["gallery_version"] == first["gallery_version"]
    assert served.read(f"/v1/galleries/{gallery}")["crops"] == 1


def test_what_the_same_bytes_would_change_is_kept_and_named_in_a_warning(served, gallery, images):
    image = images[0]
    known = {"captured_at": "2026-03-01T09:30:00Z", "metadata": '{"shift": "night"}'}
    (crop_id,) = served.enrolled(gallery, image, **known)
    again = served.enroll(gallery, image, **known).json()["results"][0]
    other = served.enroll(gallery, image, captured_at="2026-03-02T09:30:00Z").json()["results"][0]
    assert (again["duplicate"], again["warnings"]) == (True, [])
    assert other["duplicate"] is True
    (warning,) = other["warnings"]
    assert "keeps its captured_at" in warning
    crop = served.read(f"/v1/galleries/{gallery}/crops/{crop_id}")
    assert crop["captured_at"] == known["captured_at"]


@pytest.mark.parametrize("other", [{"identity": "0008"}, {"camera": "west"}])
def test_the_same_bytes_under_another_name_are_stored_with_a_warning(
    served, gallery, images, other
):
    known = {"identity": "0007", "camera": "east"}
    first, second = (
        served.enroll(gallery, images[0], **labels).json()["results"][0]
        for labels in (known, known | other)
    )
    assert first["warnings"] == []
    assert second["duplicate"] is False
    assert second["crop_id"] != first["crop_id"]
    # A key that may only enroll must not learn who is enrolled, and where.
    for secret in known.values():
        assert secret not in second["warnings"][0]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("identity", ["a", "b"]),
        ("camera", "hall,2"),
        ("camera", " hall"),
        ("captured_at", "yesterday"),
        ("captured_at", "2026-03-01T09:30:00"),
        ("captured_at", "1700000000"),
        ("captured_at", "0001-01-01T00:00:00+23:59"),
        ("metadata", "no JSON"),
        ("idenity", "a"),
    ],
)
def test_a_field_that_cannot_be_used_stores_nothing(served, gallery, images, field, value):
    assert refused_fields(served.enroll(gallery, *images[:3], **{field: value})) == {field}
    assert served.read(f"/v1/galleries/{gallery}")["crops"] == 0


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "bmp"])
def test_a_crop_reads_back_as_it_was_sent(served, gallery, kind):
    image = _encoded(kind)
    labels = {"identity": "0001", "camera": "east", "external_id": "frame-17"}
    (crop_id,) = served.enrolled(
        gallery,
        image,
        captured_at="2026-03-01T10:30:00+01:00",
        metadata='{"shift": "night"}',
        **labels,
    )
    crop = served.read(f"/v1/galleries/{gallery}/crops/{crop_id}")
    expected = {**labels, "captured_at": "2026-03-01T09:30:00Z", "metadata": {"shift": "night"}}
    assert crop == {**crop, **expected}
    picture = served.http.get(crop["image_url"])
    assert picture.content == image
    assert picture.headers["content-type"] == f"image/{kind}"


def test_an_image_from_the_future_fails_alone(served, gallery, images):
    moments = [datetime.now(UTC) + timedelta(minutes=minutes) for minutes in (50, 70)]
    answer = served.enroll(
        gallery,
        *images[:3],
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
    large, _ = BAD_IMAGES["over the limit"]
    alone = send(gallery, large)
    assert problem(alone) == (413, "unusable_images")
    (refused,) = alone.json()["results"]
    assert refused["problem"]["status"] == 413
    assert send(gallery, large, b"no image").status_code == 422


def test_identities_are_listed_with_their_counts(served, filled):
    url = f"/v1/galleries/{filled}/identities"
    identities = served.results(url)
    first = identities[0]
    assert (first["identity"], first["crops"], first["cameras"]) == ("0000", 4, 2)
    assert len(identities) == 6
    one = served.read(f"{url}/0000")
    assert (one["identity"], one["crops"], one["cameras"]) == ("0000", 4, ["east", "west"])
    assert (one["crop_id"], one["last_seen"]) == (first["crop_id"], first["last_seen"])
    assert one["first_seen"] <= one["last_seen"]
    assert problem(served.http.get(f"{url}/nobody")) == (404, "unknown_identity")


def test_identities_are_searched_in_any_case_page_by_page(served, gallery, images):
    names = [f"Guest {number}" for number in range(5)] + ["0042"]
    served.enroll(gallery, *images[:6], identity=names)
    url = f"/v1/galleries/{gallery}/identities"
    found = pages(served.http, url, query="gUEST", limit=2)
    assert [person["identity"] for person in found] == names[:5]
    for name in (".", ".."):
        renamed = served.http.patch(f"{url}/0042", data={"new_identity": name})
        assert refused_fields(renamed) == {"new_identity"}
