"""Listings of crops as a caller of HTTP and of the client sees them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tests.outside import pages

NINE = datetime(2026, 3, 1, 9, tzinfo=UTC)


def _fill(served, gallery, drawn_crops):
    """Three crops: of Ann, of an unknown person at 9 and at 8, in this order."""
    known = (("Ann", "2026-03-01T10:00:00Z"), ("", "2026-03-01T09:00:00Z"), ("", ""))
    ids = []
    for crop, (identity, captured_at) in zip(drawn_crops, known, strict=False):
        enrolled = served.enroll(gallery, crop.png, identity=identity, captured_at=captured_at)
        ids.append(enrolled.json()["results"][0]["crop_id"])
    return ids


def test_crops_without_a_name_and_of_a_time_are_listed(client, served, gallery, drawn_crops):
    ann, nine, timeless = _fill(served, gallery, drawn_crops)
    listed = lambda **given: [crop.crop_id for crop in client.crops(**given)]  # noqa: E731
    assert listed(unnamed=True) == [nine, timeless]
    assert listed(captured_after=NINE) == [ann, nine]
    assert listed(captured_after=NINE, captured_before=NINE) == [nine]
    # A crop of unknown capture stands by its enrollment.
    assert listed(order="captured") == [nine, ann, timeless]
    assert listed(order="-captured", unnamed=True) == [timeless, nine]
    assert listed(identity="Ann", order="-captured") == [ann]


def test_pages_in_the_order_of_capture_go_on_where_the_last_one_ended(served, gallery, drawn_crops):
    ids = _fill(served, gallery, drawn_crops)
    listed = pages(served.http, f"/v1/galleries/{gallery}/crops", order="captured", limit=1)
    assert [crop["crop_id"] for crop in listed] == [ids[1], ids[0], ids[2]]


def test_a_listing_that_no_crop_can_be_in_is_refused_with_the_reason(served, gallery):
    url = f"/v1/galleries/{gallery}/crops"
    for query, field in (
        ("unnamed=true&identity=Ann", "unnamed"),
        ("captured_after=2026-03-02T00:00:00Z&captured_before=2026-03-01T00:00:00Z", "captured_a"),
        ("captured_after=yesterday", "captured_after"),
        ("order=name", "order"),
        ("cursor=7&order=captured", "cursor"),
    ):
        refused = served.http.get(f"{url}?{query}")
        assert refused.status_code == 422
        assert refused.json()["detail"].startswith(field), refused.json()
    # An empty parameter counts as left out.
    for query in ("unnamed=", "identity=", "captured_after=", "order=", "cursor="):
        assert served.http.get(f"{url}?{query}").status_code == 200, query


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
        assert refused.status_code == 422, nonsense
        assert refused.json()["errors"][0]["field"] == "cursor"
        assert "send next_cursor of the page before" in refused.json()["detail"]
