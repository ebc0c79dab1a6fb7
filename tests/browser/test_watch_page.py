"""The watch panel: a list is armed by its forecast, alerts come by themselves and are decided."""

import json
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from playwright.sync_api import expect
from standardwebhooks.webhooks import Webhook

from tests.browser.conftest import NAMES, confirm, follow, new_gallery, press, results, violations
from tests.service.conftest import files, serving
from tests.service.http.conftest import make_key
from tests.service.watch_places import Receiver
from tests.waiting import eventually

pytestmark = pytest.mark.slow
# Strangers of this cast: two whom nobody takes for Anna, Ben or Carla, and one who is.
OTHERS = ("d0-0004", "d0-0006")
ALIKE = "d0-0012"


@pytest.fixture
def receiver():
    opened = Receiver()
    yield opened
    opened.close()


def crop_of(cast, identity):
    return next(crop.read() for crop in cast.known + cast.strangers if crop.identity == identity)


def sight(http, image, **fields):
    answer = http.post(
        "/v1/sightings",
        files=files(image),
        data=fields | {"wait": "true"},
    )
    assert answer.status_code == 200, answer.text


def open_panel(tab, url, gallery):
    tab.goto(f"{str(url).rstrip('/')}/#{gallery}/watch")
    tab.locator("#watch-list h2").wait_for()


def read_list(http, gallery):
    return http.get(f"/v1/galleries/{gallery}/watch").json()


def ask_for_forecast(tab, **fields):
    """Fill the dialog as far as the forecast, and return it."""
    press(tab.locator("#watch-list"), "Arm…")
    dialog = tab.locator("dialog.question")
    for label, value in {"Passages": "1000", "Reason": "case 7/2026", **fields}.items():
        dialog.get_by_label(label).fill(value)
    press(dialog, "Show the forecast")
    dialog.locator(".forecast").wait_for()
    return dialog


def make_webhook(tab, url):
    """Make a webhook on the page, and return its secret, which is shown only once."""
    tab.get_by_text("Messages to other systems").click()
    form = tab.locator("#new-webhook")
    form.get_by_label("Address").fill(url)
    form.get_by_label("Note").fill("desk")
    press(form, "Make it")
    dialog = tab.get_by_role("dialog", name="Secret")
    secret = dialog.get_by_label("Secret").input_value()
    press(dialog, "Close")
    expect(tab.get_by_text(secret)).to_have_count(0)
    return secret


def verified(receiver, secret):
    """Return the messages that a receiver got, and check the signature of each."""
    return [Webhook(secret).verify(got.body, got.headers) for got in receiver.received]


def enroll(
    tab,
    http,
    name,
    pictures,
):
    chosen = [
        {"name": f"{at}.png", "mimeType": "image/png", "buffer": picture}
        for at, picture in enumerate(pictures)
    ]
    tab.set_input_files("#enrollment .drop input", chosen)
    tab.fill("#enrollment [name=identity]", name)
    press(tab, f"Enroll {len(pictures)} pictures")
    eventually(lambda: name in http.get("/v1/galleries/suspects/identities").text)


def decide(
    tab,
    card,
    key,
    decision,
):
    tab.keyboard.press(key)
    button = card.get_by_role("button", name=decision)
    expect(button).to_have_attribute("aria-pressed", "true")


def forget(tab, card, name):
    follow(card, name)
    press(tab, "Forget…")
    confirm(tab, "Forget")
    return tab.locator("#identities .news")


def test_a_guard_arms_a_list_sees_two_visits_rejects_a_false_one_and_forgets_a_person(
    tab, shop, cast, receiver
):
    assert shop.post("/v1/galleries", data={"name": "suspects"}).status_code == 201
    tab.goto(f"{shop.base_url}/#suspects/enroll")
    for identity, name in NAMES.items():
        enroll(
            tab,
            shop,
            name,
            [crop.read() for crop in cast.gallery if crop.identity == identity],
        )
    follow(tab, "Watch", exact=True)
    expect(tab.locator("#watch-list h2")).to_have_text("Not armed: suspects")
    secret = make_webhook(tab, receiver.url)
    press(tab, "Test desk")
    expect(tab.locator("#webhooks-said")).to_have_text("The test arrived: desk answered 204.")
    assert [message["type"] for message in verified(receiver, secret)] == ["test"]

    dialog = ask_for_forecast(tab)
    assert read_list(shop, "suspects")["state"] == "disarmed"
    assert violations(tab) == []
    forecast = dialog.locator(".forecast").inner_text()
    press(dialog, "Arm", exact=True)
    expect(tab.locator("#watch-list h2")).to_have_text("Armed: suspects")
    expect(tab.locator("#watch-list")).to_contain_text(forecast)
    assert read_list(shop, "suspects")["promised"]["sentence"] == forecast

    anna = crop_of(cast, "d0-0000")
    for camera in ("entrance", "till"):
        for other in OTHERS:
            sight(shop, crop_of(cast, other), camera=camera, track=other)
        sight(shop, anna, camera=camera, track="17")
        sight(shop, anna, camera=camera, track="17")
    cards = tab.locator("#alerts .card")
    expect(cards).to_have_count(2)
    expect(cards.nth(0)).to_contain_text("Anna Roth")
    expect(cards.nth(0)).to_contain_text("Before that at entrance")
    expect(cards.nth(0).locator("img")).to_have_count(2)
    expect(tab.locator("#newest")).to_have_text("New alert: Anna Roth at till")
    eventually(lambda: len(receiver.received) == 3)
    seen = [message["data"] for message in verified(receiver, secret)[1:]]
    assert sorted((alert["identity"], alert["camera"]) for alert in seen) == [
        ("Anna Roth", "entrance"),
        ("Anna Roth", "till"),
    ]

    sight(shop, crop_of(cast, ALIKE), camera="till", track="18")
    expect(cards).to_have_count(3)
    expect(cards.nth(0)).to_contain_text("Carla Diaz")
    tab.keyboard.press("Escape")
    cards.nth(0).locator(".open").focus()
    decide(tab, cards.nth(0), "r", "Another person")
    # The key of a decision leads to the next alert.
    decide(tab, cards.nth(1), "c", "Same person")
    assert violations(tab) == []
    decided = results(shop, "/v1/alerts")
    assert [alert["state"] for alert in decided] == ["rejected", "confirmed", "open"]
    expect(tab.locator("#watch-list")).to_contain_text("1 confirmed, 1 rejected, 1 not yet decided")

    outcome = forget(tab, cards.nth(1), "Anna Roth")
    expect(outcome).to_contain_text("2 alerts deleted.")
    outcome.locator("summary").click()
    # Receivers keep the messages that they got.
    origin = receiver.url.removesuffix("/alerts")
    expect(outcome).to_contain_text(f"In the receiver at {origin}: 2 messages with the name")
    follow(tab, "Watch", exact=True)
    expect(cards).to_have_count(1)
    expect(tab.locator("#watch")).not_to_contain_text("Anna Roth")
    remaining = results(shop, "/v1/alerts")
    assert [alert["identity"] for alert in remaining] == ["Carla Diaz"]


@contextmanager
def dropped_stream(tab):
    """End the first stream of alerts at once, and yield the headers of every request for one."""
    asked = []

    def answer(route):
        asked.append(route.request.headers)
        if len(asked) == 1:
            route.fulfill(status=200, content_type="text/event-stream", body=": nothing\n\n")
        else:
            route.continue_()

    tab.route("**/v1/alerts/events", answer)
    yield asked


def test_alerts_go_on_after_the_last_number_where_the_stream_has_broken(
    tab, watching, armed, people
):
    before = people.pass_by(armed, camera="before")
    with dropped_stream(tab) as asked:
        open_panel(tab, watching.base_url, armed)
        tab.locator("#alert-here").check()
        expect(tab.locator("#alerts .card")).to_have_count(1)
        people.pass_by(armed, camera="meanwhile")
        expect(tab.locator("#alerts .card").first).to_contain_text("meanwhile")
        people.pass_by(armed, camera="after")
        expect(tab.locator("#alerts .card").first).to_contain_text("after")
    assert [headers["last-event-id"] for headers in asked] == [str(before.alert.number)] * 2


def test_alerts_are_asked_for_where_no_stream_comes_through(tab, watching, armed, people):
    tab.route("**/v1/alerts/events", lambda route: route.abort())
    open_panel(tab, watching.base_url, armed)
    expect(tab.locator("#feed")).to_have_text("Updated every five seconds.")
    people.pass_by(armed, camera="yard", zone="step")
    expect(tab.locator("#alerts .card").first).to_contain_text("At yard, zone step,")


def test_alerts_that_come_while_another_panel_is_shown_are_counted(tab, watching, armed, people):
    open_panel(tab, watching.base_url, armed)
    expect(tab.locator("#feed")).to_have_text("New ones appear at once.")
    follow(tab, "People", exact=True)
    people.pass_by(armed)
    tab.get_by_role("link", name="Watch (1)").wait_for()
    expect(tab).to_have_title("(1) Who is this?")
    tab.get_by_role("link", name="Watch (1)").click()
    tab.get_by_role("link", name="Watch", exact=True).wait_for()


def test_older_alerts_follow_and_those_that_are_no_visit_say_so_in_words(
    tab, watching, armed, people
):
    people.pass_by(armed, camera="first")
    people.pass_by(armed, kind="late", camera="late")
    for number in range(20):
        people.pass_by(armed, slot=1 + number, camera=f"camera {number}")
    tab.set_viewport_size({"width": 390, "height": 844})
    open_panel(tab, watching.base_url, armed)
    press(tab, "Options")
    tab.locator("#alert-here").check()
    cards = tab.locator("#alerts .card")
    expect(cards).to_have_count(20)
    press(tab, "Show older")
    expect(cards).to_have_count(22)
    expect(cards.nth(20)).to_contain_text("Seen, but sent too late for an alarm.")
    assert tab.evaluate("document.documentElement.scrollWidth") == 390
    press(tab.locator("#watch-list"), "Disarm…")
    tab.get_by_label("Reason").fill("case closed")
    confirm(tab, "Disarm")
    expect(tab.locator("#watch-list h2")).to_have_text(f"Not armed: {armed}")
    expect(tab.locator("#watch-list")).to_contain_text("Case closed.")
    tab.locator("#alert-state").select_option("rejected")
    expect(tab.locator("#no-alerts")).to_have_text("No such alert.")


def test_a_page_that_stays_open_drops_the_oldest_of_many_alerts_and_finds_them_again(
    tab, watching, armed, people
):
    open_panel(tab, watching.base_url, armed)
    expect(tab.locator("#feed")).to_have_text("New ones appear at once.")
    tab.locator("#alert-here").check()
    for number in range(305):
        people.pass_by(armed, camera=f"camera {number}")
    cards = tab.locator("#alerts .card")
    expect(cards.first).to_contain_text("camera 304")
    expect(cards).to_have_count(300)
    expect(cards.last).to_contain_text("camera 5,")
    press(tab, "Show older")
    expect(cards).to_have_count(305)
    expect(cards.last).to_contain_text("camera 0,")


def test_a_list_that_ended_by_its_time_says_so_among_the_alerts(tab, watching, armed, people):
    open_panel(tab, watching.base_url, armed)
    watches = people.watch.watches
    gallery_id = people.gallery_id(armed)
    watches.disarm(gallery_id, "its time is over", watches.get(gallery_id).armed_at)
    card = tab.locator("#alerts .disarmed").first
    expect(card).to_contain_text("No longer armed")
    expect(card).to_contain_text("Its time is over.")
    expect(card.get_by_role("button")).to_have_count(0)


def test_a_forecast_that_is_out_of_date_is_shown_anew_before_anything_is_armed(
    tab, watching, drawn_crops
):
    name = new_gallery(watching, drawn_crops)
    open_panel(tab, watching.base_url, name)
    dialog = ask_for_forecast(tab)
    stale = f"{int((datetime.now(UTC) - timedelta(hours=1)).timestamp())}.0"

    def spoil(route):
        sent = route.request.post_data or ""
        _, token, rest = sent.partition('name="confirm"\r\n\r\n')
        route.continue_(post_data=sent[: len(sent) - len(rest)] + stale + rest[rest.find("\r\n") :])
        assert token

    tab.route("**/watch", spoil, times=1)
    press(dialog, "Arm", exact=True)
    expect(dialog).to_contain_text("The first forecast is out of date. Read this one.")
    assert read_list(watching, name)["state"] == "disarmed"
    press(dialog, "Arm", exact=True)
    expect(tab.locator("#watch-list h2")).to_have_text(f"Armed: {name}")


def test_a_gallery_without_names_is_told_to_enroll_some(tab, watching):
    name = f"g{uuid4().hex[:8]}"
    assert watching.post("/v1/galleries", data={"name": name}).status_code == 201
    open_panel(tab, watching.base_url, name)
    expect(tab.locator("#watch-list")).to_contain_text("Nobody in it has a name yet.")
    expect(tab.get_by_role("button", name="Arm…")).to_have_count(0)


def test_messages_that_are_not_delivered_are_listed_and_sent_again(
    tab, watching, armed, people, receiver
):
    receiver.answer = lambda _: (410, {})
    open_panel(tab, watching.base_url, armed)
    former = make_webhook(tab, receiver.url)
    people.pass_by(armed)
    expect(tab.locator("#dead")).to_have_text("Nothing was sent yet.")
    eventually(lambda: results(watching, "/v1/webhooks")[0]["dead"] == 1)
    tab.reload()
    tab.get_by_text("Messages to other systems (1 not delivered)").click()
    expect(tab.locator("#webhooks-made")).to_contain_text("Stopped: it answered 410")
    assert violations(tab) == []
    receiver.answer = lambda _: (204, {})
    press(tab, "Go on desk")
    tab.get_by_role("button", name="Stop desk").wait_for()
    press(tab, "New secret… desk")
    confirm(tab, "Make it")
    dialog = tab.get_by_role("dialog", name="Secret")
    secret = dialog.get_by_label("Secret").input_value()
    press(dialog, "Close")
    press(tab, "Send again")
    expect(tab.locator("#webhooks-said")).to_have_text("It is sent again.")
    eventually(lambda: len(receiver.received) == 2)
    # For a day both secrets sign.
    for key in (former, secret):
        assert Webhook(key).verify(receiver.received[-1].body, receiver.received[-1].headers)
    again = [json.loads(got.body)["data"]["alert_id"] for got in receiver.received]
    assert again[0] == again[1]
    press(tab, "Delete… desk")
    confirm(tab, "Delete")
    expect(tab.locator("#webhooks-said")).to_have_text("Deleted.")
    assert results(watching, "/v1/webhooks") == []


def test_a_key_without_admin_sees_the_alerts_and_why_it_may_not_arm(tab, tiny_artefact, tmp_path):
    data_dir = tmp_path / "data"
    make_key(data_dir, "--scope", "admin")
    key = make_key(data_dir, "--scope", "query")
    with serving(tiny_artefact, data_dir) as url:
        tab.add_init_script(f"sessionStorage.setItem('gmn-api-key', '{key}')")
        open_panel(tab, url, "default")
        expect(tab.locator("#no-alerts")).to_contain_text("No alerts yet.")
        expect(tab.locator("#watch-list")).to_contain_text("An administrator arms and disarms it.")
        tab.get_by_text("Messages to other systems").click()
        expect(tab.locator("#webhooks-why")).to_contain_text("The key of this page may not do this")
        expect(tab.locator("#new-webhook")).to_be_hidden()
        assert violations(tab) == []
