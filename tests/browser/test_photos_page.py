"""Photos on the page: the people on them are found, and those who are chosen searched for."""

import io

import httpx2
import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.browser.conftest import (
    at_each_size,
    follow,
    in_both_schemes,
    png,
    press,
    results,
    violations,
)
from tests.drawn_photos import BACKGROUND, drawn_people, photo_of
from tests.outside import encoded
from tests.service.conftest import START, files, serving

NOTICE = "The photo is sent to this service to find people and is not kept."
PHONE = {"width": 390, "height": 844}
WITHOUT_DETECTOR = (
    "from pathlib import Path; import model.people_detector as people_detector\n"
    "people_detector.SHIPPED_DETECTOR = Path('missing.xml')\n"
)


@pytest.fixture(scope="module")
def people():
    """Return pictures of two drawn people, in whom the detector sees people."""
    return drawn_people()[:2]


@pytest.fixture(scope="module")
def close_up():
    """Return a picture of 760 rows that one drawn person fills."""
    return drawn_people()[5].resize((380, 760), Image.Resampling.LANCZOS)


@pytest.fixture(scope="module")
def photo(people):
    """Return an upright photo, as phones take them, with two people."""
    whole = Image.new("RGB", (900, 1200), BACKGROUND)
    for number, person in enumerate(people):
        whole.paste(person.resize((240, 480), Image.Resampling.LANCZOS), (120 + 420 * number, 400))
    return encoded(whole, "JPEG", quality=92)


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


@pytest.fixture
def requests(page):
    """Return the list of the calls of the page, by the end of their address."""
    sent = []
    page.on("request", lambda request: sent.append(request.url.rpartition("/")[2]))
    return sent


def resized(picture, size):
    with Image.open(io.BytesIO(picture)) as opened:
        return encoded(opened.resize(size, Image.Resampling.LANCZOS))


def boxes_of(page):
    return page.get_by_role("dialog", name="Draw boxes").locator(".stage .box")


def answer(page, name):
    page.locator("dialog.question").get_by_role("button", name=name, exact=True).click()


def lefts(locator):
    return [element.bounding_box()["x"] for element in locator.all()]


def test_a_person_on_a_photo_is_searched_for_without_drawing(page, photo, requests):
    expect(page.locator("#query .find-people")).to_contain_text(NOTICE)
    page.set_input_files("#query .drop input", png(photo))
    boxes = boxes_of(page)
    expect(boxes).to_have_text(["1", "2"])
    assert violations(page) == []
    expect(page.get_by_role("button", name="Search", exact=True).last).to_be_disabled()
    boxes.nth(1).click()
    expect(boxes.nth(1)).to_have_attribute("aria-pressed", "true")
    answer(page, "Search")
    page.wait_for_selector(".banner")
    assert requests.count("people") == 1
    # The picture of the search is the person's, and not the photo.
    width = page.locator(".shots img").evaluate("image => image.naturalWidth")
    assert width < 450


def test_people_are_looked_for_on_a_small_picture_that_is_wide(
    page, drop_field, small_scene, requests
):
    for _ in at_each_size(page):
        page.set_input_files(drop_field, png(small_scene))
        expect(boxes_of(page)).to_have_text(["1", "2", "3"])
        answer(page, "Cancel")
    assert not {"queries", "visits", "crops"} & set(requests)


def test_a_wide_picture_of_nobody_asks_for_a_box_before_it_is_searched_for(
    page, drop_field, nobody, requests
):
    for _ in at_each_size(page):
        page.set_input_files(drop_field, png(nobody))
        dialog = page.get_by_role("dialog", name="Draw boxes")
        expect(dialog.get_by_role("status")).to_contain_text("Nobody was found: draw a box")
        expect(boxes_of(page)).to_have_count(0)
        answer(page, "Cancel")
    assert not {"queries", "visits", "crops"} & set(requests)


@pytest.mark.parametrize(("size", "is_searched"), [((96, 120), True), ((100, 120), False)])
def test_a_small_picture_is_searched_for_at_once_if_it_is_upright(
    page, people, requests, size, is_searched
):
    page.set_input_files("#query .drop input", png(encoded(people[0].resize(size))))
    if is_searched:
        page.wait_for_selector(".banner")
    else:
        page.get_by_role("dialog", name="Draw boxes").wait_for()
    assert ("people" in requests) != is_searched


def test_of_several_pictures_those_that_are_wide_are_looked_at_one_after_another(
    page, people, small_scene, nobody
):
    upright = png(encoded(people[0]))
    page.set_input_files("#query .drop input", [png(small_scene), upright, png(nobody)])
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
        answer(page, "Search all 3")
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


def test_people_of_a_photo_are_enrolled_with_their_names(page, http, gallery, photo):
    follow(page, "Enroll")
    expect(page.locator("#enrollment .find-people")).to_contain_text(NOTICE)
    page.set_input_files("#enrollment .drop input", png(photo))
    boxes = boxes_of(page)
    expect(boxes).to_have_count(2)
    for box in boxes.all():
        box.click()
    press(page, "Take 2 people")
    page.get_by_label("Name of person.png, box 1").fill("Ann")
    page.get_by_label("Name of person.png, box 2").fill("Bob")
    press(page, "Enroll 2 pictures")
    expect(page.locator("#outcomes li .verdict")).to_have_text(["✓ Enrolled", "✓ Enrolled"])
    for identity in ("Ann", "Bob"):
        (crop,) = results(http, f"/v1/galleries/{gallery}/crops", identity=identity)
        stored = http.get(f"/v1/galleries/{gallery}/crops/{crop['crop_id']}/image").content
        width, height = Image.open(io.BytesIO(stored)).size
        assert width < 450
        assert height < 700


def test_a_picture_of_one_person_is_searched_for_at_the_drop(page, close_up, people, requests):
    for picture in (close_up, people[0]):
        page.set_input_files("#query .drop input", png(encoded(picture)))
        page.wait_for_selector(".banner")
        expect(page.locator("dialog.question")).to_have_count(0)
        press(page, "Clear")
    # The small one is no photo, whatever the detector would find.
    assert requests.count("people") == 1


def test_drawing_by_hand_sends_nothing(page, photo, requests):
    page.get_by_label("Find people on photos").first.uncheck()
    wide = encoded(Image.open(io.BytesIO(photo)).rotate(90, expand=True))
    page.set_input_files("#query .drop input", png(wide))
    page.get_by_role("dialog", name="Draw boxes").wait_for()
    expect(page.locator(".stage .box")).to_have_count(0)
    expect(page.get_by_role("button", name="Find people")).to_be_hidden()
    press(page, "Add a box")
    assert not {"people", "queries"} & set(requests)


def test_people_are_found_in_a_photo_that_was_enrolled_among_others(page, photo, people):
    follow(page, "Enroll")
    page.set_input_files("#enrollment .drop input", [png(photo), png(encoded(people[0]))])
    page.get_by_role("button", name="Draw boxes on person.png").first.click()
    press(page, "Find people")
    expect(page.locator(".stage .box")).to_have_count(2)


def test_a_phone_shows_the_found_people_in_its_window(page, photo):
    page.set_viewport_size(PHONE)
    page.set_input_files("#query .drop input", png(photo))
    boxes = page.locator(".stage .box")
    expect(boxes).to_have_count(2)
    for box in boxes.all():
        place = box.bounding_box()
        assert place["x"] >= 0
        assert place["x"] + place["width"] <= PHONE["width"]
        assert min(place["width"], place["height"]) >= 24
    boxes.first.click()
    page.locator("dialog.question").get_by_role("button", name="Search", exact=True).click()
    page.wait_for_selector(".banner")


def test_without_a_detector_the_page_offers_drawing_alone(tab, tiny_artefact, tmp_path, photo):
    program = WITHOUT_DETECTOR + START
    with serving(tiny_artefact, tmp_path / "data", program=program) as url:
        with httpx2.Client(base_url=url) as http:
            http.post("/v1/galleries/default/crops", files=files(photo)).raise_for_status()
        tab.goto(f"{url}/#default/search")
        expect(tab.locator("#artefact summary")).to_be_visible()
        expect(tab.locator(".find-people").first).to_be_hidden()
        wide = encoded(Image.open(io.BytesIO(photo)).rotate(90, expand=True))
        tab.set_input_files("#query .drop input", png(wide))
        tab.get_by_role("dialog", name="Draw boxes").wait_for()
        expect(tab.get_by_role("button", name="Find people")).to_be_hidden()
