"""Two tabs of a browser: what one changes the other shows, and nothing that is typed is lost."""

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import confirm, fill_in, press, results, search_for, violations

pytestmark = pytest.mark.slow
PEOPLE = 6


@pytest.fixture
def other(page):
    """Return a second tab of the browser, on the same panel."""
    second = page.context.new_page()
    second.goto(page.url)
    second.wait_for_selector("#state .dot.ready")
    return second


def goto(tab, panel):
    """Go to a panel as a link does, without reading the page again."""
    tab.evaluate("panel => { location.hash = location.hash.split('/')[0] + '/' + panel }", panel)
    tab.locator(f"#{panel.split('/')[0]}").wait_for()


def shown(tab):
    return tab.locator("main > section:visible")


def rename(tab, name, new_name):
    goto(tab, f"identities/{name}")
    press(tab, "Rename…")
    fill_in(tab, "New name", new_name, "Rename")


def take_names_away(http, gallery, identity):
    taken_away = {"identity": identity, "new_identity": ""}
    assert http.patch(f"/v1/galleries/{gallery}/crops", data=taken_away).is_success


def test_a_new_name_and_its_undo_are_seen_wherever_the_person_is_shown(page, other):
    search_for(other)
    person = other.locator("#answer .card b .name").first
    name = person.inner_text()
    people = page.context.new_page()
    people.goto(page.url)
    goto(people, "identities")
    expect(shown(people)).to_contain_text(name)
    rename(page, name, "Vera Wolf")
    expect(person).to_have_text("Vera Wolf")
    expect(shown(people)).to_contain_text("Vera Wolf")
    press(page, "Undo")
    expect(person).to_have_text(name)
    expect(shown(people)).not_to_contain_text("Vera Wolf")
    expect(shown(people)).to_contain_text(name)


def test_the_page_of_a_person_who_was_renamed_in_another_tab_says_so(page, other):
    goto(other, "identities/0001")
    other.locator("#person .tile").first.wait_for()
    rename(page, "0001", "Vera Wolf")
    expect(shown(other)).to_contain_text(
        "Nobody in this gallery is called “0001”. The person may have been renamed"
    )
    press(page, "Undo")
    expect(other.locator("#person .tile")).to_have_count(4)
    expect(shown(other)).not_to_contain_text("Nobody")


def test_a_merge_and_its_undo_are_seen_on_the_page_of_the_person(page, other):
    goto(other, "identities/0002")
    tiles = other.locator("#person .tile")
    expect(tiles).to_have_count(4)
    goto(page, "identities/0001")
    press(page, "Merge with…")
    fill_in(page, "The other name", "0002", "Compare")
    page.get_by_label("Both get the name").select_option("0002")
    confirm(page, "Merge")
    expect(tiles).to_have_count(8)
    press(page, "Undo")
    expect(tiles).to_have_count(4)


def test_pictures_that_get_a_name_leave_those_without_one_and_name_their_track(
    page, other, http, gallery
):
    crops = f"/v1/galleries/{gallery}/crops"
    for crop in results(http, crops, identity="0000"):
        assert http.patch(f"{crops}/{crop['crop_id']}", data={"track": "17"}).is_success
    take_names_away(http, gallery, "0000")
    tracks = page.context.new_page()
    tracks.goto(page.url)
    for tab, panel in ((page, "unnamed"), (other, "unnamed"), (tracks, "tracks")):
        goto(tab, panel)
    expect(other.locator("#unnamed-crops .tile")).to_have_count(4)
    expect(tracks.locator("#track-list li").first).to_contain_text("no name")
    page.locator("#unnamed-crops").get_by_role("button", name="Choose all").click()
    page.locator("#unnamed-crops").get_by_role("button", name="Name…").click()
    fill_in(page, "Name", "Vera Wolf", "Name")
    expect(shown(other)).to_contain_text("There is no picture without a name.")
    expect(tracks.locator("#track-list")).to_contain_text("Vera Wolf")


def test_a_case_and_its_notes_are_seen_in_the_other_tab(page, other):
    for tab in (page, other):
        goto(tab, "cases")
    page.locator("#case").get_by_label("Name").fill("Bag at gate 3")
    press(page, "Create")
    other.get_by_role("link", name="Bag at gate 3").click()
    page.get_by_label("Notes").fill("Left hand, 17:40.")
    expect(other.get_by_label("Notes")).to_have_value("Left hand, 17:40.")
    # A note that is being typed meanwhile stays, and takes the place of the other one.
    other.get_by_label("Notes").press("ControlOrMeta+End")
    other.get_by_label("Notes").press_sequentially(" Blue coat.")
    expect(page.get_by_label("Notes")).to_have_value("Left hand, 17:40. Blue coat.")


def test_what_is_ticked_or_typed_is_kept_until_its_person_wants_to_see_the_change(
    page, other, http, gallery
):
    take_names_away(http, gallery, "0000")
    goto(other, "unnamed")
    first = other.locator("#unnamed-crops .tile input").first
    first.check()
    rename(page, "0001", "Vera Wolf")
    hint = other.locator("#elsewhere")
    expect(hint).to_contain_text("This gallery was changed in another tab.")
    expect(first).to_be_checked()
    assert violations(other) == []
    press(other, "Show it")
    expect(hint).to_be_empty()
    expect(first).not_to_be_checked()
    # What is no longer ticked needs no question.
    first.check()
    rename(page, "0002", "Ann")
    expect(hint).not_to_be_empty()
    first.uncheck()
    expect(hint).to_be_empty()


def test_a_dialog_that_is_open_keeps_what_is_typed_in_it(page, other):
    goto(other, "identities/0002")
    press(other, "Rename…")
    field = other.locator("dialog.question").get_by_label("New name")
    field.fill("Ann")
    goto(page, "identities/0002")
    page.locator("#person .tile input").first.check()
    press(page, "Other name…")
    fill_in(page, "Name", "Vera Wolf", "Name")
    expect(other.locator("#person .tile")).to_have_count(3)
    expect(field).to_have_value("Ann")
    confirm(other, "Rename")
    goto(page, "identities")
    expect(shown(page)).to_contain_text("Ann")


def test_a_decision_is_seen_where_its_search_is_shown(page, other):
    search_for(page)
    other.goto(page.url)
    other.reload()
    expect(other.locator("#answer .card")).to_have_count(10)
    page.get_by_role("button", name="Same person, rank 1", exact=True).click()
    pressed = other.get_by_role("button", name="Same person, rank 1", exact=True)
    expect(pressed).to_have_attribute("aria-pressed", "true")
