"""Cameras on the page: zones that are drawn on a still, and the form that writes the settings."""

from uuid import uuid4

import httpx2
import pytest
from PIL import Image
from playwright.sync_api import expect

from gmn_camera.settings import read_config
from tests.browser.conftest import at_each_size, in_both_schemes, press, violations
from tests.browser.test_watch_page import open_panel
from tests.outside import encoded

pytestmark = pytest.mark.slow
SIZE = (640, 360)


class CameraProgram:
    """A stand-in of the program of a camera: it sends heartbeats, and stills that are wanted."""

    def __init__(self, http, name):
        self.name = name
        self._http = http
        self._path = f"/v1/cameras/{name}"
        self.beat()

    def beat(self):
        """Send a heartbeat, and a still if one is wanted; return the zones of the answer."""
        answer = self._http.post(f"{self._path}/heartbeat", data={"state": "ok"}).json()
        if answer["still_wanted"]:
            still = encoded(Image.new("RGB", SIZE, (90, 110, 130)), "JPEG")
            sent = {"images": ("still.jpg", still)}
            assert self._http.put(f"{self._path}/still", files=sent).status_code == 204
        return answer["zones"]


@pytest.fixture
def program(http):
    return CameraProgram(http, f"gate/north {uuid4().hex[:8]}")


@pytest.fixture
def dialog(tab, address, gallery, program):
    """Return the dialog of a camera's zones, which shows a still."""
    open_panel(tab, address, gallery)
    press(tab, f"Zones… {program.name}")
    dialog = tab.get_by_role("dialog", name=f"Zones of {program.name}")
    expect(dialog.get_by_role("status")).to_contain_text("It comes within half a minute.")
    program.beat()
    expect(dialog.get_by_role("img", name=f"What {program.name} sees")).to_be_visible()
    expect(dialog.get_by_role("status")).to_be_empty()
    return dialog


def middle_of(locator):
    box = locator.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def drag(tab, locator, to):
    tab.mouse.move(*middle_of(locator))
    tab.mouse.down()
    tab.mouse.move(*to, steps=4)
    tab.mouse.up()


def save(dialog):
    dialog.get_by_role("button", name="Save").click()
    expect(dialog).to_have_count(0)


def corners_of(zone):
    return [tuple(float(share) for share in corner.split(",")) for corner in zone.split()]


def test_a_zone_is_drawn_on_a_still_by_mouse_and_reaches_the_program(tab, dialog, program):
    press(tab, "Add a zone")
    area = dialog.locator(".still").bounding_box()
    corner = dialog.get_by_role("button", name="Zone 1, corner 1")
    drag(tab, corner, (area["x"] + 0.25 * area["width"], area["y"] + 0.2 * area["height"]))
    save(dialog)
    row = tab.locator("#health li", has_text=program.name)
    expect(row).to_contain_text("1 zone")
    (zone,) = program.beat()
    first, *others = corners_of(zone)
    assert first == pytest.approx((0.25, 0.2), abs=0.02)
    assert others == [(1, 0.5), (1, 1), (0, 1)]
    # It is drawn as it was, and can be taken away.
    press(tab, f"Zones… {program.name}")
    assert middle_of(dialog.get_by_role("button", name="Zone 1, corner 1"))[1] < area["y"] + (
        0.4 * area["height"]
    )
    # A name goes before the corners, and stays.
    name = dialog.get_by_role("textbox", name="Name of zone 1")
    name.fill(" the step ")
    save(dialog)
    (named,) = program.beat()
    assert named == f"the step: {zone}"
    press(tab, f"Zones… {program.name}")
    expect(name).to_have_value("the step")
    press(tab, "Remove zone 1")
    save(dialog)
    assert program.beat() == []


def test_a_zone_is_drawn_by_keys(tab, dialog, program):
    press(tab, "Add a zone")
    focused = tab.locator(":focus")
    expect(focused).to_have_attribute("aria-label", "Zone 1, corner 1")
    for key in ("ArrowRight", "ArrowRight", "ArrowUp"):
        tab.keyboard.press(key)
    dialog.get_by_role("button", name="Zone 1, a corner after 1").focus()
    tab.keyboard.press("Enter")
    expect(focused).to_have_attribute("aria-label", "Zone 1, corner 2")
    dialog.get_by_role("button", name="Zone 1, corner 5").focus()
    tab.keyboard.press("Delete")
    save(dialog)
    (zone,) = program.beat()
    assert corners_of(zone) == [(0.02, 0.49), (0.51, 0.495), (1, 0.5), (1, 1)]


def test_a_still_that_is_held_is_shown_at_once_and_a_new_one_on_request(tab, dialog, program):
    press(tab, "Cancel")
    press(tab, f"Zones… {program.name}")
    expect(dialog.get_by_role("img")).to_be_visible()
    press(tab, "New picture")
    expect(dialog.get_by_role("status")).to_contain_text("was asked for a picture")
    program.beat()
    expect(dialog.get_by_role("status")).to_be_empty()


def test_the_dialog_has_no_faults_at_any_size(tab, dialog):
    press(tab, "Add a zone")
    for width, _ in at_each_size(tab):
        box = dialog.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
    for _ in in_both_schemes(tab):
        assert violations(tab) == []


def test_the_dialogs_fit_a_phone_in_german(tab, address, gallery, program):
    tab.add_init_script("localStorage.setItem('gmn-language', 'de')")
    tab.set_viewport_size({"width": 390, "height": 844})
    open_panel(tab, address, gallery)
    for button in (f"Zonen… {program.name}", "Neue Kamera…"):
        press(tab, button)
        dialog = tab.get_by_role("dialog")
        for element in (tab.locator("html"), dialog):
            assert element.evaluate("shown => shown.scrollWidth <= shown.clientWidth")
        press(dialog, "Abbrechen" if button.startswith("Zonen") else "Schließen")
        expect(dialog).to_have_count(0)


def test_a_still_that_does_not_come_is_given_up_with_the_reasons(tab, address, gallery, program):
    tab.clock.install()
    open_panel(tab, address, gallery)
    press(tab, f"Zones… {program.name}")
    said = tab.get_by_role("dialog").get_by_role("status")
    expect(said).to_contain_text("It comes within half a minute.")
    tab.clock.fast_forward(61_000)
    expect(said).to_contain_text("No picture came. The program of the camera may not run")


def test_who_is_no_administrator_draws_no_zones(tab, keyed):
    url, key = keyed
    with httpx2.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}) as http:
        assert http.get("/v1/cameras").json()["results"] == []
    tab.add_init_script(f"sessionStorage.setItem('gmn-api-key', '{key}')")
    open_panel(tab, url, "default")
    expect(tab.locator("#health")).to_contain_text("Only the cameras of this page’s own key")
    expect(tab.get_by_role("button", name="Zones…")).to_have_count(0)


def test_the_form_writes_settings_that_the_program_reads_and_sends_nothing(
    tab, http, address, gallery, tmp_path
):
    http.post("/v1/galleries", data={"name": "sightings", "retention_days": "30"})
    open_panel(tab, address, gallery)
    tab.reload()
    press(tab, "New camera…")
    form = tab.get_by_role("dialog", name="New camera")
    sent = []
    tab.on("request", lambda request: sent.append((request.method, request.url)))
    for label, text in {
        "Name": 'the "front" door',
        "Address of its stream": "rtsp://192.168.1.20:554/stream?channel=1",
        "User": "owner",
        "Password": "p@ss/word#1",
    }.items():
        form.get_by_label(label).fill(text)
    form.get_by_label("Store everybody whom it sees in").select_option("sightings")
    written = tmp_path / "cameras.toml"
    written.write_text(form.locator("textarea").first.input_value())
    (camera,) = read_config(written)
    assert (camera.camera, camera.enroll) == ('the "front" door', "sightings")
    assert camera.source == "rtsp://owner:p%40ss%2Fword%231@192.168.1.20:554/stream?channel=1"
    command = form.locator("textarea").last.input_value().splitlines()[-1]
    assert command == f"gmn camera run --config cameras.toml --url {address}"
    # The page goes on reading its lists.
    assert [url for method, url in sent if method != "GET" or "192.168" in url] == []
    for width, _ in at_each_size(tab):
        box = form.bounding_box()
        assert box["x"] + box["width"] <= width
    assert violations(tab) == []
