"""A guard at the watch panel: alerts on a phone, several decided at once, and sound."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from playwright.sync_api import expect

from service.api_keys import LOCAL_ADMIN
from service.watch.tables.passages import BestLook, EndedPassage
from tests.browser.conftest import FIRST, SIZES, arm_list, press, results, violations
from tests.browser.test_watch_page import (
    make_webhook,
    open_panel,
)
from tests.service.watch_places import unused_port
from tests.waiting import eventually

pytestmark = pytest.mark.slow
PHONE = SIZES[-1]
# Count the tones and the notifications of a page, which a test cannot hear or see.
COUNTED = """
    window.tones = 0;
    const start = OscillatorNode.prototype.start;
    OscillatorNode.prototype.start = function (...at) {
        window.tones += 1;
        return start.apply(this, at);
    };
    window.shown = [];
    window.Notification = class extends EventTarget {
        static permission = localStorage.getItem("test-permission") ?? "default";
        static async requestPermission() {
            this.permission = localStorage.getItem("test-answer");
            localStorage.setItem("test-permission", this.permission);
            return this.permission;
        }
        constructor(title, { body }) {
            super();
            if (localStorage.getItem("test-phone")) throw new TypeError("Illegal constructor");
            window.shown.push(`${title} / ${body}`);
        }
    };
"""


def open_alerts(tab, http, gallery, number):
    """Open the panel with the alerts of one list."""
    open_panel(tab, http.base_url, gallery)
    if tab.viewport_size["width"] == PHONE[0]:
        press(tab, "Options")
    with tab.expect_response(re.compile(r"/v1/alerts\?gallery=")):
        tab.locator("#alert-here").check()
    expect(tab.locator("#alert-pages")).not_to_have_attribute("aria-busy", "true")
    if tab.viewport_size["width"] == PHONE[0]:
        press(tab, "Options")
    cards = tab.locator("#alerts .card")
    expect(cards).to_have_count(number)
    return cards


def resize(tab, size):
    tab.set_viewport_size({"width": size[0], "height": size[1]})


@pytest.mark.parametrize("size", SIZES)
def test_alerts_come_first_and_large_on_every_screen(tab, watching, armed, people, size):
    for number in range(3):
        people.pass_by(armed, slot=1 + number, camera=f"camera {number}", content=FIRST)
    resize(tab, size)
    cards = open_alerts(tab, watching, armed, 3)
    expect(cards.first.locator("img").first).to_be_visible()
    frame = cards.first.locator(".frame").first.bounding_box()
    assert cards.first.bounding_box()["y"] < 300
    assert frame["width"] >= 120
    decide = cards.first.get_by_role("button", name="Same person")
    box = decide.bounding_box()
    assert box["y"] + box["height"] <= size[1]
    mark = cards.first.get_by_role("checkbox").bounding_box()
    assert min(mark["width"], mark["height"]) >= 24
    assert tab.evaluate("document.documentElement.scrollWidth") == size[0]
    lists = tab.locator("#watch-list").bounding_box()
    if size == PHONE:
        last = cards.last.bounding_box()
        assert lists["y"] > last["y"] + last["height"]
        press(tab, "Options")
        press(tab, "The list and its settings")
        expect(tab.locator("#watch-list")).to_be_in_viewport()
    else:
        assert lists["x"] + lists["width"] < cards.first.bounding_box()["x"]
    assert violations(tab) == []
    tab.emulate_media(color_scheme="dark")
    assert violations(tab) == []


@pytest.mark.parametrize("is_admin", [True, False])
def test_only_an_administrator_is_told_how_programs_of_cameras_report(
    tab, watching, armed, is_admin
):
    none = {"results": [], "next_cursor": None}
    tab.route(re.compile("/v1/cameras"), lambda route: route.fulfill(json=none))
    if not is_admin:
        forbidden = {"type": "urn:gmn:problem:forbidden", "status": 403, "detail": "no"}
        tab.route(
            re.compile("/v1/webhooks$"), lambda route: route.fulfill(status=403, json=forbidden)
        )
    open_panel(tab, watching.base_url, armed)
    cameras = tab.locator("#health")
    expect(cameras).to_contain_text("No camera was heard in the last days.")
    expect(cameras.locator("pre")).to_be_visible(visible=is_admin)


def test_the_age_of_an_alert_is_kept_up_to_date(tab, watching, armed, people):
    seen = datetime.now(UTC)
    # The page may open slowly: by its clock the alert is not there yet.
    tab.clock.install(time=seen - timedelta(minutes=5))
    people.pass_by(armed, first_seen=seen, last_seen=seen)
    time = open_alerts(tab, watching, armed, 1).first.locator("time")
    expect(time).to_have_text("just now")
    assert re.search(r"\d:\d\d:\d\d", time.get_attribute("title"))
    tab.clock.pause_at(seen + timedelta(minutes=2, seconds=30))
    expect(time).to_have_text("2 minutes ago")
    tab.clock.fast_forward("03:00:00")
    expect(time).to_have_text("3 hours ago")
    tab.clock.resume()
    # The opened alert has the exact time.
    tab.locator("#alerts .open").click()
    exact = tab.locator("#sheet .about time").inner_text()
    assert re.search(r"\d:\d\d", exact)


def test_the_buttons_of_an_opened_alert_suit_a_thumb_as_those_of_its_card_do(
    tab, watching, armed, people
):
    resize(tab, PHONE)
    people.pass_by(armed)
    card = open_alerts(tab, watching, armed, 1).first
    on_card = card.get_by_role("button", name="Same person").bounding_box()
    card.locator(".open").click()
    opened = tab.locator("#sheet").get_by_role("button", name="Same person").bounding_box()
    assert opened["height"] == on_card["height"] >= 36


def test_an_arrow_key_leads_to_the_first_alert_of_a_fresh_page(tab, watching, armed, people):
    for camera in ("yard", "gate"):
        people.pass_by(armed, camera=camera)
    watches = people.watch.watches
    gallery_id = people.gallery_id(armed)
    watches.disarm(gallery_id, "its time is over", watches.get(gallery_id).armed_at)
    tab.goto(f"{str(watching.base_url).rstrip('/')}/#{armed}/watch")
    cards = tab.locator("#alerts .card")
    expect(cards.first).to_contain_text("No longer armed")
    tab.keyboard.press("ArrowDown")
    expect(cards.nth(1).locator(".open")).to_be_focused()
    tab.keyboard.press("x")
    expect(cards.nth(1).get_by_role("checkbox")).to_be_checked()
    tab.keyboard.press("c")
    pressed = cards.nth(1).get_by_role("button", name="Same person")
    expect(pressed).to_have_attribute("aria-pressed", "true")


@pytest.mark.parametrize(
    ("button", "state"), [("Confirm 3", "confirmed"), ("Reject 3", "rejected")]
)
def test_several_alerts_are_decided_at_once_and_a_refused_one_ends_no_other(
    tab, watching, armed, people, button, state
):
    noted = [people.pass_by(armed, camera=f"camera {number}") for number in range(3)]
    cards = open_alerts(tab, watching, armed, 3)
    for card in cards.all():
        card.get_by_role("checkbox").check()
    # The crop of another track takes the place of the one that was marked.
    people.pass_by(armed, camera="camera 1", own_alert=noted[1].alert.alert_id, score=0.8)
    expect(cards.nth(1)).to_contain_text("6 pictures")
    assert violations(tab) == []
    press(tab, button)
    outcome = tab.locator("#watch .outcomes")
    expect(outcome).to_contain_text(f"2 alerts {state}.")
    expect(outcome.locator(".problem")).to_contain_text(f"1 alert was not {state}.")
    expect(outcome.locator(".problem")).to_contain_text(
        "at camera 1: the alert shows a better picture now: look at it, and decide again."
    )
    expect(tab.locator("#alert-marks")).to_contain_text("1 alert marked")
    states = [alert["state"] for alert in results(watching, "/v1/alerts", gallery=armed)]
    assert states == [state, "open", state]
    # The refused one shows its new picture now, and is decided on by the second look.
    press(tab, button.replace("3", "1"))
    expect(outcome).to_contain_text(f"1 alert {state}.")
    expect(outcome.locator(".problem")).to_have_count(0)
    expect(tab.locator("#alert-marks")).to_be_hidden()
    states = [alert["state"] for alert in results(watching, "/v1/alerts", gallery=armed)]
    assert states == [state] * 3


def switch_on(tab, label, permission="granted"):
    tab.evaluate("answer => localStorage.setItem('test-answer', answer)", permission)
    tab.get_by_label(label, exact=True).click()


def wait_until(tab, condition):
    # The page's Content-Security-Policy forbids the eval by which wait_for_function asks again.
    eventually(lambda: tab.evaluate(condition))


def test_new_alerts_sound_and_notify_once_that_is_switched_on(tab, watching, armed, people):
    tab.add_init_script(COUNTED)
    open_panel(tab, watching.base_url, armed)
    expect(tab.locator("#feed")).to_have_text("New ones appear at once.")
    people.pass_by(armed, camera="yard")
    expect(tab.locator("#alerts .card").first).to_contain_text("yard")
    assert tab.evaluate("[tones, shown]") == [0, []]
    switch_on(tab, "Sound")
    wait_until(tab, "tones === 2")
    switch_on(tab, "Notifications")
    wait_until(tab, "shown.length === 1")
    # Both are remembered.
    tab.reload()
    expect(tab.locator("#feed")).to_have_text("New ones appear at once.")
    expect(tab.get_by_label("Notifications", exact=True)).to_be_checked()
    expect(tab.get_by_label("Sound", exact=True)).to_be_checked()
    tab.locator("#watch h2").first.click()
    people.pass_by(armed, camera="gate")
    expect(tab.locator("#alerts .card").first).to_contain_text("gate")
    wait_until(tab, "shown.length === 1 && tones === 2")
    assert tab.evaluate("shown[0]").endswith(f"at gate / List {armed}, on trial")
    now = datetime.now(UTC)
    cameras = people.watch.cameras
    healthy = {"state": "ok", "fps": None, "lag": None}
    cameras.note_heartbeat(LOCAL_ADMIN, "gate", healthy, now - timedelta(minutes=7))
    cameras.note_silence(LOCAL_ADMIN, "gate", now - timedelta(minutes=5), now)
    wait_until(tab, f"shown.includes('The camera gate is silent / List {armed}')")


@pytest.mark.parametrize(
    ("stored", "answer", "said"),
    [
        ({}, "denied", "The browser refuses notifications of this page."),
        ({"test-phone": "yes"}, "granted", "This browser cannot show notifications of a page"),
    ],
)
def test_a_browser_that_shows_no_notifications_says_so(tab, watching, armed, stored, answer, said):
    tab.add_init_script(COUNTED)
    open_panel(tab, watching.base_url, armed)
    for name, value in stored.items():
        tab.evaluate("pair => localStorage.setItem(...pair)", [name, value])
    switch_on(tab, "Notifications", answer)
    expect(tab.locator("#notify-said")).to_contain_text(said)
    expect(tab.get_by_label("Notifications", exact=True)).not_to_be_checked()
    assert violations(tab) == []


def test_a_webhook_that_sent_nothing_says_so_and_a_dead_address_in_plain_words(
    tab, watching, armed
):
    open_panel(tab, watching.base_url, armed)
    tab.get_by_text("Messages to other systems").click()
    form = tab.locator("#new-webhook")
    form.get_by_label("Address").fill("ftp://desk.example/alerts")
    press(form, "Make it")
    expect(form.locator(".problem")).to_have_text(
        "Address: write it like https://desk.example/alerts, without a user, password or fragment."
    )
    tab.get_by_text("Messages to other systems").click()
    make_webhook(tab, f"http://127.0.0.1:{unused_port()}/")
    made = tab.locator("#webhooks-made")
    expect(made.locator("ul").first).to_contain_text("Nothing was sent yet · every list")
    expect(tab.locator("#dead")).to_have_text("Nothing was sent yet.")
    press(tab, "Test desk")
    expect(made.locator(".problem")).to_have_text(
        "The test did not arrive at desk: nothing answers at this address; start the receiver "
        "there, or name another one."
    )
    (hook,) = results(watching, "/v1/webhooks")
    watching.delete(f"/v1/webhooks/{hook['webhook_id']}")


def state_of(http, gallery):
    """Return the decisions on the alerts of a list, by camera."""
    found = results(http, "/v1/alerts", gallery=gallery)
    return {alert["camera"]: alert["state"] for alert in found}


def test_a_decision_by_key_goes_on_with_the_next_open_alert(tab, watching, armed, people):
    cameras = [f"camera {number}" for number in range(4)]
    for number, camera in enumerate(cameras):
        people.pass_by(armed, slot=1 + number, camera=camera, content=FIRST)
    resize(tab, SIZES[0])
    cards = open_alerts(tab, watching, armed, 4)
    # Two of them stand beside each other.
    places = [card.bounding_box() for card in cards.all()]
    assert places[0]["y"] == places[1]["y"]
    cards.first.locator(".open").focus()
    for key in "crcc":
        tab.keyboard.press(key)
    decisions = ["confirmed", "rejected", "confirmed", "confirmed"]
    decided = dict(zip(reversed(cameras), decisions, strict=True))
    eventually(lambda: state_of(watching, armed) == decided)
    # The last one keeps the focus, and is taken back there.
    pressed = cards.last.get_by_role("button", name="Same person")
    expect(pressed).to_have_attribute("aria-pressed", "true")
    tab.keyboard.press("c")
    eventually(lambda: state_of(watching, armed)[cameras[0]] == "open")


def test_a_decision_by_mouse_stays_where_it_is(tab, watching, armed, people):
    for number in range(2):
        people.pass_by(armed, slot=1 + number, camera=f"camera {number}")
    cards = open_alerts(tab, watching, armed, 2)
    button = cards.first.get_by_role("button", name="Same person")
    button.click()
    expect(button).to_have_attribute("aria-pressed", "true")
    expect(button).to_be_focused()


def test_a_decision_by_key_is_not_lost_when_the_page_reads_itself_again(
    tab, watching, armed, people
):
    for number in range(2):
        people.pass_by(armed, slot=1 + number, camera=f"camera {number}")
    cards = open_alerts(tab, watching, armed, 2)
    cards.first.locator(".open").focus()
    tab.keyboard.press("c")
    eventually(lambda: state_of(watching, armed)["camera 1"] == "confirmed")
    expect(cards.nth(1).locator(".open")).to_be_focused()
    with tab.expect_response(re.compile(r"/v1/alerts\?")):
        tab.evaluate("document.dispatchEvent(new Event('gallery-changed'))")
    tab.wait_for_function("document.activeElement === document.body")
    expect(cards).to_have_count(2)
    tab.keyboard.press("c")
    eventually(lambda: state_of(watching, armed)["camera 0"] == "confirmed")


def test_all_open_alerts_of_a_time_are_decided_at_once_and_taken_back(tab, watching, armed, people):
    for number in range(3):
        people.pass_by(armed, slot=1 + number, camera=f"camera {number}")
    old = people.pass_by(armed, slot=20, camera="old").alert.number
    hours_ago = int((datetime.now(UTC) - timedelta(hours=2)).timestamp() * 1e6)
    aged = "UPDATE alerts SET created_at = ? WHERE number = ?"
    people.record.database.write(lambda transaction: transaction.change(aged, (hours_ago, old)))
    open_alerts(tab, watching, armed, 4)
    press(tab, "Decide all")
    dialog = tab.get_by_role("dialog", name="Decide all")
    expect(dialog).to_contain_text("3 alerts are not decided.")
    dialog.get_by_label("Alerts of").select_option(label="the last 24 hours")
    expect(dialog).to_contain_text("4 alerts are not decided.")
    assert violations(tab) == []
    dialog.get_by_label("Alerts of").select_option(label="the last hour")
    expect(dialog).to_contain_text("3 alerts are not decided.")
    press(dialog, "Another person")
    outcome = tab.locator("#watch .outcomes")
    expect(outcome).to_contain_text("3 alerts rejected.")
    assert state_of(watching, armed) == {
        "camera 0": "rejected",
        "camera 1": "rejected",
        "camera 2": "rejected",
        "old": "open",
    }
    press(outcome, "Undo")
    expect(outcome).to_contain_text("3 alerts are not decided again.")
    assert set(state_of(watching, armed).values()) == {"open"}


@pytest.mark.parametrize("language", ["en", "de"])
def test_header_and_state_leave_a_phones_window_to_the_panel(tab, watching, armed, language):
    resize(tab, PHONE)
    open_panel(tab, watching.base_url, armed)
    tab.evaluate("language => localStorage.setItem('gmn-language', language)", language)
    tab.reload()
    tab.locator("#watch-list h2").wait_for()
    expect(tab.locator("#state .dot")).to_be_visible()
    state = tab.locator("#state").bounding_box()
    assert state["y"] + state["height"] <= 100
    assert tab.evaluate("document.documentElement.scrollWidth") == PHONE[0]
    links = [link.bounding_box() for link in tab.locator("nav a").all()]
    assert len({link["y"] for link in links}) == 1
    assert violations(tab) == []
    expect(tab.locator("#lately")).to_be_hidden()
    tab.locator("#header-more").click()
    expect(tab.locator("#lately")).to_be_visible()
    expect(tab.locator("#language")).to_be_visible()
    assert violations(tab) == []


def test_the_page_can_be_kept_as_an_app(tab, watching, armed):
    """Chromium says what keeps a page from being installed."""
    open_panel(tab, watching.base_url, armed)
    session = tab.context.new_cdp_session(tab)
    manifest = session.send("Page.getAppManifest")
    assert manifest["errors"] == []
    assert manifest["url"].endswith("/assets/page.webmanifest")
    errors = session.send("Page.getInstallabilityErrors")["installabilityErrors"]
    # A window of a test is in incognito mode.
    assert {error["errorId"] for error in errors} <= {"in-incognito"}
    for size in (180, 192, 512):
        icon = watching.get(f"/assets/icon-{size}.png")
        assert icon.headers["content-type"] == "image/png"
    assert tab.evaluate("navigator.serviceWorker?.controller ?? null") is None


def test_a_list_is_paused_and_resumed_on_the_page(tab, watching, armed, people):
    open_panel(tab, watching.base_url, armed)
    press(tab, "Pause")
    expect(tab.locator("#watch-list h2")).to_have_text(f"Paused: {armed}")
    assert people.pass_by(armed) is None
    assert violations(tab) == []
    press(tab, "Resume")
    expect(tab.locator("#watch-list h2")).to_have_text(f"Armed: {armed}")
    assert people.pass_by(armed).is_new


def test_the_page_says_why_a_list_did_not_ring(tab, watching, armed, people):
    arm_list(watching, armed, explain_passages="true", weekdays="mon,tue,wed,thu,fri,sat,sun")
    now = datetime.now(UTC)
    looks = [
        BestLook(now, 0.26, 0.3, None, 80, ("blurred",), "door"),
        BestLook(now, 0.32, 0.3, 0.41, None, (), None),
    ]
    passages = [
        EndedPassage(None, now, now, camera, "17", look, hidden=False)
        for camera, look in zip(("gate", None), looks, strict=True)
    ]
    people.watch.passages.add(people.gallery_id(armed), passages)
    resize(tab, PHONE)
    open_panel(tab, watching.base_url, armed)
    tab.get_by_text("Why not?").click()
    rows = tab.get_by_role("list", name="Why not?").get_by_role("listitem")
    expect(rows).to_have_count(2)
    shown = " ".join(rows.all_inner_texts())
    assert "0.04 below; 80 pixels high; blurred" in shown
    assert "0.02 above, but with a probability of 41%; an alert needs 50%" in shown
    assert "Score 0.26; the threshold is 0.30." in shown
    assert shown.count("Zone door") == 1
    assert rows.locator("img").count() == 0
    assert tab.evaluate("document.documentElement.scrollWidth") == PHONE[0]
    assert violations(tab) == []
