"""Thresholds of a watch list at each camera: its own crops, tracks and reviews of alerts there."""

from uuid import uuid4

import numpy as np
import pytest

from service.record.values import Sender
from service.watch.tables.traffic import EndedTracks
from service.watch.threshold import Traffic
from tests.outside import audit_lines, refused_fields
from tests.service.conftest import files
from tests.service.watch_places import alerts, arm, arm_new, read_list
from tests.waiting import eventually

# Drawn crops come from the cameras east and west.
OWN = Sender("loopback", "east")
OTHER = Sender("loopback", "gate")
FOREIGN = Sender("foreign", "east")


@pytest.fixture(scope="module")
def watching(open_service, data_dir):
    return open_service(data_dir)


@pytest.fixture
def wanted(watching, drawn_crops):
    # Drawn people resemble each other, so that a small budget has a threshold above all crops.
    return arm_new(watching, f"wanted-{uuid4().hex[:8]}", drawn_crops, budget="100")


def thresholds(served, gallery):
    """Return the thresholds of a list by camera and key."""
    found = read_list(served, gallery)["thresholds"]
    return {Sender(state["key_id"], state["camera"]): state for state in found}


def threshold(served, gallery, sender):
    return thresholds(served, gallery)[sender]["threshold"]


def score_kind_of(served, gallery):
    embedder = served.read(f"/v1/galleries/{gallery}")["embedding_fingerprint"]
    people = read_list(served, gallery)["promised"]["people"]
    return f"{embedder} {people >= 9:d} {people.bit_length()}"


def send_track(served, people, gallery, *senders):
    """Let a track of nobody end at each camera, so that the list has heard of it."""
    number = people.gallery_id(gallery)
    ended = dict.fromkeys(senders, EndedTracks(Traffic.of(np.zeros(1)).counts))
    people.watch.traffic.add(number, score_kind_of(served, gallery), ended)
    eventually(lambda: set(senders) <= set(thresholds(served, gallery)))


def raise_alert(served, people, gallery, sender, score, slot=1):
    """Let a track of an own person pass, and return the id of its alert."""
    seen = {"camera": sender.camera, "key_id": sender.key_id, "track": uuid4().hex}
    score_kind = score_kind_of(served, gallery)
    noted = people.pass_by(gallery, slot, score=score, score_kind=score_kind, **seen)
    return noted.alert.alert_id


def review(served, alert_id, decision):
    answer = served.http.post(f"/v1/alerts/{alert_id}/review", data={"decision": decision})
    assert answer.status_code == 200, answer.text


def ignore(served, gallery, sender, ignored, **asked):
    fields = {
        "key_id": sender.key_id,
        "camera": sender.camera,
        "ignored": str(ignored).lower(),
        "reason": "they were wrong",
    }
    return served.http.put(f"/v1/galleries/{gallery}/watch/reviews", data=fields, **asked)


def test_a_camera_that_enrolled_people_has_a_stricter_threshold(watching, wanted, people, images):
    general = read_list(watching, wanted)["forecast"]["threshold"]
    for camera in (OWN.camera, OTHER.camera):
        fields = {"camera": camera, "wait": "true"}
        sent = watching.http.post("/v1/sightings", files=files(images[0]), data=fields)
        assert sent.json()["results"][0]["matches"]
    used = {alert["camera"]: alert["threshold"] for alert in alerts(watching, gallery=wanted)}
    assert used[OTHER.camera] == general
    assert used[OWN.camera] > general
    send_track(watching, people, wanted, OWN, OTHER)
    states = thresholds(watching, wanted)
    assert [states[sender]["own_camera"] for sender in (OWN, OTHER)] == [True, False]
    assert [states[sender]["threshold"] for sender in (OWN, OTHER)] == [used[OWN.camera], general]
    assert "crops of this camera" in states[OWN]["rests_on"]


def test_a_confirmed_alert_raises_the_threshold_of_its_camera_and_the_log_has_both(
    watching, wanted, people, data_dir
):
    send_track(watching, people, wanted, OWN, FOREIGN, OTHER)
    before = thresholds(watching, wanted)
    for sender in (OWN, OTHER):
        review(watching, raise_alert(watching, people, wanted, sender, 0.95), "confirmed")
    eventually(lambda: thresholds(watching, wanted)[OWN]["confirmed"] == 1)
    eventually(lambda: thresholds(watching, wanted)[OTHER]["confirmed"] == 1)
    after = thresholds(watching, wanted)
    assert before[OWN]["threshold"] < after[OWN]["threshold"] < 0.95
    # The camera did not enroll them, and the other key sent none of them.
    assert after[OTHER]["threshold"] == before[OTHER]["threshold"]
    assert after[FOREIGN] == before[FOREIGN]

    def moves():
        lines = audit_lines(data_dir, "move_threshold")
        return [line for line in lines if line["gallery"] == wanted]

    eventually(moves)
    (move,) = moves()
    assert (move["camera"], move["camera_key_id"]) == OWN[::-1]
    assert move["before"] == pytest.approx(before[OWN]["threshold"], abs=1e-4)
    assert move["after"] == pytest.approx(after[OWN]["threshold"], abs=1e-4)
    assert (move["confirmed"], move["rejected"]) == (1, 0)


def test_an_open_alert_moves_nothing_and_a_review_that_is_undone_neither(watching, wanted, people):
    send_track(watching, people, wanted, OWN)
    before = thresholds(watching, wanted)
    alert_id = raise_alert(watching, people, wanted, OWN, 0.95)
    review(watching, alert_id, "confirmed")
    eventually(lambda: thresholds(watching, wanted)[OWN]["confirmed"] == 1)
    review(watching, alert_id, "open")
    eventually(lambda: thresholds(watching, wanted) == before)


def test_twenty_wrong_rejections_still_let_listed_people_be_found(watching, wanted, people, images):
    for number in range(20):
        slot = 1 + 4 * (number % 6)
        alert_id = raise_alert(watching, people, wanted, OWN, 0.99, slot)
        review(watching, alert_id, "rejected")
    eventually(lambda: thresholds(watching, wanted)[OWN]["rejected"] == 20)
    fields = {"camera": OWN.camera, "wait": "true"}
    sent = watching.http.post("/v1/sightings", files=files(*images), data=fields).json()
    assert sum(bool(image["matches"]) for image in sent["results"]) >= 0.95 * len(images)


def test_an_administrator_takes_a_move_back_and_undoes_that(watching, wanted, people, data_dir):
    send_track(watching, people, wanted, OWN)
    before = threshold(watching, wanted, OWN)
    review(watching, raise_alert(watching, people, wanted, OWN, 0.95), "confirmed")
    eventually(lambda: threshold(watching, wanted, OWN) > before)
    moved = threshold(watching, wanted, OWN)
    assert ignore(watching, wanted, OWN, True).status_code == 200
    eventually(lambda: threshold(watching, wanted, OWN) == before)
    state = thresholds(watching, wanted)[OWN]
    assert (state["reviews_ignored"], state["confirmed"]) == (True, 1)
    assert ignore(watching, wanted, OWN, False).status_code == 200
    eventually(lambda: threshold(watching, wanted, OWN) == moved)
    asked = [line["ignored"] for line in audit_lines(data_dir, "ignore_reviews")]
    assert asked[-4::2] == [True, False]
    # A list that is armed again begins without reviews.
    assert ignore(watching, wanted, OWN, True).status_code == 200
    arm(watching, wanted, budget="100")
    eventually(lambda: threshold(watching, wanted, OWN) == before)
    assert not thresholds(watching, wanted)[OWN]["reviews_ignored"]
    assert thresholds(watching, wanted)[OWN]["confirmed"] == 0


def test_no_move_is_taken_back_at_a_camera_that_the_list_has_not_heard_of(watching, wanted):
    assert refused_fields(ignore(watching, wanted, OWN, True)) == {"camera"}


def reviews(served, people, gallery):
    """Return the counts of confirmed and rejected alerts by camera, as the record has them."""
    watches = people.watch.watches
    number = people.gallery_id(gallery)
    armed_at = watches.get(number).armed_at
    found = watches.reviews_by_camera(number, armed_at, score_kind_of(served, gallery))
    return {
        sender: (len(of_camera.confirmed), len(of_camera.rejected))
        for sender, of_camera in found.items()
    }


def test_an_alert_counts_for_the_key_that_sent_the_crop_which_it_shows(watching, wanted, people):
    alert_id = raise_alert(watching, people, wanted, OWN, 0.8)
    assert raise_alert(watching, people, wanted, FOREIGN, 0.9) == alert_id
    assert raise_alert(watching, people, wanted, OWN, 0.7) == alert_id
    assert reviews(watching, people, wanted) == {}
    review(watching, alert_id, "rejected")
    assert reviews(watching, people, wanted) == {FOREIGN: (0, 1)}


def test_scores_of_another_embedder_or_before_the_arming_are_not_compared(watching, wanted, people):
    noted = people.pass_by(wanted, camera=OWN.camera, score_kind="another")
    review(watching, noted.alert.alert_id, "confirmed")
    assert reviews(watching, people, wanted) == {}
    review(watching, raise_alert(watching, people, wanted, OWN, 0.9, slot=24), "confirmed")
    assert reviews(watching, people, wanted) == {OWN: (1, 0)}
    arm(watching, wanted, budget="100")
    assert reviews(watching, people, wanted) == {}
