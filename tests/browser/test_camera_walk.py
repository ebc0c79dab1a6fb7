"""docs/cameras.md, from a clip to an alert: two commands, and the rest on the page by mouse."""

import os
import re
import sys
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import follow, press
from tests.camera.drawn_videos import walk, write_video
from tests.drawn_photos import drawn_people
from tests.outside import run_command
from tests.service.conftest import serving

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
PEOPLE = (0, 1)


@pytest.fixture
def terminal(tmp_path):
    """Return a function that runs a command of the page beside the clip, and its two commands."""
    write_video(tmp_path / "clip.mp4", walk(PEOPLE, 3))
    page = (ROOT / "docs" / "cameras.md").read_text(encoding="utf-8")
    section = page.split("\n## From a clip to an alert\n")[1].split("\n## ")[0]
    commands = re.findall(r"^    (gmn .*)$", section, re.MULTILINE)
    assert len(commands) == 2

    def run(command, url):
        environment = os.environ | {"GMN_URL": url, "PYTHONPATH": str(ROOT)}
        environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
        ran = run_command("bash", "-euc", command, env=environment, cwd=tmp_path)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    return run, *commands


def create_gallery(tab, name, days=""):
    follow(tab, "Galleries")
    form = tab.locator("#new-gallery")
    form.get_by_label("Name").fill(name)
    form.get_by_label("Delete pictures after, in days").fill(days)
    press(form, "Create")
    expect(tab.locator("#gallery")).to_contain_text(name)
    tab.locator("#gallery").select_option(name)


@pytest.mark.timeout(600)
def test_two_commands_and_the_page_lead_from_a_clip_to_an_alert(tab, terminal, tmp_path):
    run, look, collect = terminal
    with serving(Path("small"), tmp_path / "data") as url:
        assert f"people: {len(PEOPLE)} tracks" in run(look, url)
        tab.goto(url)
        tab.wait_for_selector("#state .dot.ready")
        create_gallery(tab, "sightings", days="30")
        run(collect, url)

        follow(tab, "People")
        follow(tab, "Pictures without a name")
        press(tab, "Group into people")
        groups = tab.locator("#unnamed .group")
        expect(groups).to_have_count(len(PEOPLE))
        for name in ("Ann", "Ben"):
            groups.first.get_by_label("Name of group").fill(name)
            tab.keyboard.press("Enter")
            expect(tab.locator("#unnamed .outcomes")).to_contain_text(f"now of {name}.")

        create_gallery(tab, "wanted")
        follow(tab, "Enroll")
        drawn_people()[0].save(tmp_path / "ann.png")
        tab.set_input_files("#enrollment .drop input", tmp_path / "ann.png")
        tab.locator("#enrollment").get_by_label("Name of the person").fill("Ann")
        tab.locator("#enrollment button.main").click()
        tab.get_by_text("1 of 1 picture: 1 enrolled").wait_for()

        follow(tab, "Watch")
        press(tab.locator("#watch-list"), "Arm…")
        dialog = tab.get_by_role("dialog", name="Arm wanted")
        dialog.get_by_label("Passages").fill("300")
        dialog.get_by_label("Reason").fill("a try")
        press(dialog, "Show the forecast")
        dialog.locator(".forecast").wait_for()
        dialog.locator("button.main").click()
        expect(tab.locator("#watch-list h2")).to_have_text("Armed: wanted")

        run(collect, url)
        alert = tab.locator("#alerts > li")
        expect(alert).to_have_count(1)
        expect(alert).to_contain_text("Ann")
        expect(alert).to_contain_text("phone")
