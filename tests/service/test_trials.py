"""Trials of watch lists: how they end at each camera, and alerts whose messages wait."""

import contextlib
import json
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import numpy as np
import pytest

from service.record.trials import LONGEST_TRIAL, REVIEWED_ALERTS, TRIAL_TRACKS
from service.record.watch import EndedTracks, Sender, TrackPart, stop_watching
from tests.outside import refused_fields
from tests.service.conftest import files
from tests.service.watch_places import (
    Receiver,
    alerts,
    arm,
    arm_new,
    create_webhook,
    deliveries,
    passersby,
    read_list,
    settings,
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


@pytest.fixture
def holding(watching, drawn_crops):
    """Return a list whose alerts hold their messages during a trial."""
    return arm_new(watching, f"holding-{uuid4().hex[:8]}", drawn_crops, trial="hold")


def trials(served, gallery):
    """Return the trials of a list by key and camera."""
    found = read_list(served, gallery)["trials"]
    return {Sender(trial["key_id"], trial["camera"]): trial for trial in found}


def end_tracks(people, gallery, sender, tracks=TRIAL_TRACKS):
    counts = EndedTracks(np.array([tracks]))
    people.record.watches.add_traffic(people.gallery_id(gallery), "subject", {sender: counts})


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


def test_a_trial_ends_with_enough_tracks_once_its_alerts_are_reviewed(watching, wanted, people):
    assert trials(watching, wanted) == {}
    alert_id = pass_by(people, wanted, GATE)
    end_tracks(people, wanted, GATE, TRIAL_TRACKS - 1)
    trial = trials(watching, wanted)[GATE]
    assert (trial["tracks"], trial["tracks_needed"]) == (TRIAL_TRACKS - 1, TRIAL_TRACKS)
    assert (trial["alerts"], trial["unreviewed"], trial["ended_at"]) == (1, 1, None)
    end_tracks(people, wanted, GATE, 1)
    assert trials(watching, wanted)[GATE]["ended_at"] is None
    assert read_list(watching, wanted)["forecast"]["trial"] is True
    review(watching, alert_id, "rejected")
    trial = trials(watching, wanted)[GATE]
    assert (trial["unreviewed"], trial["timed_out"]) == (0, False)
    ended = datetime.fromisoformat(trial["ended_at"])
    assert timedelta(0) <= datetime.now(UTC) - ended < timedelta(minutes=1)
    assert read_list(watching, wanted)["forecast"]["trial"] is False
    later = pass_by(people, wanted, GATE)
    assert [read_alert(watching, shown)["trial"] for shown in (alert_id, later)] == [True, False]
    # A decision that is taken back begins no trial again.
    review(watching, alert_id, "open")
    assert trials(watching, wanted)[GATE]["ended_at"] == trial["ended_at"]


def test_without_alerts_tracks_are_enough(watching, wanted, people):
    end_tracks(people, wanted, GATE)
    assert trials(watching, wanted)[GATE]["ended_at"]
    assert not read_alert(watching, pass_by(people, wanted, GATE))["trial"]


@pytest.mark.promise("trials")
def test_each_camera_of_each_key_has_its_own_trial(watching, wanted, people):
    unnamed = Sender("loopback", None)
    end_tracks(people, wanted, FOREIGN)
    for sender, is_on_trial in ((FOREIGN, False), (GATE, True), (YARD, True), (unnamed, True)):
        # The keys' visits at a camera of one name would join, so each key sees another person.
        slot = 24 if sender == FOREIGN else 1
        alert = read_alert(watching, pass_by(people, wanted, sender, slot=slot))
        assert alert["trial"] is is_on_trial
    found = trials(watching, wanted)
    assert set(found) == {FOREIGN, GATE, YARD, unnamed}
    assert {sender for sender, trial in found.items() if trial["ended_at"]} == {FOREIGN}


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
            process.record.watches.add_traffic(number, "subject", {GATE: ended})
            counts.append(trials(watching, wanted)[GATE]["tracks"])
    assert counts == [1, 2, 1]


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
    counts = (trial["alerts"], trial["unreviewed"], trial["ended_at"])
    assert counts == (REVIEWED_ALERTS + 1, 1, None)
    review(watching, raised[REVIEWED_ALERTS - 1], "rejected")
    assert trials(watching, wanted)[GATE]["ended_at"]
    assert read_alert(watching, raised[-1])["state"] == "open"


def test_a_trial_ends_by_itself_after_two_weeks_and_says_so(watching, wanted, people):
    pass_by(people, wanted, GATE)
    let_days_pass(people, wanted, LONGEST_TRIAL.days - 1)
    assert trials(watching, wanted)[GATE]["ended_at"] is None
    let_days_pass(people, wanted, 1)
    trial = trials(watching, wanted)[GATE]
    assert trial["timed_out"]
    assert trial["ended_at"] == read_list(watching, wanted)["trial_until"]
    assert not read_alert(watching, pass_by(people, wanted, YARD))["trial"]
    # At a camera that is first heard of later there is no trial.
    assert set(trials(watching, wanted)) == {GATE}
    end_tracks(people, wanted, GATE)
    assert trials(watching, wanted)[GATE]["timed_out"]


def test_a_list_that_is_armed_again_has_new_trials(watching, wanted, people):
    first = pass_by(people, wanted, GATE)
    review(watching, first, "confirmed")
    end_tracks(people, wanted, GATE)
    assert trials(watching, wanted)[GATE]["ended_at"]
    arm(watching, wanted)
    assert trials(watching, wanted) == {}
    later = pass_by(people, wanted, GATE, slot=24)
    assert read_alert(watching, later)["trial"]
    assert trials(watching, wanted)[GATE]["alerts"] == 1


def test_a_list_armed_by_an_earlier_version_has_no_trial_and_loses_no_message(
    watching, wanted, people, receiver
):
    number = people.gallery_id(wanted)

    def as_before(transaction):
        settings = "SELECT settings FROM watches WHERE gallery_id = ?"
        fields = json.loads(transaction.value(settings, (number,)))
        del fields["trial"]
        changed = "UPDATE watches SET settings = ? WHERE gallery_id = ?"
        assert transaction.change(changed, (json.dumps(fields), number)) == 1

    people.record.database.write(as_before)
    webhook = create_webhook(watching.http, receiver.url)
    alert_id = pass_by(people, wanted, GATE)
    assert not read_alert(watching, alert_id)["trial"]
    assert [sent["alert_id"] for sent in deliveries(watching, webhook)] == [alert_id]
    end_tracks(people, wanted, GATE)
    watch = read_list(watching, wanted)
    assert (watch["trials"], watch["trial_until"]) == ([], None)
    assert watch["settings"]["trial"] is None


def test_messages_of_a_trial_are_sent_and_marked(watching, wanted, people, receiver):
    create_webhook(watching.http, receiver.url)
    alert_id = pass_by(people, wanted, GATE)
    eventually(lambda: receiver.received)
    alert = json.loads(receiver.received[0].body)["data"]
    assert (alert["alert_id"], alert["trial"], alert["held"]) == (alert_id, True, False)
    number = read_alert(watching, alert_id)["number"]
    last_seen = {"Last-Event-ID": str(number - 1)}
    with watching.http.stream("GET", "/v1/alerts/events", headers=last_seen) as stream:
        data = next(line for line in stream.iter_lines() if line.startswith("data:"))
    assert json.loads(data.partition(":")[2])["trial"] is True


@pytest.mark.promise("trials")
def test_held_messages_are_sent_once_when_the_alert_is_confirmed(
    watching, holding, people, receiver
):
    webhook = create_webhook(watching.http, receiver.url)
    confirmed = pass_by(people, holding, GATE)
    rejected = pass_by(people, holding, GATE, slot=24)
    shown = {alert["alert_id"]: alert for alert in alerts(watching, gallery=holding)}
    assert all(shown[alert_id]["held"] for alert_id in (confirmed, rejected))
    assert deliveries(watching, webhook) == []
    assert not review(watching, confirmed, "confirmed")["held"]
    review(watching, rejected, "rejected")
    assert [sent["alert_id"] for sent in deliveries(watching, webhook)] == [confirmed]
    eventually(lambda: receiver.received)
    assert json.loads(receiver.received[0].body)["data"]["state"] == "confirmed"
    for decision in ("open", "confirmed"):
        review(watching, confirmed, decision)
    assert len(deliveries(watching, webhook)) == 1
    # A rejection that is changed into a confirmation sends the message after all.
    review(watching, rejected, "confirmed")
    assert {sent["alert_id"] for sent in deliveries(watching, webhook)} == {confirmed, rejected}


def test_after_a_trial_messages_are_held_no_longer(watching, holding, people, receiver):
    webhook = create_webhook(watching.http, receiver.url)
    end_tracks(people, holding, GATE)
    alert_id = pass_by(people, holding, GATE)
    assert not read_alert(watching, alert_id)["held"]
    assert [sent["alert_id"] for sent in deliveries(watching, webhook)] == [alert_id]


@pytest.mark.promise("trials")
def test_no_key_holds_back_what_a_camera_without_a_trial_sees(watching, holding, people, receiver):
    webhook = create_webhook(watching.http, receiver.url)
    end_tracks(people, holding, GATE)
    alert_id = pass_by(people, holding, FOREIGN)
    assert read_alert(watching, alert_id)["held"]
    assert deliveries(watching, webhook) == []
    assert pass_by(people, holding, GATE) == alert_id
    assert not read_alert(watching, alert_id)["held"]
    assert [sent["alert_id"] for sent in deliveries(watching, webhook)] == [alert_id]


def test_a_late_entry_is_of_the_trial_and_never_sent(watching, holding, people, receiver):
    webhook = create_webhook(watching.http, receiver.url)
    alert = read_alert(watching, pass_by(people, holding, GATE, kind="late"))
    assert (alert["trial"], alert["held"]) == (True, False)
    review(watching, alert["alert_id"], "confirmed")
    assert deliveries(watching, webhook) == []


def test_a_forgotten_person_leaves_nothing_to_review(watching, wanted, people):
    pass_by(people, wanted, GATE)
    forgotten = watching.http.delete(f"/v1/galleries/{wanted}/identities/0000")
    assert forgotten.status_code == 200
    trial = trials(watching, wanted)[GATE]
    assert (trial["alerts"], trial["unreviewed"]) == (0, 0)
    end_tracks(people, wanted, GATE)
    assert trials(watching, wanted)[GATE]["ended_at"]


def test_a_restored_record_sends_nothing_that_was_held_before(watching, holding, people, receiver):
    webhook = create_webhook(watching.http, receiver.url)
    alert_id = pass_by(people, holding, GATE)
    people.record.database.write(stop_watching)
    review(watching, alert_id, "confirmed")
    assert deliveries(watching, webhook) == []
    assert read_alert(watching, alert_id)["trial"]


def test_a_trial_that_is_neither_mark_nor_hold_is_refused(watching, wanted):
    path = f"/v1/galleries/{wanted}/watch"
    refused = watching.http.put(path, data=settings(trial="none"))
    assert refused_fields(refused) == {"trial"}


def test_a_forecast_says_what_it_rests_on_and_that_it_is_for_a_trial(watching, wanted):
    watch = read_list(watching, wanted)
    for forecast in (watch["promised"], watch["forecast"]):
        assert forecast["rests_on"].startswith("It rests on ")
        assert forecast["trial"] is True
    until = datetime.fromisoformat(watch["trial_until"])
    assert until - datetime.fromisoformat(watch["armed_at"]) == LONGEST_TRIAL


@pytest.mark.promise("trials")
def test_what_a_camera_sends_is_held_and_counted_through_a_restart(start, tmp_path, drawn_crops):
    served = start(tmp_path, webhook_private="true")
    arm_new(served, "wanted", drawn_crops, trial="hold")
    with contextlib.closing(Receiver()) as receiver:
        webhook = create_webhook(served.http, receiver.url)
        sent = {"camera": "gate", "track": "7"}
        crop = files(drawn_crops[0].png)
        assert served.http.post("/v1/sightings", files=crop, data=sent).status_code == 202
        (alert,) = alerts(served)
        assert (alert["trial"], alert["held"]) == (True, True)
        assert served.stop() == 0
        again = start(tmp_path, webhook_private="true")
        trial = trials(again, "wanted")[GATE]
        assert (trial["tracks"], trial["alerts"], trial["unreviewed"]) == (1, 1, 1)
        review(again, alert["alert_id"], "confirmed")
        eventually(lambda: receiver.received)
        (delivery,) = deliveries(again, webhook)
        assert delivery["alert_id"] == alert["alert_id"]
