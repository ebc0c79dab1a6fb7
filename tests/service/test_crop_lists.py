"""Listings of crops as a caller of HTTP and of the client sees them."""

from datetime import UTC, datetime

import pytest

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
