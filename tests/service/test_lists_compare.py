"""An armed list compares, always: what keeps it from a fit is said, and it rings as before."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4
from zoneinfo import ZoneInfoNotFoundError

import numpy as np
import pytest

from model.problems import InputProblem
from service.record.values import Sender
from service.watch import active, following, lists, sightings
from service.watch.tables.traffic import EndedTracks
from service.watch.threshold import Traffic
from tests.conftest import draw_crop
from tests.outside import figure, refused_fields
from tests.service.conftest import files
from tests.service.watch_places import alerts, arm, read_list, settings
from tests.waiting import eventually

GATE = Sender("loopback", "gate")
TRACKS = 230
# Drawn people resemble each other, so that a small budget has a threshold above all crops.
BUDGET = "35"
TWO_DAYS = 2 * 86_400_000_000


@pytest.fixture(scope="module")
def often():
    """Fit lists that cannot be fitted, and look for alerts that are due, all the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(active, "FIT_AGAIN_SECONDS", 0.1)
        patch.setattr(following, "WARN_AGAIN_SECONDS", 0.1)
        yield


@pytest.fixture(scope="module")
def watching(open_service, data_dir, often):
    return open_service(data_dir)


@pytest.fixture
def wanted(watching):
    gallery = watching.create(f"wanted-{uuid4().hex[:8]}")
    yield gallery
    watching.http.delete(f"/v1/galleries/{gallery}")


def enroll(served, gallery, *people):
    for person in people:
        served.enrolled(gallery, draw_crop(person, 0, 0), identity=f"{person:04d}")


def forget(served, gallery, person):
    deleted = served.http.delete(f"/v1/galleries/{gallery}/identities/{person:04d}")
    assert deleted.is_success, deleted.text


def count_traffic(served, people, gallery, score_kind, tracks=TRACKS):
    """Let a list have compared tracks of strangers in two days."""
    embedder = served.read(f"/v1/galleries/{gallery}")["embedding_fingerprint"]
    number = people.gallery_id(gallery)
    ended = EndedTracks(Traffic.of(np.zeros(tracks)).counts)
    people.watch.traffic.add(number, f"{embedder} {score_kind}", {GATE: ended})

    def make_old(transaction):
        moved = "UPDATE watch_traffic SET since = since - ? WHERE gallery_id = ?"
        transaction.change(moved, (TWO_DAYS, number))

    people.record.database.write(make_old)


def rings(served, gallery, person):
    """Send a crop of a person, and return the names by which the list rings."""
    data = {"camera": "yard", "wait": "true"}
    sent = served.http.post("/v1/sightings", files=files(draw_crop(person, 0, 0)), data=data)
    assert sent.status_code == 200, sent.text
    matches = sent.json()["results"][0]["matches"]
    return {match["identity"] for match in matches if match["gallery"] == gallery}


def forecast_of(served, gallery):
    return read_list(served, gallery)["forecast"] or {"people": None}


def is_fitted_to(served, gallery, people):
    eventually(lambda: forecast_of(served, gallery)["people"] == people)


def why(served, gallery):
    eventually(lambda: read_list(served, gallery)["why"])
    return read_list(served, gallery)["why"]


def is_sound(served, gallery):
    eventually(lambda: read_list(served, gallery)["why"] is None)


def warnings(served, gallery):
    found = alerts(served, gallery=gallery, kind="promise_broken")
    return [alert["detail"] for alert in found]


def findings(served, gallery):
    found = served.read("/v1/doctor")["findings"]
    return {finding["state"] for finding in found if f"list {gallery} " in finding["text"]}


@pytest.mark.promise("lists-compare")
@pytest.mark.parametrize(("before", "after"), [(1, 2), (3, 4), (7, 8), (8, 9), (8, 7)])
def test_a_list_with_its_counted_traffic_rings_after_it_has_grown_or_shrunk(
    watching, wanted, people, before, after
):
    enroll(watching, wanted, *range(before))
    count_traffic(watching, people, wanted, f"0 {before.bit_length()}")
    arm(watching, wanted, budget=BUDGET, tracks_per_day=None)
    armed = forecast_of(watching, wanted)["tracks_per_day"]
    enroll(watching, wanted, *range(before, after))
    for person in range(after, before):
        forget(watching, wanted, person)
    is_fitted_to(watching, wanted, after)
    state = read_list(watching, wanted)
    assert (state["compares"], state["why"]) == (True, None)
    assert state["forecast"]["tracks_per_day"] == pytest.approx(armed, rel=0.01)
    for person in (0, after - 1):
        assert rings(watching, wanted, person) == {f"{person:04d}"}
    assert warnings(watching, wanted) == []


@pytest.mark.promise("lists-compare")
def test_a_list_whose_traffic_is_gone_rings_by_the_tracks_a_day_that_it_was_armed_with(
    watching, wanted, people
):
    enroll(watching, wanted, 0)
    count_traffic(watching, people, wanted, "0 1")
    arm(watching, wanted, budget=BUDGET, tracks_per_day=None)
    armed = forecast_of(watching, wanted)["tracks_per_day"]
    number = people.gallery_id(wanted)
    # Tracks that another embedder compared are no measure of these.
    ended = EndedTracks(Traffic.of(np.zeros(1)).counts)
    people.watch.traffic.add(number, "another 0 1", {GATE: ended})
    enroll(watching, wanted, 1)
    is_fitted_to(watching, wanted, 2)
    assert forecast_of(watching, wanted)["tracks_per_day"] == pytest.approx(armed, rel=0.01)
    assert rings(watching, wanted, 1) == {"0001"}


def test_the_traffic_and_the_trials_of_a_list_outlast_its_growth(watching, wanted, people):
    enroll(watching, wanted, *range(7))
    arm(watching, wanted, budget=BUDGET)
    count_traffic(watching, people, wanted, "0 3")

    def used():
        return [camera["tracks"] for camera in read_list(watching, wanted)["thresholds"]]

    eventually(lambda: used() == [TRACKS])
    enroll(watching, wanted, 7)
    is_fitted_to(watching, wanted, 8)
    state = read_list(watching, wanted)
    # The scores of a list that has grown by a seventh are like those of before.
    assert used() == [TRACKS]
    assert [(trial["tracks"], trial["is_over"]) for trial in state["trials"]] == [(TRACKS, True)]
    enroll(watching, wanted, 8)
    is_fitted_to(watching, wanted, 9)
    # Scores that are relative to a level are others. They are collected anew, and the tracks stay.
    assert used() == []
    count_traffic(watching, people, wanted, "1 4", tracks=1)
    (trial,) = read_list(watching, wanted)["trials"]
    assert (trial["tracks"], trial["is_over"]) == (TRACKS + 1, True)
    assert people.watch.traffic.counted(people.gallery_id(wanted)).tracks == TRACKS + 1


@pytest.mark.promise("lists-compare")
@pytest.mark.parametrize("error", [InputProblem("the scores have no spread"), ZeroDivisionError()])
def test_a_list_that_cannot_be_fitted_rings_for_its_present_people_by_its_former_thresholds(
    open_service, tmp_path, monkeypatch, often, error
):
    def fail(*_):
        raise error

    def require_former_thresholds(served):
        assert why(served, "wanted").startswith("its thresholds are those of before: ")
        eventually(lambda: rings(served, "wanted", 3) == {"0003"})
        assert rings(served, "wanted", 0) == {"0000"}
        state = read_list(served, "wanted")
        assert (state["state"], state["compares"]) == ("armed", True)
        assert state["forecast"]["threshold"] == threshold
        assert served.read("/readyz")["watch_lists"] == "impaired"
        assert findings(served, "wanted") == {"warning"}
        assert figure(served, 'gmn_watch_lists{state="impaired"}') == 1
        eventually(lambda: warnings(served, "wanted") == [state["why"]])

    before = open_service(tmp_path)
    before.create("wanted")
    enroll(before, "wanted", 0, 1, 2)
    arm(before, "wanted", budget=BUDGET)
    threshold = forecast_of(before, "wanted")["threshold"]
    with monkeypatch.context() as broken:
        broken.setattr(lists, "_fit", fail)
        enroll(before, "wanted", 3)
        require_former_thresholds(before)
        assert before.stop() == 0
        after = open_service(tmp_path)
        require_former_thresholds(after)
    is_sound(after, "wanted")
    is_fitted_to(after, "wanted", 4)
    assert after.read("/readyz")["watch_lists"] == "ready"
    assert findings(after, "wanted") == set()


@pytest.mark.promise("lists-compare")
def test_a_list_whose_people_look_all_the_same_rings_by_its_former_threshold(open_service, often):
    # The artefacts of tests have no reference, whose scores have no spread with such a list.
    served = open_service(artefact="small")
    served.create("wanted")
    for person in range(8):
        served.enrolled("wanted", draw_crop(0, 0, 0), identity=str(person))
    arm(served, "wanted")
    assert rings(served, "wanted", 0)
    served.enrolled("wanted", draw_crop(0, 0, 0), identity="8")
    assert "look all the same" in why(served, "wanted")
    assert rings(served, "wanted", 0)


@pytest.mark.promise("lists-compare")
def test_a_list_that_is_compared_with_nothing_says_so_everywhere_and_each_day(
    watching, wanted, people
):
    enroll(watching, wanted, 0)
    arm(watching, wanted)
    forget(watching, wanted, 0)
    assert why(watching, wanted)
    assert not read_list(watching, wanted)["compares"]
    assert watching.read("/readyz")["watch_lists"] == "impaired"
    assert findings(watching, wanted) == {"error"}
    assert figure(watching, 'gmn_watch_lists{state="not_compared"}') == 1
    eventually(lambda: warnings(watching, wanted))
    (told,) = warnings(watching, wanted)
    assert told.startswith("nothing is compared with it: ")

    def make_old(transaction):
        transaction.change("UPDATE alerts SET created_at = created_at - ?", (TWO_DAYS,))

    people.record.database.write(make_old)
    eventually(lambda: warnings(watching, wanted) == [told, told])
    enroll(watching, wanted, 1)
    is_sound(watching, wanted)
    assert read_list(watching, wanted)["compares"]
    assert rings(watching, wanted, 1) == {"0001"}
    assert watching.read("/readyz")["watch_lists"] == "ready"


@pytest.mark.promise("lists-compare")
@pytest.mark.parametrize("most", ["MOST_PEOPLE", "MOST_CROPS"])
def test_a_list_with_too_many_rings_for_those_who_were_enrolled_first(
    watching, wanted, monkeypatch, most
):
    monkeypatch.setattr(lists, most, 2)
    enroll(watching, wanted, 0, 1)
    arm(watching, wanted, budget=BUDGET)
    enroll(watching, wanted, 2)
    assert "enrolled first" in why(watching, wanted)
    assert [rings(watching, wanted, person) for person in (0, 1)] == [{"0000"}, {"0001"}]
    assert rings(watching, wanted, 2) != {"0002"}
    refused = watching.http.put(f"/v1/galleries/{wanted}/watch", data=settings(budget=BUDGET))
    assert refused_fields(refused) == {"gallery"}
    forget(watching, wanted, 0)
    is_sound(watching, wanted)
    assert rings(watching, wanted, 2) == {"0002"}


@pytest.mark.promise("lists-compare")
def test_a_list_whose_time_zone_is_gone_rings_at_any_time_and_says_so(
    watching, wanted, monkeypatch
):
    enroll(watching, wanted, 0)
    never = f"{datetime.now(UTC) + timedelta(hours=6):%H}"
    hours = f"{never}:00-{never}:30"
    arm(watching, wanted, budget=BUDGET, hours=hours, time_zone="Etc/GMT+1")
    assert rings(watching, wanted, 0) == set()

    def lack(name):
        raise ZoneInfoNotFoundError(name)

    with monkeypatch.context() as without_zones:
        without_zones.setattr(active, "ZoneInfo", lack)
        assert rings(watching, wanted, 0) == {"0000"}
        assert "Etc/GMT+1 cannot be read; install tzdata" in why(watching, wanted)
        eventually(lambda: warnings(watching, wanted))
        asked = settings(hours=hours, time_zone="Etc/GMT+1")
        refused = watching.http.put(f"/v1/galleries/{wanted}/watch", data=asked)
        assert refused_fields(refused) == {"time_zone"}
        assert "install tzdata" in refused.json()["detail"]
        # The default needs no files.
        arm(watching, wanted, hours=hours)
        is_sound(watching, wanted)
    assert rings(watching, wanted, 0) == set()


@pytest.mark.promise("lists-compare")
@pytest.mark.parametrize("step", ["_score_list", "_note_scores", "_note"])
def test_a_crop_that_cannot_be_compared_with_one_list_is_compared_with_the_others(
    watching, wanted, monkeypatch, step
):
    other = watching.create(f"other-{uuid4().hex[:8]}")
    for gallery in (wanted, other):
        enroll(watching, gallery, 0)
        arm(watching, gallery, budget=BUDGET)
    work = getattr(sightings, step)

    def fail_for_one(*given):
        names = [part.gallery.name for part in given if hasattr(part, "gallery")]
        if names == [wanted]:
            raise ZeroDivisionError
        return work(*given)

    with monkeypatch.context() as broken:
        broken.setattr(sightings, step, fail_for_one)
        assert rings(watching, wanted, 0) == set()
        assert rings(watching, other, 0) == {"0000"}
        assert why(watching, wanted).startswith("some crops are not compared with it: ")
        assert read_list(watching, other)["why"] is None
    is_sound(watching, wanted)
    assert rings(watching, wanted, 0) == {"0000"}
    watching.http.delete(f"/v1/galleries/{other}")
