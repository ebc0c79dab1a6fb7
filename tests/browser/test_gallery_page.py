"""The parts of the page beside the search: the state line, folders, people, galleries."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import expect

pytestmark = pytest.mark.slow


def test_the_state_line_is_red_while_the_service_is_gone(page: Any) -> None:
    page.get_by_role("link", name="Identities").click()
    page.locator("#people li").first.wait_for()
    page.route("**/*", lambda route: route.abort())
    page.get_by_label("Find").fill("0001")
    state = page.locator("#state")
    expect(state).to_contain_text("The service does not answer")
    colour = "one => getComputedStyle(one).backgroundColor"
    red = state.evaluate(colour)
    page.get_by_role("alert").wait_for()
    page.unroute("**/*")
    page.wait_for_selector("#state .dot.ready")
    expect(page.locator("#people li")).to_have_count(1)
    assert page.get_by_role("alert").count() == 0
    assert state.evaluate(colour) != red
