"""A search that fails while the service is away is repeated when it is back, and only once."""

import re

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import FIRST, follow, png, search_for
from tests.conftest import draw_crop

pytestmark = pytest.mark.slow
SECOND = draw_crop(1, 0, 0)


@pytest.fixture
def searches(page):
    """Return the list of the addresses to which the page has sent searches."""
    sent = []

    def note(request):
        if request.method == "POST" and re.search("/(queries|visits)$", request.url):
            sent.append(request.url)

    page.on("request", note)
    return sent


def leave(page):
    page.route("**/*", lambda route: route.abort())


def come_back(page):
    page.unroute("**/*")
    page.wait_for_selector("#state .dot.ready")


def test_a_search_that_failed_is_repeated_when_the_service_is_back(page, searches):
    for width, height in ((1440, 900), (390, 844)):
        page.set_viewport_size({"width": width, "height": height})
        # The address has the search before.
        search_for(page)
        earlier = page.url
        leave(page)
        searches.clear()
        page.set_input_files("#query .drop input", png(SECOND))
        expect(page.get_by_role("alert")).to_contain_text("The service cannot be reached")
        expect(page.locator("#state")).to_contain_text("The service does not answer")
        come_back(page)
        page.wait_for_selector(".banner")
        expect(page).not_to_have_url(earlier)
        expect(page.get_by_role("alert")).to_have_count(0)
        expect(page.get_by_role("img", name="Query picture")).to_have_count(1)
        assert len(searches) == 2
        page.go_back()
        expect(page).to_have_url(earlier)
        page.wait_for_selector(".banner")


def test_a_search_that_fails_again_is_not_repeated_a_second_time(page, searches):
    leave(page)
    page.set_input_files("#query .drop input", png(FIRST))
    expect(page.locator("#state")).to_contain_text("The service does not answer")
    page.route(re.compile("/queries$"), lambda route: route.abort())
    come_back(page)
    expect(page.get_by_role("alert")).to_contain_text("The service cannot be reached")
    assert len(searches) == 2
    leave(page)
    follow(page, "People")
    expect(page.locator("#state")).to_contain_text("The service does not answer")
    come_back(page)
    page.unroute(re.compile("/queries$"))
    follow(page, "Search", exact=True)
    page.wait_for_load_state("networkidle")
    assert len(searches) == 2
    page.locator("#query").get_by_role("button", name="Search", exact=True).click()
    page.wait_for_selector(".banner")
    assert len(searches) == 3


def test_the_question_where_cameras_saw_a_person_is_repeated_too(
    page, address, http, gallery, searches
):
    name = f"{gallery}-seen"
    assert http.post("/v1/galleries", data={"name": name, "retention_days": 30}).is_success
    page.goto(f"{address}/#{name}/seen")
    page.wait_for_selector("#state .dot.ready")
    leave(page)
    page.set_input_files("#seen-task .drop input", png(FIRST))
    expect(page.locator("#seen-answer .problem")).to_contain_text("The service cannot be reached")
    expect(page.locator("#state")).to_contain_text("The service does not answer")
    come_back(page)
    page.wait_for_selector("#seen-answer .banner")
    assert len(searches) == 2
