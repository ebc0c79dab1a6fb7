"""Enrollment on the page: its outcome is in view, and no name is left for the next pictures."""

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import (
    SIZES,
    at_each_size,
    drop,
    follow,
    png,
    press,
    violations,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def enroll_page(page):
    follow(page, "Enroll", exact=True)
    page.locator("#jobs li").wait_for()
    return page


def name_field(page):
    return page.locator("#enrollment").get_by_label("Name of the person")


def enroll(page, pictures, name=""):
    page.set_input_files("#enrollment .drop input", pictures)
    if name:
        name_field(page).fill(name)
    page.locator("#enrollment button.main").click()
    page.get_by_text(f"{len(pictures)} of {len(pictures)} picture").wait_for()


def renamed(content, name):
    return png(content) | {"name": name}


@pytest.mark.parametrize("size", SIZES)
def test_the_outcome_is_in_view_after_sending(enroll_page, drawn_crops, size):
    width, height = size
    enroll_page.set_viewport_size({"width": width, "height": height})
    pictures = [renamed(drawn_crops[at].png + b"0", f"{at}.png") for at in range(3)]
    enroll(enroll_page, pictures, "Ann Baker")
    for verdict in enroll_page.locator("#outcomes .verdict").all():
        expect(verdict).to_have_text("✓ Enrolled")
        expect(verdict).to_be_in_viewport(ratio=1)
    follow_up = enroll_page.get_by_role("link", name="All pictures of Ann Baker")
    expect(follow_up).to_be_in_viewport(ratio=1)
    assert violations(enroll_page) == []
    assert enroll_page.evaluate("document.documentElement.scrollWidth") == width
    follow_up.click()
    enroll_page.get_by_role("heading", name="Ann Baker", exact=True).wait_for()


def test_the_pictures_that_were_chosen_stand_before_the_form_of_archives_on_a_phone(
    enroll_page, drawn_crops
):
    enroll_page.set_input_files("#enrollment .drop input", png(drawn_crops[0].png))
    chosen, archives = (enroll_page.locator(place) for place in ("#chosen", "#import"))
    for width, _ in at_each_size(enroll_page):
        expect(chosen).to_be_visible()
        below = archives.bounding_box()["y"] > chosen.bounding_box()["y"]
        assert below
        is_beside = chosen.bounding_box()["x"] > archives.bounding_box()["x"] + 200
        assert is_beside == (width > 800)
        assert enroll_page.evaluate("document.documentElement.scrollWidth") == width


def test_the_name_is_not_left_for_the_pictures_of_somebody_else(enroll_page, drawn_crops):
    enroll(enroll_page, [renamed(drawn_crops[0].png + b"0", "ann.png")], "Ann Baker")
    expect(name_field(enroll_page)).to_have_value("")


def test_the_name_stays_where_nothing_was_enrolled(enroll_page):
    enroll(enroll_page, [renamed(b"no picture", "ann.png")], "Ann Baker")
    enroll_page.get_by_text("✕ Refused").wait_for()
    expect(name_field(enroll_page)).to_have_value("Ann Baker")
    expect(enroll_page.get_by_role("link", name="All pictures of")).to_have_count(0)


def test_pictures_of_several_people_lead_to_no_single_person(enroll_page, drawn_crops, tmp_path):
    for number, name in enumerate(("Ann", "Bob")):
        file = tmp_path / "people" / name / "1.png"
        file.parent.mkdir(parents=True)
        file.write_bytes(drawn_crops[number].png + b"0")
    name_field(enroll_page).fill("Carla")
    enroll_page.set_input_files("#enrollment .folder input", tmp_path / "people")
    expect(name_field(enroll_page)).to_be_disabled()
    expect(name_field(enroll_page)).to_have_value("")
    expect(enroll_page.locator("#named-by")).to_have_text(
        "The sub-folders of the chosen folder name the people."
    )
    assert violations(enroll_page) == []
    # A loose picture has no folder that names it.
    drop(enroll_page, "#enrollment .drop", drawn_crops[2].png)
    expect(name_field(enroll_page)).to_be_enabled()
    press(enroll_page, "Remove person.png")
    expect(name_field(enroll_page)).to_be_disabled()
    press(enroll_page, "Enroll 2 pictures")
    enroll_page.get_by_text("2 of 2 pictures: 2 enrolled").wait_for()
    expect(name_field(enroll_page)).to_be_enabled()
    expect(enroll_page.locator("#named-by")).to_be_hidden()
    expect(enroll_page.get_by_role("link", name="All pictures of")).to_have_count(0)


def test_what_is_stored_already_is_no_warning(enroll_page, drawn_crops):
    crop = drawn_crops[0].png + b"0"
    enroll(enroll_page, [renamed(crop, "first.png")], "Ann")
    enroll(enroll_page, [renamed(crop, "again.png")], "Ann")
    row = enroll_page.locator("#outcomes li")
    expect(row).to_have_text("again.pngAnnAlready stored")
    expect(row.locator(".note")).to_have_count(0)
    expect(enroll_page.get_by_role("link", name="All pictures of Ann")).to_be_visible()
    enroll_page.locator("#enrollment").get_by_label("Captured").fill("2026-03-01T09:30")
    enroll(enroll_page, [renamed(crop, "again.png")], "Ann")
    expect(row).to_contain_text("It keeps the time that it was stored with.")
    assert "captured_at" not in row.inner_text()


def test_a_name_typed_while_pictures_are_sent_stays(enroll_page, drawn_crops):
    held = []
    enroll_page.route("**/crops", lambda route: held.append(route))
    enroll_page.set_input_files("#enrollment .drop input", png(drawn_crops[0].png + b"0"))
    name_field(enroll_page).fill("Ann")
    with enroll_page.expect_request("**/crops"):
        enroll_page.locator("#enrollment button.main").click()
    name_field(enroll_page).fill("Bob")
    held[0].continue_()
    enroll_page.get_by_text("1 of 1 picture: 1 enrolled").wait_for()
    expect(name_field(enroll_page)).to_have_value("Bob")
