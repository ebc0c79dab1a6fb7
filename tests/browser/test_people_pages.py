"""People, their groups and tracks on screens of three sizes, and what an empty gallery offers."""

import re

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import (
    FIRST,
    at_each_size,
    follow,
    press,
    results,
    search_for,
    violations,
)
from tests.conftest import draw_crop
from tests.service.conftest import files

pytestmark = pytest.mark.slow

SECOND = draw_crop(1, 0, 0)
DESK = {"width": 1440, "height": 900}
PHONE = {"width": 390, "height": 844}


@pytest.fixture
def groups(page, http, gallery):
    """Open the pictures without a name: those of six people, grouped by person."""
    crops = f"/v1/galleries/{gallery}/crops"
    listed = results(http, crops)
    by_person = {crop["identity"]: [] for crop in listed}
    for crop in listed:
        by_person[crop["identity"]].append(crop["crop_id"])
    for identity in by_person:
        taken_away = {"identity": identity, "new_identity": ""}
        assert http.patch(crops, data=taken_away).is_success
    found = [
        {"group_id": f"g{number}", "crop_ids": crop_ids, "tracks": 2, "probability": 0.97}
        for number, crop_ids in enumerate(by_person.values())
    ]
    grouping = {"job_id": "j1", "results": found}
    # The drawn people are not trained to be grouped.
    page.route("**/groups", lambda route: route.fulfill(json=grouping))
    page.set_viewport_size(DESK)
    follow(page, "People", exact=True)
    expect(page.get_by_role("link", name="Pictures without a name")).to_have_text(
        "Pictures without a name 24"
    )
    follow(page, "Pictures without a name")
    expect(page.locator(".group")).to_have_count(len(by_person))
    return page.locator(".group")


def test_three_groups_fit_the_screen_of_a_desk_and_are_explained_once(page, groups):
    page.keyboard.press("n")
    for group in groups.all()[:3]:
        expect(group).to_be_in_viewport(ratio=1)
        expect(group.locator(".tile")).to_have_count(4)
        expect(group.locator("h3")).to_contain_text("4 pictures 2 tracks, one person with 97%")
        expect(group.locator(".hint:not([role=status])")).to_have_count(0)
    expect(page.get_by_text("untick those of somebody else")).to_have_count(1)
    assert violations(page) == []
    page.set_viewport_size(PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    assert violations(page) == []


def test_a_key_leads_from_group_to_group(page, groups):
    for at in range(3):
        page.keyboard.press("n")
        expect(groups.nth(at)).to_be_focused()
        expect(groups.nth(at)).to_be_in_viewport(ratio=1)
    page.get_by_label("Name of group 4").press("n")
    expect(page.get_by_label("Name of group 4")).to_have_value("n")
    press(page, "Shortcuts")
    expect(page.get_by_role("dialog", name="Shortcuts")).to_contain_text("the next group")


def test_a_track_on_a_phone_keeps_its_name_in_one_line(page, http, gallery):
    crops = f"/v1/galleries/{gallery}/crops"
    for minute, crop in enumerate(results(http, crops, identity="0000")):
        labels = {"captured_at": f"2025-11-27T10:0{minute}:00Z", "track": "17", "camera": "east"}
        labels["identity"] = ""
        assert http.patch(f"{crops}/{crop['crop_id']}", data=labels).is_success
    page.set_viewport_size(PHONE)
    follow(page, "People", exact=True)
    follow(page, "Tracks", exact=True)
    expect(page.locator("#track-list li")).to_contain_text("no name")
    for name in page.locator("#track-list li > .name").all():
        assert name.bounding_box()["height"] < 2 * 24
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    assert violations(page) == []


def test_times_are_short_in_this_year_and_a_track_names_its_day_once(page, http, gallery):
    crops = f"/v1/galleries/{gallery}/crops"
    year = page.evaluate("new Date().getFullYear()")
    listed = results(http, crops, identity="0000")
    for hour, crop in enumerate(listed, 8):
        labels = {"captured_at": f"{year}-01-02T{hour:02}:00:00Z", "track": "17", "camera": "east"}
        assert http.patch(f"{crops}/{crop['crop_id']}", data=labels).is_success
    long_ago = results(http, crops, identity="0001")[0]["crop_id"]
    labels = {"captured_at": "2019-01-02T08:00:00Z"}
    assert http.patch(f"{crops}/{long_ago}", data=labels).is_success
    follow(page, "People", exact=True)
    seen = page.locator("#people .card", has_text="0000").locator("time")
    expect(seen).not_to_contain_text(str(year))
    expect(seen).to_have_attribute("title", f"Jan 2, {year}, 11:00:00 AM UTC")
    follow(page, "Tracks", exact=True)
    expect(page.locator("#track-list .hint").first).to_have_text("Jan 2, 8:00 – 11:00 AM")
    follow(page, "All people")
    follow(page.locator("#people"), "0001")
    expect(page.locator("#person .tile time").first).to_have_text("Jan 2, 2019, 8:00 AM")


def test_an_empty_gallery_says_what_to_do(page, http, gallery, address):
    empty = f"{gallery}-empty"
    assert http.post("/v1/galleries", data={"name": empty}).status_code == 201
    for panel, text, action in (
        ("identities", "Nobody in this gallery has a name yet.", "Enroll pictures"),
        ("unnamed", "There is no picture without a name.", "Enroll pictures"),
        ("cases", "No cases yet.", "Search"),
    ):
        page.goto(f"{address}/#{empty}/{panel}")
        place = page.locator(".empty:visible", has_text=text)
        for width, _ in at_each_size(page):
            expect(place.get_by_role("link", name=action)).to_be_visible()
            assert place.bounding_box()["width"] > 0.8 * width
            assert page.evaluate("document.documentElement.scrollWidth") == width
            assert violations(page) == []


def test_pictures_without_any_name_are_offered_to_be_named(page, http, gallery, address):
    nameless = f"{gallery}-nameless"
    assert http.post("/v1/galleries", data={"name": nameless}).status_code == 201
    sent = files(FIRST)
    assert http.post(f"/v1/galleries/{nameless}/crops", files=sent).status_code == 201
    page.goto(f"{address}/#{nameless}/identities")
    follow(page, "Name its pictures")
    page.get_by_text("1 picture has no name.").wait_for()


def test_a_gallery_is_described_in_counts_and_sizes(page, http, gallery):
    page.set_viewport_size(DESK)
    follow(page, "Galleries")
    described = http.get(f"/v1/galleries/{gallery}").json()
    terms = page.locator("#description")
    expect(terms).to_contain_text("Pictures24 pictures, ")
    model = terms.locator("code")
    expect(model).to_have_attribute("title", described["embedding_fingerprint"])
    assert len(model.inner_text()) < 20
    texts_fit = """selects => selects.every(select => {
        const wide = document.createElement("canvas").getContext("2d");
        wide.font = getComputedStyle(select).font;
        const widths = [...select.options].map(option => wide.measureText(option.text).width);
        return Math.max(...widths) < select.clientWidth - 40;
    })"""
    assert page.locator("#settings select").evaluate_all(texts_fit)


def test_pictures_of_a_person_use_the_width(page):
    page.set_viewport_size(DESK)
    follow(page, "People", exact=True)
    follow(page.locator("#people"), "0000")
    tile = page.locator("#person .tile").first
    assert tile.bounding_box()["width"] >= 160


def test_a_picture_of_which_only_the_name_is_known_says_no_more(page, http, gallery, address):
    nameless = f"{gallery}-undated"
    assert http.post("/v1/galleries", data={"name": nameless}).status_code == 201
    path = f"/v1/galleries/{nameless}/crops"
    assert http.post(path, files=files(FIRST), data={"identity": "Ann"}).status_code == 201
    for width, _ in at_each_size(page):
        page.goto(f"{address}/#{nameless}/identities/Ann")
        tile = page.locator("#person .tile")
        expect(
            tile.get_by_role("checkbox", name="Choose the picture of Ann", exact=True)
        ).to_have_count(1)
        expect(tile).to_have_text("")
        page.goto(f"{address}/#{nameless}/search")
        search_for(page, SECOND)
        card = page.locator("#answer .card .about")
        expect(card).to_contain_text("Ann")
        expect(card).not_to_contain_text("unknown")
        assert page.evaluate("document.documentElement.scrollWidth") == width


def test_an_index_has_a_size_unless_it_holds_nothing(page, http, gallery, address):
    page.goto(f"{address}/#{gallery}/galleries")
    expect(page.locator("#description")).to_contain_text(re.compile(r"Search index\d+ kB"))
    empty = f"{gallery}-unfilled"
    assert http.post("/v1/galleries", data={"name": empty}).status_code == 201
    for width, _ in at_each_size(page):
        page.goto(f"{address}/#{empty}/galleries")
        terms = page.locator("#description")
        expect(terms).to_contain_text("Pictures0 pictures")
        expect(terms).not_to_contain_text("Search index")
        assert page.evaluate("document.documentElement.scrollWidth") == width
