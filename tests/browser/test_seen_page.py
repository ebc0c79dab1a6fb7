"""Has this person been here before? Sightings that cameras left, on the page, in order of time."""

import re
from collections import defaultdict
from datetime import UTC, datetime, timedelta

import httpx2
import pytest
from playwright.sync_api import expect

from demo.data_sets import read_spec
from tests.browser.conftest import (
    SIZES,
    at_each_size,
    confirm,
    follow,
    in_both_schemes,
    png,
    press,
    violations,
)
from tests.browser.test_evidence_page import height_mm
from tests.conftest import draw_crop
from tests.outside import bearer
from tests.service.conftest import files, serving
from tests.service.http.conftest import make_key

TASK = "Has this person been here before?"
STRANGER = draw_crop(53, 1, 7)
MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)
# The browser takes it for the present.
NOW = datetime.now(UTC).replace(hour=15, minute=0, second=0, microsecond=0) - 2 * DAY
GALLERIES = {"entrance": 30, "yard": 7}
# Requests of files have no body that a test could read.
NOTE_FIELDS = r"""
const send = window.fetch;
window.sent = [];
window.fetch = (path, options) => {
  if (/\/(queries|visits)$/.test(path) && options?.body)
    sent.push([path, [...options.body].filter(([, value]) => typeof value === "string")]);
  return send(path, options);
};
"""


@pytest.fixture(scope="module")
def people():
    """Return pictures of drawn people, twelve of each."""
    pictures = defaultdict(list)
    for crop in read_spec("synthetic:21,identities=4,domains=1,cameras=2,crops=6").crops:
        pictures[crop.identity].append(crop.read())
    return list(pictures.values())


@pytest.fixture(scope="module")
def cameras(browser, tmp_path_factory, people):
    """Return the address of a service to which cameras sent what they saw."""
    data = tmp_path_factory.mktemp("seen") / "data"
    person, alike, other, _ = people
    seen = [
        # One track, then another one of the same person two minutes later, and one of the next day.
        ("entrance", person[1], "gate", 45 * MINUTE, "17", ""),
        ("entrance", person[2], "gate", 44 * MINUTE, "17", "Ann Baker"),
        ("entrance", person[3], "gate", 42 * MINUTE, "18", ""),
        ("entrance", person[4], "gate", DAY, "17", ""),
        # One track that was interrupted for 20 minutes, and another track after 20 minutes.
        ("entrance", person[6], "hall", 2 * DAY, "4", ""),
        ("entrance", person[8], "hall", 2 * DAY - 20 * MINUTE, "4", ""),
        ("entrance", person[10], "hall", 2 * DAY - 40 * MINUTE, "5", ""),
        # The same name of a camera in another gallery.
        ("yard", person[5], "gate", DAY + MINUTE, "9", ""),
        ("yard", alike[9], "east", 3 * DAY, "10", ""),
        ("yard", person[11], "", None, "", ""),
        ("entrance", other[0], "gate", 41 * MINUTE, "19", ""),
        ("yard", other[1], "east", 3 * DAY, "11", "Bob"),
    ]
    with serving("small", data, runtime="openvino") as url:
        with httpx2.Client(base_url=url, timeout=60.0) as http:
            for name, days in GALLERIES.items():
                create(http, name, days)
            for gallery, picture, camera, ago, track, identity in seen:
                captured_at = (NOW - ago).isoformat() if ago else ""
                labels = {"camera": camera, "captured_at": captured_at, "track": track}
                send(http, gallery, picture, identity=identity, **labels)
        yield url


@pytest.fixture
def seen(tab, cameras):
    """Open the task, as from the page of searches of a gallery that keeps nothing."""
    tab.clock.set_fixed_time(NOW)
    tab.goto(f"{cameras}/#default/search")
    tab.wait_for_selector("#state .dot.ready")
    press(tab, TASK)
    return tab


def create(http, name, days, **asked):
    made = http.post("/v1/galleries", data={"name": name, "retention_days": days}, **asked)
    assert made.status_code == 201, made.text


def send(http, gallery, picture, headers=None, **labels):
    path = f"/v1/galleries/{gallery}/crops"
    answer = http.post(path, files=files(picture), data=labels, headers=headers)
    assert answer.status_code == 201, answer.text


def kept_in(http, name):
    """Return the kinds of the searches that a gallery keeps."""
    kept = http.get(f"/v1/galleries/{name}/queries").json()["results"]
    return [search["kind"] for search in kept]


def look_for(page, picture):
    page.set_input_files("#seen-task .drop input", png(picture))
    page.wait_for_selector("#seen-answer .banner")


def searches(page):
    """Return the path and the text fields of each search of the tab."""
    return [(path, [tuple(field) for field in fields]) for path, fields in page.evaluate("sent")]


def headline(page):
    return page.locator("#seen-answer .banner h2")


def cards(page):
    return page.locator("#seen-answer .card")


def date(time):
    year = "" if time.year == NOW.year else f", {time.year}"
    return f"{time:%b} {time.day}{year}"


def clock(time):
    return f"{time.hour % 12 or 12}:{time:%M} {time:%p}"


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_sightings_are_listed_by_day_with_one_entry_for_a_visit(seen, people, width, height):
    seen.set_viewport_size({"width": width, "height": height})
    expect(seen.get_by_text("Drop a picture.", exact=True)).to_be_visible()
    look_for(seen, people[0][0])
    first = NOW - 2 * DAY
    expect(headline(seen)).to_have_text(
        f"Seen 6 times, from {date(first)}, {clock(first)} to today, 2:18 PM, by 3 cameras, "
        "and 1 more sighting may show the person"
    )
    expect(headline(seen)).to_be_in_viewport()
    expect(seen.locator("#seen-answer .banner")).to_contain_text("The model may err")
    # At one false alarm in a hundred searches, half of it in each gallery, a match needs 95%.
    days = [f"{NOW - days * DAY:%A}, {date(NOW - days * DAY)}" for days in (1, 2, 3)]
    expect(seen.locator("#seen-answer h3")).to_have_text(
        ["Today", *days[:2], "Time unknown", "May show the person"]
    )
    expect(seen.locator("#seen-answer .day > .hint")).to_have_text(
        "Each is one track, and counts as no visit."
    )
    expect(cards(seen)).to_have_count(7)
    visits = [
        ("match", "Ann Baker", "gate", "in entrance", "2:15 – 2:18 PM", "3 pictures"),
        ("match", "no name", "gate", "in entrance", "3:00 PM"),
        ("match", "no name", "gate", "in yard", "2:59 PM"),
        ("match", "no name", "hall", "in entrance", "3:40 PM"),
        ("match", "no name", "hall", "in entrance", "3:00 – 3:20 PM", "2 pictures"),
        # Neither its camera nor its time is known.
        ("match", "no name", "in yard"),
        ("uncertain", "no name", "east", "in yard", days[2], "3:00 PM", "a match needs 95%"),
    ]
    for card, (verdict, *lines) in zip(cards(seen).all(), visits, strict=True):
        card.scroll_into_view_if_needed()
        pictures = int(lines[-1].split()[0]) if lines[-1].endswith("pictures") else 1
        expect(card.locator("img")).to_have_count(pictures)
        expect(card.locator("img").first).to_be_visible()
        expect(card.locator(".verdict")).to_have_text(f"Model: {verdict}")
        shown = card.locator(".about").inner_text().splitlines()
        # Browsers write thin spaces between two times.
        assert [re.sub(r"\s", " ", line) for line in shown[1 : len(lines) + 1]] == lines
        assert shown[-1].endswith("%")
    assert seen.evaluate("document.documentElement.scrollWidth") <= width
    for scheme in ("light", "dark"):
        seen.emulate_media(color_scheme=scheme)
        assert violations(seen) == []


def test_a_sighting_opens_beside_the_picture_in_its_own_gallery(tab, cameras, people):
    tab.add_init_script(NOTE_FIELDS)
    tab.goto(f"{cameras}/#default/search")
    tab.set_input_files("#query .drop input", png(people[0][0]))
    tab.wait_for_selector("#answer .banner")
    tab.locator("#query").get_by_label("Purpose").fill("case 7")
    # The task takes the pictures of the search.
    press(tab, TASK)
    expect(headline(tab)).to_contain_text("Seen 6 times")
    assert ("purpose", "case 7") in searches(tab)[-1][1]
    card = cards(tab).filter(has_text="Ann Baker")
    card.get_by_role("link").click()
    sheet = tab.get_by_role("dialog", name="Picture")
    # Its best picture is the first one.
    expect(sheet).to_contain_text("1 of 3")
    expect(sheet.locator("figcaption")).to_have_text(["Query", "In the gallery"])
    expect(tab.locator("#gallery")).to_have_value("entrance")
    press(tab, "Next →")
    expect(sheet).to_contain_text("2 of 3")
    # Results are judged under Search.
    expect(sheet.get_by_text(re.compile("^(Mark|Same person)"))).to_have_count(0)
    press(tab, "Close")
    expect(card.get_by_role("link")).to_be_focused()
    expect(tab).to_have_url(f"{cameras}/#entrance/seen")
    card.get_by_role("link").press("Enter")
    expect(sheet).to_contain_text("1 of 3")
    # The picture under Search was not searched for in the gallery that was passed.
    paths = [path for path, _ in searches(tab)]
    assert paths == ["/v1/galleries/default/queries", "/v1/visits"]


def test_an_enrolled_picture_is_searched_for_from_its_own_dialog(tab, cameras):
    tab.add_init_script(NOTE_FIELDS)
    tab.goto(f"{cameras}/#entrance/identities/Ann%20Baker")
    tab.locator(".tile button").first.click()
    tab.get_by_role("dialog", name="Picture").get_by_role("button", name=TASK).click()
    expect(headline(tab)).to_contain_text("Seen 6 times")
    ((_, fields),) = searches(tab)
    assert ("gallery", "entrance") in fields
    assert "crop_id" in dict(fields)
    expect(tab.locator("#seen-task .shots")).to_contain_text("Ann Baker")
    # The track of the picture was found by its other pictures.
    expect(cards(tab).filter(has_text="3 pictures")).to_contain_text("Ann Baker")


def test_a_match_that_is_unlike_the_visits_says_why_it_is_none(seen, people):
    def set_aside(route):
        response = route.fetch()
        answer = response.json()
        unlike = answer["results"].pop() | {"verdict": "uncertain", "probability": 0.97}
        route.fulfill(response=response, json=answer | {"uncertain": [unlike]})

    seen.route("**/v1/visits", set_aside)
    look_for(seen, people[0][0])
    expect(headline(seen)).to_contain_text("Seen 5 times")
    expect(cards(seen).last).to_contain_text("unlike those of the visits above")
    expect(cards(seen).last).not_to_contain_text("a match needs")


def test_a_stranger_is_not_seen_as_far_as_the_galleries_keep(seen, cameras):
    look_for(seen, STRANGER)
    # Pictures may be older than their gallery.
    since = {"entrance": date(NOW - 2 * DAY), "yard": date(NOW - 3 * DAY)}
    each = ", ".join(f"{gallery} since {day}" for gallery, day in since.items())
    expect(headline(seen)).to_have_text(f"Not seen, as far as the galleries keep: {each}")
    expect(seen.locator("#seen-answer .banner")).to_contain_text("The model may err: it misses")
    expect(cards(seen)).to_have_count(0)
    for scheme in ("light", "dark"):
        seen.emulate_media(color_scheme=scheme)
        assert violations(seen) == []


def test_galleries_and_times_narrow_the_search(seen, people):
    form = seen.locator("#seen-task form")
    expect(form.get_by_label("entrance keeps 30 days")).to_be_checked()
    form.get_by_label("entrance").uncheck()
    look_for(seen, people[0][0])
    expect(headline(seen)).to_contain_text("Seen 2 times")
    expect(headline(seen)).to_contain_text("by the camera gate, and 1 more sighting")
    expect(cards(seen).first).not_to_contain_text("in yard")
    form.get_by_label("From").fill(f"{NOW - 2 * DAY:%Y-%m-%dT%H:%M}")
    form.get_by_role("button", name="Search", exact=True).click()
    expect(headline(seen)).to_contain_text("Seen once")
    expect(seen.locator("#seen-answer")).to_contain_text("Only pictures of the times")
    form.get_by_label("Until").fill(f"{NOW - 3 * DAY:%Y-%m-%dT%H:%M}")
    form.get_by_role("button", name="Search", exact=True).click()
    expect(seen.get_by_role("alert")).to_contain_text("“From” is after “Until”")
    form.get_by_label("Until").fill(f"{NOW - 2 * DAY + MINUTE:%Y-%m-%dT%H:%M}")
    form.get_by_role("button", name="Search", exact=True).click()
    expect(headline(seen)).to_have_text("Nothing was searched")
    form.get_by_label("yard").uncheck()
    form.get_by_role("button", name="Search", exact=True).click()
    expect(seen.get_by_role("alert")).to_have_text("Tick at least one gallery.")


def test_an_answer_that_may_be_cut_off_says_so(seen, people):
    def cut_off(route):
        response = route.fetch()
        route.fulfill(
            response=response, json=response.json() | {"incomplete": ["entrance", "yard"]}
        )

    seen.route("**/v1/visits", cut_off)
    look_for(seen, people[0][0])
    expect(seen.locator("#seen-answer .note").first).to_contain_text(
        "There may be more in entrance and yard: only the pictures most like the person"
    )


@pytest.fixture
def nothing_kept(tab, address, http):
    """Open the task where no gallery deletes its pictures, and delete the one that is made."""
    tab.goto(f"{address}/#default/seen")
    yield tab
    http.delete("/v1/galleries/sightings")


def test_a_gallery_for_what_cameras_see_is_made_in_one_step(nothing_kept, http):
    page = nothing_kept
    for width, _ in at_each_size(page):
        expect(page.get_by_text("No gallery keeps what cameras see.")).to_be_visible()
        expect(page.locator("#seen-task")).to_be_hidden()
        expect(page.get_by_role("link", name="How cameras send pictures").first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for _ in in_both_schemes(page):
            assert violations(page) == []
        expect(page.get_by_label("Delete pictures after, in days").first).to_have_value("30")
    press(page, "Make this gallery")
    expect(page.get_by_text("Cameras have left no pictures yet.")).to_be_visible()
    # There is nothing to choose.
    expect(page.locator("#seen-task fieldset")).to_be_hidden()
    assert http.get("/v1/galleries/sightings").json()["retention_days"] == 30


def test_a_key_searches_only_the_gallery_that_it_may_see(tab, tiny_artefact, tmp_path):
    admin = bearer(make_key(tmp_path / "data", "--scope", "admin"))
    picture = draw_crop(0, 0, 0)
    with serving(tiny_artefact, tmp_path / "data") as url:
        with httpx2.Client(base_url=url, timeout=60.0) as http:
            for name, days in GALLERIES.items():
                create(http, name, days, headers=admin)
                send(http, name, picture, headers=admin, camera="gate")
            asked = {"scopes": "query", "gallery": "yard"}
            key = http.post("/v1/keys", data=asked, headers=admin).json()["key"]
        tab.add_init_script(NOTE_FIELDS)
        tab.goto(f"{url}/#yard/seen")
        dialog = tab.get_by_role("dialog", name="API key")
        dialog.get_by_label("API key").fill(key)
        dialog.get_by_role("button", name="Use this key").click()
        expect(tab.locator("#seen-task")).to_be_visible()
        expect(tab.locator("#seen-task fieldset")).to_be_hidden()
        look_for(tab, picture)
        ((_, fields),) = searches(tab)
        assert [value for name, value in fields if name == "galleries"] == ["yard"]
        expect(cards(tab)).to_have_count(1)
        expect(headline(tab)).to_have_text("Seen once, at an unknown time, by the camera gate")
        follow(tab, "← Search")
        expect(tab.locator("#query")).to_be_visible()


def test_visits_are_kept_only_for_a_case_and_shown_there_with_what_proves_them(
    seen, cameras, people
):
    person, *_ = people
    seen.evaluate(NOTE_FIELDS)
    look_for(seen, person[0])
    add = seen.get_by_role("button", name="Add entrance to a case…")
    with httpx2.Client(base_url=cameras, timeout=60.0) as http:
        assert kept_in(http, "entrance") == []
        add.click()
        asked = seen.get_by_role("dialog", name="Add this search to a case")
        asked.get_by_label("Case", exact=True).wait_for()
        confirm(seen, "Cancel")
        assert all(kept_in(http, name) == [] for name in GALLERIES)
        add.click()
        asked.get_by_label("Case", exact=True).select_option("new")
        asked.get_by_label("Name of the new case").fill("Who was here")
        confirm(seen, "Add")
        added = "In the case Who was here of the gallery entrance."
        seen.get_by_text(added, exact=True).wait_for()
        (case,) = http.get("/v1/galleries/entrance/cases").json()["results"]
        assert case["count"] == 1
        assert kept_in(http, "entrance") == ["visits"]
        assert kept_in(http, "yard") == []
    seen.goto(f"{cameras}/#entrance/cases/{case['case_id']}")
    visits = seen.get_by_role("list", name="Visits of this search").get_by_role("listitem")
    expect(visits.filter(has_text="gate").first).to_contain_text(re.compile("[0-9a-f]{64}"))
    expect(visits.filter(has_text="3 pictures")).to_have_count(1)
    expect(seen.locator("#case .searches")).to_contain_text("Been here")
    expect(seen.locator("#case .searches")).to_contain_text("File person.png")
    for width, _ in at_each_size(seen):
        assert seen.evaluate("document.documentElement.scrollWidth") == width
        assert violations(seen) == []
    seen.emulate_media(media="print")
    for picture in seen.locator("#case .pair img").all():
        assert height_mm(picture) >= 30
    # It opens as visits, and as a search of which results can be confirmed.
    seen.emulate_media(media="screen")
    seen.locator("#case .searches > li > a").first.click()
    expect(seen.locator("#answer .banner")).to_contain_text("Seen ")
    expect(seen.locator("#answer .day .card").first).to_be_visible()
    for width, _ in at_each_size(seen):
        assert seen.evaluate("document.documentElement.scrollWidth") == width
        assert violations(seen) == []
    seen.locator("#answer [value=confirmed]").first.click()
    expect(seen.locator("#answer [value=confirmed][aria-pressed=true]")).to_have_count(1)
