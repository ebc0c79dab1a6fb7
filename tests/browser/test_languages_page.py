"""The page in the languages of a browser: texts, dates, numbers and problems, on every panel."""

import itertools
import json
import re
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from playwright.sync_api import expect

from service.watch.forecast import Alarms, Found, describe_forecast
from tests.browser.conftest import (
    FIRST,
    TIMEOUT_MS,
    arm_list,
    ask,
    drop,
    new_gallery,
    results,
)
from tests.service.watch_places import create_webhook, unused_port

pytestmark = pytest.mark.slow
TEXTS = Path(__file__).parents[2] / "service" / "web" / "assets" / "texts"
ENGLISH = json.loads((TEXTS / "en.json").read_text(encoding="utf-8"))
PHONE = {"width": 390, "height": 844}
PERSON = "0000"
PANELS = (
    "search",
    "search/{query}",
    "seen",
    "enroll",
    "identities",
    f"identities/{PERSON}",
    "unnamed",
    "doubtful",
    "tracks",
    "cases",
    "cases/{case}",
    "watch",
    "galleries",
)


def marked(text):
    if isinstance(text, dict):
        return {form: marked(words) for form, words in text.items()}
    return f"⟦{text}⟧"


MARKED = {key: marked(text) for key, text in ENGLISH.items()}
# What is data: names, ids, the terms of the model, times, and what a person types as it stands.
DATA = (
    ".name, footer [lang=en], #language option, code, pre, time, kbd, textarea, noscript, "
    "#gallery option, [name=galleries] option, [name=gallery] option"
)
# Texts and attributes with letters outside of marks. A text may go on over several nodes.
OUTSIDE_MARKS = """data => {
    // Without what Intl writes into dates, and without addresses.
    const written = /\\b([AP]M|UTC|Mar|Tuesday)\\b|https?:\\S+/g;
    const hasLetters = text => /\\p{L}/u.test(text.replace(written, ""));
    const unmarked = text => {
        let depth = 0;
        let outside = "";
        for (const sign of text) {
            if (sign === "⟦") depth += 1;
            if (depth === 0) outside += sign;
            if (sign === "⟧") depth -= 1;
        }
        return outside;
    };
    const found = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    let depth = 0;
    while (walker.nextNode()) {
        const { data: text, parentElement: parent } = walker.currentNode;
        if (parent.closest("script, style")) continue;
        const outside = unmarked("⟦".repeat(depth) + text);
        depth += text.split("⟦").length - text.split("⟧").length;
        if (hasLetters(outside) && !parent.closest(data)) found.push(text);
    }
    if (depth !== 0) found.push("a text whose end is missing");
    for (const name of ["aria-label", "title", "placeholder"])
        for (const element of document.querySelectorAll(`body [${name}]`))
            if (hasLetters(unmarked(element.getAttribute(name))) && !element.closest(data))
                found.push(`${name}: ${element.getAttribute(name)}`);
    return [...new Set(found)];
}"""
# Unfold what is folded, and return how much that was.
UNFOLD = """() => {
    const folded = [...document.querySelectorAll("details:not([open])")].filter(
        details => details.checkVisibility());
    for (const details of folded) details.open = true;
    return folded.length;
}"""
# Elements that reach over the edge of the window, and buttons whose text is cut off.
TOO_WIDE = """() => {
    const isShown = element => element.checkVisibility({ visibilityProperty: true });
    const nameOf = element =>
        `${element.localName}.${element.className} ${element.textContent.trim().slice(0, 60)}`;
    const elements = [...document.querySelectorAll("body *")].filter(isShown);
    const isUnseen = element => element.closest(".unseen") !== null;
    const wide = elements.filter(
        element => !isUnseen(element) && element.getBoundingClientRect().right > innerWidth + 1);
    const cut = elements.filter(element => element.matches("button, .button, nav a")).flatMap(
        element => {
            const outer = element.getBoundingClientRect();
            const walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
            const texts = [];
            while (walker.nextNode()) {
                const text = document.createRange();
                text.selectNodeContents(walker.currentNode);
                const isOutside = [...text.getClientRects()].some(
                    ({ left, right, top, bottom }) =>
                        left < outer.left - 1 || right > outer.right + 1
                        || top < outer.top - 1 || bottom > outer.bottom + 1);
                if (isOutside && !isUnseen(walker.currentNode.parentElement))
                    texts.push(walker.currentNode.data);
            }
            return texts;
        });
    return [...wide.map(element => `wide: ${nameOf(element)}`), ...cut.map(text => `cut: ${text}`)];
}"""


@contextmanager
def speaking(browser, locale):
    """Yield a tab of a browser whose languages are one locale."""
    context = browser.new_context(locale=locale, timezone_id="UTC", viewport=PHONE)
    page = context.new_page()
    page.set_default_timeout(TIMEOUT_MS)
    yield page
    context.close()


@pytest.fixture(scope="module")
def panels(watching, people, drawn_crops):
    """Return the address of each panel of a gallery that has something to show on all of them."""
    gallery = new_gallery(watching, drawn_crops)
    crops = f"/v1/galleries/{gallery}/crops"
    for hour, crop in enumerate(results(watching, crops, identity=PERSON)):
        labels = {"captured_at": f"2024-03-05T{8 + hour:02}:30:00Z", "track": "17"}
        assert watching.patch(f"{crops}/{crop['crop_id']}", data=labels).is_success
    for crop in results(watching, crops, identity="0005"):
        assert watching.patch(f"{crops}/{crop['crop_id']}", data={"identity": ""}).is_success
    arm_list(watching, gallery)
    create_webhook(watching, f"http://127.0.0.1:{unused_port()}/")
    people.pass_by(gallery, content=FIRST)
    found = ask(watching, gallery, FIRST, keep="true", keep_picture="true", purpose="case 7")
    query = found["query_id"]
    decision = {"decision": "confirmed", "crop_ids": found["results"][0]["crop_id"]}
    reviews = f"/v1/galleries/{gallery}/queries/{query}/reviews"
    assert watching.post(reviews, data=decision).is_success
    made = watching.post(f"/v1/galleries/{gallery}/cases", data={"name": "Bag at gate 3"})
    case = made.json()["case_id"]
    held = f"/v1/galleries/{gallery}/cases/{case}/queries/{query}"
    assert watching.put(held, data={"note": "the coat"}).is_success
    url = str(watching.base_url).rstrip("/")
    return {panel: f"{url}/#{gallery}/{panel.format(query=query, case=case)}" for panel in PANELS}


def with_groups_and_doubts(page, http, address):
    """Show groups and doubtful pictures, which the service finds in the background."""
    gallery = address.split("#")[1].split("/")[0]
    crops = f"/v1/galleries/{gallery}/crops"
    unnamed = [crop["crop_id"] for crop in results(http, crops, unnamed="true")]
    group = {"group_id": "g1", "crop_ids": unnamed, "tracks": 2, "probability": 0.97}
    page.route("**/groups", lambda route: route.fulfill(json={"job_id": "j1", "results": [group]}))
    crop, other = [results(http, crops, identity=name)[0] for name in ("0001", "0002")]
    doubt = {"crop": crop, "other": other, "own_probability": 0.2, "other_probability": 0.9}
    answer = {"results": [doubt], "next_cursor": None}
    page.route("**/doubtful?*", lambda route: route.fulfill(json=answer))


def opened(page, address):
    """Open a panel afresh with all that can be unfolded, and wait until everything is read."""
    page.goto("about:blank")
    page.goto(address)
    page.locator("#state .dot").wait_for()
    if address.endswith("/watch"):
        # The stream of alerts keeps the network busy.
        page.locator("#alerts .card").first.wait_for()
        page.locator("#watch-list h2").wait_for()
    else:
        page.wait_for_load_state("networkidle")
    while page.evaluate(UNFOLD) > 0:
        expect(page.locator("[aria-busy]")).to_have_count(0)


def test_a_german_browser_gets_the_page_in_german_and_the_menu_changes_it(browser, panels):
    with speaking(browser, "de-AT") as page:
        page.goto(panels["identities"])
        expect(page.locator("html")).to_have_attribute("lang", "de")
        expect(page.locator("nav")).to_contain_text("Personen")
        expect(page.locator("#state")).to_contain_text("24 Bilder")
        page.locator("#header-more").click()
        page.locator("#language").select_option("English")
        expect(page.locator("html")).to_have_attribute("lang", "en")
        expect(page.locator("#state")).to_contain_text("24 pictures")
        page.reload()
        expect(page.locator("nav")).to_contain_text("People")
        expect(page.locator("#language")).to_have_value("en")


def test_a_browser_of_another_language_gets_english(browser, panels):
    with speaking(browser, "fi-FI") as page:
        page.goto(panels["search"])
        expect(page.locator("html")).to_have_attribute("lang", "en")
        expect(page.locator("nav")).to_contain_text("People")


@pytest.mark.parametrize(
    ("locale", "time", "share"),
    [
        ("de-DE", "5. März 2024, 8:30", "97 %"),
        ("en-US", "Mar 5, 2024, 8:30 AM", "97%"),
        ("en-GB", "5 Mar 2024, 8:30", "97%"),
    ],
)
def test_dates_and_numbers_are_those_of_the_browsers_region(
    browser, watching, panels, locale, time, share
):
    with speaking(browser, locale) as page:
        with_groups_and_doubts(page, watching, panels["unnamed"])
        opened(page, panels[f"identities/{PERSON}"])
        expect(page.locator("#person .tile time").first).to_have_text(time)
        opened(page, panels["unnamed"])
        expect(page.locator(".group .sure")).to_contain_text(share)


def test_a_problem_is_said_in_german_with_the_words_of_the_service_below(browser, panels):
    with speaking(browser, "de-DE") as page:
        page.goto(f"{panels['cases']}/gone")
        lines = page.locator("#cases .problem p")
        expect(lines.nth(0)).to_have_text("Diesen Fall gibt es nicht.")
        expect(lines.nth(1)).to_have_attribute("lang", "en")
        expect(lines.nth(1)).to_contain_text("gone")


def test_a_refused_picture_is_named_in_german_with_the_words_of_the_service(browser, panels):
    with speaking(browser, "de-DE") as page:
        page.goto(panels["search"])
        drop(page, "#query .drop", b"no picture")
        problem = page.locator("#answer .problem")
        expect(problem.locator("p")).to_have_text("1 Bild ist nicht verwendbar.")
        line = problem.locator("li")
        expect(line).to_contain_text("person.png: Die Datei ist kein lesbares Bild.")
        expect(line.locator("[lang=en]")).to_be_visible()


def test_forecasts_thresholds_and_results_of_jobs_are_german(browser, watching, panels):
    english = "main [lang=en], dialog [lang=en]"
    with speaking(browser, "de-DE") as page:
        opened(page, panels["watch"])
        shown = page.locator("#watch-list")
        unknown = "Wie viele Fehlalarme die Liste auslöst, ist nicht bekannt"
        expect(shown).to_contain_text(unknown)
        expect(shown).to_contain_text("der Spuren von Personen der Liste werden gefunden.")
        expect(shown).to_contain_text("Sie beruht allein auf den Schwellen des Modells")
        shown.get_by_role("button", name="Andere Einstellungen…").click()
        page.get_by_role("button", name="Prognose zeigen").click()
        forecast = page.locator("dialog .forecast")
        expect(forecast).to_contain_text(unknown)
        assert page.locator(english).count() == 0
        opened(page, panels["galleries"])
        expect(page.locator("#description")).to_contain_text(
            "Die Schwellen zwischen Treffer, unsicher und kein Treffer"
        )
        assert page.locator(english).count() == 0
        opened(page, panels["unnamed"])
        page.locator("#group").click()
        job = page.locator("#unnamed .jobs li").filter(has_text="✓ fertig")
        expect(job).to_contain_text(re.compile(r"\d Gruppen? mit \d+ Bild"))
        assert page.locator(english).count() == 0


ALARMS = [
    Alarms(),
    Alarms(0.2, 0, 2),
    Alarms(1.0, 0, 3),
    Alarms(2.5, 1, 6),
    Alarms(1234.4, 900, 1600),
]
FOUND = [
    Found("several_cameras", 0.62, 0.3, 0.86),
    Found("one_camera", found_high=0.9),
    Found("one_camera", found_high=1.0),
]


def test_the_page_says_of_a_forecast_what_the_service_says_of_it(browser, panels):
    said = []
    figures = []
    for alarms, found, promised in itertools.product(ALARMS, FOUND, (True, False)):
        rate = (alarms.false_alarms or 1.0) / 5000
        threshold = SimpleNamespace(promised=promised, rate=rate, traffic_tracks=100)
        said.append(describe_forecast(threshold, alarms, found))
        figures.append(
            {
                **alarms._asdict(),
                **found._asdict(),
                "promised": promised,
                "tracks_per_day": 5000,
                "without_silent": None,
            }
        )
    with speaking(browser, "en-US") as page:
        page.goto(panels["search"])
        shown = page.evaluate(
            """async figures => {
                const { sentencesOf } = await import("/assets/forecast.js");
                return figures.map(each => sentencesOf(each).join(" "));
            }""",
            figures,
        )
    assert shown == said


@pytest.mark.parametrize("locale", ["en-US", "de-DE"])
def test_the_header_is_one_row_on_a_laptop(browser, panels, locale):
    with speaking(browser, locale) as page:
        page.goto(panels["search"])
        page.locator("#state .dot.ready").wait_for()
        # As in a tab that has a key.
        page.locator("#key").evaluate("key => { key.hidden = false; }")
        rows = {}
        for width in (801, 900, 1100, 1260, 1261, 1280, 1440, 1680, 1681):
            page.set_viewport_size({"width": width, "height": 720})
            parts = page.locator("header > :is(h1, label, nav, span, button):visible, header nav a")
            boxes = [part.bounding_box() for part in parts.all()]
            middles = [box["y"] + box["height"] / 2 for box in boxes]
            rows[width] = max(middles) - min(middles) < 5
        assert rows == dict.fromkeys(rows, True)


def test_german_fits_a_phone_on_every_panel(browser, watching, panels):
    found = {}
    with speaking(browser, "de-DE") as page:
        with_groups_and_doubts(page, watching, panels["unnamed"])
        for panel, address in panels.items():
            opened(page, address)
            wide = page.evaluate("document.documentElement.scrollWidth") - PHONE["width"]
            cut = page.evaluate(TOO_WIDE)
            if wide > 0 or cut:
                found[panel] = [wide, *cut]
    assert found == {}


def test_the_header_is_one_line_on_a_desk_in_german(browser, panels):
    with speaking(browser, "de-DE") as page:
        page.set_viewport_size({"width": 1440, "height": 900})
        opened(page, panels["search"])
        parts = page.locator("header > :is(h1, label, nav, span)")
        boxes = [part.bounding_box() for part in parts.all()]
        middles = [box["y"] + box["height"] / 2 for box in boxes]
        assert max(middles) - min(middles) < 5


def test_every_word_of_every_panel_is_from_the_file_of_texts(browser, watching, panels):
    found = {}
    with speaking(browser, "en-US") as page:
        with_groups_and_doubts(page, watching, panels["unnamed"])
        page.route("**/assets/texts/en.json", lambda route: route.fulfill(json=MARKED))
        for panel, address in panels.items():
            opened(page, address)
            assert page.locator("main").inner_text().count("⟦") > 2
            if outside := page.evaluate(OUTSIDE_MARKS, DATA):
                found[panel] = outside
    assert found == {}
