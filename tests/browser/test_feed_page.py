"""Alerts in several tabs: one of them holds the stream, and each card follows its visit."""

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import FIRST, arm_list, new_gallery, new_tab
from tests.browser.test_guard_page import COUNTED, open_alerts
from tests.browser.test_watch_page import open_panel
from tests.conftest import draw_crop
from tests.waiting import eventually

pytestmark = pytest.mark.slow
STREAM = "/v1/alerts/events"
TABS = 7
SECOND = draw_crop(1, 0, 0)
# A test cannot put a tab behind another one.
HIDE = """hidden => {
    Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
    document.dispatchEvent(new Event("visibilitychange"));
}"""
SOUND_AND_NOTIFICATIONS = """
    localStorage.setItem("gmn-alert-sound", "yes");
    localStorage.setItem("gmn-alert-notifications", "yes");
    localStorage.setItem("test-permission", "granted");
"""


@pytest.fixture
def context(browser):
    with new_tab(browser) as (page, wrong):
        page.close()
        yield page.context
    assert wrong == []


class Tabs:
    """Tabs of one browser that show the alerts of a list, and the streams that each holds."""

    def __init__(self, context, url, gallery):
        self.context = context
        self.url = url
        self.gallery = gallery
        self.held = {}

    def open(self):
        tab = self.context.new_page()
        self.held[tab] = 0
        tab.on("request", lambda request: self._count(tab, request, 1))
        for event in ("requestfinished", "requestfailed"):
            tab.on(event, lambda request: self._count(tab, request, -1))
        tab.add_init_script(COUNTED)
        open_panel(tab, self.url, self.gallery)
        expect(tab.locator("#feed")).to_have_text("New ones appear at once.")
        # Browsers play only in a page that was clicked at.
        tab.locator("#watch h2").first.click()
        return tab

    def _count(self, tab, request, by):
        if request.url.endswith(STREAM):
            self.held[tab] += by

    def holders(self):
        for tab in self.held:
            # Playwright tells of requests while it waits.
            tab.evaluate("0")
        return [tab for tab, number in self.held.items() if number > 0]

    def close(self, tab):
        del self.held[tab]
        tab.close()

    def announced(self):
        """Return how many tones and notifications there were in all tabs."""
        counts = [tab.evaluate("[tones, shown.length]") for tab in self.held]
        return [sum(kind) for kind in zip(*counts, strict=True)]

    def expect_alert(self, camera):
        for tab in self.held:
            expect(tab.locator("#alerts .card").first).to_contain_text(camera)


@pytest.fixture
def tabs(context, watching, armed):
    context.add_init_script(SOUND_AND_NOTIFICATIONS)
    opened = Tabs(context, watching.base_url, armed)
    for _ in range(TABS):
        opened.open()
    return opened


def test_of_seven_tabs_one_holds_the_stream_and_announces_and_all_show_the_alert(tabs, people):
    (holder,) = tabs.holders()
    people.pass_by(tabs.gallery, camera="first")
    tabs.expect_alert("first")
    eventually(lambda: tabs.announced() == [2, 1])
    # When the tab with the stream is closed, another one takes its place.
    tabs.close(holder)
    eventually(lambda: len(tabs.holders()) == 1)
    before = tabs.announced()
    people.pass_by(tabs.gallery, camera="second")
    tabs.expect_alert("second")
    eventually(lambda: tabs.announced() == [before[0] + 2, before[1] + 1])
    # Calls are not in each other's way.
    for tab in tabs.held:
        assert tab.evaluate("async () => (await fetch('/readyz')).status") == 200


def test_a_hidden_tab_leaves_the_stream_to_a_visible_one(tabs, people):
    for _ in range(2):
        (holder,) = tabs.holders()
        holder.evaluate(HIDE, True)
        eventually(lambda former=holder: tabs.holders() not in ([], [former]))
    # While all are hidden one goes on, and a tab that is shown takes its place.
    for tab in tabs.held:
        tab.evaluate(HIDE, True)
    eventually(lambda: len(tabs.holders()) == 1)
    people.pass_by(tabs.gallery, camera="hidden")
    tabs.expect_alert("hidden")
    shown = next(tab for tab in tabs.held if tab not in tabs.holders())
    shown.evaluate(HIDE, False)
    eventually(lambda: tabs.holders() == [shown])
    people.pass_by(tabs.gallery, camera="shown")
    tabs.expect_alert("shown")


def test_the_sound_comes_from_a_tab_that_was_clicked_at(context, watching, armed, people):
    context.add_init_script(SOUND_AND_NOTIFICATIONS)
    opened = Tabs(context, watching.base_url, armed)
    opened.open()
    (holder,) = opened.holders()
    opened.open()
    # As if nobody had clicked at it.
    suspended = "Object.defineProperty(AudioContext.prototype, 'state', { value: 'suspended' })"
    holder.evaluate(suspended)
    people.pass_by(armed, camera="gate")
    opened.expect_alert("gate")
    eventually(lambda: opened.announced() == [2, 1])
    assert holder.evaluate("tones") == 0


@pytest.mark.parametrize("tab_number", [0, 1])
def test_a_card_follows_its_visit_and_a_press_decides_what_was_shown(
    context, watching, armed, people, tab_number
):
    opened = Tabs(context, watching.base_url, armed)
    tab = [opened.open(), opened.open()][tab_number]
    first = people.pass_by(armed, score=0.5, probability=0.6, content=FIRST).alert
    cards = open_alerts(tab, watching, armed, 1)
    expect(cards.first).to_contain_text("3 pictures")
    cards.first.locator(".open").focus()
    picture = cards.first.get_by_alt_text("Seen at gate")
    expect(picture).to_be_visible()
    source = picture.get_attribute("src")

    def pass_better(score, own_score=None, **more):
        own = {"own_alert": first.alert_id, "own_score": own_score}
        people.pass_by(armed, score=score, probability=0.95, content=SECOND, **own, **more)

    pass_better(0.7, own_score=0.5)
    expect(cards.first).to_contain_text("6 pictures")
    expect(cards.first).to_contain_text("95%")
    expect(picture).to_be_visible()
    expect(picture).not_to_have_attribute("src", source)
    expect(cards).to_have_count(1)
    expect(cards.first.locator(".open")).to_be_focused()
    # The pictures that are open stay those that are decided on.
    cards.first.locator(".open").click()
    sheet = tab.locator("dialog .record")
    pass_better(0.8, own_score=0.7)
    expect(cards.first).to_contain_text("9 pictures")
    same = sheet.get_by_role("button", name="Same person")
    for state, pressed in (("confirmed", "true"), ("open", "false")):
        same.click()
        expect(same).to_have_attribute("aria-pressed", pressed)
        alert = watching.get(f"/v1/alerts/{first.alert_id}").json()
        assert (alert["state"], alert["score"]) == (state, 0.8)
    # Another track takes its place.
    pass_better(0.9, camera="gate", track="somebody else")
    expect(cards.first).to_contain_text("12 pictures")
    sheet.get_by_role("button", name="Another person").click()
    expect(tab.locator("#watch .problem, dialog .problem").first).to_contain_text(
        "shows a better picture now"
    )
    assert watching.get(f"/v1/alerts/{first.alert_id}").json()["state"] == "open"


def test_a_decision_is_seen_in_the_other_tab(context, watching, armed, people):
    people.pass_by(armed)
    opened = Tabs(context, watching.base_url, armed)
    cards = [open_alerts(opened.open(), watching, armed, 1) for _ in range(2)]
    for deciding, seeing in (cards, cards[::-1]):
        deciding.first.get_by_role("button", name="Same person").click()
        pressed = deciding.first.get_by_role("button", name="Same person")
        state = "true" if deciding is cards[0] else "false"
        expect(pressed).to_have_attribute("aria-pressed", state)
        expect(seeing.first.get_by_role("button", name="Same person")).to_have_attribute(
            "aria-pressed", state
        )


def test_the_side_panel_counts_silent_tracks_without_an_alert(
    context, watching, drawn_crops, people
):
    silent = new_gallery(watching, drawn_crops[:8])
    gallery = new_gallery(watching, drawn_crops[8:])
    arm_list(watching, gallery, silent=silent)
    tab = context.new_page()
    tab.clock.install()
    open_panel(tab, watching.base_url, gallery)
    told = tab.locator("#watch-list")
    expect(told).to_contain_text("0 tracks")
    people.record.database.write(
        lambda transaction: transaction.change(
            "UPDATE watches SET kept_silent = 4 WHERE gallery_id = ?",
            (people.gallery_id(gallery),),
        )
    )
    tab.clock.run_for(31_000)
    expect(told).to_contain_text("4 tracks")
