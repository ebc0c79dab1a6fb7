"""A verdict that changed is told on the page, with what changed meanwhile; others are not."""

import contextlib
import re
from uuid import uuid4

import httpx2
import pytest
from playwright.sync_api import expect

from tests.browser.conftest import SIZES, ask, open_settings, press, search_for, violations
from tests.browser.test_cases_page import case_of
from tests.service.conftest import files
from tests.service.test_search_calibration import draw
from tests.waiting import eventually

pytestmark = pytest.mark.slow

# Of the drawn people, the first is a match among 20 pictures and uncertain among 104. The second is
# no match among either.
CHANGING = 10
STAYING = 5
VERDICTS = {STAYING: "No match in this gallery", CHANGING: f"Match: Person {CHANGING}"}
ADJUSTED = "Verdicts were adjusted at {}."
CAUSE = f"Meanwhile 84 pictures were added. {ADJUSTED}"
UNCERTAIN_TODAY = "The same search today: uncertain, XX% (a match needs 92%)."
TIME = r"\d+:\d\d [AP]M"
NEEDED = re.compile(r"with a probability of \d\d%; a match here needs 92%\.")
KEPT = {"keep": "true", "keep_picture": "true"}
BANNER_NOTE = "#answer .banner .note:visible"


def adjusted(text):
    """Return a pattern of a text in which the time of a fit, and XX, stand for any."""
    pattern = re.escape(text).replace(re.escape(ADJUSTED), ADJUSTED.format(TIME))
    return re.compile(pattern.replace("XX", r"\d\d"))


def enroll(http, gallery, people, named):
    labels = {"identity": [f"Person {person}" for person in people]} if named else {}
    images = files(*(draw(person, 0) for person in people))
    answer = http.post(f"/v1/galleries/{gallery}/crops", files=images, data=labels)
    assert answer.status_code == 201, answer.text


def wait_for_fit(http, gallery, crops):
    def fitted():
        calibration = http.get(f"/v1/galleries/{gallery}").json()["calibration"]
        return all(state["crops"] == crops for state in calibration["scorings"].values())

    eventually(fitted)


def fill(http):
    """Return a new gallery of 20 named people, with thresholds of its own."""
    gallery = f"v{uuid4().hex[:8]}"
    assert http.post("/v1/galleries", data={"name": gallery}).status_code == 201
    enroll(http, gallery, range(20), named=True)
    wait_for_fit(http, gallery, 20)
    return gallery


def grow(http, gallery):
    enroll(http, gallery, range(100, 184), named=False)
    wait_for_fit(http, gallery, 104)


@pytest.fixture(scope="module")
def adjusted_since(address):
    """Return a gallery, and searches by name that were kept before its thresholds changed."""
    with httpx2.Client(base_url=address, timeout=60.0) as http:
        gallery = fill(http)
        changing = draw(CHANGING, 7)
        people = [f"Person {person}" for person in range(20)]
        kept = {
            "changing": ask(http, gallery, changing, **KEPT),
            "staying": ask(http, gallery, draw(STAYING, 7), **KEPT),
            "without its picture": ask(http, gallery, changing, keep="true"),
            "of some people": ask(http, gallery, changing, **KEPT, identities=people),
        }
        verdicts = [answer["verdict"] for answer in kept.values()]
        assert verdicts == ["match", "no_match", "match", "match"]
        grow(http, gallery)
        return gallery, {name: answer["query_id"] for name, answer in kept.items()}


@contextlib.contextmanager
def settled(page):
    """Wait, at the end, until today's verdicts of a kept search are known."""
    with page.expect_response(re.compile("/today$")):
        yield
    page.wait_for_load_state("networkidle")


def test_the_same_picture_searched_again_tells_its_former_verdict(tab, address, http):
    gallery = fill(http)
    tab.goto(f"{address}/#{gallery}/search")
    tab.wait_for_selector("#state .dot.ready")
    for person, verdict in VERDICTS.items():
        search_for(tab, draw(person, 7))
        expect(tab.locator(".banner h2")).to_have_text(verdict)
    grow(http, gallery)
    # The same picture from another file.
    search_for(tab, draw(CHANGING, 7))
    expect(tab.locator(".banner h2")).to_have_text(f"Uncertain: perhaps Person {CHANGING}")
    expect(tab.locator(".banner")).to_contain_text(NEEDED)
    expect(tab.locator("#answer .card.uncertain").first).to_contain_text("a match needs 92%")
    tab.locator("#answer .card.uncertain .open").first.click()
    expect(tab.locator("#sheet")).to_contain_text(re.compile(r"A match needs\s*92%"))
    tab.keyboard.press("Escape")
    note = tab.locator(BANNER_NOTE)
    expect(note).to_have_text(adjusted(f"{CAUSE} Before: match, 94%."))
    # Nobody got a name meanwhile.
    expect(tab.locator(".banner")).not_to_contain_text("this many people")
    for width, height in SIZES:
        tab.set_viewport_size({"width": width, "height": height})
        assert tab.evaluate("document.documentElement.scrollWidth") == width
        for scheme in ("light", "dark"):
            tab.emulate_media(color_scheme=scheme)
            assert violations(tab) == []
    # Another list of the same results leaves the sentence.
    open_settings(tab)
    with tab.expect_response(re.compile("/queries$")):
        tab.select_option("[name=top_k]", "20")
    expect(tab.locator("#answer .card")).to_have_count(20)
    expect(note).to_have_text(adjusted(f"{CAUSE} Before: match, 94%."))
    # A stricter search is another search, and this person's verdict is the same.
    with tab.expect_response(re.compile("/queries$")):
        tab.select_option("[name=operating_point]", "far_1e-3")
    expect(note).to_have_count(0)
    tab.select_option("[name=operating_point]", "far_1e-2")
    search_for(tab, draw(STAYING, 7))
    expect(tab.locator(".banner h2")).to_have_text(VERDICTS[STAYING])
    expect(note).to_have_count(0)


def test_a_kept_search_shows_the_verdict_of_its_time_and_todays(tab, address, http, adjusted_since):
    gallery, kept = adjusted_since
    searches = http.get(f"/v1/galleries/{gallery}").json()["calibration"]["searches"]
    tab.goto(f"{address}/#{gallery}/search/{kept['changing']}")
    expect(tab.locator(".banner h2")).to_have_text(f"Match: Person {CHANGING}")
    note = tab.locator(BANNER_NOTE)
    expect(note).to_contain_text("This is the verdict of ")
    expect(note).to_contain_text(adjusted(f"{UNCERTAIN_TODAY} {CAUSE}"))
    for width, height in SIZES:
        tab.set_viewport_size({"width": width, "height": height})
        assert tab.evaluate("document.documentElement.scrollWidth") == width
        assert violations(tab) == []
    # The comparison is no search of a user, by which thresholds would move.
    assert http.get(f"/v1/galleries/{gallery}").json()["calibration"]["searches"] == searches


def test_a_kept_search_of_the_same_verdict_today_says_nothing(tab, address, adjusted_since):
    gallery, kept = adjusted_since
    with settled(tab):
        tab.goto(f"{address}/#{gallery}/search/{kept['staying']}")
    expect(tab.locator(".banner h2")).to_have_text(VERDICTS[STAYING])
    expect(tab.locator(BANNER_NOTE)).to_have_count(0)


@pytest.mark.parametrize("name", ["without its picture", "of some people"])
def test_a_search_that_cannot_be_repeated_says_so(tab, address, adjusted_since, name):
    gallery, kept = adjusted_since
    tab.goto(f"{address}/#{gallery}/search/{kept[name]}")
    expect(tab.locator(BANNER_NOTE)).to_contain_text(
        adjusted(f"{ADJUSTED} Today’s is not known, as the search cannot be repeated.")
    )


def test_a_case_shows_the_verdict_of_its_time_and_todays(tab, address, http, adjusted_since):
    gallery, kept = adjusted_since
    case_id = case_of(http, gallery, "Bag")
    for name in ("changing", "staying"):
        path = f"/v1/galleries/{gallery}/cases/{case_id}/queries/{kept[name]}"
        http.put(path, data={"note": ""}).raise_for_status()
    tab.goto(f"{address}/#{gallery}/cases/{case_id}")
    rows = tab.locator("#case .searches > li")
    expect(rows.nth(0)).to_contain_text("Model: match")
    expect(rows.nth(0)).to_contain_text(adjusted(f"{UNCERTAIN_TODAY} {CAUSE}"))
    tab.wait_for_load_state("networkidle")
    expect(rows.nth(1)).to_contain_text("Model: no match")
    expect(rows.nth(1).locator(".note:visible")).to_have_count(0)


def test_a_pair_of_a_case_says_why_its_probability_is_another_today(
    tab, address, http, adjusted_since
):
    gallery, kept = adjusted_since
    search = f"/v1/galleries/{gallery}/queries/{kept['changing']}"
    best = http.get(search).json()["answer"]["results"][0]["crop_id"]
    confirmed = {"crop_ids": best, "decision": "confirmed"}
    http.post(f"{search}/reviews", data=confirmed).raise_for_status()
    case_id = case_of(http, gallery, "Pair")
    path = f"/v1/galleries/{gallery}/cases/{case_id}/queries/{kept['changing']}"
    http.put(path, data={"note": ""}).raise_for_status()
    tab.goto(f"{address}/#{gallery}/cases/{case_id}")
    pair = tab.get_by_role("list", name="Confirmed pictures of this search")
    today = f"Today: uncertain, XX% (a match needs 92%). {CAUSE} Confirmed by"
    expect(pair).to_contain_text(adjusted(today))


FITTED = {
    "state": "own",
    "version": "m+1",
    "identities": 25,
    "crops": 52,
    "searches": 3,
    "date": "2026-03-01T03:34:00Z",
}
REFITTED = FITTED | {"version": "m+2", "date": "2026-03-02T15:34:00Z"}
NOT_FITTED = {"state": "artefact", "version": "m", "identities": 0, "crops": 0, "date": None}
FIRST_ANSWER = {"calibration": FITTED, "crops_searched": 52, "people_searched": 25}
SECOND_ANSWER = FIRST_ANSWER | {"calibration": REFITTED}
UNFITTED = FIRST_ANSWER | {"calibration": NOT_FITTED}
ON = r"on Mar 2, 2026, \d+:34 [AP]M"
ADJUSTED_ON = rf"Verdicts were adjusted {ON}\."
CAUSES = [
    (
        FIRST_ANSWER,
        SECOND_ANSWER | {"crops_searched": 53},
        rf"Meanwhile 1 picture was added\. {ADJUSTED_ON}",
    ),
    (
        FIRST_ANSWER,
        SECOND_ANSWER | {"crops_searched": 136, "people_searched": 26},
        rf"Meanwhile 84 pictures and 1 person were added\. {ADJUSTED_ON}",
    ),
    (
        FIRST_ANSWER,
        FIRST_ANSWER | {"crops_searched": 40, "people_searched": 24},
        r"Meanwhile 12 pictures and 1 person were removed\.",
    ),
    (
        FIRST_ANSWER,
        SECOND_ANSWER | {"crops_searched": 60, "people_searched": 20},
        rf"Meanwhile 8 pictures were added and 5 people were removed\. {ADJUSTED_ON}",
    ),
    (
        FIRST_ANSWER,
        FIRST_ANSWER | {"calibration": REFITTED | {"searches": 19}},
        rf"Verdicts were adjusted {ON}, after 16 more searches\.",
    ),
    (FIRST_ANSWER, SECOND_ANSWER, ADJUSTED_ON),
    (UNFITTED, SECOND_ANSWER, rf"Verdicts were adjusted to this gallery {ON}\."),
    (FIRST_ANSWER, UNFITTED, r"Verdicts are not adjusted to this gallery any more\."),
    (UNFITTED, UNFITTED, r"The gallery has changed meanwhile\."),
]


def test_only_what_is_known_to_have_changed_is_named(page):
    answer = {}

    def answered(route):
        body = route.fetch().json()
        calibration = body["calibration"] | answer["calibration"]
        changes = answer | {"calibration": calibration, "query_id": None}
        route.fulfill(json=body | changes)

    page.route(re.compile("/queries$"), answered)
    answer.update(FIRST_ANSWER, verdict="match")
    search_for(page)

    def search(**changes):
        answer.update(changes)
        with page.expect_response(re.compile("/queries$")):
            press(page, "Search", exact=True)

    for before, now, sentence in CAUSES:
        # A third verdict lies between two causes.
        search(**now, verdict="no_match")
        search(**before, verdict="match")
        expect(page.locator(".banner h2")).to_contain_text("Match")
        search(**now, verdict="uncertain")
        expect(page.locator(BANNER_NOTE)).to_have_text(
            re.compile(rf"^{sentence} Before: match, [<>\d.% ]+\.$")
        )
    search(verdict="match", model="another")
    expect(page.locator(BANNER_NOTE)).to_contain_text("Another model answers now. Before: unc")


@pytest.mark.parametrize("searched_by", ["crop_id", "track"])
def test_todays_verdict_of_a_search_by_the_gallery_is_that_of_the_same_crops(
    page, address, http, gallery, drawn_crops, searched_by
):
    path = f"/v1/galleries/{gallery}"
    labels = {"camera": "gate", "track": "7"}
    enrolled = http.post(f"{path}/crops", files=files(draw(1, 1)), data=labels).json()
    asked = {"crop_id": enrolled["results"][0]["crop_id"], "track": "7"}
    fields = {searched_by: asked[searched_by], "camera": "gate", "keep": "true"}
    query_id = http.post(f"{path}/queries", data=fields).json()["query_id"]

    def older(route):
        body = route.fetch().json()
        body["answer"]["calibration"] |= {"version": "older"}
        body["answer"]["verdict"] = "match"
        route.fulfill(json=body)

    page.route(re.compile(rf"/queries/{query_id}$"), older)
    page.goto(f"{address}/#{gallery}/search/{query_id}")
    expect(page.locator(BANNER_NOTE)).to_contain_text("The same search today: no match")
