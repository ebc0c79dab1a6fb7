"""Cases on the page: a search is held in one, with notes, until it is taken out or deleted."""

import io
import zipfile

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import confirm, follow, press, results, search_for, violations
from tests.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.promise("notes-on-page")]


def cases(http, gallery):
    return results(http, f"/v1/galleries/{gallery}/cases")


def add(page, name):
    press(page, "Add to a case…")
    asked = page.get_by_role("dialog", name="Add this search to a case")
    case = asked.get_by_label("Case", exact=True)
    case.wait_for()
    if known := case.locator("option", has_text=f"{name} ·").all():
        case.select_option(known[0].get_attribute("value"))
    else:
        case.select_option("new")
        asked.get_by_label("Name of the new case").fill(name)
    confirm(page, "Add")
    asked.wait_for(state="detached")
    page.get_by_text(f"In the case {name}.", exact=True).wait_for()


def test_a_search_is_put_into_a_case_noted_and_exported(page, http, gallery):
    search_for(page)
    page.locator("#answer .open").first.focus()
    page.keyboard.press("c")
    page.locator("#answer [value=confirmed][aria-pressed=true]").wait_for()
    add(page, "Bag at gate 3")
    add(page, "Bag at gate 3")
    assert [case["count"] for case in cases(http, gallery)] == [1]
    follow(page, "In 1 case")
    page.get_by_role("heading", name="Bag at gate 3").wait_for()
    page.get_by_label("Notes").fill("Left hand, 17:40.")
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
        press(page, "Export (ZIP)")
    with zipfile.ZipFile(io.BytesIO(download.value.path().read_bytes())) as archive:
        assert {"index.html", "results.csv", "SHA256SUMS"} <= set(archive.namelist())
        assert "the coat" in archive.read("index.html").decode()
    page.locator("#case .searches > li > a").click()
    page.locator("#answer .card").first.wait_for()


def test_a_search_is_taken_out_of_a_case_and_put_back(page, http, gallery):
    search_for(page)
    add(page, "A")
    follow(page, "Cases", exact=True)
    assert violations(page) == []
    follow(page, "A", exact=True)
    press(page, "Take out")
    page.get_by_role("heading", name="0 searches").wait_for()
    press(page, "Undo")
    page.get_by_role("heading", name="1 search", exact=True).wait_for()
    press(page, "Delete this case…")
    confirm(page, "Delete")
    page.get_by_text("No cases yet.").wait_for()
    page.get_by_text("A is deleted, with 1 search.").wait_for()
    assert cases(http, gallery) == []


def test_a_case_is_begun_on_its_panel_and_a_phone_shows_it(page):
    page.set_viewport_size({"width": 390, "height": 844})
    follow(page, "Cases", exact=True)
    page.locator("#case").get_by_label("Name").fill("<b>B</b>")
    press(page, "Create")
    page.get_by_role("heading", name="<b>B</b>").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    tops = {link.bounding_box()["y"] for link in page.locator("nav a").all()}
    assert len(tops) == 1


def case_of(http, gallery, name):
    made = http.post(f"/v1/galleries/{gallery}/cases", data={"name": name})
    assert made.status_code == 201, made.text
    return made.json()["case_id"]


def held(http, gallery, case_id):
    case = http.get(f"/v1/galleries/{gallery}/cases/{case_id}").json()
    return {query["query_id"]: query["note"] for query in case["queries"]}


@pytest.mark.promise("cases-after-forgetting")
def test_forgetting_names_the_cases_that_lose_a_search(page):
    search_for(page)
    person = page.locator("#answer .card b .name").first.inner_text()
    page.locator("#answer .open").first.focus()
    page.keyboard.press("c")
    page.locator("#answer [value=confirmed][aria-pressed=true]").wait_for()
    add(page, "Bag at gate 3")
    follow(page, "People", exact=True)
    follow(page.locator("#people"), person)
    press(page, "Forget…")
    asked = page.locator("dialog.question")
    expect(asked).to_contain_text(
        "1 kept search of this person is deleted too, 1 from the case Bag"
    )
    confirm(page, "Forget")
    outcome = page.locator(".news:visible")
    expect(outcome).to_contain_text("1 kept search deleted, 1 from the case Bag at gate 3.")
    follow(page, "Cases", exact=True)
    follow(page, "Bag at gate 3")
    page.get_by_role("heading", name="0 searches").wait_for()
    expect(page.locator("#case .note")).to_contain_text("1 search deleted on ")


def test_notes_of_a_case_are_kept_while_it_is_drawn_anew_and_left(page, http, gallery):
    search_for(page)
    add(page, "A")
    follow(page, "In 1 case")
    notes = page.get_by_label("Notes")
    # Both happen while the field has the focus and has not reported a change.
    notes.press_sequentially("seen twice")
    page.get_by_role("button", name="Take out").dispatch_event("click")
    page.get_by_role("heading", name="0 searches").wait_for()
    expect(notes).to_have_value("seen twice")
    expect(notes).to_be_focused()
    notes.press_sequentially(" at the gate")
    page.evaluate("location.hash = location.hash.split('/')[0] + '/search'")
    page.locator("#query").wait_for()
    page.go_back()
    expect(notes).to_have_value("seen twice at the gate")
    eventually(lambda: cases(http, gallery)[0]["notes"] == "seen twice at the gate")


def test_notes_that_the_service_refuses_stay_in_the_field(page, http, gallery):
    case_of(http, gallery, "A")
    follow(page, "Cases", exact=True)
    follow(page, "A", exact=True)
    refused = {"status": 403, "json": {"detail": "another key made this case"}}

    def refuse(route):
        route.fulfill(**refused) if route.request.method == "PATCH" else route.continue_()

    page.route("**/cases/*", refuse)
    page.get_by_label("Notes").fill("seen twice")
    page.get_by_label("Notes").blur()
    page.get_by_role("alert").filter(has_text="Another key made this case.").wait_for()
    follow(page, "All cases")
    follow(page, "A", exact=True)
    expect(page.get_by_label("Notes")).to_have_value("seen twice")


def test_of_two_cases_with_one_name_the_chosen_one_gets_the_search(page, http, gallery):
    older, newer = (case_of(http, gallery, "Theft") for _ in range(2))
    search_for(page)
    press(page, "Add to a case…")
    asked = page.get_by_role("dialog", name="Add this search to a case")
    assert violations(page) == []
    case = asked.get_by_label("Case", exact=True)
    case.select_option("new")
    asked.get_by_label("Name of the new case").fill("Theft")
    confirm(page, "Add")
    asked.get_by_role("alert").filter(has_text="A case is called “Theft” already").wait_for()
    case.select_option(older)
    confirm(page, "Add")
    page.get_by_text("In the case Theft.").wait_for()
    assert [len(held(http, gallery, case)) for case in (older, newer)] == [1, 0]
    follow(page, "Cases", exact=True)
    page.locator("#case form").get_by_label("Name").fill("Theft")
    press(page, "Create")
    page.get_by_role("alert").filter(has_text="A case is called “Theft” already").wait_for()
    assert len(cases(http, gallery)) == 2


def test_a_search_that_a_case_holds_keeps_its_note_when_it_is_added_again(page, http, gallery):
    search_for(page)
    add(page, "A")
    (case,) = cases(http, gallery)
    (query_id,) = held(http, gallery, case["case_id"])
    path = f"/v1/galleries/{gallery}/cases/{case['case_id']}/queries/{query_id}"
    assert http.put(path, data={"note": "the coat"}).is_success
    add(page, "A")
    assert held(http, gallery, case["case_id"]) == {query_id: "the coat"}


def test_an_outcome_of_one_case_is_not_shown_on_another(page, http, gallery):
    other = case_of(http, gallery, "B")
    search_for(page)
    add(page, "A")
    follow(page, "In 1 case")
    press(page, "Take out")
    page.get_by_text("The search is taken out of the case").wait_for()
    follow(page, "All cases")
    follow(page, "B", exact=True)
    page.get_by_role("heading", name="B", exact=True).wait_for()
    expect(page.locator("#cases .news")).to_have_count(0)
    assert held(http, gallery, other) == {}
