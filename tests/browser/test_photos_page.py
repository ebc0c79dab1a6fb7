"""Photos on the page: the people on them are found, and those who are chosen searched for."""

import io

import httpx2
import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.browser.conftest import boxes_of, confirm, follow, png, press, results, violations
from tests.drawn_photos import BACKGROUND, drawn_people
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


def test_a_person_on_a_photo_is_searched_for_without_drawing(page, photo, requests):
    expect(page.locator("#query .find-people")).to_contain_text(NOTICE)
    page.set_input_files("#query .drop input", png(photo))
    boxes = boxes_of(page)
    expect(boxes).to_have_text(["1", "2"])
    assert violations(page) == []
    expect(page.get_by_role("button", name="Search", exact=True).last).to_be_disabled()
    boxes.nth(1).click()
    expect(boxes.nth(1)).to_have_attribute("aria-pressed", "true")
    confirm(page, "Search")
    page.wait_for_selector(".banner")
    assert requests.count("people") == 1
    # The picture of the search is the person's, and not the photo.
    width = page.locator(".shots img").evaluate("image => image.naturalWidth")
    assert width < 450


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
