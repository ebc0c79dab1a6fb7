"""The pictures of documents, with drawn people: `python -m tests.browser.pictures docs/images`.

`page.png` is the service's page with the answer to one query, `ranking.png` a part of the page that
`gmn demo` writes. `groups.png` and `seen.png` show people whom cameras saw: the groups of their
tracks, and the visits of one of them. `arming.png` is the forecast of a watch list, and `zones.png`
the dialog in which a zone of a camera is drawn.
"""

import sys
import tempfile
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

import gmn_client
from demo.command import CAMERAS
from demo.data_sets import read_spec
from demo.drawn_videos import draw_frame, read_person
from demo.page import render_page
from demo.service import own_service
from demo.story import draw_cast, play
from tests.outside import browser_program, encoded

SEED = 20_260
PEOPLE = 60
STRANGERS = 40
COLOURS = 256
SIGHTINGS = "sightings"
WANTED = "wanted"
CAMERA = "gate"
ASKED_FOR = "s0-0051"
# People who pass cameras twice. The last crop of the first one is searched by.
PASSING = "rendered:21,identities=6,cameras=2,crops=8"
# Return pictures of the demonstration's nine known people and three strangers.
SOME_RANKINGS = """
main > :not(article), article:nth-of-type(n+4):not(:nth-of-type(10)) { display: none !important }
"""


# True once all pictures in view are loaded; the others load when they are scrolled to.
IS_LOADED = """() => [...document.images]
  .filter((image) => image.getBoundingClientRect().top < innerHeight)
  .every((image) => image.complete && image.naturalWidth > 0)"""


def _kept(shot, file):
    """Write a screenshot in 256 colours."""
    shot.screenshot(path=file)
    with Image.open(file) as picture:
        few = picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    few.save(file, optimize=True)


def take_pictures(folder):
    """Serve, enroll and search for drawn people, and write both screenshots."""
    cast = draw_cast("rendered", SEED, PEOPLE, STRANGERS, CAMERAS)
    asked = next(crop.read() for crop in cast.known if crop.identity == ASKED_FOR)
    upload = {"name": "query.png", "mimeType": "image/png", "buffer": asked}
    with (
        tempfile.TemporaryDirectory() as place,
        own_service("bundled") as client,
        sync_playwright() as driver,
    ):
        findings = play(client, cast, SEED, print)
        demonstration = Path(place) / "index.html"
        demonstration.write_text(render_page(findings), encoding="utf-8")
        browser = driver.chromium.launch(executable_path=browser_program(), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 860})
        page.goto(f"{client.url}/#default/search")
        page.wait_for_selector("#state .dot.ready")
        page.set_input_files("#query .drop input", upload)
        page.wait_for_selector(".banner")
        page.wait_for_load_state("networkidle")
        _kept(page, folder / "page.png")
        searched_by = enroll_passages(client)
        page.goto(f"{client.url}/#{SIGHTINGS}/unnamed")
        page.get_by_role("button", name="Group into people").click()
        page.wait_for_selector(".group")
        page.wait_for_function(IS_LOADED)
        _kept(page, folder / "groups.png")
        page.goto(f"{client.url}/#{SIGHTINGS}/seen")
        upload = {"name": "seen.png", "mimeType": "image/png", "buffer": searched_by}
        page.set_input_files("#seen-task .drop input", upload)
        page.wait_for_selector("#seen-answer .banner")
        page.wait_for_load_state("networkidle")
        page.wait_for_function(IS_LOADED)
        _kept(page, folder / "seen.png")
        take_pictures_of_watching(client, cast, page, folder)
        page.goto(demonstration.as_uri())
        page.add_style_tag(content=SOME_RANKINGS)
        _kept(page.locator("main"), folder / "ranking.png")
        browser.close()


def take_pictures_of_watching(client, cast, page, folder):
    """Show the forecast of a list of drawn people, and a zone on a still of three of them."""
    client.create_gallery(WANTED)
    images = [gmn_client.Image(crop.read(), identity=crop.identity) for crop in cast.gallery[:9]]
    client.enroll(images, gallery=WANTED)
    client.heartbeat(CAMERA, fps=10, lag=0.2)
    client.ask_for_still(CAMERA)
    people = [read_person(crop.read()) for crop in cast.known[3:6]]
    frame = draw_frame([(person, 60 + 200 * number) for number, person in enumerate(people)])
    client.send_still(CAMERA, encoded(frame, "JPEG", quality=90))
    page.goto(f"{client.url}/#{WANTED}/watch")
    page.get_by_role("button", name="Arm…").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Passages").fill("1000")
    dialog.get_by_label("Reason").fill("case 7/2026")
    dialog.get_by_role("button", name="Show the forecast").click()
    dialog.locator(".forecast").wait_for()
    _kept(dialog, folder / "arming.png")
    dialog.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name=f"Zones… {CAMERA}").click()
    dialog.get_by_role("img").wait_for()
    dialog.get_by_role("button", name="Add a zone").click()
    dialog.get_by_role("textbox", name="Name of zone 1").fill("door")
    page.wait_for_function(IS_LOADED)
    _kept(dialog, folder / "zones.png")
    dialog.get_by_role("button", name="Cancel").click()


def enroll_passages(client):
    """Enroll people without names, as cameras see them pass, and return a picture of the first."""
    pictures = defaultdict(lambda: defaultdict(list))
    for crop in read_spec(PASSING).crops:
        pictures[crop.identity][crop.camera].append(crop.read())
    client.create_gallery(SIGHTINGS, retention_days=30)
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=3)
    searched_by = pictures["s0-0000"]["s0-c1"].pop()
    for number, passages in enumerate(pictures.values()):
        for passage, shots in enumerate(passages.values()):
            began = now + timedelta(minutes=7 * number + 60 * passage)
            labels = {"camera": ("gate", "yard")[passage], "track": f"{number}-{passage}"}
            images = [
                gmn_client.Image(shot, captured_at=began + timedelta(seconds=second), **labels)
                for second, shot in enumerate(shots)
            ]
            client.enroll(images, gallery=SIGHTINGS)
    return searched_by


if __name__ == "__main__":
    take_pictures(Path(sys.argv[1]))
