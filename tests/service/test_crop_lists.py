"""Listings of crops as a caller of HTTP and of the client sees them."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from gmn_client import Image
from tests.outside import pages, refused_fields

NINE = datetime(2026, 3, 1, 9, tzinfo=UTC)


def test_crops_without_a_name_and_of_a_time_are_listed(client, served, gallery, drawn_crops):
    times = ["2026-03-01T10:00:00Z", "2026-03-01T09:00:00Z", ""]
    ids = served.fill(gallery, drawn_crops[:3], identity=["Ann", "", ""], captured_at=times)
    ann, nine, timeless = ids

    def listed(**asked):
        return [crop.crop_id for crop in client.crops(**asked)]

    assert listed(unnamed=True) == [nine, timeless]
    assert listed(captured_after=NINE) == [ann, nine]
    assert listed(captured_after=NINE, captured_before=NINE) == [nine]
    # A crop of unknown capture stands by its enrollment.
    assert listed(order="-captured", unnamed=True) == [timeless, nine]
    assert listed(identity="Ann", order="-captured") == [ann]
    paged = pages(served.http, f"/v1/galleries/{gallery}/crops", order="captured", limit=1)
    assert [crop["crop_id"] for crop in paged] == [nine, ann, timeless]


@pytest.mark.parametrize(
    "text",
    [
        "2026-03-01t09:00:00z",
        "2026-03-01 09:00:00Z",
        "2026-03-01T10:00:00+01:00",
        f"2026-03-01T04:30:00.{'0' * 30}-04:30",
    ],
)
def test_every_form_of_a_time_is_read_in_addresses_and_forms(
    client, served, gallery, drawn_crops, text
):
    (crop_id,) = served.enrolled(gallery, drawn_crops[0].png, captured_at=text)
    assert client.crop(crop_id).captured_at == NINE
    bounds = {"captured_after": text, "captured_before": text}
    url = f"/v1/galleries/{gallery}/crops"
    assert [crop["crop_id"] for crop in served.http.get(url, params=bounds).json()["results"]] == [
        crop_id
    ]
    # The client sends the + of an offset as %2B.
    assert [crop.crop_id for crop in client.crops(**bounds)] == [crop_id]


@pytest.mark.parametrize(
    "offset",
    [timedelta(hours=1), timedelta(hours=-4, minutes=-30), timedelta(minutes=53, seconds=28)],
)
def test_a_time_of_any_zone_is_sent_by_the_client(client, served, gallery, drawn_crops, offset):
    moment = NINE.astimezone(timezone(offset))
    (sent,) = client.enroll([Image(drawn_crops[0].png, captured_at=moment)]).results
    assert client.crop(sent.crop_id).captured_at == NINE
    bounds = {"captured_after": moment, "captured_before": moment}
    assert [crop.crop_id for crop in client.crops(**bounds)] == [sent.crop_id]


def test_a_leap_second_is_the_second_after_it(client, served, gallery, drawn_crops):
    (crop_id,) = served.enrolled(gallery, drawn_crops[0].png, captured_at="2016-12-31T23:59:60Z")
    assert client.crop(crop_id).captured_at == datetime(2017, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("2026-03-01T00:00:00+01:00", "write %2B"),
        ("2026-03-01T24:00:00Z", "has the hour 24; write 00:00:00 of the following day"),
        ("2026-03-01T12:00:60Z", "has the second 60, which only a leap second"),
        ("2026-02-30T12:00:00Z", "names no existing day or time"),
        ("2026-03-01T12:00:00", "lacks a time zone"),
        ("2026-W09-7T12:00:00Z", "is not an RFC 3339 time"),
        ("2026-060T12:00:00Z", "is not an RFC 3339 time"),
        ("2026-03-01T12:00:00,5Z", "is not an RFC 3339 time"),
        (f"2026-03-01T12:00:00.{'0' * 60}Z", "is longer than 64 characters"),
    ],
)
def test_a_time_that_cannot_be_read_has_its_own_reason(served, gallery, images, text, reason):
    url = f"/v1/galleries/{gallery}/crops?captured_after={text}"
    refused = served.http.get(url)
    assert refused.status_code == 422
    assert refused.json()["detail"].startswith("captured_after: ")
    assert reason in refused.json()["detail"]
    if "%2B" not in reason:
        assert served.enroll(gallery, images[0], captured_at=text).status_code == 422


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("unnamed=true&identity=Ann", "unnamed"),
        (
            "captured_after=2026-03-02T00:00:00Z&captured_before=2026-03-01T00:00:00Z",
            "captured_after",
        ),
        ("captured_after=yesterday", "captured_after"),
        ("order=name", "order"),
        ("cursor=7&order=captured", "cursor"),
    ],
)
def test_a_listing_that_no_crop_can_be_in_is_refused_with_the_reason(served, gallery, query, field):
    url = f"/v1/galleries/{gallery}/crops"
    assert field in refused_fields(served.http.get(f"{url}?{query}"))
    # An empty parameter counts as left out.
    assert served.http.get(f"{url}?{field}=").status_code == 200


@pytest.mark.parametrize(
    "listing",
    [
        "queries?",
        "reviews?",
        "cases?",
        "crops?",
        "identities?sort=crops&",
        "identities?sort=last_seen&",
    ],
)
def test_a_text_that_no_page_gave_is_no_cursor(served, gallery, listing):
    for nonsense in ("x", "7/", "nan/Ann", "g" * 32):
        refused = served.http.get(f"/v1/galleries/{gallery}/{listing}cursor={nonsense}")
        assert refused_fields(refused) == {"cursor"}, nonsense
        assert "send next_cursor of the page before" in refused.json()["detail"]
