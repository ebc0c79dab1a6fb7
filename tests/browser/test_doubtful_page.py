"""Doubtful pictures on the page: shown beside whom they resemble, set aside, renamed, confirmed."""

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import follow, press, results, violations

pytestmark = pytest.mark.slow


@pytest.fixture
def doubtful(page, http, gallery):
    """Open the list of doubtful pictures: one of 0000 has the name 0001."""
    crops = results(http, f"/v1/galleries/{gallery}/crops", identity="0000")
    path = f"/v1/galleries/{gallery}/crops/{crops[0]['crop_id']}"
    assert http.patch(path, data={"identity": "0001"}).is_success
    follow(page, "People", exact=True)
    follow(page, "Doubtful pictures", exact=True)
    # A list that is open follows changes, but not the check in the background.
    for _ in range(30):
        page.wait_for_timeout(1000)
        page.reload()
        rows(page).first.wait_for()
        if rows(page).get_by_role("button", name="Set aside").count():
            break
    expect(rows(page)).to_have_count(1)
    page.crop_path = path
    return page


def rows(page):
    return page.locator("#doubtful-list > li")


def test_a_picture_is_shown_beside_the_one_that_it_resembles(doubtful):
    row = rows(doubtful)
    expect(row.locator("img")).to_have_count(2)
    expect(row.locator(".card").nth(0)).to_contain_text("0001")
    expect(row.locator(".card").nth(1)).to_contain_text("0000")
    assert violations(doubtful) == []


@pytest.mark.parametrize(
    ("label", "outcome"),
    [
        ("Set aside", "The picture is set aside: no search finds it."),
        ("Belongs to 0000", "1 picture is now of 0000."),
        ("It is right", "The picture is right: it shows 0001."),
    ],
)
def test_each_decision_takes_the_picture_off_the_list_and_is_undone(doubtful, label, outcome):
    press(doubtful, label)
    doubtful.get_by_text(outcome, exact=True).wait_for()
    doubtful.get_by_text("No picture of a person is doubtful.").wait_for()
    press(doubtful, "Undo")
    expect(rows(doubtful).get_by_role("button", name=label)).to_have_count(1)


def test_before_a_merge_it_is_said_that_a_picture_of_one_of_them_is_doubtful(doubtful, gallery):
    doubtful.goto(f"{doubtful.url.partition('#')[0]}#{gallery}/identities/0000")
    press(doubtful, "Merge with…")
    doubtful.get_by_label("The other name").fill("0001")
    press(doubtful, "Compare", exact=True)
    note = doubtful.locator("dialog .note")
    expect(note).to_have_text(
        "1 picture of 0001 is doubtful: it may show somebody else. Look at the doubtful pictures "
        "first."
    )
    assert violations(doubtful) == []


def test_a_picture_that_is_set_aside_says_so_and_is_taken_back_in_its_sheet(doubtful, http):
    rows(doubtful).locator(".card").first.click()
    press(doubtful, "Set aside", exact=True)
    doubtful.get_by_text("do not find it: it is set aside").wait_for()
    assert http.get(doubtful.crop_path).json()["set_aside"] is True
    press(doubtful, "Take back", exact=True)
    expect(doubtful.get_by_text("do not find it: it is set aside")).to_have_count(0)
    assert http.get(doubtful.crop_path).json()["set_aside"] is False
