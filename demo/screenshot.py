"""A picture of the service's page, with drawn people: `python -m demo.screenshot FILE.png`.

It serves the bundled artefact, enrolls the demonstration's people, asks for one of them, and needs
Playwright and a `chromium` on the path.
"""

from __future__ import annotations

import io
import random
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import FilePayload, ViewportSize, sync_playwright

from demo.command import CAMERAS
from demo.service import own_service
from demo.story import draw_cast, enroll_all
from gmn_client import Client
from model.problems import InputProblem

SEED, PEOPLE = 20_260, 60
VIEW: ViewportSize = {"width": 1280, "height": 860}
COLOURS = 256


def take_screenshot(file: Path) -> None:
    """Writes the page's answer to one query as a PNG of 256 colours.

    Raises:
        InputProblem: where there is no chromium.
    """
    chromium = shutil.which("chromium")
    if chromium is None:
        raise InputProblem("chromium is not installed: sudo apt-get install -y chromium")
    cast = draw_cast(SEED, PEOPLE, 0, CAMERAS)
    asked = random.Random(SEED).choice(cast.known).read()
    upload: FilePayload = {"name": "query.png", "mimeType": "image/png", "buffer": asked}
    with own_service("bundled") as url, sync_playwright() as driver:
        with Client(url) as client:
            enroll_all(client, cast.gallery)
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport=VIEW)
        page.goto(f"{url}/#default/search")
        page.wait_for_selector("#state .dot.ready")
        page.set_input_files("#query .drop input", upload)
        page.wait_for_selector(".banner")
        page.wait_for_load_state("networkidle")
        shot = page.screenshot()
        browser.close()
    picture = Image.open(io.BytesIO(shot)).convert("RGB")
    file.parent.mkdir(parents=True, exist_ok=True)
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)


if __name__ == "__main__":
    take_screenshot(Path(sys.argv[1]))
