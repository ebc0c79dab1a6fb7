"""The parts of the page beside the search: the state line, folders, people, galleries."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import expect

pytestmark = pytest.mark.slow


def test_the_state_line_is_red_while_the_service_is_gone(page: Any) -> None:
    page.get_by_role("link", name="Identities").click()
    page.locator("#people li").first.wait_for()
    page.route("**/*", lambda route: route.abort())
    page.get_by_label("Find").fill("0001")
    state = page.locator("#state")
    expect(state).to_contain_text("The service does not answer")
    colour = "one => getComputedStyle(one).backgroundColor"
    red = state.evaluate(colour)
    page.get_by_role("alert").wait_for()
    page.unroute("**/*")
    page.wait_for_selector("#state .dot.ready")
    expect(page.locator("#people li")).to_have_count(1)
    assert page.get_by_role("alert").count() == 0
    assert state.evaluate(colour) != red


def test_a_folder_is_enrolled_with_the_names_of_its_sub_folders(
    page: Any, http: httpx.Client, gallery: str, drawn_crops: list[Any], tmp_path: Path
) -> None:
    for number, crop in enumerate(drawn_crops[:11]):
        file = tmp_path / "people" / f"new {crop.identity}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        # Other bytes than those of the gallery's crops.
        file.write_bytes(crop.png + b"0")
    (tmp_path / "people" / "new 0000" / "broken.png").write_bytes(b"no image")
    (tmp_path / "people" / "new 0000" / "readme.txt").write_text("no image")
    page.get_by_role("link", name="Enroll").click()
    page.set_input_files("#enrollment .folder input", tmp_path / "people")
    page.get_by_text("3 sub-folders name the people. 1 file that is no image is passed").wait_for()
    sent: list[str] = []

    def cut_after_the_first(route: Any) -> None:
        sent.append(route.request.headers["idempotency-key"])
        route.abort() if len(sent) == 2 else route.continue_()

    page.route(re.compile("/crops$"), cut_after_the_first)
    page.get_by_role("button", name="Enroll 12 images").click()
    outcomes = page.locator("#outcomes")
    outcomes.get_by_role("button", name="Resume").click()
    expect(outcomes).to_contain_text("12 of 12 images: 11 enrolled, 0 already stored, 1 refused")
    assert sent[1] == sent[2] != sent[0]
    broken = outcomes.locator("li", has_text="new 0000/broken.png")
    expect(broken).to_contain_text("convert the file")
    listed = http.get(f"/v1/galleries/{gallery}/identities?query=new").json()["results"]
    assert {one["identity"]: one["crops"] for one in listed} == dict(
        Counter(f"new {crop.identity}" for crop in drawn_crops[:11])
    )


def test_a_folder_that_the_form_cannot_use_is_refused_with_the_remedy(
    page: Any, tmp_path: Path
) -> None:
    (tmp_path / "people").mkdir()
    (tmp_path / "people" / "notes.txt").write_text("no image")
    page.get_by_role("link", name="Enroll").click()
    page.set_input_files("#enrollment .folder input", tmp_path / "people")
    page.get_by_role("alert").filter(has_text="The folder holds no image.").wait_for()
    (tmp_path / "people" / "manifest.csv").write_text("path,identity\n")
    page.set_input_files("#enrollment .folder input", tmp_path / "people")
    page.get_by_role("alert").filter(has_text="Pack the folder as a zip file").wait_for()
