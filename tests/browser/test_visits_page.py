"""Where a person was: a line of visits by day, for people with a name and for groups."""

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import (
    at_each_size,
    follow,
    in_both_schemes,
    press,
    results,
    violations,
)

pytestmark = pytest.mark.slow

# Of a person with four pictures: one visit of two, another camera, and the next day.
SEEN = [
    ("2026-03-01T08:00:00Z", "east", "17"),
    ("2026-03-01T08:00:20Z", "east", "17"),
    ("2026-03-01T08:20:20Z", "west", "4"),
    ("2026-03-02T11:20:20Z", "east", "17"),
]


@pytest.fixture
def walked(http, gallery):
    """Give the crops of one person the cameras and times of three visits; return their ids."""
    crops = f"/v1/galleries/{gallery}/crops"
    ids = [crop["crop_id"] for crop in results(http, crops, identity="0003")]
    for crop_id, (time, camera, track) in zip(ids, SEEN, strict=True):
        labels = {"captured_at": time, "camera": camera, "track": track}
        assert http.patch(f"{crops}/{crop_id}", data=labels).is_success
    return ids


def days(page):
    return page.locator(".visits-of-day")


def test_the_visits_of_a_person_are_a_line_for_each_day(page, walked):
    follow(page, "People")
    follow(page.locator("#people"), "0003")
    expect(page.get_by_role("heading", name="Seen 3 times")).to_be_visible()
    expect(days(page).locator("summary")).to_have_text(
        ["Monday, Mar 2 1 visit", "Sunday, Mar 1 2 visits"]
    )
    # The newest day is open, and the others are drawn when they are opened.
    expect(days(page).first.locator("li")).to_contain_text("11:20 AM")
    expect(days(page).first.locator(".gap")).to_contain_text("1 day later, the same person with")
    expect(days(page).last.locator("li")).to_have_count(0)
    days(page).last.locator("summary").click()
    rows = days(page).last.locator("li")
    expect(rows).to_have_count(2)
    expect(rows.first).to_contain_text("8:00 AM")
    expect(rows.first).to_contain_text("2 pictures")
    expect(rows.first.locator(".gap")).to_have_count(0)
    expect(rows.last).to_contain_text("west")
    expect(rows.last.locator(".gap")).to_contain_text("20 minutes later, the same person with")
    axis = page.get_by_role("img", name="Visits by time and camera. east: 1 visit, west: 1 visit.")
    expect(axis.locator(".stay")).to_have_count(1)
    axis.locator("circle").click()
    expect(rows.last).to_be_focused()
    for width, _ in at_each_size(page):
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for _ in in_both_schemes(page):
            assert violations(page) == []


def test_the_pictures_of_a_visit_are_looked_at_one_after_the_other(page, walked):
    follow(page, "People")
    follow(page.locator("#people"), "0003")
    days(page).last.locator("summary").click()
    visit = days(page).last.locator("li").first
    expect(visit.locator("img")).to_have_count(2)
    visit.get_by_role("button", name="Picture 1 of the visit").click()
    sheet = page.get_by_role("dialog", name="Picture")
    expect(sheet).to_contain_text("1 of 2")
    # Nothing was searched for, so that there is no score.
    expect(sheet).not_to_contain_text("Probability")
    press(page, "Next →")
    expect(sheet).to_contain_text("2 of 2")


def test_a_person_without_times_has_no_line(page):
    follow(page, "People")
    follow(page.locator("#people"), "0004")
    expect(page.locator("#person .tile")).to_have_count(4)
    expect(page.locator("#person .visits")).to_be_hidden()


def test_a_group_tells_where_its_person_was(page, http, gallery, walked):
    crops = f"/v1/galleries/{gallery}/crops"
    assert http.patch(crops, data={"crop_ids": walked, "new_identity": ""}).is_success
    group = {"group_id": "g1", "crop_ids": walked, "tracks": 3, "probability": 0.9}
    page.route("**/groups", lambda route: route.fulfill(json={"job_id": "j1", "results": [group]}))
    # The drawn people are not trained to be grouped: these are the visits of the same crops.
    assert http.patch(crops, data={"crop_ids": walked, "new_identity": "Ann"}).is_success
    visits = http.get(f"/v1/galleries/{gallery}/identities/Ann/visits").json()
    assert http.patch(crops, data={"crop_ids": walked, "new_identity": ""}).is_success
    page.route("**/groups/g1/visits", lambda route: route.fulfill(json=visits))
    follow(page, "People", exact=True)
    follow(page, "Pictures without a name")
    press(page, "Where was this person?")
    place = page.get_by_role("region", name="Visits of group 1")
    expect(place.get_by_role("heading", name="Seen 3 times")).to_be_visible()
    for width, _ in at_each_size(page):
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for _ in in_both_schemes(page):
            assert violations(page) == []
        press(page, "Where was this person?")
        expect(place).to_be_hidden()
        # It opens in the window also where the pictures before it fill that.
        page.evaluate("document.querySelector('#unnamed .group').style.paddingTop = '900px'")
        press(page, "Where was this person?")
        expect(place.get_by_role("heading", name="Seen 3 times")).to_be_in_viewport()
    press(page, "Where was this person?")
    expect(place).to_be_hidden()


def test_a_group_that_a_later_grouping_has_replaced_says_so(page, http, gallery, walked):
    crops = f"/v1/galleries/{gallery}/crops"
    assert http.patch(crops, data={"crop_ids": walked, "new_identity": ""}).is_success
    group = {"group_id": "gone", "crop_ids": walked, "tracks": 3, "probability": 0.9}
    page.route("**/groups", lambda route: route.fulfill(json={"job_id": "j1", "results": [group]}))
    follow(page, "People", exact=True)
    follow(page, "Pictures without a name")
    press(page, "Where was this person?")
    expect(page.get_by_role("alert")).to_contain_text("a later grouping joined other crops")
