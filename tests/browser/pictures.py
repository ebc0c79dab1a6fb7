"""The pictures of the README, with drawn people: `python -m tests.browser.pictures docs/images`.

`page.png` is the service's page with the answer to one query, `ranking.png` a part of the page that
`gmn demo` writes.
"""

import random
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from demo.command import CAMERAS
from demo.page import render_page
from demo.service import own_service
from demo.story import draw_cast, play
from tests.outside import browser_program

SEED = 20_260
PEOPLE = 60
STRANGERS = 40
COLOURS = 256
# Return pictures of the demonstration's nine known people and three strangers.
SOME_RANKINGS = """
main > :not(article), article:nth-of-type(n+4):not(:nth-of-type(10)) { display: none !important }
"""


def _kept(shot, file):
    """Write a screenshot in 256 colours."""
    shot.screenshot(path=file)
    with Image.open(file) as picture:
        few = picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    few.save(file, optimize=True)


def take_pictures(folder):
    """Serve, enroll and search for drawn people, and write both screenshots."""
    cast = draw_cast(SEED, PEOPLE, STRANGERS, CAMERAS)
    asked = random.Random(SEED).choice(cast.known).read()
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
        page.goto(demonstration.as_uri())
        page.add_style_tag(content=SOME_RANKINGS)
        _kept(page.locator("main"), folder / "ranking.png")
        browser.close()


if __name__ == "__main__":
    take_pictures(Path(sys.argv[1]))
