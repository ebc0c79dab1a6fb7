"""The parts of the page beside the search: the state line, folders, people, galleries."""

import base64
import io
import re
import unicodedata
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from gmn_client import Client
from model.crops.names import BY_PRODUCTS
from tests.browser.conftest import (
    FIRST,
    confirm,
    drop,
    fill_in,
    follow,
    in_both_schemes,
    png,
    press,
    results,
    violations,
)
from tests.outside import encoded
from tests.service.conftest import files
from tests.waiting import eventually

pytestmark = pytest.mark.slow


def test_the_state_line_is_red_while_the_service_is_gone(page):
    follow(page, "People")
    page.locator("#people li").first.wait_for()
    page.route("**/*", lambda route: route.abort())
    page.get_by_label("Find", exact=True).fill("0001")
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


def test_every_panel_is_accessible_and_as_wide_as_a_phone(page):
    page.set_viewport_size({"width": 390, "height": 844})
    for link in page.locator("nav a").all():
        link.click()
        page.wait_for_load_state("networkidle")
        for _ in in_both_schemes(page):
            assert violations(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_a_folder_is_enrolled_with_the_names_of_its_sub_folders(
    page, http, gallery, drawn_crops, tmp_path
):
    for number, crop in enumerate(drawn_crops[:11]):
        file = tmp_path / "people" / f"new {crop.identity}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        # Other bytes than those of the gallery's crops.
        file.write_bytes(crop.png + b"0")
    (tmp_path / "people" / "new 0000" / "broken.png").write_bytes(b"no image")
    (tmp_path / "people" / "new 0000" / "readme.txt").write_text("no image")
    follow(page, "Enroll")
    page.set_input_files("#enrollment .folder input", tmp_path / "people")
    page.get_by_text(
        "3 sub-folders name the people. 1 file that is no picture is passed"
    ).wait_for()
    sent = []

    def cut_after_the_first(route):
        sent.append(route.request.headers["idempotency-key"])
        route.abort() if len(sent) == 2 else route.continue_()

    page.route(re.compile("/crops$"), cut_after_the_first)
    press(page, "Enroll 12 pictures")
    outcomes = page.locator("#outcomes")
    press(outcomes, "Resume")
    expect(outcomes).to_contain_text("12 of 12 pictures: 11 enrolled, 0 already stored, 1 refused")
    assert sent[1] == sent[2] != sent[0]
    broken = outcomes.locator("li", has_text="new 0000/broken.png")
    expect(broken).to_contain_text("convert the file")
    listed = results(http, f"/v1/galleries/{gallery}/identities?query=new")
    assert {person["identity"]: person["crops"] for person in listed} == dict(
        Counter(f"new {crop.identity}" for crop in drawn_crops[:11])
    )


def test_sub_folders_and_typed_names_are_the_same_person_in_any_unicode_form(
    page, http, gallery, drawn_crops, tmp_path
):
    forms = [unicodedata.normalize(form, "José") for form in ("NFC", "NFD")]
    for number, name in enumerate(forms):
        file = tmp_path / "people" / name / f"علی\u200cرضا {number}.png"
        file.parent.mkdir(parents=True)
        file.write_bytes(drawn_crops[number].png + b"0")
    follow(page, "Enroll")
    page.set_input_files("#enrollment .folder input", tmp_path / "people")
    page.get_by_text("1 sub-folder names a person.").wait_for()
    press(page, "Enroll 2 pictures")
    outcomes = page.locator("#outcomes")
    expect(outcomes).to_contain_text("2 of 2 pictures: 2 enrolled")
    crops = results(http, f"/v1/galleries/{gallery}/crops?identity={forms[1]}")
    assert {crop["identity"] for crop in crops} == {"José"}
    assert {crop["external_id"].rpartition("/")[2] for crop in crops} == {
        "علی\u200cرضا 0.png",
        "علی\u200cرضا 1.png",
    }
    follow(page, "People")
    page.locator("#people").get_by_role("link", name="José").click()
    press(page, "Merge with…")
    page.get_by_label("The other name").fill(forms[1])
    expect(page.locator(".known")).to_have_text(f"{forms[1]} has 2 pictures in this gallery.")


def test_by_products_of_storage_systems_in_a_folder_are_no_people(page, drawn_crops, tmp_path):
    folder = tmp_path / "#recycle"
    for name in ("Ann/1.png", "Recycle/1.jfif", "eaDir/1.png"):
        write_to(folder / name, drawn_crops[0].png)
    left_out = [f"{name}/1.png" for name in BY_PRODUCTS if "\r" not in name]
    left_out += ["Ann/@eaDir/1.png/SYNOPHOTO_THUMB_M.jpg", "$Recycle.Bin/1.png", "FOUND.000/1.png"]
    left_out += ["Ann/._1.png", ".Trash-1000/1.png", "THUMBS.DB/1.png"]
    for name in left_out:
        write_to(folder / name, b"no picture")
    follow(page, "Enroll")
    page.set_input_files("#enrollment .folder input", folder)
    expect(page.locator("#passed-over")).to_contain_text(
        f"3 sub-folders name the people. {len(left_out)} files are left out as hidden or made by"
    )
    expect(page.locator("#passed-over")).to_contain_text("such as #recycle/")
    expect(page.get_by_role("button", name="Enroll 3 pictures")).to_be_visible()


def write_to(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


def test_a_folder_that_cannot_be_used_is_refused_with_the_remedy(page, drawn_crops, tmp_path):
    def refused(remedy):
        page.get_by_role("alert").filter(has_text=remedy).wait_for()
        assert page.locator("#chosen").is_hidden()

    (tmp_path / "people").mkdir()
    (tmp_path / "people" / "notes.txt").write_text("no image")
    follow(page, "Enroll")
    page.set_input_files("#enrollment .folder input", tmp_path / "people")
    refused("The folder holds no picture.")
    (tmp_path / "people" / "manifest.csv").write_text("path,identity\n")
    page.set_input_files("#enrollment .folder input", tmp_path / "people")
    refused("Pack the folder as a zip file")
    # As a browser answers for a folder that was dropped.
    page.evaluate("() => { Blob.prototype.arrayBuffer = () => Promise.reject(new Error('gone')); }")
    drop(page, "#enrollment .drop", drawn_crops[0].png)
    refused("use “Choose a folder”")


def test_a_gallery_is_created_set_up_and_deleted(page, http):
    follow(page, "Galleries")
    new = page.locator("#new-gallery")
    new.get_by_label("Name").fill("yard")
    press(new, "Create")
    expect(page.locator("#gallery-name")).to_have_text("yard")
    settings = page.locator("#settings")
    settings.get_by_label("Delete pictures after").fill("30")
    settings.get_by_label("Match or no match").select_option("frozen")
    settings.get_by_label("Searches follow").select_option("true")
    press(settings, "Save")
    confirm(page, "Delete them")
    page.get_by_text("pictures kept for 30 days").wait_for()
    described = http.get("/v1/galleries/yard").json()
    assert (described["retention_days"], described["retention_from"]) == (30, "captured")
    assert described["time_evidence"] is True
    settings.get_by_label("Delete pictures after").fill("")
    settings.get_by_label("or in hours").fill("24")
    press(settings, "Save")
    confirm(page, "Delete them")
    page.get_by_text("pictures kept for 24 hours").wait_for()
    described = http.get("/v1/galleries/yard").json()
    assert (described["retention_days"], described["retention_hours"]) == (None, 24)
    settings.get_by_label("or in hours").fill("")
    press(settings, "Save")
    page.get_by_text("pictures kept for 24 hours").wait_for(state="detached")
    for typed in ("yards", "yard"):
        press(page, "Delete the gallery…")
        page.get_by_label("Type yard").fill(typed)
        confirm(page, "Delete the gallery")
        if typed == "yards":
            page.get_by_text("“yards” is not the name yard. Nothing was deleted.").wait_for()
            assert http.get("/v1/galleries/yard").is_success
    expect(page.locator("#gallery-list")).not_to_contain_text("yard")
    assert http.get("/v1/galleries/yard").status_code == 404


def test_fields_beside_each_other_stand_on_one_line(page):
    follow(page, "Galleries")
    settings = page.locator("#settings")
    days = settings.get_by_label("Delete pictures after").bounding_box()
    hours = settings.get_by_label("or in hours").bounding_box()
    assert (days["y"], days["height"]) == (hours["y"], hours["height"])


def test_an_export_is_made_downloaded_imported_and_deleted(page, http, gallery, tmp_path):
    follow(page, "Galleries")
    page.get_by_text("No export yet.").wait_for()
    press(page, "Make an export")
    with page.expect_download() as download:
        press(page, "Download")
    file = tmp_path / "export.zip"
    download.value.save_as(file)
    crops = len(results(http, f"/v1/galleries/{gallery}/crops?limit=1000"))
    copy = http.post("/v1/galleries", data={"name": "copied"})
    assert copy.is_success
    archive = {"archive": ("export.zip", file.read_bytes())}
    assert http.post("/v1/galleries/copied/imports", files=archive).is_success
    eventually(lambda: len(results(http, "/v1/galleries/copied/crops?limit=1000")) == crops)
    press(page, "Delete…")
    confirm(page, "Delete")
    page.get_by_text("No export yet.").wait_for()
    assert results(http, f"/v1/galleries/{gallery}/exports") == []
    # What the import brought is removed again.
    page.goto(page.url.replace(f"#{gallery}/", "#copied/"))
    page.reload()
    press(page, "Remove what it brought…")
    page.get_by_text(re.compile(rf"{crops} pictures are deleted")).wait_for()
    confirm(page, "Remove")
    page.get_by_text("Removal of what an import brought").wait_for()
    eventually(lambda: results(http, "/v1/galleries/copied/crops") == [])


def people(page):
    return page.locator("#people .card .name").all_inner_texts()


def person(page, identity):
    follow(page, "People", exact=True)
    follow(page.locator("#people"), identity)
    page.get_by_role("heading", name=identity, exact=True).wait_for()


def rename(page, identity, new):
    person(page, identity)
    press(page, "Rename…")
    fill_in(page, "New name", new, "Rename")


def outcome(page, text):
    page.locator(".news:visible", has_text=text).wait_for()


def test_a_person_is_renamed_merged_and_forgotten(page, http, gallery):
    rename(page, "0001", "Ann")
    outcome(page, "0001 is now Ann: 4 pictures.")
    page.get_by_role("heading", name="Ann", exact=True).wait_for()
    press(page, "Merge with…")
    page.get_by_label("The other name").fill("0002")
    confirm(page, "Compare")
    sides = page.locator("dialog .sides section")
    expect(sides).to_have_count(2)
    expect(sides.first.locator("img")).to_have_count(4)
    said = page.locator("dialog .opinion")
    expect(said).to_contain_text("The probability that these are one person is")
    expect(said).to_contain_text("by their most similar pictures alone")
    expect(said.locator(".verdict")).to_contain_text("Model: ")
    # Nobody's pictures are doubtful.
    expect(page.locator("dialog .note")).to_have_count(0)
    assert violations(page) == []
    page.get_by_label("Both get the name").select_option("Ann")
    confirm(page, "Merge")
    outcome(page, "0002 is now Ann, merged with the person of that name: 4 pictures.")
    press(page, "Undo")
    outcome(page, "Undone: 0002 and Ann are two people again.")
    follow(page, "All people")
    expect(page.locator("#people")).to_contain_text("0002")
    person(page, "0002")
    # The name of a person who is there asks with both side by side, too.
    press(page, "Rename…")
    fill_in(page, "New name", "Ann", "Rename")
    confirm(page, "Merge")
    outcome(page, "0002 is now Ann")
    page.get_by_role("heading", name="Ann", exact=True).wait_for()
    press(page, "Forget…")
    confirm(page, "Forget")
    outcome(page, "Forgotten: 8 pictures removed from the gallery.")
    page.get_by_text("What remains elsewhere").click()
    page.locator(".news li", has_text="In audit log").wait_for()
    assert "Ann" not in page.evaluate("JSON.stringify(sessionStorage)")
    answer = http.get(f"/v1/galleries/{gallery}/identities").json()
    assert [result["identity"] for result in answer["results"]] == ["0000", "0003", "0004", "0005"]


def test_a_person_beyond_the_first_page_is_found(page, http, gallery, drawn_crops):
    for first in range(0, 120, 40):
        numbers = range(first, first + 40)
        sent = files(*(drawn_crops[0].png + b"%d" % number for number in numbers))
        fields = {"identity": [f"p{number:04d}" for number in numbers]}
        assert http.post(f"/v1/galleries/{gallery}/crops", files=sent, data=fields).is_success
    follow(page, "People")
    press(page, "Show more")
    expect(page.locator("#people li")).to_have_count(126)
    page.get_by_label("Find", exact=True).fill("P0119")
    expect(page.locator("#people li")).to_have_count(1)
    assert people(page) == ["p0119"]
    assert page.get_by_role("button", name="Show more").is_hidden()
    page.get_by_label("Find", exact=True).fill("")
    page.get_by_label("Sort").select_option("most pictures first")
    expect(page.locator("#people .card .name").nth(5)).to_have_text("0005")
    expect(page.locator("#people img").first).to_be_visible()


def test_crops_of_a_person_are_shown_by_time_and_some_get_another_name(page, http, gallery):
    crops = f"/v1/galleries/{gallery}/crops"
    listed = results(http, crops, identity="0003")
    for hour, crop in enumerate(reversed(listed), 8):
        time = {"captured_at": f"2026-03-01T{hour:02}:00:00Z"}
        assert http.patch(f"{crops}/{crop['crop_id']}", data=time).is_success
    person(page, "0003")
    tiles = page.locator("#person .tile input")
    in_time = [crop["crop_id"] for crop in reversed(listed)]
    assert tiles.evaluate_all("all => all.map(one => one.value)") == in_time
    # By the keyboard alone.
    tiles.nth(1).press("Space")
    tiles.nth(2).press("Space")
    page.get_by_text("2 pictures chosen").wait_for()
    assert violations(page) == []
    page.get_by_role("button", name="Another name…").press("Enter")
    page.locator("dialog.question").get_by_label("Name").press_sequentially("Eve")
    page.keyboard.press("Enter")
    outcome(page, "2 pictures are now of Eve.")
    expect(tiles).to_have_count(2)
    eve = results(http, crops, identity="Eve")
    assert {crop["crop_id"] for crop in eve} == set(in_time[1:3])
    asked = {"identity": "0003", "limit": 12}
    alike = results(http, f"/v1/galleries/{gallery}/similar", **asked)
    assert alike[0]["identity"] == "Eve"
    similar = [result["identity"] for result in alike if result["verdict"] != "no_match"]
    expect(page.locator("#person section .card .name")).to_have_text(similar)
    press(page, "Compare with Eve")
    expect(page.locator("dialog .sides h3")).to_have_text(["0003", "Eve"])
    page.keyboard.press("Escape")
    press(page, "Undo")
    expect(tiles).to_have_count(4)
    assert results(http, crops, identity="Eve") == []


def test_crops_without_a_name_are_listed_and_named(page, http, gallery):
    crops = f"/v1/galleries/{gallery}/crops"
    for identity in ("0004", "0005"):
        taken_away = {"identity": identity, "new_identity": ""}
        assert http.patch(crops, data=taken_away).is_success
    follow(page, "People")
    follow(page, "Pictures without a name")
    page.get_by_text("8 pictures have no name.").wait_for()
    assert page.locator("nav [aria-current]").inner_text() == "People"
    assert violations(page) == []
    boxes = page.locator("#unnamed .tile input")
    boxes.nth(1).click()
    boxes.nth(4).click(modifiers=["Shift"])
    page.get_by_text("4 pictures chosen").wait_for()
    boxes.nth(2).click()
    boxes.nth(4).click(modifiers=["Shift"])
    page.get_by_text("1 picture chosen").wait_for()
    press(page, "Delete…")
    confirm(page, "Delete")
    outcome(page, "1 picture deleted.")
    page.get_by_text("7 pictures have no name.").wait_for()
    press(page, "Choose all")
    press(page, "Name…")
    page.locator("dialog.question").get_by_label("Name").fill("000")
    proposed = page.locator("#names option[value='0003']")
    proposed.wait_for(state="attached")
    fill_in(page, "Name", "Ann", "Name")
    outcome(page, "7 pictures are now of Ann.")
    page.get_by_text("There is no picture without a name.").wait_for()
    assert len(results(http, crops, identity="Ann")) == 7


def test_more_crops_without_a_name_than_are_listed_are_said_to_be_more(page, address, gallery):
    numbers = np.random.default_rng(0)
    with Client(address, gallery=gallery) as client:
        made = client.embeddings(FIRST)
        for _ in range(51):
            vectors = numbers.normal(size=(100, made.dimension)).astype(np.float32)
            sent = [base64.b64encode(vector.tobytes()).decode() for vector in vectors]
            client.enroll_vectors(sent, made.embedding_fingerprint)
    follow(page, "People")
    follow(page, "Pictures without a name")
    page.get_by_text("More than 5,000 pictures have no name.").wait_for()


def test_crops_without_a_name_are_grouped_and_named_by_group(page, http, gallery):
    crops = f"/v1/galleries/{gallery}/crops"
    for identity in ("0003", "0004", "0005"):
        taken_away = {"identity": identity, "new_identity": ""}
        assert http.patch(crops, data=taken_away).is_success
    follow(page, "People")
    follow(page, "Pictures without a name")
    page.get_by_text("12 pictures have no name.").wait_for()
    page.get_by_text("Group the pictures to count the people on them.").wait_for()
    press(page, "Group into people")
    page.locator("#unnamed .jobs li").filter(has_text="✓ done").wait_for()
    # The job of another grouping takes the place of this one.
    press(page, "Group into people")
    page.wait_for_load_state("networkidle")
    page.locator("#unnamed .jobs li").filter(has_text="✓ done").wait_for()
    expect(page.locator("#unnamed .jobs li")).to_have_count(1)
    groups = results(http, f"/v1/galleries/{gallery}/groups")
    shown = page.locator("#unnamed .group")
    expect(shown).to_have_count(len(groups))
    counted = http.get(f"/v1/galleries/{gallery}/groups/count").json()
    expect(page.locator("#people-count")).to_contain_text(f"About {counted['people']} people are")
    expect(page.locator("#people-count")).to_contain_text(
        f"{counted['fewest']} to {counted['most']} in nine of ten cases. 3 have a name."
    )
    first = shown.first.locator(".tile input")
    ids = first.evaluate_all("all => all.map(one => one.value)")
    assert set(ids) == set(groups[0]["crop_ids"])
    assert violations(page) == []
    # The first one is the least like the others.
    chosen = shown.first.locator(".tile input:checked")
    expect(chosen).to_have_count(len(ids) if len(ids) <= 4 else 0)
    first.evaluate_all("all => { for (const one of all) if (one.checked) one.click(); }")
    first.nth(0).check()
    press(shown.first, "Leave out")
    expect(first).to_have_count(len(ids) - 1)
    press(shown.first, "Choose all")
    press(shown.first, "Who may this be?")
    page.get_by_label("Name of group 1").fill("Ann")
    page.keyboard.press("Enter")
    outcome(page, "now of Ann.")
    listed = results(http, crops, identity="Ann")
    assert {crop["crop_id"] for crop in listed} == set(ids[1:])


def test_people_of_a_picture_are_enrolled_by_the_boxes_around_them(
    page, http, gallery, drawn_crops
):
    wide = Image.new("RGB", (640, 360), "grey")
    for at, crop in enumerate(drawn_crops[:2]):
        with Image.open(io.BytesIO(crop.png)) as person:
            wide.paste(person.resize((128, 256)), (100 + 300 * at, 50))
    follow(page, "Enroll")
    page.set_input_files("#enrollment .drop input", png(encoded(wide)))
    page.get_by_role("dialog", name="Draw boxes").wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Draw boxes on person.png").press("Enter")
    page.get_by_role("dialog", name="Draw boxes").wait_for()
    for key in ("ArrowLeft", "ArrowRight"):
        page.get_by_role("button", name="Add a box").press("Enter")
        page.keyboard.press(key)
    press(page, "Take 2 people")
    page.get_by_label("Name of person.png, box 1").fill("Ann")
    assert violations(page) == []
    page.locator("#enrollment [name=identity]").fill("Bob")
    press(page, "Enroll 2 pictures")
    expect(page.locator("#outcomes li .verdict")).to_have_text(["✓ Enrolled", "✓ Enrolled"])
    for identity in ("Ann", "Bob"):
        asked = {"identity": identity}
        crops = results(http, f"/v1/galleries/{gallery}/crops", **asked)
        assert len(crops) == 1


def test_a_rename_is_undone_after_a_reload_and_a_merge_of_anyone(page, http, gallery):
    rename(page, "0001", "Ann")
    outcome(page, "0001 is now Ann")
    identities = f"/v1/galleries/{gallery}/identities"
    assert http.patch(f"{identities}/0003", data={"new_identity": "0002"}).json()["merged"]
    page.reload()
    press(page, "Lately")
    done = page.get_by_role("dialog", name="Done lately")
    done.get_by_text("0003 → 0002").wait_for()
    assert violations(page) == []
    press(done, "Undo: 0001 is now Ann")
    outcome(page, "Undone: Ann is 0001 again.")
    press(page, "Lately")
    press(done, "Undo: 0003 → 0002")
    outcome(page, "Undone: 0003 and 0002 are two people again.")
    names = [result["identity"] for result in results(http, identities)]
    assert names == ["0000", "0001", "0002", "0003", "0004", "0005"]


def test_a_picture_is_enrolled_with_its_file_and_the_time_that_the_file_gives(
    page, http, gallery, drawn_crops
):
    with Image.open(io.BytesIO(drawn_crops[0].png)) as image:
        exif = image.getexif()
        exif.get_ifd(0x8769).update({0x9003: "2026:03:01 09:30:00", 0x9011: "+01:00"})
        photograph = encoded(image.convert("RGB"), "JPEG", exif=exif)
    files = [
        png(drawn_crops[1].png + b"0") | {"name": "gate 2026-03-02 10.30.00.png"},
        png(drawn_crops[2].png + b"0") | {"name": "no time.png"},
        {"name": "camera.jpg", "mimeType": "image/jpeg", "buffer": photograph},
    ]
    follow(page, "Enroll")
    page.set_input_files("#enrollment .drop input", files)
    page.get_by_label("Take the time from the file, where it has one (2 of 3 pictures)").check()
    page.locator("#enrollment [name=identity]").fill("Ann")
    page.locator("#enrollment [name=camera]").fill("gate")
    press(page, "Enroll 3 pictures")
    expect(page.locator("#outcomes li .verdict")).to_have_text(["✓ Enrolled"] * 3)
    listed = results(http, f"/v1/galleries/{gallery}/crops?identity=Ann")
    zone = page.evaluate("new Date('2026-03-02T10:30:00').toISOString()").replace(".000Z", "Z")
    assert {crop["external_id"]: crop["captured_at"] for crop in listed} == {
        "gate 2026-03-02 10.30.00.png": zone,
        "no time.png": None,
        "camera.jpg": "2026-03-01T08:30:00Z",
    }
    assert {crop["camera"] for crop in listed} == {"gate"}
    person(page, "Ann")
    page.locator("#person .tile .card").first.click()
    expect(page.locator("#sheet dl")).to_contain_text("File or your idcamera.jpg")
