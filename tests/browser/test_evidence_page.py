"""A case on the page shows the pictures that were confirmed, and prints them alone."""

import hashlib
import re
from uuid import uuid4

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import (
    ask,
    at_each_size,
    in_both_schemes,
    new_gallery,
    press,
    violations,
)
from tests.browser.test_cases_page import case_of
from tests.service.conftest import files
from tests.service.test_search_calibration import draw
from tests.waiting import eventually

pytestmark = pytest.mark.slow

# The size of a CSS pixel, and the width of A4 between its margins.
MM = 25.4 / 96
PRINTED_MM = 210 - 2 * 14
TIMES = ["2026-03-01T09:30:00Z", None, "2026-03-01T08:15:00.5Z", "2026-03-01T08:15:00Z"]


@pytest.fixture
def case(http, drawn_crops, address, tab):
    """Open a case of two searches for one person, with five decisions on four pictures."""
    gallery = new_gallery(http, drawn_crops[4:])
    path = f"/v1/galleries/{gallery}"
    crops = []
    for number, (crop, taken) in enumerate(zip(drawn_crops[:4], TIMES, strict=True)):
        labels = {"identity": "Ann Baker", "camera": f"gate {number}", "captured_at": taken or ""}
        answer = http.post(f"{path}/crops", files=files(crop.png), data=labels)
        crops.append(answer.json()["results"][0]["crop_id"])
    case_id = case_of(http, gallery, "Bag at gate 3")
    http.patch(f"{path}/cases/{case_id}", data={"notes": "Left hand,\n17:40."}).raise_for_status()
    asked = {"keep": "true", "keep_picture": "true"}
    decisions = [{"confirmed": [0, 1, 2], "rejected": [3]}, {"confirmed": [2, 3]}]
    for crop, decided in zip((drawn_crops[0], drawn_crops[2]), decisions, strict=True):
        query_id = ask(http, gallery, crop.png, **asked)["query_id"]
        for decision, numbers in decided.items():
            fields = {"decision": decision, "crop_ids": [crops[number] for number in numbers]}
            http.post(f"{path}/queries/{query_id}/reviews", data=fields).raise_for_status()
        held = f"{path}/cases/{case_id}/queries/{query_id}"
        http.put(held, data={"note": "the coat"}).raise_for_status()
    tab.goto(f"{address}/#{gallery}/cases/{case_id}")
    tab.get_by_role("heading", name="4 confirmed pictures").wait_for()
    return tab


def in_order(page):
    return page.get_by_role("list", name="Confirmed pictures in order of time").locator("li")


def test_a_case_lists_what_was_confirmed_by_time_and_under_each_search(case):
    rows = in_order(case)
    expect(rows).to_have_count(4)
    cameras = [re.search(r"gate \d", text)[0] for text in rows.all_inner_texts()]
    # The two of the same second are told apart, and the one without a time is the last.
    assert cameras == ["gate 3", "gate 2", "gate 0", "gate 1"]
    for row in rows.all():
        expect(row).to_contain_text("Ann Baker")
        expect(row).to_contain_text(re.compile(r"probability\s+[<>\d.]+%"))
    expect(rows.nth(3)).to_contain_text("time unknown")
    # Two searches found this one.
    expect(rows.nth(1).get_by_role("link")).to_have_count(2)
    groups = case.get_by_role("list", name="Confirmed pictures of this search")
    expect(groups.nth(0).locator("li")).to_have_count(3)
    expect(groups.nth(1).locator("li")).to_have_count(2)
    for width, _ in at_each_size(case):
        evidence = case.get_by_role("region", name="Confirmed pictures").bounding_box()
        form = case.locator("#case .fields").bounding_box()
        assert form["width"] * form["height"] < evidence["width"] * evidence["height"]
        assert evidence["y"] <= form["y"]
        assert case.locator("#case h2").first.bounding_box()["width"] > 250
        assert case.evaluate("document.documentElement.scrollWidth") == width
        for _ in in_both_schemes(case):
            assert violations(case) == []


def test_a_confirmed_picture_leads_to_its_search(case):
    in_order(case).first.get_by_role("link").click()
    case.locator("#answer .card").first.wait_for()
    expect(case.locator("#answer [value=confirmed][aria-pressed=true]")).to_have_count(2)


def height_mm(picture):
    """Return how high a picture is printed, without an empty edge of its box."""
    box = picture.bounding_box()
    natural = picture.evaluate("image => image.naturalHeight / image.naturalWidth")
    return min(box["height"], box["width"] * natural) * MM


def test_a_pair_says_what_proves_it_and_who_decided(case, drawn_crops):
    pair = case.get_by_role("list", name="Confirmed pictures of this search").first
    first = pair.get_by_role("listitem").first
    digest = hashlib.sha256(drawn_crops[0].png).hexdigest()
    # The crop is the same picture.
    assert first.inner_text().count(digest) == 2
    expect(case.locator("#case .searches")).to_contain_text(
        re.compile(r"The search covered 24 pictures and \d people with a name\.")
    )
    for text in ("Searched with", "File crop", "camera unknown, time unknown", "Ann Baker"):
        expect(first).to_contain_text(text)
    expect(first).to_contain_text(re.compile(r"Picture [0-9a-f]{32}"))
    expect(first).to_contain_text(re.compile(r"gate \d, Mar 1, 2026, \d+:\d\d:\d\d"))
    then = r"Then: uncertain, \d+% \(a match needs \d+%\)\. "
    today = r"Today: the same, by the same thresholds\. Confirmed by somebody without a key, "
    expect(first).to_contain_text(re.compile(then + today))


@pytest.mark.parametrize(
    ("ratio", "times"),
    [(200.0, "at least 200"), (34.6, "35"), (0.25, "0.3"), (0.005, "at most 0.005")],
)
def test_a_pair_says_its_likelihood_ratio_and_how_many_people_were_searched(case, ratio, times):
    def with_ratio(route):
        search = route.fetch().json()
        search["answer"] |= {"likelihood_people": 200, "people_searched": 1234}
        for result in search["answer"]["results"]:
            result["likelihood_ratio"] = ratio
        route.fulfill(json=search)

    case.route(re.compile(r"/queries/[0-9a-f]{32}$"), with_ratio)
    case.reload()
    expect(case.locator("#case .pair").first).to_contain_text(
        f"This score is {times} times as probable if both pictures show one person as if they show "
        "two of the gallery’s named people (likelihood ratio of 200 people). The search covered "
        "1,234 people."
    )


def test_a_pair_of_a_gallery_of_110_people_says_its_likelihood_ratio(http, address, tab):
    gallery = f"g{uuid4().hex[:8]}"
    http.post("/v1/galleries", data={"name": gallery}).raise_for_status()
    path = f"/v1/galleries/{gallery}"
    for shot, camera in enumerate(("gate", "yard")):
        labels = {"identity": [f"p{person}" for person in range(110)], "camera": camera}
        images = files(*(draw(person, shot) for person in range(110)))
        http.post(f"{path}/crops", files=images, data=labels).raise_for_status()
    eventually(lambda: ask(http, gallery, draw(3, 7))["likelihood_people"] is not None)
    kept = ask(http, gallery, draw(3, 7), keep="true", keep_picture="true")
    decision = {"decision": "confirmed", "crop_ids": kept["results"][0]["crop_id"]}
    reviews = f"{path}/queries/{kept['query_id']}/reviews"
    http.post(reviews, data=decision).raise_for_status()
    case_id = case_of(http, gallery, "Bag at gate 3")
    held = f"{path}/cases/{case_id}/queries/{kept['query_id']}"
    http.put(held, data={"note": ""}).raise_for_status()

    tab.goto(f"{address}/#{gallery}/cases/{case_id}")
    expect(tab.locator("#case .pair")).to_contain_text(
        re.compile(
            r"times as probable .* \(likelihood ratio of "
            rf"{kept['likelihood_people']} people\)\. The search covered 110 people\."
        )
    )


def test_both_pictures_of_a_pair_are_printed_30_mm_high_and_each_digest_in_one_line(case, tmp_path):
    case.set_viewport_size({"width": int(PRINTED_MM / MM), "height": 900})
    case.emulate_media(media="print")
    pairs = case.locator("#case .pair")
    expect(pairs).to_have_count(5)
    for pair in pairs.all():
        pictures = pair.locator("img").all()
        assert [height_mm(picture) >= 30 for picture in pictures] == [True, True]
        first, second = [picture.bounding_box() for picture in pictures]
        assert first["y"] == second["y"]
        assert first["x"] + first["width"] < second["x"]
        for digest in pair.locator("code").all():
            assert re.fullmatch(r"[0-9a-f]{64}", digest.inner_text())
            assert len(digest.evaluate("code => [...code.getClientRects()]")) == 1
    overflows = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
    assert not case.evaluate(overflows)
    printed = case.pdf(path=tmp_path / "case.pdf", format="A4")
    assert printed.startswith(b"%PDF")


def test_the_print_of_a_case_has_its_pictures_and_nothing_to_press(case):
    case.add_init_script("window.print = () => { window.printed = true; }")
    case.reload()
    press(case, "Print")
    # It waits for the verdicts of today.
    eventually(lambda: case.evaluate("window.printed"))
    expect(case.get_by_text("Today: …")).to_have_count(0)
    case.get_by_label("Note on this search").first.fill("the coat, torn")
    case.emulate_media(media="print", color_scheme="dark")
    # Also those that were never scrolled into view.
    # Each of the five pairs has two.
    pictures = case.locator("#case .evidence img, #case .pair img")
    expect(pictures).to_have_count(4 + 2 * 5)
    for picture in pictures.all():
        assert picture.evaluate("image => image.complete && image.naturalWidth > 0")
        expect(picture).to_be_visible()
    for shown in ("Bag at gate 3", "Left hand,", "the coat, torn", "Ann Baker", "As of "):
        expect(case.get_by_text(shown).locator("visible=true").first).to_be_visible()
    hidden = "nav, header, footer, #state, button, input, select, textarea, label"
    expect(case.locator(hidden).locator("visible=true")).to_have_count(0)
    colours = case.evaluate(
        """() => [...document.querySelectorAll("body, #case, #case *")]
            .filter(element => element.checkVisibility())
            .map(element => getComputedStyle(element))
            .flatMap(({ color, backgroundColor }) => [color, backgroundColor])"""
    )
    black, white, clear = "rgb(0, 0, 0)", "rgb(255, 255, 255)", "rgba(0, 0, 0, 0)"
    assert set(colours) <= {black, white, clear}
    assert len(case.pdf()) > 10_000


def test_a_case_says_what_was_confirmed_and_is_deleted(case, http):
    gallery = case.url.partition("#")[2].partition("/")[0]
    (crop,) = http.get(f"/v1/galleries/{gallery}/crops?camera=gate+1").json()["results"]
    http.delete(f"/v1/galleries/{gallery}/crops/{crop['crop_id']}").raise_for_status()
    case.reload()
    case.get_by_role("heading", name="3 confirmed pictures").wait_for()
    expect(case.locator("#case .searches")).to_contain_text("1 confirmed picture deleted since.")


def test_a_case_without_decisions_says_how_pictures_get_into_it(page, http, gallery):
    case_id = case_of(http, gallery, "Empty")
    page.evaluate("id => location.hash = location.hash.split('/')[0] + `/cases/${id}`", case_id)
    page.get_by_text("Make a search and press “Add to a case…” beside its results.").wait_for()
    assert violations(page) == []
