"""Trials of watch lists: when they are over at each camera, and marked alerts."""

import json
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import numpy as np
import pytest

from service.record.keys import delete_keys
from service.record.values import Sender
from service.watch.tables.traffic import MOST_CAMERAS, EndedTracks, TrackPart
from service.watch.tables.trials import LONGEST_TRIAL, REVIEWED_ALERTS, TRIAL_TRACKS
from tests.service.conftest import files
from tests.service.watch_places import (
    alerts,
    arm,
    arm_new,
    create_webhook,
    deliveries,
    passersby,
    read_list,
)
from tests.waiting import eventually

GATE = Sender("loopback", "gate")
YARD = Sender("loopback", "yard")
FOREIGN = Sender("foreign", "gate")
MICROS_OF_DAY = 86_400_000_000


@pytest.fixture(scope="module")
def watching(start, data_dir):
    return start(data_dir, webhook_private="true", housekeeping_seconds="0.2")


@pytest.fixture
def wanted(watching, drawn_crops):
    return arm_new(watching, f"wanted-{uuid4().hex[:8]}", drawn_crops)


def trials(served, gallery):
    """Return the trials of a list by key and camera."""
    found = read_list(served, gallery)["trials"]
    return {Sender(trial["key_id"], trial["camera"]): trial for trial in found}


def end_tracks(people, gallery, sender, tracks=TRIAL_TRACKS, score_kind="kind"):
    counts = EndedTracks(np.array([tracks]))
    people.watch.traffic.add(people.gallery_id(gallery), score_kind, {sender: counts})


def pass_by(people, gallery, sender, **more):
    seen = {"camera": sender.camera, "key_id": sender.key_id, **more}
    return people.pass_by(gallery, **seen).alert.alert_id


def review(served, alert_id, decision):
    answer = served.http.post(f"/v1/alerts/{alert_id}/review", data={"decision": decision})
    assert answer.status_code == 200, answer.text
    return answer.json()


def read_alert(served, alert_id):
    return served.read(f"/v1/alerts/{alert_id}")


def let_days_pass(people, gallery, days):
    """Let a list be armed, with its trials and alerts, that many days earlier."""
    number = people.gallery_id(gallery)

    def make_old(transaction):
        earlier = "UPDATE watches SET armed_at = armed_at - ? WHERE gallery_id = ?"
        transaction.change(earlier, (days * MICROS_OF_DAY, number))

    people.record.database.write(make_old)


def test_a_trial_is_over_with_enough_tracks_once_its_alerts_are_reviewed(watching, wanted, people):
    assert trials(watching, wanted) == {}
    alert_id = pass_by(people, wanted, GATE)
    end_tracks(people, wanted, GATE, TRIAL_TRACKS - 1)
    trial = trials(watching, wanted)[GATE]
    assert (trial["tracks"], trial["tracks_needed"]) == (TRIAL_TRACKS - 1, TRIAL_TRACKS)
    assert (trial["alerts"], trial["unreviewed"], trial["is_over"]) == (1, 1, False)
    end_tracks(people, wanted, GATE, 1)
    assert not trials(watching, wanted)[GATE]["is_over"]
    assert read_list(watching, wanted)["forecast"]["trial"] is True
    review(watching, alert_id, "rejected")
    trial = trials(watching, wanted)[GATE]
    assert (trial["unreviewed"], trial["is_over"]) == (0, True)
    assert read_list(watching, wanted)["forecast"]["trial"] is False
    later = pass_by(people, wanted, GATE)
    assert [read_alert(watching, shown)["trial"] for shown in (alert_id, later)] == [True, False]


def test_a_review_that_is_taken_back_continues_the_trial(watching, wanted, people):
    alert_id = pass_by(people, wanted, GATE)
    review(watching, alert_id, "rejected")
    end_tracks(people, wanted, GATE)
    assert trials(watching, wanted)[GATE]["is_over"]
    review(watching, alert_id, "open")
    assert not trials(watching, wanted)[GATE]["is_over"]
    assert read_alert(watching, pass_by(people, wanted, GATE, slot=24))["trial"]


def test_without_alerts_tracks_are_enough(watching, wanted, people):
    end_tracks(people, wanted, GATE)
    assert trials(watching, wanted)[GATE]["is_over"]
    assert not read_alert(watching, pass_by(people, wanted, GATE))["trial"]


def test_each_camera_of_each_key_has_its_own_trial(watching, wanted, people):
    unnamed = Sender("loopback", None)
    end_tracks(people, wanted, FOREIGN)
    for sender in (GATE, YARD, unnamed):
        end_tracks(people, wanted, sender, 1)
    for sender, is_on_trial in ((FOREIGN, False), (GATE, True), (YARD, True), (unnamed, True)):
        # The keys' visits at a camera of one name would join, so each key sees another person.
        slot = 24 if sender == FOREIGN else 1
        alert = read_alert(watching, pass_by(people, wanted, sender, slot=slot))
        assert alert["trial"] is is_on_trial
    found = trials(watching, wanted)
    assert set(found) == {FOREIGN, GATE, YARD, unnamed}
    assert {sender for sender, trial in found.items() if trial["is_over"]} == {FOREIGN}


def test_parts_of_one_track_that_processes_saw_count_once(watching, wanted, people, data_dir):
    number = people.gallery_id(wanted)
    moment = datetime.now(UTC)
    # The third part shows that the first two are of one track.
    parts = [
        TrackPart(b"17", moment + timedelta(seconds=start), moment + timedelta(seconds=end), 0)
        for start, end in ((0, 10), (15, 25), (8, 18))
    ]
    counts = []
    with passersby(data_dir) as others:
        for process, part in zip((people, others, people), parts, strict=True):
            ended = EndedTracks(np.zeros(1, np.int64), [part])
            process.watch.traffic.add(number, "kind", {GATE: ended})
            counts.append(trials(watching, wanted)[GATE]["tracks"])
    assert counts == [1, 2, 1]


def test_a_track_whose_earlier_parts_were_counted_before_arming_takes_nothing_away(
    watching, wanted, people
):
    number = people.gallery_id(wanted)
    moment = datetime.now(UTC)

    def end_part(start, end):
        part = TrackPart(
            b"17", moment + timedelta(seconds=start), moment + timedelta(seconds=end), 0
        )
        ended = EndedTracks(np.zeros(1, np.int64), [part])
        people.watch.traffic.add(number, "kind", {GATE: ended})

    end_part(0, 10)
    end_part(15, 25)
    arm(watching, wanted)
    end_part(8, 18)
    assert trials(watching, wanted)[GATE]["tracks"] == 0
    end_tracks(people, wanted, GATE, 1)
    assert trials(watching, wanted)[GATE]["tracks"] == 1


def test_traffic_of_another_embedder_begins_new_trials(watching, wanted, people):
    end_tracks(people, wanted, GATE)
    assert trials(watching, wanted)[GATE]["is_over"]
    end_tracks(people, wanted, GATE, 1, score_kind="another")
    trial = trials(watching, wanted)[GATE]
    assert (trial["tracks"], trial["is_over"]) == (1, False)


def test_a_camera_that_is_not_counted_is_on_trial_for_two_weeks(watching, wanted, people):
    invented = [Sender("noisy", f"camera {number}") for number in range(MOST_CAMERAS)]
    further = Sender("noisy", "one more")
    ended = EndedTracks(np.array([1]))
    counted = dict.fromkeys(invented, ended)
    number = people.gallery_id(wanted)
    people.watch.traffic.add(number, "kind", counted)
    end_tracks(people, wanted, further)
    assert set(trials(watching, wanted)) == set(invented)
    assert read_alert(watching, pass_by(people, wanted, further))["trial"]
    let_days_pass(people, wanted, LONGEST_TRIAL.days)
    assert not read_alert(watching, pass_by(people, wanted, further, slot=24))["trial"]


def test_a_deleted_key_leaves_no_trial(watching, wanted, people):
    gone = Sender("gone", "gate")
    pass_by(people, wanted, gone)
    end_tracks(people, wanted, gone, 1)
    end_tracks(people, wanted, YARD, 1)
    assert trials(watching, wanted)[gone]["unreviewed"] == 1

    def add_and_delete(transaction):
        transaction.insert("api_keys", {"key_id": "gone", "body": "{}", "checksum": 0})
        assert delete_keys(transaction, ["gone"]) == 1

    people.record.database.write(add_and_delete)
    assert set(trials(watching, wanted)) == {YARD}


def test_an_alert_belongs_to_the_camera_whose_crop_it_shows(watching, wanted, people, data_dir):
    end_tracks(people, wanted, FOREIGN)
    end_tracks(people, wanted, GATE, 1)
    alert_id = pass_by(people, wanted, FOREIGN, score=0.4)
    assert not read_alert(watching, alert_id)["trial"]
    with passersby(data_dir) as others:
        assert pass_by(others, wanted, GATE, score=0.5) == alert_id
    assert read_alert(watching, alert_id)["trial"]
    found = trials(watching, wanted)
    assert [found[sender]["alerts"] for sender in (FOREIGN, GATE)] == [0, 1]
    assert pass_by(people, wanted, FOREIGN, score=0.6) == alert_id
    assert not read_alert(watching, alert_id)["trial"]
    found = trials(watching, wanted)
    assert [found[sender]["alerts"] for sender in (FOREIGN, GATE)] == [0, 0]
    assert found[FOREIGN]["is_over"]


def test_of_many_alerts_only_the_first_have_to_be_reviewed(watching, wanted, people):
    begin = datetime.now(UTC) - timedelta(hours=20)
    raised = []
    for number in range(REVIEWED_ALERTS + 1):
        moment = begin + timedelta(minutes=10 * number)
        raised.append(pass_by(people, wanted, GATE, first_seen=moment, last_seen=moment))
    assert len(set(raised)) == len(raised)
    end_tracks(people, wanted, GATE)
    for alert_id in raised[: REVIEWED_ALERTS - 1]:
        review(watching, alert_id, "confirmed")
    trial = trials(watching, wanted)[GATE]
    counts = (trial["alerts"], trial["unreviewed"], trial["is_over"])
    assert counts == (REVIEWED_ALERTS + 1, 1, False)
    review(watching, raised[REVIEWED_ALERTS - 1], "rejected")
    assert trials(watching, wanted)[GATE]["is_over"]
    assert read_alert(watching, raised[-1])["state"] == "open"


def test_every_trial_is_over_after_two_weeks(watching, wanted, people):
    pass_by(people, wanted, GATE)
    end_tracks(people, wanted, GATE, 1)
    let_days_pass(people, wanted, LONGEST_TRIAL.days - 1)
    assert not trials(watching, wanted)[GATE]["is_over"]
    let_days_pass(people, wanted, 1)
    assert trials(watching, wanted)[GATE]["is_over"]
    assert read_list(watching, wanted)["forecast"]["trial"] is False
    # Also at a camera that is first heard of later.
    assert not read_alert(watching, pass_by(people, wanted, YARD))["trial"]
    end_tracks(people, wanted, YARD, 1)
    assert trials(watching, wanted)[YARD]["is_over"]


def test_a_list_that_is_armed_again_has_new_trials(watching, wanted, people):
    first = pass_by(people, wanted, GATE)
    review(watching, first, "confirmed")
    end_tracks(people, wanted, GATE)
    assert trials(watching, wanted)[GATE]["is_over"]
    arm(watching, wanted)
    trial = trials(watching, wanted)[GATE]
    assert (trial["tracks"], trial["alerts"], trial["is_over"]) == (0, 0, False)
    later = pass_by(people, wanted, GATE, slot=24)
    assert read_alert(watching, later)["trial"]
    end_tracks(people, wanted, GATE, 1)
    trial = trials(watching, wanted)[GATE]
    assert (trial["tracks"], trial["alerts"], trial["unreviewed"]) == (1, 1, 1)


def test_messages_of_a_trial_are_sent_and_marked(watching, wanted, people, receiver):
    create_webhook(watching.http, receiver.url)
    alert_id = pass_by(people, wanted, GATE)
    eventually(lambda: receiver.received)
    alert = json.loads(receiver.received[0].body)["data"]
    assert (alert["alert_id"], alert["trial"]) == (alert_id, True)
    number = read_alert(watching, alert_id)["number"]
    last_seen = {"Last-Event-ID": str(number - 1)}
    with watching.http.stream("GET", "/v1/alerts/events", headers=last_seen) as stream:
        data = next(line for line in stream.iter_lines() if line.startswith("data:"))
    assert json.loads(data.partition(":")[2])["trial"] is True


def test_a_late_entry_is_of_the_trial_and_never_sent(watching, wanted, people, receiver):
    webhook = create_webhook(watching.http, receiver.url)
    alert = read_alert(watching, pass_by(people, wanted, GATE, kind="late"))
    assert alert["trial"] is True
    review(watching, alert["alert_id"], "confirmed")
    assert deliveries(watching, webhook) == []


def test_a_forgotten_person_leaves_nothing_to_review(watching, wanted, people):
    pass_by(people, wanted, GATE)
    forgotten = watching.http.delete(f"/v1/galleries/{wanted}/identities/0000")
    assert forgotten.status_code == 200
    end_tracks(people, wanted, GATE)
    trial = trials(watching, wanted)[GATE]
    assert (trial["alerts"], trial["unreviewed"], trial["is_over"]) == (0, 0, True)


def test_a_forecast_says_what_it_rests_on_and_that_it_is_for_a_trial(watching, wanted):
    watch = read_list(watching, wanted)
    for forecast in (watch["promised"], watch["forecast"]):
        assert forecast["rests_on"].startswith("It rests on ")
        assert forecast["own_tracks"] <= forecast["traffic_tracks"]
        assert forecast["trial"] is True
    until = datetime.fromisoformat(watch["trial_until"])
    assert until - datetime.fromisoformat(watch["armed_at"]) == LONGEST_TRIAL


def test_what_a_camera_sends_is_counted_through_a_restart(open_service, tmp_path, drawn_crops):
    served = open_service(tmp_path)
    arm_new(served, "wanted", drawn_crops)
    sent = {"camera": "gate", "track": "7"}
    crop = files(drawn_crops[0].png)
    assert served.http.post("/v1/sightings", files=crop, data=sent).status_code == 202
    (alert,) = alerts(served)
    assert alert["trial"] is True
    assert served.stop() == 0
    again = open_service(tmp_path)
    trial = trials(again, "wanted")[GATE]
    assert (trial["tracks"], trial["alerts"], trial["unreviewed"]) == (1, 1, 1)
