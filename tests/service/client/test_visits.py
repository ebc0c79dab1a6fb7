"""Visits and counts of people, by both clients and by `gmn visits`."""

import re
from datetime import UTC, datetime, timedelta

import pytest

from gmn_client import AsyncClient, Image, InvalidInput, RequestRefused

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def walked(client, drawn_crops):
    """Enroll two crops of one track, and one of the same picture in another camera later."""
    picture = drawn_crops[0].png
    seen = [("gate", NOON, "17"), ("gate", NOON + MINUTE, "17"), ("yard", NOON + 21 * MINUTE, "4")]
    images = [
        # The bytes after a PNG's end make each image another one.
        Image(picture + bytes([number]), identity="Ann", camera=camera, captured_at=at, track=track)
        for number, (camera, at, track) in enumerate(seen)
    ]
    client.enroll(images)
    return picture


def spans(visits):
    return sorted(
        (visit.camera, visit.first_seen, visit.last_seen, visit.crops) for visit in visits
    )


ALL = [("gate", NOON, NOON + MINUTE, 2), ("yard", NOON + 21 * MINUTE, NOON + 21 * MINUTE, 1)]


async def test_both_clients_find_the_visits_of_a_person(client, service_url, gallery, walked):
    # The drawn crops are few, so that no probability is asserted: a match or an uncertain track.
    answer = client.visits(walked)
    assert spans([*answer.results, *answer.uncertain]) == ALL
    late = client.visits(walked, captured_after=NOON + 2 * MINUTE, cameras=["yard", "gate"])
    assert spans([*late.results, *late.uncertain]) == ALL[1:]
    several = client.visits_in_galleries(walked, galleries=[gallery, "gone"])
    assert spans([*several.results, *several.uncertain]) == ALL
    assert several.gallery_far == several.far / 2
    assert "'gone'" in several.warnings[0]
    async with AsyncClient(service_url, gallery=gallery) as asking:
        assert (await asking.visits(walked)).results == answer.results
        of_track = await asking.visits_in_galleries(track="17", camera="gate", galleries=[gallery])
    # The track belongs to the client's gallery.
    assert ("yard", "Ann") in {
        (visit.camera, visit.identity) for visit in [*of_track.results, *of_track.uncertain]
    }
    with pytest.raises(RequestRefused, match="group_by"):
        client.visits(walked, group_by="track")
    with pytest.raises(InvalidInput, match="visits_in_galleries cannot use this label"):
        client.visits_in_galleries(Image(walked, camera="gate"))


async def test_a_person_and_a_group_have_visits_and_people_are_counted(
    client, service_url, gallery, walked
):
    visits = client.identity_visits("Ann").results
    assert spans(visits) == ALL
    assert [visit.gap_seconds for visit in visits] == [None, 20 * 60]
    assert visits[0].link_probability is None
    assert visits[1].link_probability > 0.5
    assert spans(client.identity_visits("Ann", captured_before=NOON).results) == [
        ("gate", NOON, NOON, 1)
    ]
    assert client.count_people(captured_after=NOON).named == 1
    client.change_crops(identity="Ann", new_identity="")
    client.wait_for_job(client.group_unnamed().job_id)
    (group,) = client.groups().results
    assert (group.tracks, len(group.crop_ids)) == (2, 3)
    async with AsyncClient(service_url, gallery=gallery) as asking:
        assert spans((await asking.group_visits(group.group_id)).results) == ALL
        counted = await asking.count_people(captured_after=NOON, captured_before=NOON + MINUTE)
    assert counted.fewest <= counted.people == 1 <= counted.most
    with pytest.raises(RequestRefused, match="has no group 'gone'"):
        client.group_visits("gone")


@pytest.fixture
def photo(walked, tmp_path):
    path = tmp_path / "person.png"
    path.write_bytes(walked)
    return path


def test_the_command_shows_visits_and_uncertain_tracks_apart(gmn, client, photo, gallery):
    answer = gmn("visits", photo, "--json")
    assert len(answer["results"]) + len(answer["uncertain"]) == 2
    shown = gmn("visits", photo)
    assert f"person.png: {answer['verdict']}" in shown
    assert "2026-03-01 12:21" in shown
    assert ("may show the person:" in shown) == bool(answer["uncertain"])
    several = gmn("visits", photo, "--galleries", gallery)
    assert gallery in several
    kept = gmn("visits", photo, "--keep")
    query_id = re.search(rf"kept in {gallery} as search (\w+)", kept)[1]
    assert client.kept_search(query_id).files[0].name == "person.png"
    nothing = gmn("visits", photo, "--cameras", "nowhere")
    assert "none of its crops passes the filters" in nothing


def test_the_command_shows_a_person_or_a_group_in_order_of_time(gmn, client, walked):
    person = gmn("visits", "--identity", "Ann")
    assert "Ann: 2 visits" in person
    assert "0:20:00" in person
    assert len(gmn("visits", "--identity", "Ann", "--before", str(NOON), "--json")["results"]) == 1
    client.change_crops(identity="Ann", new_identity="")
    client.wait_for_job(client.group_unnamed().job_id)
    (group,) = client.groups().results
    assert f"{group.group_id}: 2 visits" in gmn("visits", "--group", group.group_id)


def test_who_is_meant_is_asked_for(gmn, photo):
    for wrong, words in (
        ([], "name either images, --crop, --track, one --identity, or --group"),
        (["--identity", "Ann", "--identity", "Bob"], "one --identity"),
        (["--identity", "Ann", "--group", "g"], "one --identity, or --group"),
        ([photo, "--group", "g"], "--group is a person itself"),
        (["--identity", "Ann", "--galleries", "a,b"], "only --gallery goes with --group"),
        (["--group", "g", "--cameras", "gate"], "only --gallery goes with --group"),
    ):
        assert words in " ".join(gmn("visits", *wrong, status=2).split())
    assert "holds no crop of identity 'Bob'" in gmn("visits", "--identity", "Bob", status=2)
