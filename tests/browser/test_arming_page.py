"""Arming on the page: what is accepted is kept, and the armed list is tried and sent to."""

import re
import shlex
from datetime import UTC, datetime

import httpx2
import pytest
from playwright.sync_api import expect

from service.api_keys import LOCAL_ADMIN
from service.watch.tables.cameras import CameraCounts
from tests.browser.conftest import (
    FIRST,
    NAMES,
    arm_list,
    at_each_size,
    in_both_schemes,
    new_gallery,
    png,
    press,
    results,
    violations,
)
from tests.browser.test_watch_page import (
    OTHERS,
    ask_for_forecast,
    crop_of,
    open_panel,
    read_list,
)
from tests.outside import bearer
from tests.service.conftest import files, serving
from tests.service.http.conftest import make_key
from tests.waiting import eventually

pytestmark = pytest.mark.slow
PHONE = {"width": 390, "height": 844}


@pytest.fixture
def listed(shop, cast):
    """Return a gallery of the people of the cast, as one camera enrolled them."""
    crops = [crop for crop in cast.gallery if crop.identity in NAMES]
    name = f"g{datetime.now(UTC).timestamp():.6f}"
    assert shop.post("/v1/galleries", data={"name": name}).status_code == 201
    labels = {"identity": [NAMES[crop.identity] for crop in crops], "camera": "till"}
    answer = shop.post(
        f"/v1/galleries/{name}/crops", files=files(*(crop.read() for crop in crops)), data=labels
    )
    assert answer.status_code == 201, answer.text
    return name


def buttons(dialog):
    return [button.inner_text() for button in dialog.get_by_role("button").all()]


@pytest.mark.promise("budget")
@pytest.mark.parametrize(("budget", "passages"), [("3", "500"), ("1", "500"), ("10", "3000")])
def test_the_first_forecast_keeps_the_accepted_budget(tab, shop, listed, budget, passages):
    open_panel(tab, shop.base_url, listed)
    dialog = ask_for_forecast(
        tab, **{"False alarms a day that you accept": budget, "Passages": passages}
    )
    alarms = "false alarm" if budget == "1" else "false alarms"
    expect(dialog.locator(".forecast")).to_contain_text(f"{budget} {alarms} a day [")
    expect(dialog).to_contain_text(f"You accept {budget} a day.")
    assert buttons(dialog) == ["Cancel", "Back", "Arm"]


def test_a_list_is_armed_with_what_was_accepted_and_keeps_it(tab, shop, listed):
    tab.set_viewport_size(PHONE)
    open_panel(tab, shop.base_url, listed)
    dialog = ask_for_forecast(tab)
    for _ in at_each_size(tab):
        assert dialog.evaluate("dialog => dialog.scrollWidth <= dialog.clientWidth")
        for _ in in_both_schemes(tab):
            assert violations(tab) == []
    press(dialog, "Arm", exact=True)
    expect(tab.locator("#watch-list h2")).to_have_text(f"Armed: {listed}")
    assert read_list(shop, listed)["promised"]["false_alarms"] == pytest.approx(3)
    tab.locator("#watch-list summary").click()
    expect(tab.locator("#watch-list dl").last).to_contain_text("3 false alarms a day")
    # Other settings keep what was accepted, and ask nothing again.
    press(tab, "Other settings…")
    expect(dialog.get_by_label("False alarms a day that you accept")).to_have_value("3")
    press(dialog, "Show the forecast")
    expect(dialog).to_contain_text("You accept 3 a day.")
    assert buttons(dialog) == ["Cancel", "Back", "Arm"]


@pytest.mark.parametrize(("budget", "passages"), [("1", "3000"), ("0.5", "500")])
def test_a_limit_beyond_the_budget_is_accepted_shown_and_kept(tab, shop, listed, budget, passages):
    open_panel(tab, shop.base_url, listed)
    dialog = ask_for_forecast(
        tab, **{"False alarms a day that you accept": budget, "Passages": passages}
    )
    expect(dialog).to_contain_text(f"You accept {budget} a day, and no limit below ")
    accepted = buttons(dialog)[-1]
    assert buttons(dialog) == ["Cancel", "Back", accepted]
    assert accepted.startswith("Accept at most ")
    press(dialog, accepted, exact=True)
    expect(tab.locator("#watch-list h2")).to_have_text(f"Armed: {listed}")
    limit = accepted.removeprefix("Accept at most ")
    tab.locator("#watch-list summary").click()
    expect(tab.locator("#watch-list dl").last).to_contain_text(f"{limit} false alarms a day")
    press(tab, "Other settings…")
    dialog = tab.locator("dialog.question")
    press(dialog, "Show the forecast")
    expect(dialog).to_contain_text(f"You accept {limit} a day.")
    press(dialog, "Arm", exact=True)
    expect(dialog).to_have_count(0)
    assert read_list(shop, listed)["settings"]["budget"] == float(budget)


def test_passages_are_filled_in_from_what_the_cameras_counted(tab, watching, drawn_crops, people):
    name = new_gallery(watching, drawn_crops)
    now = datetime.now(UTC)
    sent = {
        camera: CameraCounts(now, now, crops=tracks, tracks=tracks)
        for camera, tracks in {"gate": 40, "hall": 39, "yard": 40}.items()
    }
    people.watch.cameras.note_sightings(LOCAL_ADMIN, sent, now)
    open_panel(tab, watching.base_url, name)
    expect(tab.locator("#health")).to_contain_text("39 passages")
    counted = sum(camera["tracks"] for camera in results(watching, "/v1/cameras"))
    assert counted >= 119
    press(tab.locator("#watch-list"), "Arm…")
    dialog = tab.locator("dialog.question")
    expect(dialog.get_by_label("Passages")).to_have_value(str(counted))
    expect(dialog).to_contain_text(
        "Counted in the last day: enter more if the cameras ran for less."
    )
    dialog.get_by_label("Reason").fill("case 7/2026")
    press(dialog, "Show the forecast")
    dialog.locator(".forecast").wait_for()


def test_a_list_is_armed_for_nights_and_weekdays_and_explains_its_passages(
    tab, watching, drawn_crops
):
    name = new_gallery(watching, drawn_crops)
    open_panel(tab, watching.base_url, name)
    press(tab.locator("#watch-list"), "Arm…")
    dialog = tab.locator("dialog.question")
    dialog.get_by_label("Passages").fill("1000")
    dialog.get_by_label("Reason").fill("case 7/2026")
    dialog.get_by_text("Only some cameras or hours").click()
    dialog.get_by_label("From").fill("22:00")
    dialog.get_by_label("To", exact=True).fill("06:00")
    for day in ("Fri", "Sat"):
        dialog.get_by_label(day).check()
    dialog.get_by_label("Explain why it did not ring").check()
    assert violations(tab) == []
    press(dialog, "Show the forecast")
    press(dialog, "Arm", exact=True)
    expect(tab.locator("#watch-list h2")).to_have_text(f"Armed: {name}")
    settings = read_list(watching, name)["settings"]
    assert (settings["hours"], settings["weekdays"]) == ("22:00-06:00", ["fri", "sat"])
    assert settings["explain_passages"]
    tab.locator("#watch-list summary").first.click()
    expect(tab.locator("#watch-list dl").last).to_contain_text("Fri and Sat, 22:00-06:00")
    # Other settings begin with these.
    press(tab, "Other settings…")
    expect(dialog.get_by_label("Fri")).to_be_checked()
    expect(dialog.get_by_label("Sun")).not_to_be_checked()
    expect(dialog.get_by_label("Explain why it did not ring")).to_be_checked()


def test_a_refused_setting_is_called_by_its_label(tab, watching, drawn_crops):
    name = new_gallery(watching, drawn_crops)
    open_panel(tab, watching.base_url, name)
    press(tab.locator("#watch-list"), "Arm…")
    dialog = tab.locator("dialog.question")
    dialog.get_by_label("Passages").fill("")
    dialog.get_by_label("Reason").fill("case 7/2026")
    press(dialog, "Show the forecast")
    expect(dialog.locator(".problem")).to_have_text(
        "“Passages that all its cameras see in a day” is not known yet: 0 were compared with the "
        "list, and it takes 200 and a whole day; say about how many all cameras see in a day."
    )


def test_a_list_is_tried_with_a_picture(tab, shop, listed, cast):
    arm_list(shop, listed)
    tab.set_viewport_size(PHONE)
    open_panel(tab, shop.base_url, listed)
    chosen = tab.locator("#watch-list .trial input")
    chosen.set_input_files(png(crop_of(cast, "d0-0000")))
    dialog = tab.get_by_role("dialog", name="Try with a picture")
    expect(dialog).to_contain_text("It raised an alert.")
    expect(dialog.locator(".alerts .card")).to_have_count(1)
    expect(dialog.locator(".alerts")).to_contain_text("Anna Roth")
    expect(dialog.locator(".alerts img")).to_have_count(2)
    for _ in at_each_size(tab):
        assert dialog.evaluate("dialog => dialog.scrollWidth <= dialog.clientWidth")
        assert violations(tab) == []
    press(dialog, "Close")
    expect(tab.locator("#alerts .card").first).to_contain_text("Anna Roth")
    expect(tab.locator("#watch-list")).to_contain_text(re.compile(r"1 alert in \d+ minutes?: "))
    chosen.set_input_files(png(crop_of(cast, OTHERS[0])))
    expect(dialog).to_contain_text("It raised no alert.")
    expect(dialog).to_contain_text("The nearest on the list is ")


def test_cameras_get_a_key_for_their_list_and_the_whole_call(
    tab, tiny_artefact, tmp_path, drawn_crops
):
    data_dir = tmp_path / "data"
    admin = make_key(data_dir, "--scope", "admin")
    reader = make_key(data_dir, "--scope", "query")
    with (
        serving(tiny_artefact, data_dir) as url,
        httpx2.Client(base_url=url, timeout=60.0, headers=bearer(admin)) as http,
    ):
        name = new_gallery(http, drawn_crops)
        arm_list(http, name)
        tab.add_init_script(
            f"sessionStorage['gmn-api-key'] = sessionStorage['gmn-api-key'] ?? '{admin}'"
        )
        open_panel(tab, url, name)
        tab.get_by_text("How cameras send", exact=True).click()
        sending = tab.locator("#sending")
        sending.get_by_label("Camera", exact=True).fill("Ann's door")
        press(sending, "Make a key for it")
        expect(sending).to_contain_text("The key is shown this once")
        assert violations(tab) == []
        call = shlex.split(sending.get_by_label("The call").input_value().replace("\\\n", " "))
        assert call[:2] == ["curl", f"{str(url).rstrip('/')}/v1/sightings"]
        assert call[call.index("track=17") - 2] == "camera=Ann's door"
        key = call[call.index("-H") + 1].removeprefix("Authorization: Bearer ")
        sent = httpx2.post(
            f"{url}/v1/sightings", headers=bearer(key), files=files(FIRST), timeout=60.0
        )
        assert sent.status_code == 202, sent.text
        refused = httpx2.get(f"{url}/v1/alerts", headers=bearer(key), timeout=60.0)
        assert refused.status_code == 403

        tab.evaluate("key => sessionStorage.setItem('gmn-api-key', key)", reader)
        tab.reload()
        tab.get_by_text("How cameras send", exact=True).click()
        expect(sending).to_contain_text("Each camera has a key of its own")
        expect(sending.get_by_role("button", name="Make a key for it")).to_be_hidden()
        tab.locator("#watch-list .trial input").set_input_files(png(FIRST))
        dialog = tab.get_by_role("dialog", name="Try with a picture")
        expect(dialog.locator(".problem")).to_contain_text(
            "The key of this page may not send what a camera sees."
        )


def test_a_list_is_armed_with_silent_people_and_shows_how_many_there_are(tab, shop, listed, cast):
    staff = f"staff{datetime.now(UTC).timestamp():.6f}"
    assert shop.post("/v1/galleries", data={"name": staff}).status_code == 201
    sent = {"files": files(crop_of(cast, OTHERS[0])), "data": {"identity": "guard"}}
    assert shop.post(f"/v1/galleries/{staff}/crops", **sent).status_code == 201
    open_panel(tab, shop.base_url, listed)
    press(tab.locator("#watch-list"), "Arm…")
    dialog = tab.locator("dialog.question")
    dialog.get_by_label("Passages").fill("1000")
    dialog.get_by_label("Reason").fill("case 7/2026")
    dialog.get_by_label("Silent people, such as staff").select_option(staff)
    press(dialog, "Show the forecast")
    expect(dialog.locator(".forecast")).to_contain_text("Without the silent people: ")
    assert violations(tab) == []
    dialog.get_by_role("button", name=re.compile("^(Arm|Accept)")).click()
    shown = tab.locator("#watch-list")
    expect(shown).to_contain_text(f"{staff}: 1 person, 0 tracks kept silent since it was armed.")
    press(shown, "Other settings…")
    expect(tab.get_by_label("Silent people, such as staff")).to_have_value(staff)
    press(tab.locator("dialog.question"), "Cancel")
    assert shop.delete(f"/v1/galleries/{staff}").is_success
    eventually(lambda: read_list(shop, listed)["silent"]["why"])
    tab.reload()
    expect(shown).to_contain_text("Nobody is kept silent at the moment: there is no gallery")


def test_a_person_who_passes_several_cameras_can_raise_one_alert(tab, shop, listed):
    open_panel(tab, shop.base_url, listed)
    press(tab.locator("#watch-list"), "Arm…")
    tab.get_by_label("A person who passes several cameras raises").select_option("one alert")
    press(tab.locator("dialog.question"), "Cancel")
    arm_list(shop, listed, quiet_scope="list")
    tab.reload()
    settings = tab.locator("#watch-list")
    settings.get_by_text("Settings", exact=True).click()
    expect(settings).to_contain_text("one alert for all of them")
    press(settings, "Other settings…")
    chosen = tab.get_by_label("A person who passes several cameras raises")
    expect(chosen).to_have_value("list")
