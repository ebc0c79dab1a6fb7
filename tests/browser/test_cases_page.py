"""Cases on the page: a search is held in one, with notes, until it is taken out or deleted."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import confirm, search_for, violations

pytestmark = pytest.mark.slow


def cases(http: Any, gallery: str) -> list[dict[str, Any]]:
    return list(http.get(f"/v1/galleries/{gallery}/cases").json()["results"])


def add(page: Any, name: str) -> None:
    page.get_by_role("button", name="Add to a case…").click()
    page.locator("dialog.question input").fill(name)
    confirm(page, "Add")
    page.get_by_text(f"In the case {name}.", exact=True).wait_for()


def test_a_search_is_put_into_a_case_noted_and_exported(page, http, gallery, drawn_crops):
    search_for(page, drawn_crops[0].png)
    page.locator("#answer .open").first.focus()
    page.keyboard.press("c")
    page.locator("#answer [value=confirmed][aria-pressed=true]").wait_for()
    add(page, "Bag at gate 3")
    add(page, "Bag at gate 3")
    assert [one["count"] for one in cases(http, gallery)] == [1]
    page.get_by_role("link", name="In 1 case").click()
    page.get_by_role("heading", name="Bag at gate 3").wait_for()
    page.get_by_label("Notes").fill("Left hand, 17:40.")
    page.get_by_role("button", name="Save").click()
    page.get_by_text("Saved.").wait_for()
    note = page.get_by_label("Note on this search")
    with page.expect_response(lambda answer: answer.request.method == "PUT"):
        note.fill("the coat")
        note.blur()
    assert violations(page) == []
    page.reload()
    expect(page.get_by_label("Notes")).to_have_value("Left hand, 17:40.")
    expect(note).to_have_value("the coat")
    with page.expect_download() as download:
        page.get_by_role("button", name="Export (ZIP)").click()
    with zipfile.ZipFile(io.BytesIO(download.value.path().read_bytes())) as archive:
        assert {"index.html", "results.csv", "SHA256SUMS"} <= set(archive.namelist())
        assert "the coat" in archive.read("index.html").decode()
    page.locator("#case li").get_by_role("link").click()
    page.locator("#answer .card").first.wait_for()


def test_a_search_is_taken_out_of_a_case_and_put_back(page, http, gallery, drawn_crops):
    search_for(page, drawn_crops[0].png)
    add(page, "A")
    page.get_by_role("link", name="Cases", exact=True).click()
    assert violations(page) == []
    page.get_by_role("link", name="A", exact=True).click()
    page.get_by_role("button", name="Take out").click()
    page.get_by_role("heading", name="0 searches").wait_for()
    page.get_by_role("button", name="Undo").click()
    page.get_by_role("heading", name="1 search", exact=True).wait_for()
    page.get_by_role("button", name="Delete this case…").click()
    confirm(page, "Delete")
    page.get_by_text("No cases yet.").wait_for()
    page.get_by_text("A is deleted, with 1 search.").wait_for()
    assert cases(http, gallery) == []


def test_a_case_is_begun_on_its_panel_and_a_phone_shows_it(page):
    page.set_viewport_size({"width": 390, "height": 844})
    page.get_by_role("link", name="Cases", exact=True).click()
    page.locator("#case").get_by_label("Name").fill("<b>B</b>")
    page.get_by_role("button", name="Create").click()
    page.get_by_role("heading", name="<b>B</b>").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    tops = {one.bounding_box()["y"] for one in page.locator("nav a").all()}
    assert len(tops) == 1
