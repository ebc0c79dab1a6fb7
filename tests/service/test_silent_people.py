"""Silent people of a watch list: tracks that they explain better raise no alert."""

import json
from uuid import uuid4

import pytest

from tests.conftest import draw_crop
from tests.outside import audit_lines, bearer, figure, problem, refused_fields
from tests.service.conftest import files
from tests.service.http.conftest import make_key
from tests.service.watch_places import alerts, arm, read_list, settings, short_tracks
from tests.waiting import eventually

# The listed person, and another crop of theirs at the same camera. A list rings for `SEEN`, too,
# which resembles the silent person about as much as the listed one.
LISTED = "0000"
ON_LIST, NEAR = (draw_crop(0, 0, shot) for shot in (0, 1))
SEEN, TWIN = (draw_crop(0, 1, shot) for shot in (2, 4))


@pytest.fixture(scope="module")
def watching(open_service, data_dir):
    with short_tracks():
        yield open_service(data_dir)


@pytest.fixture
def staff(watching):
    """Return a silent gallery of a person who looks like the listed one."""
    gallery = watching.create(f"staff-{uuid4().hex[:8]}")
    watching.enrolled(gallery, TWIN, identity="twin")
    return gallery


@pytest.fixture
def wanted(watching):
    gallery = watching.create(f"wanted-{uuid4().hex[:8]}")
    watching.enrolled(gallery, ON_LIST, identity=LISTED)
    yield gallery
    watching.http.delete(f"/v1/galleries/{gallery}")


def propose(served, gallery, **more):
    return served.http.put(f"/v1/galleries/{gallery}/watch", data=settings(**more))


def rings(served, gallery, *images, **sent):
    """Send crops of one track, and return the names by which a list rings."""
    data = {"camera": "gate", "wait": "true", **sent}
    answer = served.http.post("/v1/sightings", files=files(*images), data=data)
    assert answer.status_code == 200, answer.text
    matches = [match for image in answer.json()["results"] for match in image["matches"]]
    return {match["identity"] for match in matches if match["gallery"] == gallery}


def silent_of(served, gallery):
    return read_list(served, gallery)["silent"]


@pytest.mark.promise("silent-people")
def test_a_track_that_a_silent_person_explains_better_leaves_a_count_and_nothing_else(
    watching, wanted, staff, data_dir
):
    arm(watching, wanted)
    assert rings(watching, wanted, SEEN, track="before") == {LISTED}
    assert read_list(watching, wanted)["silent"] is None
    (before,) = alerts(watching, gallery=wanted)
    pictures = before["image_url"], watching.http.get(before["image_url"]).content
    arm(watching, wanted, silent=staff)
    kept = figure(watching, "gmn_tracks_kept_silent_total")
    assert rings(watching, wanted, *[SEEN] * 3, track="silent") == set()
    assert rings(watching, wanted, SEEN) == set()
    eventually(lambda: silent_of(watching, wanted)["tracks"] == 2)
    assert figure(watching, "gmn_tracks_kept_silent_total") == kept + 2
    state = silent_of(watching, wanted)
    assert state == {"gallery": staff, "people": 1, "tracks": 2, "why": None}
    # The visit that rang before is as it was, although its person seems to be there again.
    assert alerts(watching, gallery=wanted) == [before]
    assert watching.http.get(pictures[0]).content == pictures[1]
    assert read_list(watching, wanted)["alerts"] == 0
    said = json.dumps([read_list(watching, wanted), audit_lines(data_dir)])
    assert "twin" not in said
    # Counting begins anew when the list is armed again.
    arm(watching, wanted, silent=staff)
    eventually(lambda: silent_of(watching, wanted)["tracks"] == 0)


def test_the_listed_person_rings_beside_the_silent_one(watching, wanted, staff):
    arm(watching, wanted, silent=staff)
    assert rings(watching, wanted, ON_LIST, track="1") == {LISTED}
    # Later crops that the silent person explains better take nothing back, and show nothing.
    (alert,) = alerts(watching, gallery=wanted)
    watching.http.get(alert["image_url"])
    rings(watching, wanted, SEEN, track="1")
    (later,) = alerts(watching, gallery=wanted)
    assert later["score"] == alert["score"]
    assert later["captured_at"] == alert["captured_at"]
    assert later["image_url"] == alert["image_url"]


def test_a_track_that_was_kept_silent_rings_once_the_listed_person_explains_it_as_well(
    watching, wanted, staff
):
    arm(watching, wanted, silent=staff)
    assert rings(watching, wanted, SEEN, track="1") == set()
    assert rings(watching, wanted, ON_LIST, track="1") == {LISTED}
    assert rings(watching, wanted, SEEN, track="2") == set()
    eventually(lambda: silent_of(watching, wanted)["tracks"] == 1)
    assert len(alerts(watching, gallery=wanted)) == 1


def test_a_silent_person_who_is_on_the_list_rings(watching, wanted, staff):
    watching.enrolled(staff, NEAR, identity=LISTED)
    arm(watching, wanted, silent=staff)
    assert silent_of(watching, wanted)["people"] == 1
    assert rings(watching, wanted, NEAR, track="1") == {LISTED}
    assert rings(watching, wanted, SEEN, track="2") == set()


def test_the_forecast_has_both_figures(watching, wanted, staff):
    without = propose(watching, wanted).json()["forecast"]
    assert without["without_silent"] is None
    both = propose(watching, wanted, silent=staff).json()["forecast"]
    figures = ("false_alarms", "low", "high", "found", "found_low", "found_high")
    assert both["without_silent"] == {name: without[name] for name in figures}
    assert both["sentence"].endswith(f" Without the 1 silent person: {without['sentence']}")


def test_a_gallery_that_can_keep_nobody_silent_arms_no_list(watching, wanted):
    assert problem(propose(watching, wanted, silent="nowhere")) == (404, "unknown_gallery")
    assert refused_fields(propose(watching, wanted, silent="no/name")) == {"silent"}
    assert refused_fields(propose(watching, wanted, silent=wanted)) == {"silent"}
    empty = watching.create(f"empty-{uuid4().hex[:8]}")
    for image, named in ((NEAR, {}), (NEAR, {"identity": LISTED})):
        refused = propose(watching, wanted, silent=empty)
        assert refused_fields(refused) == {"silent"}
        assert empty in refused.json()["detail"]
        # A crop without a name shows nobody, and who is on the list is not silent.
        watching.enrolled(empty, image, **named)
    assert refused_fields(propose(watching, wanted, silent=empty)) == {"silent"}
    assert read_list(watching, wanted)["state"] == "disarmed"


@pytest.mark.promise("silent-people")
@pytest.mark.parametrize("end", ["identities/twin", ""])
def test_a_silent_gallery_that_is_emptied_or_deleted_lets_the_list_ring_and_says_so(
    watching, wanted, staff, end
):
    arm(watching, wanted, silent=staff)
    assert rings(watching, wanted, SEEN, track="1") == set()
    deleted = watching.http.delete(f"/v1/galleries/{staff}/{end}".rstrip("/"))
    assert deleted.is_success, deleted.text
    eventually(lambda: silent_of(watching, wanted)["why"])
    state = read_list(watching, wanted)
    assert (state["state"], state["why"], state["silent"]["people"]) == ("armed", None, 0)
    assert staff in state["silent"]["why"]
    assert state["forecast"]["without_silent"] is None
    assert rings(watching, wanted, SEEN, track="2") == {LISTED}
    eventually(lambda: alerts(watching, gallery=wanted, kind="promise_broken"))
    (warning,) = alerts(watching, gallery=wanted, kind="promise_broken")
    assert warning["detail"].startswith("nobody is kept silent: ")
    if not end:
        watching.create(staff)
    watching.enrolled(staff, TWIN, identity="another")
    eventually(lambda: silent_of(watching, wanted)["people"] == 1)
    assert silent_of(watching, wanted)["why"] is None
    assert rings(watching, wanted, SEEN, track="3") == set()


@pytest.mark.promise("silent-people")
def test_a_silent_gallery_that_is_reindexed_lets_the_list_ring_and_says_so(
    open_service, tmp_path, tiny_artefact, other_artefact
):
    before = open_service(tmp_path)
    for gallery, image in (("wanted", ON_LIST), ("staff", TWIN)):
        before.create(gallery)
        before.enrolled(gallery, image, identity=f"of {gallery}")
    assert before.stop() == 0
    served = open_service(tmp_path, artefact=other_artefact, previous=tiny_artefact)
    arm(served, "wanted", silent="staff")
    assert rings(served, "wanted", SEEN, track="1") == set()
    reindex = served.http.post("/v1/galleries/staff/reindex").json()
    assert served.ended_job(reindex)["state"] == "done"
    eventually(lambda: silent_of(served, "wanted")["why"])
    assert "another embedder" in silent_of(served, "wanted")["why"]
    assert rings(served, "wanted", SEEN, track="2") == {"of wanted"}
    assert refused_fields(propose(served, "wanted", silent="staff")) == {"silent"}
    # Once the list has vectors of the same embedder, it is armed with them again.
    reindex = served.http.post("/v1/galleries/wanted/reindex").json()
    assert served.ended_job(reindex)["state"] == "done"
    arm(served, "wanted", silent="staff")
    assert silent_of(served, "wanted")["people"] == 1


def test_what_one_process_changes_holds_in_all(start, tmp_path):
    first = start(tmp_path)
    for gallery, image in (("wanted", ON_LIST), ("staff", TWIN)):
        first.create(gallery)
        first.enrolled(gallery, image, identity=f"of {gallery}")
    second = start(tmp_path)
    arm(first, "wanted", silent="staff")
    eventually(lambda: silent_of(second, "wanted"))
    assert rings(second, "wanted", SEEN, track="1") == set()
    second.http.delete("/v1/galleries/staff/identities/of staff")
    eventually(lambda: silent_of(first, "wanted")["why"])
    for number, served in enumerate((first, second)):
        eventually(lambda served=served: silent_of(served, "wanted")["why"])
        assert rings(served, "wanted", SEEN, track=f"2 {number}") == {"of wanted"}


def test_a_key_keeps_nobody_of_another_gallery_silent_and_the_log_names_the_gallery(
    open_service, tmp_path
):
    admin = bearer(make_key(tmp_path, "--scope", "admin"))
    of_list = bearer(make_key(tmp_path, "--scope", "admin", "--gallery", "wanted"))
    served = open_service(tmp_path)
    served.http.headers.update(admin)
    for gallery, image in (("wanted", ON_LIST), ("staff", TWIN)):
        served.create(gallery)
        served.enrolled(gallery, image, identity=f"of {gallery}")
    sent = {"data": settings(silent="staff"), "headers": of_list}
    for silent in ("staff", "nowhere"):
        sent["data"]["silent"] = silent
        assert problem(served.http.put("/v1/galleries/wanted/watch", **sent)) == (403, "forbidden")
    arm(served, "wanted", silent="staff")
    armed = [line for line in audit_lines(tmp_path) if line["event"] == "arm_list"]
    assert {line["silent"] for line in armed} == {"staff"}
