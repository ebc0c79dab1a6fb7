"""The dialog of the people on a photo: when it opens, its keys, and one answer for each person."""

import io

import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.browser.conftest import (
    at_each_size,
    boxes_of,
    confirm,
    in_both_schemes,
    png,
    press,
    violations,
)
from tests.drawn_photos import BACKGROUND, drawn_people, photo_of
from tests.outside import encoded

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def upright():
    """Return a picture of one drawn person."""
    return drawn_people()[0]


@pytest.fixture(scope="module")
def small_scene():
    """Return a wide picture with three people, as small as messengers send it."""
    return resized(photo_of(3), (600, 360))


@pytest.fixture(scope="module")
def nobody():
    return encoded(Image.new("RGB", (600, 338), BACKGROUND))


@pytest.fixture(params=["search", "enroll", "seen"])
def drop_field(request, page, address, http, gallery):
    """Open a panel that takes pictures, and return the place to drop them."""
    field = {"search": "#query", "enroll": "#enrollment", "seen": "#seen-task"}[request.param]
    name = gallery
    if request.param == "seen":
        name = f"{gallery}-seen"
        made = http.post("/v1/galleries", data={"name": name, "retention_days": 30})
        assert made.status_code == 201
    page.goto(f"{address}/#{name}/{request.param}")
    return f"{field} .drop input"


def resized(picture, size):
    with Image.open(io.BytesIO(picture)) as opened:
        return encoded(opened.resize(size, Image.Resampling.LANCZOS))


def lefts(locator):
    return [element.bounding_box()["x"] for element in locator.all()]


def test_people_are_looked_for_on_a_small_picture_that_is_wide(
    page, drop_field, small_scene, requests
):
    for _ in at_each_size(page):
        page.set_input_files(drop_field, png(small_scene))
        expect(boxes_of(page)).to_have_text(["1", "2", "3"])
        confirm(page, "Cancel")
    assert not {"queries", "visits", "crops"} & set(requests)


def test_a_wide_picture_of_nobody_asks_for_a_box_before_it_is_searched_for(
    page, drop_field, nobody, requests
):
    for _ in at_each_size(page):
        page.set_input_files(drop_field, png(nobody))
        dialog = page.get_by_role("dialog", name="Draw boxes")
        expect(dialog.get_by_role("status")).to_contain_text("Nobody was found: draw a box")
        expect(boxes_of(page)).to_have_count(0)
        confirm(page, "Cancel")
    assert not {"queries", "visits", "crops"} & set(requests)


def test_a_wide_picture_asks_for_a_box_where_people_cannot_be_looked_for(
    page, drop_field, small_scene, requests
):
    page.route("**/v1/people", lambda route: route.abort())
    page.set_input_files(drop_field, png(small_scene))
    hint = page.get_by_role("dialog", name="Draw boxes").get_by_role("status")
    expect(hint).to_contain_text(
        "People could not be found. The service cannot be reached; is it running? Draw from"
    )
    assert not {"queries", "visits", "crops"} & set(requests)


@pytest.mark.parametrize(("size", "is_searched"), [((96, 120), True), ((100, 120), False)])
def test_a_small_picture_is_searched_for_at_once_if_it_is_upright(
    page, upright, requests, size, is_searched
):
    page.set_input_files("#query .drop input", png(encoded(upright.resize(size))))
    if is_searched:
        page.wait_for_selector(".banner")
    else:
        page.get_by_role("dialog", name="Draw boxes").wait_for()
    assert ("people" in requests) != is_searched


def test_of_several_pictures_those_that_are_wide_are_looked_at_one_after_another(
    page, upright, small_scene, nobody
):
    dropped = [small_scene, encoded(upright), nobody]
    page.set_input_files("#query .drop input", [png(picture) for picture in dropped])
    expect(boxes_of(page)).to_have_count(3)
    # Together the pictures show one person.
    page.keyboard.press("1")
    page.keyboard.press("2")
    expect(page.locator(".stage .box[aria-pressed=true]")).to_have_text("2")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Nobody was found")).to_be_visible()
    press(page, "Add a box")
    page.keyboard.press("Enter")
    expect(page.locator(".shots img")).to_have_count(3)
    expect(page.locator("#answer .banner")).to_have_count(1)


def test_the_only_person_on_a_photo_is_chosen_already_and_sent_by_enter(page, requests):
    page.set_input_files("#query .drop input", png(resized(photo_of(1), (600, 360))))
    expect(page.locator(".stage .box[aria-pressed=true]")).to_have_text("1")
    assert "queries" not in requests
    page.keyboard.press("1")
    expect(page.locator(".stage .box[aria-pressed=true]")).to_have_count(0)
    page.keyboard.press("1")
    page.keyboard.press("Enter")
    page.wait_for_selector("#answer .banner")


def test_a_number_and_enter_search_for_a_person_by_keyboard_alone(page, small_scene, requests):
    page.on("filechooser", lambda _: None)
    for _ in at_each_size(page):
        page.keyboard.press("/")
        page.wait_for_selector("#query .drop input:focus", state="attached")
        with page.expect_file_chooser() as chooser:
            page.keyboard.press("Space")
        chooser.value.set_files(png(small_scene))
        boxes = boxes_of(page)
        expect(boxes).to_have_text(["1", "2", "3"])
        assert lefts(boxes) == sorted(lefts(boxes))
        before = len(requests)
        # The focus on the first box chooses nobody.
        expect(boxes.first).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.get_by_text("Nobody is chosen yet.")).to_be_visible()
        assert "queries" not in requests[before:]
        page.keyboard.press("1")
        expect(page.get_by_text("Nobody is chosen yet.")).to_be_hidden()
        page.keyboard.press("Enter")
        page.wait_for_selector(".banner")
        expect(page.locator(".shots img")).to_have_count(1)
        press(page, "Clear")


def test_the_focus_does_not_look_like_a_choice(page, small_scene):
    page.set_input_files("#query .drop input", png(small_scene))
    boxes = boxes_of(page)
    expect(boxes).to_have_count(3)
    page.keyboard.press("2")
    page.keyboard.press("Shift+Tab")
    expect(boxes.nth(0)).to_be_focused()
    fills = [box.evaluate("box => getComputedStyle(box).backgroundColor") for box in boxes.all()]
    outlines = [box.evaluate("box => getComputedStyle(box).outlineStyle") for box in boxes.all()]
    assert fills[0] == fills[2] != fills[1]
    assert outlines == ["dashed", "none", "none"]
    page.keyboard.press("Space")
    expect(boxes.nth(0)).to_have_attribute("aria-pressed", "true")
    for _ in in_both_schemes(page):
        assert violations(page) == []


def test_numbers_choose_nobody_where_signs_are_no_shortcuts(page, small_scene):
    page.keyboard.press("?")
    page.get_by_label("Single letters and signs are shortcuts").uncheck()
    page.keyboard.press("Escape")
    page.set_input_files("#query .drop input", png(small_scene))
    expect(boxes_of(page)).to_have_count(3)
    page.keyboard.press("2")
    expect(page.locator(".stage .box[aria-pressed=true]")).to_have_count(0)
    page.keyboard.press("Space")
    expect(page.locator(".stage .box[aria-pressed=true]")).to_have_text("1")


def test_several_people_of_a_photo_get_an_answer_each_side_by_side(page, small_scene):
    answers = page.locator("#answer .each")
    for width, _ in at_each_size(page):
        page.set_input_files("#query .drop input", png(small_scene))
        expect(boxes_of(page)).to_have_count(3)
        for key in ("1", "3", "Enter"):
            page.keyboard.press(key)
        expect(answers).to_have_count(2)
        expect(answers.locator(".banner")).to_have_count(2)
        first, second = (each.bounding_box() for each in answers.all())
        assert (first["y"] == second["y"]) == (width > 800)
        assert page.evaluate("document.documentElement.scrollWidth") == width
        answers.nth(1).locator(".open").first.focus()
        page.keyboard.press("ArrowDown")
        expect(answers.nth(1).locator(".open:focus")).to_have_count(1)
        for _ in in_both_schemes(page):
            assert violations(page) == []
        press(page, "Clear")


def test_everybody_on_a_photo_is_searched_for_by_one_press(page, small_scene):
    for _ in at_each_size(page):
        page.set_input_files("#query .drop input", png(small_scene))
        expect(boxes_of(page)).to_have_count(3)
        confirm(page, "Search all 3")
        expect(page.locator("#answer .each .banner")).to_have_count(3)
        expect(page.locator(".shots img")).to_have_count(3)
        press(page, "Clear")


def test_one_person_of_a_photo_is_asked_about_where_cameras_saw_them(
    page, address, http, gallery, small_scene
):
    name = f"{gallery}-seen"
    assert http.post("/v1/galleries", data={"name": name, "retention_days": 30}).is_success
    page.goto(f"{address}/#{name}/seen")
    page.set_input_files("#seen-task .drop input", png(small_scene))
    expect(boxes_of(page)).to_have_count(3)
    expect(page.get_by_role("button", name="Search all")).to_have_count(0)
    page.keyboard.press("3")
    page.keyboard.press("2")
    expect(page.locator(".stage .box[aria-pressed=true]")).to_have_text("2")
    page.keyboard.press("Enter")
    page.wait_for_selector("#seen-answer .banner")
    expect(page.locator("#seen-task .shots img")).to_have_count(1)
