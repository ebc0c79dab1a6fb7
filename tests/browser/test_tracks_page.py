"""Tracks on the page: listed, looked at, named, searched by, and deleted."""

import re

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import (
    confirm,
    fill_in,
    follow,
    open_settings,
    press,
    results,
    violations,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def tracks(page, http, gallery):
    """Open a list of tracks: 17 of two people in the east, and 17 of one in the west."""
    move(http, gallery, "0000", "east", "17")
    move(http, gallery, "0001", "east", "17")
    move(http, gallery, "0002", "west", "17")
    follow(page, "People", exact=True)
    follow(page, "Tracks", exact=True)
    expect(rows(page)).to_have_count(2)
    return page


def move(http, gallery, identity, camera, track):
    labels = {"identity": identity, "new_camera": camera, "new_track": track}
    assert http.patch(f"/v1/galleries/{gallery}/crops", data=labels).is_success


def rows(page):
    return page.locator("#track-list > li")


def act(page, action, track):
    press(page, f"{action}: {track}", exact=True)


def list_crops(http, gallery, **asked):
    return results(http, f"/v1/galleries/{gallery}/crops", **asked)


def test_tracks_are_listed_by_camera_and_those_of_low_cohesion_marked(tracks, http, gallery):
    listed = results(http, f"/v1/galleries/{gallery}/tracks")
    least = http.get("/v1/model").json()["operating_points"]["cosine"]["pair_far_1e-3"]
    for row, track in zip(rows(tracks).all(), listed, strict=True):
        expect(row).to_contain_text(f"Track 17, {track['camera']}")
        expect(row).to_contain_text(f"{track['crops']} pictures")
        expect(row).to_contain_text(", ".join(track["identities"]))
        expect(row.locator("img").first).to_be_visible()
        marked = row.get_by_text("may show two people")
        expect(marked).to_have_count(int(track["cohesion"] < least))
    assert violations(tracks) == []
    tracks.locator("#track-camera").fill("west")
    tracks.keyboard.press("Enter")
    expect(rows(tracks)).to_have_count(1)
    expect(rows(tracks)).to_contain_text("Track 17, west")
    tracks.locator("#track-camera").fill("nowhere")
    tracks.keyboard.press("Enter")
    tracks.get_by_text("No track is of camera “nowhere”.").wait_for()


def test_a_track_is_named_and_each_picture_gets_its_former_name_back(tracks, http, gallery):
    act(tracks, "Name…", "Track 17, east")
    fill_in(tracks, "Name", "Ann", "Name")
    tracks.get_by_text("8 pictures are now of Ann.").wait_for()
    expect(rows(tracks).first).to_contain_text("Ann")
    assert len(list_crops(http, gallery, identity="Ann")) == 8
    press(tracks, "Undo")
    expect(rows(tracks).first).to_contain_text("0000, 0001")
    for identity in ("0000", "0001"):
        assert len(list_crops(http, gallery, identity=identity)) == 4


def test_pictures_of_a_track_are_looked_at_and_some_of_them_named(tracks, http, gallery):
    rows(tracks).first.locator("summary").click()
    boxes = rows(tracks).first.locator(".tile input")
    expect(boxes).to_have_count(8)
    assert violations(tracks) == []
    chosen = [boxes.nth(at).get_attribute("value") for at in (0, 5)]
    boxes.nth(0).check()
    boxes.nth(5).check()
    rows(tracks).first.get_by_role("button", name="Name…", exact=True).click()
    fill_in(tracks, "Name", "Ann", "Name")
    tracks.get_by_text("2 pictures are now of Ann.").wait_for()
    assert {crop["crop_id"] for crop in list_crops(http, gallery, identity="Ann")} == set(chosen)
    # The list is read again, and opened tracks stay open.
    expect(boxes).to_have_count(8)


def test_a_track_is_deleted_and_that_of_another_camera_stays(tracks, http, gallery):
    act(tracks, "Delete…", "Track 17, east")
    confirm(tracks, "Delete")
    tracks.get_by_text("8 pictures deleted.").wait_for()
    expect(rows(tracks)).to_have_count(1)
    assert {crop["camera"] for crop in list_crops(http, gallery, track="17")} == {"west"}


def test_a_track_is_searched_by_and_the_search_opened_again(tracks, http, gallery):
    asked = {"track": "17", "camera": "east"}
    found = http.post(
        f"/v1/galleries/{gallery}/queries", files={name: (None, at) for name, at in asked.items()}
    ).json()["results"]
    with tracks.expect_response(re.compile("/queries$")) as response:
        act(tracks, "Search", "Track 17, east")
    assert response.value.ok
    cards = tracks.locator("#answer .card")
    expect(cards).to_have_count(len(found))
    shown = cards.evaluate_all("all => all.map(one => one.dataset.crop)")
    assert shown == [result["crop_id"] for result in found]
    open_settings(tracks)
    tracks.locator("#query [name=top_k]").select_option("20")
    # All but the eight that ask, of 24.
    expect(cards).to_have_count(16)
    # One result for each track: that of the other camera, and each crop without one.
    tracks.get_by_label("One result for each").select_option("track")
    expect(cards).to_have_count(13)
    expect(tracks.get_by_text("Track 17 of 4 pictures")).to_have_count(1)
    tracks.reload()
    expect(tracks.locator(".shots li")).to_contain_text("Track 17, east")
    expect(tracks.get_by_label("One result for each")).to_have_value("track")
    open_settings(tracks)
    tracks.get_by_label("One result for each").select_option("picture")
    expect(cards).to_have_count(16)
