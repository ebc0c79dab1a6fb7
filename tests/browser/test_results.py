"""The results of a search in a browser: by keyboard, side by side, marked and named together."""

import io
import re

import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.browser.conftest import (
    PNG,
    ask,
    confirm,
    fill_in,
    follow,
    in_both_schemes,
    open_settings,
    png,
    press,
    results,
    search_for,
    violations,
)
from tests.outside import encoded
from tests.service.conftest import files
from tests.waiting import eventually

pytestmark = pytest.mark.slow


def rank_in_focus(page):
    return page.evaluate("document.activeElement.closest('.card').dataset.crop")


def crop_of(page, rank):
    return page.locator("#answer .card").nth(rank - 1).get_attribute("data-crop")


def test_a_search_is_made_and_read_by_keyboard_alone(page, drawn_crops):
    # The browser hands choosers over from the first listener on, which takes it a moment.
    page.on("filechooser", lambda _: None)
    page.keyboard.press("/")
    page.wait_for_selector("#query .drop input:focus", state="attached")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Space")
    chooser.value.set_files(png(drawn_crops[0].png))
    page.wait_for_selector("#answer .card")
    page.evaluate("document.activeElement.blur()")
    for key, rank in (("ArrowRight", 1), ("ArrowRight", 2), ("ArrowDown", 7), ("ArrowUp", 2)):
        page.keyboard.press(key)
        assert rank_in_focus(page) == crop_of(page, rank)
    page.keyboard.press("Enter")
    shown = page.locator("#sheet .steps .hint")
    expect(shown).to_have_text("2 of 10")
    for key, place in (
        ("ArrowRight", "3 of 10"),
        ("ArrowRight", "4 of 10"),
        ("ArrowLeft", "3 of 10"),
    ):
        page.keyboard.press(key)
        expect(shown).to_have_text(place)
    page.keyboard.press("Escape")
    page.wait_for_selector(f"[data-crop='{crop_of(page, 3)}'] .open:focus")
    page.keyboard.press("?")
    page.get_by_role("dialog", name="Shortcuts").wait_for()
    page.keyboard.press("Escape")
    page.locator("dialog[open]").wait_for(state="detached")


def test_a_letter_typed_into_a_field_is_no_shortcut(page):
    search_for(page)
    page.locator("#query").get_by_label("Purpose").click()
    page.keyboard.type("x/?n")
    assert page.locator("#query").get_by_label("Purpose").input_value() == "x/?n"
    assert page.locator("dialog[open], #marks:visible").count() == 0


def test_letters_are_no_shortcuts_once_they_are_switched_off(page):
    page.keyboard.press("?")
    page.get_by_label("Single letters and signs are shortcuts").uncheck()
    assert violations(page) == []
    page.keyboard.press("Escape")
    page.reload()
    search_for(page)
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("ArrowRight")
    for key in "xcn?":
        page.keyboard.press(key)
    assert page.locator("dialog[open], #marks:visible, [aria-pressed=true]").count() == 0
    assert rank_in_focus(page) == crop_of(page, 1)
    press(page, "Shortcuts")
    page.get_by_label("Single letters and signs are shortcuts").check()
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    page.get_by_role("dialog", name="Shortcuts").wait_for()


def test_two_pictures_are_magnified_and_moved_together(page):
    search_for(page)
    page.locator(".cards .card").nth(1).click()
    page.wait_for_selector("#sheet .heat img")
    panes = page.locator("#sheet .heat")
    expect(panes).to_have_count(2)
    page.keyboard.press("+")
    page.keyboard.press("+")
    page.locator("#sheet .view").first.focus()
    page.keyboard.press("ArrowLeft")
    for pane in panes.all():
        assert "transform: translate(10%, 0%) scale(2.25);" in pane.get_attribute("style")
    page.keyboard.press("0")
    assert "scale(1)" in panes.first.get_attribute("style")
    assert page.locator(".cells").count() == 0


def test_marked_results_get_a_name_together_and_it_is_taken_back(page, http, gallery, drawn_crops):
    search_for(page)
    crops = [crop_of(page, 1), crop_of(page, 7)]

    def labels():
        return [
            http.get(f"/v1/galleries/{gallery}/crops/{crop}").json()["identity"] for crop in crops
        ]

    before = labels()
    for rank in (1, 7):
        page.locator("#answer .open").nth(rank - 1).focus()
        page.keyboard.press("x")
    page.get_by_text("2 results marked").wait_for()
    page.keyboard.press("n")
    asked = page.locator("dialog.question")
    expect(asked.locator(".seen > *")).to_have_count(3)
    asked.get_by_label("Name").fill(drawn_crops[-1].identity)
    asked.get_by_text(f"{drawn_crops[-1].identity} has 4 pictures in this gallery.").wait_for()
    asked.get_by_label("Name").fill("Ann")
    asked.get_by_text("A new name").wait_for()
    confirm(page, "Name")
    page.get_by_text("2 pictures are now of Ann.").wait_for()
    assert labels() == ["Ann", "Ann"]
    press(page, "Undo")
    page.get_by_text("Undone:").wait_for()
    assert labels() == before


def test_an_impossible_time_is_shown_at_its_fields_and_asks_nothing(page):
    search_for(page)
    page.click("#filters summary")
    page.get_by_text("Times are those of this browser’s time zone").wait_for()
    with page.expect_response(re.compile("/queries$")):
        page.locator("#query [name=captured_after]").fill("2026-03-02T10:00")
        page.locator("#query [name=captured_before]").focus()
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.locator("#query [name=captured_before]").fill("2026-03-01T10:00")
    press(page, "Search", exact=True)
    expect(page.get_by_role("alert")).to_contain_text("“From” is after “Until”")
    assert page.locator("#query [name=captured_before]").get_attribute("aria-invalid") == "true"
    assert not [url for url in asked if url.endswith("/queries")]


def test_an_empty_gallery_leads_to_enrollment_before_and_after_a_search(tab, address, http):
    http.post("/v1/galleries", data={"name": "unfilled"})
    tab.goto(f"{address}/#unfilled/search")
    tab.get_by_text("This gallery has no pictures yet.").wait_for()
    follow(tab, "Enroll pictures")
    tab.get_by_role("heading", name="Enroll pictures").wait_for()
    follow(tab, "Search", exact=True)
    search_for(tab)
    tab.get_by_text("This gallery is empty.").wait_for()
    follow(tab, "Enroll pictures")
    tab.get_by_role("heading", name="Enroll pictures").wait_for()


def test_a_search_opens_again_by_its_address_and_is_listed(page, http, gallery):
    page.locator("#query").get_by_label("Purpose").fill("case 7")
    open_settings(page)
    page.select_option("[name=top_k]", "20")
    search_for(page)
    address = re.compile(rf"#{gallery}/search/\w+$")
    expect(page).to_have_url(address)
    kept = page.url
    first = crop_of(page, 1)
    http.patch(f"/v1/galleries/{gallery}/crops/{first}", data={"identity": "Ann"})
    page.reload()
    expect(page.locator("#answer .card")).to_have_count(20)
    assert page.locator("#answer .card .name").first.inner_text() == "Ann"
    assert page.input_value("[name=top_k]") == "20"
    assert page.get_by_role("img", name="Query picture 1").count() == 1
    follow(page, "Enroll", exact=True)
    follow(page, "Search", exact=True)
    expect(page).to_have_url(kept)
    follow(page, "Search", exact=True)
    listed = page.locator(".mine li")
    expect(listed).to_have_count(1)
    expect(listed).to_contain_text("case 7")
    assert violations(page) == []
    listed.get_by_role("link").click()
    expect(page).to_have_url(kept)
    press(page, "Delete this search…")
    confirm(page, "Delete")
    page.get_by_text("Drop a picture to begin.").wait_for()
    expect(listed).to_have_count(0)


def test_separate_searches_have_an_address_together_and_one_each(page, drawn_crops):
    page.set_input_files("#query .drop input", [png(drawn_crops[at].png) for at in (0, -1)])
    page.locator("#answer .card").first.wait_for()
    alone = page.url
    page.select_option("[name=mode]", "separate")
    each = page.locator("#answer .each")
    expect(each).to_have_count(2)
    expect(page).to_have_url(re.compile(r"/search/\w+\.\w+$"))
    together = page.url
    shown = each.locator(".card b .name").all_inner_texts()
    page.reload()
    expect(each).to_have_count(2)
    assert each.locator(".card b .name").all_inner_texts() == shown
    assert page.get_by_role("img", name="Query picture").count() == 2
    assert violations(page) == []
    follow(each, "Picture 2")
    expect(each).to_have_count(0)
    expect(page).to_have_url(together.rpartition("/")[0] + "/" + together.rpartition(".")[2])
    page.go_back()
    expect(each).to_have_count(2)
    press(each.nth(0), "Delete this search…")
    confirm(page, "Delete")
    expect(each).to_have_count(0)
    expect(page.get_by_role("img", name="Query picture")).to_have_count(1)
    # Both images as one search: one of them is kept.
    page.goto(alone)
    page.get_by_text("1 of 2 pictures is kept.").wait_for()


def test_a_picture_is_kept_only_where_that_is_asked_for(page):
    page.get_by_label("Keep the picture with the search").uncheck()
    search_for(page)
    expect(page).to_have_url(re.compile(r"/search/\w+$"))
    page.reload()
    page.locator("#answer .card").first.wait_for()
    assert page.get_by_role("img", name="Query picture 1").count() == 0


def test_the_query_s_picture_is_enrolled_and_that_is_undone(page, http, gallery, drawn_crops):
    person = drawn_crops[0].identity
    listed = f"/v1/galleries/{gallery}/crops?identity=Ann"
    with Image.open(io.BytesIO(drawn_crops[0].png)) as image:
        search_for(page, encoded(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)))
    press(page, "Enroll the query’s picture…")
    assert page.locator("dialog.question input").input_value() in ("", person)
    page.locator("dialog.question input").fill("Ann")
    confirm(page, "Enroll")
    page.get_by_text("1 picture enrolled as Ann.").wait_for()
    assert len(results(http, listed)) == 1
    press(page, "Undo")
    page.get_by_text("Undone:").wait_for()
    assert results(http, listed) == []


def decisions(http, page, gallery):
    query_id = page.url.rpartition("/")[2]
    reviews = http.get(f"/v1/galleries/{gallery}/queries/{query_id}").json()["reviews"]
    return {review["crop_id"]: review["decision"] for review in reviews}


def test_results_are_confirmed_and_rejected_by_key_and_by_button(page, http, gallery):
    search_for(page)
    first, second, third = (crop_of(page, rank) for rank in (1, 2, 3))
    page.locator("#answer .open").first.focus()
    page.keyboard.press("c")
    expect(page.get_by_role("button", name="Same person, rank 1", exact=True)).to_have_attribute(
        "aria-pressed", "true"
    )
    # The focus went on to the next result.
    page.keyboard.press("Enter")
    page.wait_for_selector("#sheet .judge")
    page.keyboard.press("r")
    rejected = page.locator("#answer").get_by_role("button", name="Another person, rank 2")
    page.wait_for_selector("#sheet [value=rejected][aria-pressed=true]")
    page.keyboard.press("Escape")
    expect(rejected).to_have_attribute("aria-pressed", "true")
    assert decisions(http, page, gallery) == {first: "confirmed", second: "rejected"}
    for mark in page.locator("#answer .judge input").all()[:3]:
        mark.check()
    press(page.locator("#marks"), "Another person")
    expect(page.locator("#answer [value=rejected][aria-pressed=true]")).to_have_count(3)
    assert set(decisions(http, page, gallery).values()) == {"rejected"}
    rejected.click()
    expect(rejected).to_have_attribute("aria-pressed", "false")
    assert set(decisions(http, page, gallery)) == {first, third}
    assert violations(page) == []
    follow(page, "Search", exact=True)
    expect(page.locator(".mine li")).to_contain_text("2 rejected")
    with page.expect_download() as download:
        press(page, "My reviews (CSV)")
    assert first in download.value.path().read_text()


def test_decisions_by_key_go_on_with_the_next_open_result_while_earlier_ones_are_sent(
    page, http, gallery
):
    search_for(page)
    crops = [crop_of(page, rank) for rank in range(1, 6)]
    late = []
    page.route("**/reviews", lambda route: late.append(route) if not late else route.continue_())
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("ArrowDown")
    # The third is passed over.
    for key in ("c", "r", "ArrowRight", "c", "r", "ArrowLeft", "ArrowLeft"):
        page.keyboard.press(key)
    eventually(lambda: late)
    assert rank_in_focus(page) == crops[3]
    assert decisions(http, page, gallery) == {}
    late[0].continue_()
    expect(page.locator("#answer [aria-pressed=true]")).to_have_count(4)
    wanted = {0: "confirmed", 1: "rejected", 3: "confirmed", 4: "rejected"}
    assert decisions(http, page, gallery) == {crops[at]: said for at, said in wanted.items()}
    # On a result that is decided, the same key takes the decision back and stays.
    page.keyboard.press("c")
    expect(page.locator("#answer [aria-pressed=true]")).to_have_count(3)
    assert rank_in_focus(page) == crops[3]


@pytest.mark.parametrize("key", ["ArrowDown", "ArrowRight"])
def test_arrow_keys_lead_to_the_results_after_a_search_by_its_button(page, key):
    search_for(page)
    with page.expect_response(re.compile("/queries$")):
        press(page, "Search", exact=True)
    page.wait_for_function("document.activeElement.textContent === 'Search'")
    page.locator("#answer:not([aria-busy]) .card").first.wait_for()
    page.keyboard.press(key)
    assert rank_in_focus(page) == crop_of(page, 1)
    page.keyboard.press("?")
    keys = page.get_by_role("dialog", name="Shortcuts")
    expect(keys).to_contain_text("Confirm: the same person; on to the next open one")
    expect(keys).to_contain_text("Reject: another person; on to the next open one")


def test_a_key_that_is_held_down_decides_once(page, http, gallery):
    search_for(page)
    first = crop_of(page, 1)
    page.locator("#answer .open").first.focus()
    for _ in range(3):
        page.keyboard.down("c")
    page.keyboard.up("c")
    expect(page.locator("#answer [aria-pressed=true]")).to_have_count(1)
    assert decisions(http, page, gallery) == {first: "confirmed"}


def test_results_that_are_drawn_again_keep_the_place_of_the_keys(page, http, gallery):
    search_for(page)
    crops = [crop_of(page, rank) for rank in (1, 2)]
    page.locator("#answer .open").first.focus()
    page.keyboard.press("c")
    expect(page.locator("#answer [aria-pressed=true]")).to_have_count(1)
    with page.expect_response(re.compile(r"/queries/\w+$")):
        page.evaluate("document.dispatchEvent(new Event('gallery-changed'))")
    expect(page.locator("#answer .open:focus")).to_have_count(0)
    page.locator("#answer .open").first.wait_for()
    page.keyboard.press("r")
    expect(page.locator("#answer [aria-pressed=true]")).to_have_count(2)
    wanted = dict(zip(crops, ("confirmed", "rejected"), strict=True))
    assert decisions(http, page, gallery) == wanted


def test_decisions_that_do_not_arrive_are_said_and_sent_again(page, http, gallery):
    search_for(page)
    crops = [crop_of(page, rank) for rank in (1, 2, 3)]
    page.locator("#answer .open").first.focus()
    answers = iter(("abort", "abort", "continue_"))
    page.route("**/reviews", lambda route: getattr(route, next(answers, "continue_"))())
    for key in "crc":
        page.keyboard.press(key)
    said = page.locator("#unsent")
    expect(said).to_contain_text("2 decisions did not reach the service: rank 1 and rank 2.")
    page.locator("#answer .card").last.scroll_into_view_if_needed()
    expect(said).to_be_in_viewport(ratio=1)
    expect(page.locator("#answer [aria-pressed=true]")).to_have_count(1)
    assert violations(page) == []
    press(page, "Send again")
    expect(said).to_be_empty()
    expect(page.locator("#answer [aria-pressed=true]")).to_have_count(3)
    wanted = dict(zip(crops, ("confirmed", "rejected", "confirmed"), strict=True))
    assert decisions(http, page, gallery) == wanted


def test_decisions_that_a_service_could_not_take_are_sent_once_it_is_back(page, http, gallery):
    search_for(page)
    crop = crop_of(page, 1)
    for calls in ("**/reviews", "**/readyz"):
        page.route(calls, lambda route: route.abort())
    page.locator("#answer .open").first.focus()
    page.keyboard.press("c")
    expect(page.locator("#unsent")).to_contain_text("1 decision did not reach the service: rank 1.")
    expect(page.locator("#state")).to_have_class("wrong")
    page.unroute_all()
    expect(page.locator("#unsent")).to_be_empty()
    assert decisions(http, page, gallery) == {crop: "confirmed"}


def test_a_confirmed_result_without_a_name_gets_one_and_that_is_undone(
    page, http, gallery, drawn_crops
):
    crops = f"/v1/galleries/{gallery}/crops"
    person = drawn_crops[0].identity
    taken_away = {"identity": person, "new_identity": ""}
    assert http.patch(crops, data=taken_away).is_success
    search_for(page)
    unnamed = page.locator("#answer .card").filter(has_text="no name")
    ids = [unnamed.nth(at).get_attribute("data-crop") for at in (0, 1)]
    for at in (0, 1):
        unnamed.nth(at).get_by_role("button", name="Same person").click()
        unnamed.nth(at).get_by_role("button", name="Name, rank").wait_for()
    assert violations(page) == []
    press(unnamed.nth(0), "Name, rank")
    fill_in(page, "Name", "Ann", "Name")
    page.get_by_text("2 pictures are now of Ann.").wait_for()
    assert {result["crop_id"] for result in results(http, f"{crops}?identity=Ann")} == {*ids}
    assert decisions(http, page, gallery) == dict.fromkeys(ids, "confirmed")
    expect(page.locator("#answer .offer button")).to_have_count(0)
    press(page, "Undo")
    page.get_by_text("Undone:").wait_for()
    assert results(http, f"{crops}?identity=Ann") == []


def test_a_file_that_cannot_be_searched_is_called_by_its_name(page):
    broken = [PNG | {"buffer": b"no image", "name": name} for name in ("gate.png", "yard.png")]
    page.set_input_files("#query .drop input", broken)
    alert = page.get_by_role("alert").filter(has_text="2 pictures cannot be used.")
    expect(alert.locator("li").nth(1)).to_contain_text("yard.png: ")


def test_people_of_a_frame_are_searched_by_the_boxes_around_them(page, http, gallery, drawn_crops):
    frame = Image.new("RGB", (800, 400), "grey")
    sizes = []
    for left, crop in ((100, drawn_crops[0]), (500, drawn_crops[-1])):
        with Image.open(io.BytesIO(crop.png)) as person:
            frame.paste(person, (left, 50))
            sizes.append(person.size)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.set_input_files("#query .drop input", png(encoded(frame)))
    page.get_by_role("dialog", name="Draw boxes").wait_for()
    assert violations(page) == []
    # A box by keyboard, and its removal; nothing is sent meanwhile.
    press(page, "Add a box")
    for key in ("ArrowLeft", "Shift+ArrowDown", "Delete"):
        page.keyboard.press(key)
    expect(page.locator(".stage .box")).to_have_count(0)
    page.locator(".stage img").wait_for()
    area = page.locator(".stage").bounding_box()
    scale = area["width"] / 800
    for left, (width, height) in zip((100, 500), sizes, strict=True):
        x = area["x"] + left * scale
        y = area["y"] + 50 * scale
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + width * scale / 2, y + height * scale / 2)
        page.mouse.move(x + width * scale, y + height * scale)
        page.mouse.up()
    assert not [url for url in asked if url.endswith("/queries")]
    press(page, "Search 2 people")
    expect(page.locator("#answer .each")).to_have_count(2)
    best = [
        page.locator(f"#answer .each:nth-child({at}) .card b .name").first.inner_text()
        for at in (1, 2)
    ]
    assert best == [
        ask(http, gallery, crop.png)["results"][0]["identity"]
        for crop in (drawn_crops[0], drawn_crops[-1])
    ]


def test_a_name_given_in_the_sheet_is_undone_beside_the_answer(page, http, gallery):
    search_for(page)
    crop = crop_of(page, 1)
    before = page.locator("#answer .card b .name").first.inner_text()
    page.locator("#answer .open").first.click()
    press(page, "Change the name…")
    page.locator("dialog.question input").fill("Ann")
    confirm(page, "Change")
    page.locator("#sheet h2 .name", has_text="Ann").wait_for()
    page.keyboard.press("Escape")
    press(page, "Undo")
    page.get_by_text("Undone:").wait_for()
    path = f"/v1/galleries/{gallery}/crops/{crop}"
    assert http.get(path).json()["identity"] == before


def test_an_open_crop_fits_a_phone_and_can_be_read_in_both_schemes(page):
    page.set_viewport_size({"width": 390, "height": 844})
    search_for(page)
    page.locator("#answer .open").nth(1).click()
    page.wait_for_selector("#sheet .heat img")
    views = [view.bounding_box() for view in page.locator("#sheet .view").all()]
    assert views[0]["y"] == views[1]["y"]
    assert views[1]["x"] + views[1]["width"] <= 390
    for _ in in_both_schemes(page):
        assert violations(page) == []
    page.set_viewport_size({"width": 390, "height": 500})
    page.evaluate("document.querySelector('#sheet').scrollTo(0, 10000)")
    assert page.evaluate("document.querySelector('#sheet').scrollTop") > 0
    assert page.locator("#sheet .close").bounding_box()["y"] >= 0


def test_an_address_is_passed_on_to_a_user_with_another_key(tab, browser, keyed):
    address, key = keyed

    def enter(page):
        page.locator("dialog.question input").fill(key)
        press(page, "Use this key")

    tab.goto(f"{address}/#default/search")
    enter(tab)
    tab.wait_for_selector("#state .dot.ready")
    search_for(tab)
    expect(tab).to_have_url(re.compile(r"#default/search/\w+$"))
    context = browser.new_context()
    other = context.new_page()
    other.goto(tab.url)
    enter(other)
    other.wait_for_selector(".banner")
    other.get_by_role("img", name="Query picture 1").wait_for()
    assert other.url == tab.url
    context.close()


def test_a_search_of_crops_without_a_name_only(page, http, gallery):
    search_for(page)
    first = crop_of(page, 1)
    http.patch(f"/v1/galleries/{gallery}/crops/{first}", data={"identity": ""})
    page.click("#filters summary")
    page.get_by_label("Only pictures without a name").check()
    expect(page.locator("#answer .card")).to_have_count(1)
    assert crop_of(page, 1) == first
    http.patch(f"/v1/galleries/{gallery}/crops/{first}", data={"identity": "Ann"})
    press(page, "Search", exact=True)
    page.get_by_text("No picture of the gallery passes the filters.").wait_for()
    press(page, "Clear the filters")
    expect(page.locator("#answer .card")).to_have_count(10)


def test_several_galleries_are_searched_at_once_and_a_result_leads_to_its_own(
    page, http, gallery, drawn_crops
):
    other = f"{gallery}-other"
    assert http.post("/v1/galleries", data={"name": other}).status_code == 201
    crop = drawn_crops[0]
    enrolled = http.post(
        f"/v1/galleries/{other}/crops",
        files=files(crop.png),
        data={"identity": "only there"},
    )
    assert enrolled.status_code == 201
    page.reload()
    search_for(page, crop.png)
    open_settings(page)
    choice = page.get_by_label("Search these galleries too")
    expect(choice.get_by_role("option", name=gallery, exact=True)).to_have_count(0)
    with page.expect_response(re.compile("/v1/queries$")):
        choice.select_option([other])
    expect(page.locator(".banner")).to_contain_text("2 galleries were searched")
    result = page.locator("#answer .card", has_text=f"in {other}")
    expect(result).to_contain_text("only there")
    assert violations(page) == []
    with page.expect_response(re.compile(f"/galleries/{other}/queries$")):
        result.get_by_role("link").click()
    expect(page.locator("#gallery")).to_have_value(other)
    expect(page.locator("#answer .card")).to_have_count(1)
    expect(page.locator("#answer .card")).to_contain_text("only there")


def test_an_order_that_differs_from_that_of_the_probabilities_is_explained(page):
    sentence = page.get_by_text("so the order is not that of the probability alone")

    def answered(probabilities):
        def answer(route):
            body = route.fetch().json()
            for result, probability in zip(body["results"], probabilities, strict=False):
                result["probability"] = probability
            route.fulfill(json=body)

        page.unroute_all()
        page.route(re.compile("/queries$"), answer)

    answered([0.93, 0.004, 0.002, 0.31, 0.3, 0.02, 0.02, None, None, None])
    search_for(page)
    expect(sentence).to_be_visible()
    # Two that are shown as the same figure are no other order.
    answered([0.93, 0.31, 0.301, 0.304, 0.2, 0.02, 0.02, None, None, None])
    with page.expect_response(re.compile("/queries$")):
        press(page, "Search", exact=True)
    expect(page.locator("#answer .card").nth(1)).to_contain_text("31%")
    expect(sentence).to_have_count(0)


def test_a_search_follows_times_where_that_is_asked_for_and_says_by_how_much(page, http, gallery):
    expect(page.get_by_label("Follow times too")).to_be_hidden()
    http.patch(f"/v1/galleries/{gallery}", data={"time_evidence": "true"})
    page.reload()
    sent = []

    def moved(route):
        sent.append(route.request.post_data_buffer)
        body = route.fetch().json()
        body["results"][0]["time_log_odds"] = 1.24
        body["results"][1]["time_log_odds"] = -0.5
        route.fulfill(json=body)

    page.route(re.compile("/queries$"), moved)
    search_for(page)
    page.click("#filters summary")
    with page.expect_response(re.compile("/queries$")):
        page.get_by_label("Follow times too").check()
    cards = page.locator("#answer .card")
    expect(cards.nth(0)).to_contain_text("time +1.2")
    expect(cards.nth(1)).to_contain_text("time −0.5")
    expect(cards.nth(2)).not_to_contain_text(re.compile(r"time [+−]"))
    kept, following = (b'name="keep"' in body for body in sent)
    assert (kept, following) == (True, False)
