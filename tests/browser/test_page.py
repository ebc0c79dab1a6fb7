"""The page people look at, in a browser: search, enroll, rename, forget."""

import re

import httpx2
import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.browser.conftest import (
    PNG,
    ask,
    confirm,
    drop,
    follow,
    open_settings,
    png,
    press,
    results,
    search_for,
)
from tests.outside import encoded, zip_of
from tests.service.conftest import files, serving

HOSTILE = """<img src=x onerror="document.title='owned'">"""


def names(page):
    return page.locator("#answer .card b > .name").all_inner_texts()


def cameras(page):
    return page.locator("#answer .card .about > .name").all_inner_texts()


def test_a_dropped_picture_is_ranked_as_the_service_ranks_it(page, http, gallery, drawn_crops):
    assert page.locator("[name=scoring] option:enabled").count() == 2
    answer = ask(http, gallery, drawn_crops[0].png)
    drop(page, "#query .drop", drawn_crops[0].png)
    page.wait_for_selector(".cards .card img")
    assert names(page) == [result["identity"] for result in answer["results"]]
    assert cameras(page) == [result["camera"] for result in answer["results"]]
    assert f"banner {answer['verdict']}" in page.locator(".banner").get_attribute("class")
    first = page.locator(".cards .card").first.inner_text()
    assert f"{answer['results'][0]['cosine']:.3f}" in first
    verdict = answer["results"][0]["verdict"].replace("_", " ")
    assert f"Model: {verdict}" in first


@pytest.mark.slow
def test_a_camera_is_chosen_and_left_out(page):
    search_for(page)
    page.click("#filters summary")
    chip = page.locator("#chips .chip", has_text="east")
    for pressed, shown in (("only", {"east"}), ("without", {"west"}), ("any", {"east", "west"})):
        with page.expect_response(re.compile("/queries$")):
            chip.click()
        page.wait_for_selector(f"#chips .chip.{pressed}:has-text('east'):focus")
        page.wait_for_selector("#answer:not([aria-busy])")
        assert set(cameras(page)) == shown


@pytest.mark.slow
def test_more_like_this_asks_by_the_crop_and_leaves_it_out(page):
    search_for(page)
    page.locator(".cards .card").first.click()
    crop_id = page.locator("#sheet dd code").first.inner_text()
    with page.expect_request(re.compile("/queries$")) as asked:
        press(page, "More like this")
    assert crop_id in (asked.value.post_data or "")
    page.wait_for_selector("#answer:not([aria-busy])")
    page.locator(".cards .card").first.click()
    assert page.locator("#sheet dd code").first.inner_text() != crop_id


@pytest.mark.slow
def test_a_comparison_shows_the_contribution_of_each_region(page):
    search_for(page)
    page.locator(".cards .card").nth(5).click()
    page.get_by_label("Regions").check()
    expect(page.locator(".cells span")).to_have_count(2 * 8 * 4)
    signs = set(page.locator(".cells span").all_inner_texts())
    assert signs <= {"+", "−", ""}
    assert signs & {"+", "−"}
    assert "Strongest: row" in page.locator(".cells").first.get_attribute("aria-label")
    shapes = """images => images.map(one => [
        one.clientWidth / one.clientHeight, one.naturalWidth / one.naturalHeight])"""
    for shown, natural in page.locator(".heat img").evaluate_all(shapes):
        assert shown == pytest.approx(natural, abs=0.02)
    cells, picture = (
        page.locator(selector).first.bounding_box() for selector in (".cells", ".heat img")
    )
    assert cells == pytest.approx(picture, abs=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nosuch", "%E0%A4%A"])
def test_an_address_that_leads_nowhere_is_reported_until_another_is_chosen(
    tab, address, gallery, name
):
    tab.goto(f"{address}/#{name}/search")
    tab.get_by_text(f"There is no gallery “{name}”. Choose one above.").wait_for()
    tab.wait_for_load_state("networkidle")
    assert tab.get_by_role("alert").count() == 1
    assert tab.evaluate("location.hash") == f"#{name}/search"
    tab.select_option("#gallery", gallery)
    tab.wait_for_selector("#state .dot.ready")
    tab.get_by_text("There is no gallery").wait_for(state="detached")
    tab.goto(f"{address}/#{gallery}/nonsense")
    tab.wait_for_selector("#state .dot.ready")
    assert tab.locator("main > section:visible").get_attribute("id") == "search"


@pytest.mark.slow
def test_a_deleted_crop_is_gone_after_a_question(page, http, gallery, drawn_crops):
    search_for(page)
    page.locator(".cards .card").first.click()
    crop_id = page.locator("#sheet dd code").first.inner_text()
    press(page, "Delete…")
    confirm(page, "Cancel")
    assert http.get(f"/v1/galleries/{gallery}/crops/{crop_id}").status_code == 200
    press(page, "Delete…")
    confirm(page, "Delete")
    page.get_by_text(f"{len(drawn_crops) - 1} pictures", exact=True).wait_for()
    assert http.get(f"/v1/galleries/{gallery}/crops/{crop_id}").status_code == 404


@pytest.mark.slow
def test_images_dropped_while_others_are_sent_await_fields_of_their_own(
    page, http, gallery, drawn_crops
):
    follow(page, "Enroll")
    page.set_input_files("#enrollment .drop input", png(drawn_crops[0].png))
    page.fill("#enrollment [name=identity]", "Ann")
    held = []
    page.route(re.compile("/crops$"), lambda route: held.append(route))
    button = page.locator("#enrollment button.main")
    with page.expect_request(re.compile("/crops$")):
        button.dblclick()
    expect(button).to_be_disabled()
    drop(page, "#enrollment .drop", drawn_crops[1].png)
    with page.expect_response(re.compile("/crops$")):
        held[0].continue_()
    expect(button).to_be_enabled()
    expect(button).to_have_text("Enroll 1 picture")
    assert len(held) == 1
    assert len(results(http, f"/v1/galleries/{gallery}/crops?identity=Ann")) == 1


@pytest.mark.slow
def test_a_double_click_begins_one_import(page):
    follow(page, "Enroll")
    sent = {"name": "people.zip", "mimeType": "application/zip", "buffer": b"no archive"}
    page.set_input_files("#import [name=archive]", sent)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.get_by_role("button", name="Import").dblclick()
    job = page.locator("#jobs li").filter(has_text="✕ failed")
    job.wait_for()
    assert sum(url.endswith("/imports") for url in asked) == 1
    # It has failed before its first image.
    assert job.locator("progress, button").count() == 0
    assert "0 of 0" not in job.inner_text()


@pytest.mark.slow
def test_an_import_is_followed_to_its_end(page, drawn_crops):
    archive = zip_of({"person.png": drawn_crops[0].png, "broken.png": b"no image"})
    follow(page, "Enroll")
    sent = {"name": "people.zip", "mimeType": "application/zip", "buffer": archive}
    page.set_input_files("#import [name=archive]", sent)
    page.fill("#import [name=identity]", "Bob")
    press(page, "Import")
    job = page.locator("#jobs li").filter(has_text="✓ done")
    job.wait_for()
    assert "1 stored" in job.inner_text()
    with page.expect_download() as download:
        job.get_by_role("button", name="1 problem (CSV)").click()
    assert "broken.png" in download.value.path().read_text()


@pytest.mark.slow
def test_a_hostile_name_is_a_name(page, http, gallery, drawn_crops):
    crop = drawn_crops[0]
    sent = files(crop.png)
    fields = {"identity": HOSTILE, "camera": HOSTILE, "metadata": '{"<b>": "</script>"}'}
    assert http.post(f"/v1/galleries/{gallery}/crops", files=sent, data=fields).is_success
    search_for(page, crop.png)
    page.locator(".card", has=page.get_by_text(HOSTILE, exact=True)).first.click()
    assert HOSTILE in page.locator("#sheet h2").inner_text()
    assert HOSTILE in page.locator("#sheet dl").inner_text()
    page.keyboard.press("Escape")
    follow(page, "People")
    follow(page, HOSTILE)
    press(page, "Forget…")
    confirm(page, "Forget")
    page.get_by_text("Forgotten: 1 picture removed").wait_for()
    assert page.title() == "Who is this?"
    assert page.locator("[onerror], img[src='x']").count() == 0


@pytest.mark.slow
def test_where_keys_are_asked_for_the_tab_keeps_one(tab, keyed, drawn_crops):
    address, key = keyed
    tab.goto(address)
    asked = tab.locator("dialog.question")
    asked.filter(has_text="This service needs an API key.").wait_for()
    press(tab, "Cancel")
    asked.wait_for(state="detached")
    tab.reload()
    asked.locator("input").fill("gmn_wrong_key")
    press(tab, "Use this key")
    tab.locator("dialog.question").filter(has_text="this key is unknown").wait_for()
    tab.locator("dialog.question input").fill(key)
    press(tab, "Use this key")
    tab.wait_for_selector("#state .dot.ready")
    assert tab.get_by_role("alert").count() == 0
    follow(tab, "Enroll", exact=True)
    tab.set_input_files("#enrollment .drop input", png(drawn_crops[0].png))
    press(tab, "Enroll 1 picture")
    tab.get_by_text("✓ Enrolled").wait_for()
    follow(tab, "Search")
    search_for(tab)
    tab.wait_for_selector(".cards .card img")
    assert tab.evaluate("[localStorage.length, document.cookie]") == [0, ""]


@pytest.mark.slow
def test_a_record_that_cannot_be_read_is_shown(page):
    def without_record(route):
        answer = route.fetch()
        record = {**answer.json()["record"], "state": "unreachable"}
        route.fulfill(response=answer, json={**answer.json(), "record": record})

    page.route("**/readyz", without_record)
    search_for(page)
    page.locator("#state.wrong").filter(has_text="The database does not answer").wait_for()


@pytest.mark.slow
def test_on_a_phone_nothing_is_wider_than_the_screen(page):
    page.set_viewport_size({"width": 390, "height": 844})
    search_for(page)
    page.wait_for_selector(".cards .card img")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    verdict, asked = (
        page.locator(f".banner {part}").bounding_box() for part in ("h2", ".asked .crop")
    )
    assert 0 <= verdict["y"] < 844 / 2
    assert 0 <= asked["y"] < 844 / 2
    assert asked["width"] >= 72


@pytest.mark.slow
def test_on_a_laptop_the_search_button_is_in_view_beside_the_results(page):
    page.set_viewport_size({"width": 1366, "height": 768})
    search_for(page)
    expect(page.locator("#query button.main")).to_be_in_viewport(ratio=1)


@pytest.mark.slow
def test_warnings_of_the_query_stand_at_the_verdict(page, drawn_crops):
    scene = encoded(Image.new("RGB", (640, 360), "grey"))
    images = [png(drawn_crops[0].png), PNG | {"buffer": b"no image"}, png(scene)]
    page.set_input_files("#query .drop input", images)
    press(page, "Search the whole picture")
    page.wait_for_selector(".banner")
    notes = page.locator(".banner .note").all_inner_texts()
    assert any("Image 2: left out of the search" in note for note in notes), notes
    assert any("Image 3: the crop is 0.56 times as high as wide" in note for note in notes), notes
    assert page.locator(".banner").get_by_text("left out of the search").count() == 1
    assert page.get_by_role("alert").count() == 0
    assert page.locator(".cards .card").count() == 10


@pytest.mark.slow
def test_the_page_names_its_artefact_and_offers_its_scorings_alone(
    browser, cosine_artefact, drawn_crops, tmp_path
):
    with serving(cosine_artefact, tmp_path / "data") as url:
        sent = files(*(crop.png for crop in drawn_crops))
        names = {"identity": [crop.identity for crop in drawn_crops]}
        httpx2.post(f"{url}/v1/galleries/default/crops", files=sent, data=names, timeout=60)
        page = browser.new_page()
        page.goto(f"{url}/#default/search")
        page.wait_for_selector("#state .dot.ready")
        page.get_by_text("Model cosine.safetensors: licence and training data").click()
        expect(page.locator("#artefact p")).to_contain_text("Free of")
        expect(page.locator("#artefact li").nth(1)).to_have_text(
            "In a business: the terms of its data decide"
        )
        open_settings(page)
        assert page.locator("[name=scoring] option:enabled").all_inner_texts() == ["quick"]
        search_for(page)
        page.locator(".cards .card").nth(1).click()
        page.get_by_label("Regions").check()
        page.wait_for_selector(".heats .cells")
        assert "logit" not in page.locator("#sheet").inner_text()
        page.close()
