"""The form of a search: its filters are in view when they are opened, and a sample can be used."""

import re

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import (
    FIRST,
    SIZES,
    covered,
    in_both_schemes,
    open_settings,
    press,
    results,
    search_for,
    violations,
)

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("size", SIZES)
def test_cameras_and_times_are_in_view_when_filters_are_opened(page, size):
    width, height = size
    page.set_viewport_size({"width": width, "height": height})
    search_for(page)
    page.locator("#filters summary").click()
    filters = page.locator("#filters")
    east = filters.get_by_role("button", name="east")
    for field in (east, filters.get_by_label("From"), filters.get_by_label("Until")):
        expect(field).to_be_in_viewport(ratio=1)
        assert not covered(field)
    # The form scrolls with the page: a second scroll bar beside that of the page would hide fields.
    assert page.locator("#query").evaluate("form => form.scrollHeight <= form.clientHeight")
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_the_opened_form_is_accessible(page):
    search_for(page)
    page.locator("#filters summary").click()
    open_settings(page)
    page.locator("#chips .chip").first.wait_for()
    for _ in in_both_schemes(page):
        assert violations(page) == []


def test_the_form_stays_beside_scrolled_results_until_fields_are_opened(page):
    page.set_viewport_size({"width": 1280, "height": 720})
    search_for(page)
    expect(page.locator("#query button.main")).to_be_in_viewport(ratio=1)
    page.locator("#answer .card").last.scroll_into_view_if_needed()
    expect(page.get_by_role("img", name="Query picture 1")).to_be_in_viewport(ratio=1)
    page.locator("#filters summary").click()
    expect(page.locator("#chips .chip").first).to_be_in_viewport(ratio=1)


def test_someone_without_a_picture_searches_with_a_sample(page, http, gallery):
    with page.expect_request(re.compile("/queries$")) as asked:
        press(page, "Search with a sample")
    page.wait_for_selector(".banner")
    sample = page.locator(".shots li .name").inner_text()
    crops = results(http, f"/v1/galleries/{gallery}/crops", identity=sample)
    assert any(crop["crop_id"] in (asked.value.post_data or "") for crop in crops)
    expect(page.locator(".shots img")).to_be_visible()
    press(page, "Clear")
    expect(page.get_by_role("button", name="Search with a sample")).to_be_visible()


def test_a_gallery_without_pictures_offers_no_sample(page, http, gallery, address):
    empty = f"{gallery}-empty"
    assert http.post("/v1/galleries", data={"name": empty}).status_code == 201
    page.goto(f"{address}/#{empty}/search")
    page.get_by_text("This gallery has no pictures yet.").wait_for()
    expect(page.get_by_role("button", name="Search with a sample")).to_have_count(0)


def test_a_sample_is_offered_where_no_picture_has_a_name(page, http, gallery, address):
    nameless = f"{gallery}-nameless"
    assert http.post("/v1/galleries", data={"name": nameless}).status_code == 201
    images = {"images": ("person.png", FIRST)}
    assert http.post(f"/v1/galleries/{nameless}/crops", files=images).status_code == 201
    page.goto(f"{address}/#{nameless}/search")
    press(page, "Search with a sample")
    page.get_by_text("The gallery has no other picture to compare with.").wait_for()
