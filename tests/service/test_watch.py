"""Watch lists: armed by their forecast, one alert a visit, reviews, and their end."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import numpy as np
import pytest

from gmn_client import Client
from service.errors import StorageFailed
from service.record.schema import as_micros, now_micros
from service.record.values import Sender
from service.search.refit import CalibrationFitter
from service.watch import lists
from service.watch.tables import alerts as alert_tables
from service.watch.tables.lists import Watches
from service.watch.tables.traffic import EndedTracks, TrackPart
from tests.outside import audit_lines, bearer, refused_fields
from tests.service.http.conftest import make_key
from tests.service.watch_places import (
    SETTINGS,
    alerts,
    arm,
    arm_new,
    create_webhook,
    deliveries,
    passersby,
    settings,
)
from tests.waiting import LONGEST_SECONDS, eventually


@pytest.fixture(scope="module")
def watching(start, data_dir):
    return start(data_dir, webhook_private="true", housekeeping_seconds="0.2")


@pytest.fixture
def unarmed(watching, drawn_crops):
    gallery = watching.create(f"wanted-{uuid4().hex[:8]}")
    watching.fill(gallery, drawn_crops)
    return gallery


@pytest.fixture
def wanted(watching, unarmed):
    arm(watching, unarmed)
    return unarmed


def put(served, gallery, fields):
    return served.http.put(f"/v1/galleries/{gallery}/watch", data=fields)


def read_list(served, gallery):
    return served.read(f"/v1/galleries/{gallery}/watch")


def test_a_list_is_armed_by_the_forecast_that_was_read(watching, unarmed, images):
    assert read_list(watching, unarmed)["state"] == "disarmed"
    fields = settings(cameras="gate,yard", hours="22:00-06:00", time_zone="Europe/Zurich")
    proposal = put(watching, unarmed, fields).json()
    assert proposal["forecast"]["people"] == 6
    assert proposal["forecast"]["sentence"]
    assert read_list(watching, unarmed)["state"] == "disarmed"
    confirm = proposal["confirm"]
    for wrong in (
        {**fields, "budget": "4", "confirm": confirm},
        {**fields, "confirm": "9" + confirm},
        {**fields, "confirm": confirm[:-1]},
    ):
        refused = put(watching, unarmed, wrong)
        assert refused_fields(refused) == {"confirm"}
    # The token is for its list alone.
    other = watching.create(f"others-{uuid4().hex[:8]}")
    watching.enrolled(other, images[0], identity="x")
    assert put(watching, other, {**fields, "confirm": confirm}).status_code == 422
    armed = put(watching, unarmed, {**fields, "confirm": confirm}).json()
    assert armed["state"] == "armed"
    assert armed["promised"] == proposal["forecast"]
    assert armed["settings"]["cameras"] == ["gate", "yard"]


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"budget": "0"}, "budget"),
        ({"budget": "1e-300"}, "budget"),
        ({"tracks_per_day": "6"}, "budget"),
        ({"hours": "25:00-06:00"}, "hours"),
        ({"time_zone": "Mars/Olympus"}, "time_zone"),
        ({"time_zone": "../../etc/passwd"}, "time_zone"),
        ({"expires_at": "2001-01-01T00:00:00Z"}, "expires_at"),
        ({"expires_at": (datetime.now(UTC) + timedelta(91)).isoformat()}, "expires_at"),
        ({"reason": ""}, "reason"),
        ({"retention_days": "366"}, "retention_days"),
        ({"tracks_per_day": ""}, "tracks_per_day"),
        ({"quiet_scope": "site"}, "quiet_scope"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_its_name(watching, unarmed, wrong, field):
    refused = put(watching, unarmed, {**settings(), **wrong})
    assert refused_fields(refused) == {field}


def test_a_list_without_people_cannot_be_armed(watching, images):
    watching.create("empty")
    for _ in range(2):
        refused = put(watching, "empty", settings())
        assert refused_fields(refused) == {"gallery"}
        # A crop without a name shows nobody.
        watching.enrolled("empty", images[0])


@pytest.mark.promise("alerts")
def test_a_visit_is_one_alert_however_many_processes_see_it(watching, unarmed, people, data_dir):
    arm(watching, unarmed, quiet_seconds="60")
    begin = datetime.now(UTC) - timedelta(minutes=5)

    def is_new_after(seconds):
        moment = begin + timedelta(seconds=seconds)
        return people.pass_by(unarmed, first_seen=moment, last_seen=moment, crops=1).is_new

    with passersby(data_dir) as others, ThreadPoolExecutor(8) as threads:
        both = [people, others] * 8
        noted = list(threads.map(lambda eyes: eyes.pass_by(unarmed, crops=2), both))
    assert sum(note.is_new for note in noted) == 1
    (alert,) = alerts(watching, gallery=unarmed)
    assert (alert["kind"], alert["crops"], alert["identity"]) == ("visit", 32, "0000")
    assert watching.http.get(alert["reference_url"]).status_code == 200
    # A quiet minute ends a visit, and an earlier one is another visit.
    assert [is_new_after(seconds) for seconds in (0, 59, 59 + 61)] == [True, False, True]
    assert len(alerts(watching, gallery=unarmed)) == 3


def test_another_camera_is_another_visit_that_follows_the_one_before(watching, wanted, people):
    first = people.pass_by(wanted, camera="gate")
    second = people.pass_by(wanted, camera="yard")
    other = people.pass_by(wanted, slot=24, camera="yard")
    assert second.alert.follows == first.alert.alert_id
    assert (other.alert.identity, other.alert.follows) == ("0005", None)
    for asked, noted in (({"camera": "gate"}, first), ({"identity": "0005"}, other)):
        (alert,) = alerts(watching, gallery=wanted, **asked)
        assert alert["alert_id"] == noted.alert.alert_id


def test_with_the_scope_of_a_list_several_cameras_are_one_visit(watching, unarmed, people, images):
    arm(watching, unarmed, quiet_seconds="60", quiet_scope="list")
    begin = datetime.now(UTC) - timedelta(minutes=5)

    def pass_at(camera, seconds, **more):
        moment = begin + timedelta(seconds=seconds)
        return people.pass_by(
            unarmed, camera=camera, first_seen=moment, last_seen=moment, crops=1, **more
        )

    first = pass_at("gate", 0)
    assert not pass_at("yard", 50, score=0.8, content=images[1]).is_new
    assert not pass_at("hall", 100, score=0.6).is_new
    (alert,) = alerts(watching, gallery=unarmed)
    # It shows the best crop, with the camera that took it.
    assert (alert["alert_id"], alert["camera"], alert["crops"]) == (first.alert.alert_id, "yard", 3)
    assert watching.http.get(alert["image_url"]).content == images[1]
    assert pass_at("gate", 100 + 61).is_new
    assert pass_at("gate", 100, slot=24).is_new
    assert read_list(watching, unarmed)["settings"]["quiet_scope"] == "list"


def review(served, alert_id, decision, **more):
    sent = {"decision": decision, **more}
    return served.http.post(f"/v1/alerts/{alert_id}/review", data=sent)


def test_a_rejected_alert_does_not_hide_the_next_visit_of_the_person(watching, wanted, people):
    stranger = people.pass_by(wanted, track="stranger").alert.alert_id
    assert review(watching, stranger, "rejected").status_code == 200
    # The track that was rejected raises no further alert.
    again = people.pass_by(wanted, track="stranger", own_alert=stranger)
    assert (again.is_new, again.alert.alert_id, again.alert.crops) == (False, stranger, 6)
    real = people.pass_by(wanted, track="real")
    assert real.is_new
    assert people.pass_by(wanted, track="again").alert.alert_id == real.alert.alert_id
    # After the rejection was taken back, both are alerts, and the later one goes on.
    assert review(watching, stranger, "open").status_code == 200
    assert people.pass_by(wanted, track="later").alert.alert_id == real.alert.alert_id
    assert review(watching, real.alert.alert_id, "rejected").status_code == 200
    assert people.pass_by(wanted, track="last").alert.alert_id == stranger
    crops = [alert["crops"] for alert in alerts(watching, gallery=wanted)]
    assert crops == [9, 9]


def test_a_confirmed_alert_goes_on_with_the_visit(watching, wanted, people):
    first = people.pass_by(wanted, score=0.5).alert.alert_id
    assert review(watching, first, "confirmed").status_code == 200
    second = people.pass_by(wanted, track="18", score=0.8)
    assert (second.is_new, second.alert.alert_id, second.alert.crops) == (False, first, 6)
    # It shows the crop that was decided on.
    assert (second.alert.score, second.alert.track) == (0.5, "17")


def test_a_rejection_is_about_one_list_alone(watching, wanted, people, drawn_crops):
    other = arm_new(watching, f"other-{uuid4().hex[:8]}", drawn_crops)
    rejected = people.pass_by(wanted).alert.alert_id
    open_alert = people.pass_by(other).alert.alert_id
    assert review(watching, rejected, "rejected").status_code == 200
    assert people.pass_by(other, track="18").alert.alert_id == open_alert
    assert people.pass_by(wanted, track="18").is_new


def test_an_alert_shows_the_best_crop_of_its_visit(watching, wanted, people, receiver, images):
    create_webhook(watching.http, receiver.url, gallery=wanted)
    # The first message is sent again.
    receiver.answer = lambda _: (500 if len(receiver.received) == 1 else 204, {})
    begin = datetime.now(UTC) - timedelta(seconds=50)

    def pass_after(seconds, **more):
        moment = begin + timedelta(seconds=seconds)
        return people.pass_by(wanted, first_seen=moment, last_seen=moment, crops=1, **more).alert

    first = pass_after(0, score=0.5, track="17", content=images[0])
    small = f"/v1/alerts/{first.alert_id}/image?width=96"
    tag = watching.http.get(small).headers["ETag"]
    eventually(lambda: receiver.received)
    pass_after(20, score=0.8, probability=0.95, track="18", slot=2, content=images[1])
    pass_after(40, score=0.6, track="19", content=images[2])
    (alert,) = alerts(watching, gallery=wanted)
    shown = {"score": 0.8, "probability": 0.95, "track": "18", "crops": 3}
    assert alert.items() >= shown.items()
    times = [alert[name] for name in ("first_seen", "captured_at", "last_seen")]
    seconds = [(datetime.fromisoformat(time) - begin).total_seconds() for time in times]
    assert seconds == [0, 20, 40]
    assert watching.http.get(alert["image_url"]).content == images[1]
    # A browser that has the former picture gets the new one.
    assert watching.http.get(small, headers={"If-None-Match": tag}).status_code == 200
    # Messages and events that follow show it, too.
    eventually(lambda: len(receiver.received) == 2)
    message = json.loads(receiver.received[1].body)["data"]
    assert message.items() >= shown.items()
    assert watching.http.get(message["image_url"]).content == images[1]
    before = {"Last-Event-ID": str(first.number - 1)}
    with watching.http.stream("GET", "/v1/alerts/events", headers=before) as stream:
        data = next(line for line in stream.iter_lines() if line.startswith("data: "))
    assert json.loads(data.removeprefix("data: ")).items() >= shown.items()


def test_a_review_of_a_crop_that_is_no_longer_shown_is_refused(watching, wanted, people):
    alert_id = people.pass_by(wanted, score=0.5).alert.alert_id
    people.pass_by(wanted, score=0.8)
    refused = review(watching, alert_id, "rejected", score="0.5")
    assert refused_fields(refused) == {"score"}
    assert watching.read(f"/v1/alerts/{alert_id}")["state"] == "open"
    assert review(watching, alert_id, "rejected", score="0.8").json()["state"] == "rejected"
    with Client(str(watching.http.base_url)) as client:
        assert client.review_alert(alert_id, "open", score=0.8).state == "open"


def test_a_review_of_an_earlier_crop_of_the_track_that_is_shown_stands(watching, wanted, people):
    def pass_by(score, own_score=None):
        return people.pass_by(wanted, score=score, own_alert=alert_id, own_score=own_score)

    def refusal(score):
        return refused_fields(review(watching, alert_id, "rejected", score=str(score)))

    alert_id = people.pass_by(wanted, score=0.5).alert.alert_id
    pass_by(0.6, own_score=0.5)
    pass_by(0.7, own_score=0.6)
    # A crop that is no better changes nothing, whoever it shows.
    pass_by(0.55)
    for score in ("0.5", "0.6", "0.7"):
        assert review(watching, alert_id, "confirmed", score=score).json()["state"] == "confirmed"
        assert review(watching, alert_id, "open").json()["state"] == "open"
    assert refusal(0.4) == refusal(0.75) == {"score"}
    # Another track takes its place, and so does a better crop of that one.
    pass_by(0.8)
    assert refusal(0.7) == {"score"}
    pass_by(0.9, own_score=0.8)
    assert refusal(0.7) == {"score"}
    # The first track is shown again, after somebody else.
    pass_by(0.95, own_score=0.7)
    assert refusal(0.7) == refusal(0.9) == {"score"}
    assert review(watching, alert_id, "rejected", score="0.95").json()["state"] == "rejected"


def test_a_visit_follows_no_alert_that_was_rejected(watching, wanted, people):
    first = people.pass_by(wanted, camera="gate").alert.alert_id
    wrong = people.pass_by(wanted, camera="yard").alert.alert_id
    assert review(watching, wrong, "rejected").status_code == 200
    assert people.pass_by(wanted, camera="hall").alert.follows == first


def test_a_list_that_is_disarmed_notes_nothing(watching, wanted, people):
    path = f"/v1/galleries/{wanted}/watch"
    disarmed = watching.http.request("DELETE", path, data={"reason": "case closed"}).json()
    assert (disarmed["state"], disarmed["why"]) == ("disarmed", "case closed")
    assert people.pass_by(wanted) is None
    assert alerts(watching, gallery=wanted) == []


def test_a_list_whose_time_is_over_is_disarmed_with_an_alert(watching, wanted, people):
    people.end_time_of(wanted)
    eventually(lambda: read_list(watching, wanted)["state"] == "disarmed")
    (alert,) = alerts(watching, gallery=wanted, kind="disarmed")
    assert (alert["detail"], alert["identity"]) == ("its time is over", None)
    assert people.pass_by(wanted) is None


def test_a_list_that_was_armed_again_is_not_disarmed_for_the_time_of_before(
    watching, wanted, people
):
    watches = people.watch.watches
    gallery_id = people.gallery_id(wanted)
    before = watches.get(gallery_id).armed_at
    arm(watching, wanted)
    assert watches.disarm(gallery_id, "its time is over", before) is None
    assert read_list(watching, wanted)["state"] == "armed"


def test_a_list_without_its_last_person_warns_and_goes_on_with_another(watching, images):
    wanted = watching.create(f"wanted-{uuid4().hex[:8]}")
    watching.enrolled(wanted, images[0], identity="one")
    arm(watching, wanted)
    watching.http.delete(f"/v1/galleries/{wanted}/identities/one")
    eventually(lambda: read_list(watching, wanted)["why"])
    assert read_list(watching, wanted)["state"] == "armed"
    # The list names its reason before the alert is written.
    eventually(lambda: alerts(watching, gallery=wanted))
    assert [alert["kind"] for alert in alerts(watching, gallery=wanted)] == ["promise_broken"]
    watching.enrolled(wanted, images[5], identity="two")
    eventually(lambda: read_list(watching, wanted)["forecast"])
    assert read_list(watching, wanted)["forecast"]["people"] == 1


def test_a_warning_that_a_full_disk_refuses_is_written_once_there_is_room(
    open_service, monkeypatch, images
):
    def refuse(*_):
        raise StorageFailed("the disk is full")

    served = open_service()
    served.create("wanted")
    served.enrolled("wanted", images[0], identity="one")
    arm(served, "wanted")
    with monkeypatch.context() as full_disk:
        full_disk.setattr(Watches, "warn", refuse)
        served.http.delete("/v1/galleries/wanted/identities/one")
        eventually(lambda: read_list(served, "wanted")["why"])
        assert alerts(served, gallery="wanted") == []
    eventually(lambda: alerts(served, gallery="wanted", kind="promise_broken"))


def test_a_list_whose_embedder_is_not_loaded_warns_and_says_why(
    open_service, tmp_path, other_artefact, drawn_crops
):
    before = open_service(tmp_path)
    arm_new(before, "wanted", drawn_crops)
    assert before.stop() == 0
    served = open_service(tmp_path, artefact=other_artefact, accept_unserved=True)
    eventually(lambda: alerts(served, gallery="wanted"))
    (alert,) = alerts(served, gallery="wanted")
    assert (alert["kind"], "filled by the embedder" in alert["detail"]) == ("promise_broken", True)
    state = read_list(served, "wanted")
    assert (state["state"], state["forecast"]) == ("armed", None)
    assert "filled by the embedder" in state["why"]


@pytest.fixture
def held_fits(monkeypatch):
    """Return an event without which no list is fitted, and the lists that wait for it."""
    may_fit = threading.Event()
    may_fit.set()
    waiting = set()
    fit = lists._fit
    read_crops = CalibrationFitter.read_named_crops

    async def read_and_tell(fitter, gallery):
        crops = await read_crops(fitter, gallery)
        if not may_fit.is_set():
            waiting.add(gallery.name)
        return crops

    def fit_later(*given):
        may_fit.wait(LONGEST_SECONDS)
        return fit(*given)

    monkeypatch.setattr(lists, "_fit", fit_later)
    monkeypatch.setattr(CalibrationFitter, "read_named_crops", read_and_tell)
    yield may_fit, waiting
    may_fit.set()


def test_a_forecast_by_the_embedder_before_a_reindex_arms_no_list(
    open_service, held_fits, tmp_path, tiny_artefact, other_artefact, drawn_crops
):
    may_fit, waiting = held_fits
    before = open_service(tmp_path)
    before.fill(before.create("held"), drawn_crops)
    assert before.stop() == 0
    served = open_service(tmp_path, artefact=other_artefact, previous=tiny_artefact)
    fields = settings()
    confirmed = {**fields, "confirm": put(served, "held", fields).json()["confirm"]}
    may_fit.clear()
    with ThreadPoolExecutor(1) as thread:
        arming = thread.submit(put, served, "held", confirmed)
        # Its crops are read by then.
        eventually(lambda: "held" in waiting)
        reindex = served.http.post("/v1/galleries/held/reindex").json()
        assert served.ended_job(reindex)["state"] == "done"
        may_fit.set()
    assert refused_fields(arming.result()) == {"confirm"}
    assert refused_fields(put(served, "held", confirmed)) == {"confirm"}
    assert read_list(served, "held")["state"] == "disarmed"
    arm(served, "held")


def test_a_crop_enrolled_while_its_list_is_fitted_is_watched_and_other_lists_go_on(
    open_service, held_fits, drawn_crops
):
    may_fit, waiting = held_fits
    served = open_service()
    first, *_, new = drawn_crops
    arm_new(served, "beside", [first])
    served.fill(served.create("held"), [first])
    fields = settings()
    confirm = put(served, "held", fields).json()["confirm"]
    may_fit.clear()
    served.fill("beside", [new])
    with ThreadPoolExecutor(1) as thread:
        arming = thread.submit(put, served, "held", {**fields, "confirm": confirm})
        # Its crops are read by then, and the other list is being fitted again.
        eventually(lambda: waiting >= {"held", "beside"})
        served.fill("held", [new])
        path = "/v1/galleries/beside/watch"
        assert served.http.delete(path).json()["state"] == "disarmed"
        may_fit.set()
    assert arming.result().json()["state"] == "armed"
    eventually(lambda: read_list(served, "held")["forecast"]["people"] == 2)


@pytest.fixture(scope="module")
def keyed(open_service, tmp_path_factory, drawn_crops):
    data_dir = tmp_path_factory.mktemp("keyed")
    keys = {
        name: bearer(make_key(data_dir, "--scope", *scopes))
        for name, scopes in {
            "admin": ["admin"],
            "query": ["query"],
            "other": ["query"],
            "own": ["query,admin", "--gallery", "wanted"],
        }.items()
    }
    served = open_service(data_dir, webhook_private="true")
    served.http.headers.update(keys["admin"])
    for gallery in ("wanted", "others"):
        served.create(gallery)
        images = [drawn_crops[0].png, drawn_crops[8].png]
        served.enrolled(gallery, *images, identity=[f"a of {gallery}", f"b of {gallery}"])
        arm(served, gallery)
    with passersby(data_dir) as people:
        yield served, keys, people


def test_reviews_give_the_obtained_rate_and_the_decision_of_another_key_needs_admin(
    keyed, drawn_crops
):
    served, keys, people = keyed
    gallery = arm_new(served, "reviewed", drawn_crops)
    found = [people.pass_by(gallery, camera=str(n)).alert.alert_id for n in range(3)]

    def review(alert_id, decision, key):
        path = f"/v1/alerts/{alert_id}/review"
        return served.http.post(path, data={"decision": decision}, headers=keys[key])

    assert review(found[0], "confirmed", "query").json()["state"] == "confirmed"
    assert review(found[1], "rejected", "query").status_code == 200
    assert review(found[1], "confirmed", "other").status_code == 403
    state = read_list(served, gallery)
    assert (state["alerts"], state["confirmed"], state["rejected"]) == (3, 1, 1)
    assert state["false_alarms"] == pytest.approx(1.5 / state["days"])
    assert review(found[1], "open", "admin").json()["reviewed_by"] is None
    confirmed = alerts(served, gallery=gallery, state="confirmed")
    assert [alert["alert_id"] for alert in confirmed] == [found[0]]


def test_a_key_of_one_gallery_sees_that_list_alone(keyed):
    served, keys, people = keyed
    own = {"headers": keys["own"]}
    shown, hidden = (
        people.pass_by(gallery, camera="door").alert.alert_id for gallery in ("wanted", "others")
    )
    seen = served.results("/v1/alerts", params={"camera": "door"}, **own)
    assert [alert["alert_id"] for alert in seen] == [shown]
    of_all = create_webhook(served.http, "http://127.0.0.1:9/")["webhook_id"]
    made = served.http.post("/v1/webhooks", data={"url": "http://127.0.0.1:9/"}, **own).json()
    assert made["gallery"] == "wanted"
    listed = served.results("/v1/webhooks", **own)
    assert [webhook["webhook_id"] for webhook in listed] == [made["webhook_id"]]
    for method, path, status in (
        ("GET", f"alerts/{hidden}", 403),
        ("GET", f"alerts/{hidden}/image", 403),
        ("POST", f"alerts/{hidden}/review", 403),
        ("GET", "alerts?gallery=others", 403),
        ("GET", "galleries/others/watch", 403),
        ("DELETE", "galleries/others/watch", 403),
        ("DELETE", f"webhooks/{of_all}", 404),
        ("POST", f"webhooks/{of_all}/rotate", 404),
        ("POST", f"webhooks/{of_all}/test", 404),
        ("GET", f"webhooks/deliveries?webhook_id={of_all}", 404),
    ):
        sent = {"data": {"decision": "rejected"}} if path.endswith("review") else {}
        assert served.http.request(method, f"/v1/{path}", **sent, **own).status_code == status, path
    people.pass_by("wanted", camera="door with webhooks")
    assert len(served.results("/v1/webhooks/deliveries")) == 2
    (delivery,) = served.results("/v1/webhooks/deliveries", **own)
    assert delivery["webhook_id"] == made["webhook_id"]


def test_where_too_many_alerts_are_kept_the_oldest_of_the_person_with_the_most_gives_place(
    keyed, monkeypatch
):
    served, _, people = keyed
    there = len(alerts(served))
    monkeypatch.setattr("service.watch.tables.alerts.KEPT_ALERTS", there + 3)
    first = people.pass_by("wanted", slot=2)
    noted = [people.pass_by("wanted", camera=f"invented {n}") for n in range(there + 9)]
    assert [note.removed for note in noted[:4]] == [0, 0, 1, 1]
    kept = [alert["number"] for alert in alerts(served)]
    assert first.alert.number in kept
    assert noted[0].alert.number not in kept
    assert kept[:2] == [noted[-1].alert.number, noted[-2].alert.number]


def test_a_list_that_raises_more_than_was_forecast_warns_once(watching, wanted, people):
    def promise_one_a_day(transaction):
        gallery_id = people.gallery_id(wanted)
        asked = "SELECT forecast FROM watches WHERE gallery_id = ?"
        forecast = json.loads(transaction.value(asked, (gallery_id,)))
        changed = "UPDATE watches SET forecast = ? WHERE gallery_id = ?"
        transaction.change(changed, (json.dumps({**forecast, "high": 1}), gallery_id))

    people.record.database.write(promise_one_a_day)
    for camera in range(3):
        alert_id = people.pass_by(wanted, camera=str(camera)).alert.alert_id
        path = f"/v1/alerts/{alert_id}/review"
        assert watching.http.post(path, data={"decision": "rejected"}).status_code == 200
    (broken,) = alerts(watching, gallery=wanted, kind="promise_broken")
    assert "2 false alarms were rejected" in broken["detail"]


def test_the_obtained_rate_is_that_of_the_days_whose_alerts_are_kept(watching, unarmed, people):
    arm(watching, unarmed, retention_days="2")
    gallery_id = people.gallery_id(unarmed)

    def arm_long_ago(transaction):
        then = datetime.now(UTC) - timedelta(days=50)
        made = "UPDATE watches SET armed_at = ? WHERE gallery_id = ?"
        transaction.change(made, (then, gallery_id))

    people.record.database.write(arm_long_ago)
    for camera in ("gate", "yard"):
        alert_id = people.pass_by(unarmed, camera=camera).alert.alert_id
    watching.http.post(f"/v1/alerts/{alert_id}/review", data={"decision": "rejected"})
    state = read_list(watching, unarmed)
    assert (state["alerts"], state["rejected"]) == (2, 1)
    assert (state["days"], state["false_alarms"]) == pytest.approx((2.0, 1.0))


def test_after_the_clock_was_set_back_a_list_is_read_reviewed_and_warned_of_once(
    open_service, tmp_path, drawn_crops, monkeypatch
):
    served = open_service(tmp_path)
    gallery = arm_new(served, "wanted", drawn_crops)
    with passersby(tmp_path) as people:
        watches = people.watch.watches
        gallery_id = people.gallery_id(gallery)
        armed = watches.get(gallery_id)
        embedder = people.record.galleries.get(gallery_id).embedding_fingerprint
        with monkeypatch.context() as an_hour_later:
            for module in ("alerts", "lists"):
                an_hour_later.setattr(
                    f"service.watch.tables.{module}.now_micros",
                    lambda: now_micros() + 3_600_000_000,
                )
            watches.arm(gallery_id, armed.settings, armed.promised, embedder, "key")
            alert_id = people.pass_by(gallery).alert.alert_id
        review = served.http.post(f"/v1/alerts/{alert_id}/review", data={"decision": "rejected"})
        assert review.status_code == 200, review.text
        people.pass_by(gallery, camera="yard")
        state = read_list(served, gallery)
        assert (state["alerts"], state["rejected"], state["false_alarms"]) == (2, 1, None)
        warnings = [watches.warn(gallery_id, "too many: 3") for _ in range(2)]
        assert [bool(warning) for warning in warnings] == [True, False]


def test_events_are_replayed_and_come_at_once_from_every_process(watching, wanted, people):
    first, *missed = [people.pass_by(wanted, camera=str(n)).alert for n in range(3)]
    last_seen = {"Last-Event-ID": str(first.number)}
    with watching.http.stream("GET", "/v1/alerts/events", headers=last_seen) as stream:
        lines = stream.iter_lines()

        def next_event():
            event = {}
            for line in lines:
                if not line and event:
                    return event
                name, _, value = line.partition(": ")
                if name:
                    event[name] = value
            raise AssertionError("the stream has ended")

        for alert in missed:
            replayed = next_event()
            assert (int(replayed["id"]), replayed["event"]) == (alert.number, "visit")
            assert json.loads(replayed["data"])["alert_id"] == alert.alert_id
        new = people.pass_by(wanted, camera="yard").alert
        assert next_event()["id"] == str(new.number)
        # A change comes without a number: the next stream goes on after the newest alert.
        people.pass_by(wanted, camera="0", score=0.8, probability=0.95)
        changed = next_event()
        assert (changed["event"], "id" in changed) == ("updated", False)
        shown = {"alert_id": first.alert_id, "score": 0.8, "probability": 0.95, "crops": 6}
        assert json.loads(changed["data"]).items() >= shown.items()
        assert review(watching, first.alert_id, "confirmed").status_code == 200
        assert json.loads(next_event()["data"])["state"] == "confirmed"


def test_a_change_is_told_to_keys_of_its_list_alone_and_only_the_newest_are_known(
    watching, unarmed, people, drawn_crops, monkeypatch
):
    monkeypatch.setattr(alert_tables, "KEPT_UPDATES", 2)
    arm(watching, unarmed)
    other = arm_new(watching, f"other-{uuid4().hex[:8]}", drawn_crops)
    stored = people.watch.alerts
    before = stored.newest_update()
    passing = [(unarmed, "a"), (other, "b"), (unarmed, "c"), (unarmed, "a"), (unarmed, "c")]
    for _ in range(2):
        for gallery, camera in passing:
            people.pass_by(gallery, camera=camera)

    def changed(after, gallery=None):
        gallery_id = gallery and people.gallery_id(gallery)
        newest, alerts = stored.updated(after, gallery_id)
        return newest, [alert.camera for alert in alerts]

    newest, cameras = changed(before)
    assert cameras == ["a", "c"]
    assert changed(before, unarmed) == (newest, ["a", "c"])
    assert changed(before, other) == (newest, [])
    assert changed(newest) == (newest, [])
    assert newest == stored.newest_update()


def test_the_number_of_an_alert_does_not_count_those_of_other_lists(wanted, people):
    for camera in ("gate", "yard"):
        alert = people.pass_by(wanted, camera=camera).alert
        assert alert.number == as_micros(alert.created_at)


def test_a_number_that_no_alert_has_yet_hides_none_of_those_to_come(watching, wanted, people):
    people.pass_by(wanted)
    path = "/v1/alerts/events"
    with watching.http.stream("GET", path, headers={"Last-Event-ID": str(2**60)}) as stream:
        new = people.pass_by(wanted, camera="yard").alert
        ids = (line for line in stream.iter_lines() if line.startswith("id: "))
        assert next(ids) == f"id: {new.number}"
    # As a GET it would keep the connection for ever.
    assert watching.http.head(path).status_code == 405


def test_forgetting_removes_alerts_pictures_and_deliveries_and_names_who_was_told(
    watching, wanted, people, receiver
):
    webhook = create_webhook(watching.http, receiver.url, gallery=wanted)
    forgotten = people.pass_by(wanted).alert.alert_id
    other = people.pass_by(wanted, slot=24).alert.alert_id
    eventually(lambda: len(deliveries(watching, webhook, state="done")) == 2)
    answer = watching.http.delete(f"/v1/galleries/{wanted}/identities/0000").json()
    assert answer["alerts"] == 1
    (told,) = [place for place in answer["remaining"] if place["where"].startswith("the receiver")]
    assert receiver.url.removesuffix("/alerts") in told["where"]
    assert told["what"].startswith("1 message with")
    for path in (f"/v1/alerts/{forgotten}", f"/v1/alerts/{forgotten}/image"):
        assert watching.http.get(path).status_code == 404
    for left in (alerts(watching, gallery=wanted), deliveries(watching, webhook)):
        assert [row["alert_id"] for row in left] == [other]


def test_forgetting_names_a_receiver_that_has_a_message_and_has_not_answered(
    watching, wanted, people, receiver
):
    create_webhook(watching.http, receiver.url, gallery=wanted)
    is_forgotten = threading.Event()
    receiver.answer = lambda _: (204 if is_forgotten.wait(9) else 500, {})
    people.pass_by(wanted)
    eventually(lambda: receiver.received)
    answer = watching.http.delete(f"/v1/galleries/{wanted}/identities/0000").json()
    is_forgotten.set()
    (told,) = [place for place in answer["remaining"] if place["where"].startswith("the receiver")]
    assert told["where"] == f"the receiver at {receiver.url.removesuffix('/alerts')}"
    assert told["what"].startswith("1 message with")


def test_alerts_follow_their_crop_through_a_rename_a_merge_and_its_end(watching, wanted, people):
    alert_id = people.pass_by(wanted).alert.alert_id
    url = f"/v1/galleries/{wanted}"

    def named():
        return watching.read(f"/v1/alerts/{alert_id}")["identity"]

    def rename(identity, new):
        return watching.http.patch(f"{url}/identities/{identity}", data={"new_identity": new})

    rename("0000", "zero")
    assert named() == "zero"
    merge = rename("zero", "0001").json()["merge_id"]
    assert named() == "0001"
    watching.http.post(f"{url}/merges/{merge}/undo")
    assert named() == "zero"
    # The other person is forgotten without it.
    assert watching.http.delete(f"{url}/identities/0001").json()["alerts"] == 0
    assert named() == "zero"


@pytest.mark.parametrize("is_merged", [False, True])
def test_an_alert_whose_nearest_crop_was_deleted_follows_its_person_out_of_a_merge(
    watching, wanted, people, is_merged
):
    alert = people.pass_by(wanted).alert
    url = f"/v1/galleries/{wanted}"
    crop = f"{url}/crops/{alert.crop_id}"

    def delete_crop():
        assert watching.http.delete(crop).status_code == 200

    if not is_merged:
        delete_crop()
    renamed = watching.http.patch(f"{url}/identities/0000", data={"new_identity": "0001"}).json()
    if is_merged:
        delete_crop()
    assert watching.http.post(f"{url}/merges/{renamed['merge_id']}/undo").status_code == 200
    assert watching.read(f"/v1/alerts/{alert.alert_id}")["identity"] == "0000"
    assert watching.http.delete(f"{url}/identities/0000").json()["alerts"] == 1


def test_alerts_end_with_their_days_and_with_their_gallery(watching, unarmed, people):
    arm(watching, unarmed, retention_days="2")
    old, new = (people.pass_by(unarmed, camera=camera).alert for camera in ("gate", "yard"))

    def make_old(transaction):
        then = as_micros(datetime.now(UTC) - timedelta(days=2, minutes=1))
        made = "UPDATE alerts SET created_at = ? WHERE number = ?"
        transaction.change(made, (then, old.number))

    def kept():
        return [alert["alert_id"] for alert in alerts(watching, gallery=unarmed)]

    people.record.database.write(make_old)
    eventually(lambda: kept() == [new.alert_id])
    assert watching.http.delete(f"/v1/galleries/{unarmed}").status_code == 200
    assert watching.http.get(f"/v1/alerts/{new.alert_id}").status_code == 404
    # A number is never given out again.
    assert people.watch.alerts.newest_number() >= new.number


GATE = Sender("camera", "gate")


def part(name, began, until, score_bin):
    moments = [datetime.now(UTC) + timedelta(seconds=seconds) for seconds in (began, until)]
    return TrackPart(name, *moments, score_bin)


def whole(*counts):
    return EndedTracks(np.array(counts))


def test_parts_of_one_track_count_once_by_the_best_score(wanted, people, data_dir):
    number = people.gallery_id(wanted)
    traffic = people.watch.traffic
    none = np.zeros(4, np.int64)

    def counted(*parts):
        with passersby(data_dir) as others:
            others.watch.traffic.add(number, "a", {GATE: EndedTracks(none, parts)})
        counts = traffic.of_list(number, "a")[0].tolist()
        assert by_camera(people, number, "a") == {GATE: counts}
        return counts

    assert counted(part(b"17", 0, 10, 2), part(b"18", 0, 10, 2)) == [0, 0, 2, 0]
    # A label that was given out again later.
    assert counted(part(b"17", 15, 25, 0)) == [1, 0, 2, 0]
    # What another process saw in between makes one track of the two.
    assert counted(part(b"17", 8, 18, 3)) == [0, 0, 1, 1]
    assert counted(part(b"17", 3, 12, 1)) == [0, 0, 1, 1]
    assert counted(part(b"17", 26, 36, 1)) == [0, 1, 1, 1]
    # Counts of another kind of score begin anew.
    traffic.add(number, "b", {GATE: EndedTracks(none, [part(b"17", 0, 10, 3)])})
    assert traffic.of_list(number, "b")[0].tolist() == [0, 0, 0, 1]
    assert by_camera(people, number, "b") == {GATE: [0, 0, 0, 1]}


def by_camera(people, number, score_kind):
    traffic = people.watch.traffic.by_camera(number, score_kind)
    assert all(camera.tracks == camera.counts.sum() for camera in traffic.values())
    return {sender: camera.counts.tolist() for sender, camera in traffic.items()}


def test_of_a_counted_track_nothing_is_left_after_an_hour(wanted, people):
    number = people.gallery_id(wanted)
    run = people.record.database.write
    seen = EndedTracks(np.zeros(4, np.int64), [part(b"17", 0, 10, 2)])
    people.watch.traffic.add(number, "a", {GATE: seen})

    def kept(transaction):
        return len(transaction.rows("counted_tracks", "WHERE gallery_id = ?", (number,)))

    assert run(kept) == 1
    earlier = "UPDATE counted_tracks SET counted_at = counted_at - 3600000000"
    run(lambda transaction: transaction.change(earlier))
    # Maintenance runs every 0.2 s here.
    eventually(lambda: run(kept) == 0)
    assert people.watch.traffic.of_list(number, "a")[0].tolist() == [0, 0, 1, 0]


def test_processes_add_to_one_histogram_and_other_scores_begin_anew(wanted, people, data_dir):
    number = people.gallery_id(wanted)
    traffic = people.watch.traffic
    with passersby(data_dir) as others:
        for part in (traffic, others.watch.traffic):
            part.add(number, "a", {GATE: whole(1, 0, 2)})
    assert traffic.of_list(number, "a")[0].tolist() == [2, 0, 4]
    traffic.add(number, "b", {GATE: whole(0, 5)})
    assert [traffic.of_list(number, name)[0].tolist() for name in "ab"] == [[], [0, 5]]
    assert [by_camera(people, number, name) for name in "ab"] == [{}, {GATE: [0, 5]}]


def test_time_while_a_list_was_disarmed_does_not_count_for_its_cameras(watching, wanted, people):
    number = people.gallery_id(wanted)
    traffic = people.watch.traffic
    traffic.add(number, "a", {GATE: whole(1)})
    began = traffic.by_camera(number, "a")[GATE].since
    path = f"/v1/galleries/{wanted}/watch"
    watching.http.request("DELETE", path, data={"reason": "over"})

    def make_old(transaction):
        hour = timedelta(hours=1) // timedelta(microseconds=1)
        transaction.change("UPDATE watches SET disarmed_at = disarmed_at - ?", (hour,))

    people.record.database.write(make_old)
    arm(watching, wanted)
    moved = traffic.by_camera(number, "a")[GATE].since - began
    assert timedelta(hours=1) <= moved < timedelta(hours=1, minutes=1)


def test_a_cursor_that_no_alert_can_have_is_refused(watching):
    assert watching.http.get("/v1/alerts", params={"cursor": 2**63}).status_code == 422


def test_what_was_done_with_a_list_is_in_the_audit_log_without_names(
    watching, wanted, people, data_dir
):
    alert_id = people.pass_by(wanted).alert.alert_id
    watching.read(f"/v1/alerts/{alert_id}")
    watching.http.post(f"/v1/alerts/{alert_id}/review", data={"decision": "confirmed"})
    path = f"/v1/galleries/{wanted}/watch"
    watching.http.request("DELETE", path, data={"reason": "case closed"})

    def lines():
        own = [line for line in audit_lines(data_dir) if line.get("gallery") == wanted]
        return {line["event"]: line for line in own if line.get("phase") == "done"}

    eventually(lambda: "read_alert" in lines())
    for event, name, value in (
        ("arm_list", "reason", SETTINGS["reason"]),
        ("disarm_list", "reason", "case closed"),
        ("review_alert", "decision", "confirmed"),
        ("read_alert", "alert_id", alert_id),
    ):
        assert lines()[event][name] == value
        assert lines()[event].get("identity") != "0000"


def test_the_client_has_a_method_for_every_call(watching, unarmed, people, receiver):
    fields = {
        "budget": 3,
        "tracks_per_day": 300,
        "expires_at": datetime.now(UTC) + timedelta(days=1),
        "reason": "case 7/2026",
        "retention_days": 30,
        "cameras": ["gate"],
        "weekdays": ["sat", "sun"],
        "explain_passages": True,
    }
    with Client(str(watching.http.base_url), gallery=unarmed) as client:
        proposal = client.propose_watch(**fields)
        assert client.arm_watch(proposal.confirm, **fields).state == "armed"
        assert client.watch().settings == proposal.settings
        assert client.pause_watch(reason="works at the gate").paused_at is not None
        assert client.pause_watch(paused=False).paused_at is None
        assert list(client.passages()) == []
        webhook = client.create_webhook(receiver.url, unarmed, note="desk")
        number = webhook.webhook_id
        assert webhook.secret not in repr(webhook)
        assert client.test_webhook(number).delivered
        alert_id = people.pass_by(unarmed).alert.alert_id
        assert [alert.alert_id for alert in client.alerts(unarmed, camera="gate")] == [alert_id]
        assert client.alert(alert_id).identity == "0000"
        assert client.alert_image(alert_id) == b"a picture"
        assert client.review_alert(alert_id, "rejected").state == "rejected"
        eventually(lambda: list(client.deliveries(state="done", webhook_id=number)))
        (delivery,) = client.deliveries(webhook_id=number)
        assert client.retry_delivery(delivery.delivery_id).state == "done"
        assert client.change_webhook(number, enabled=False).enabled is False
        assert client.rotate_webhook(number).secret != webhook.secret
        client.delete_webhook(number)
        assert list(client.webhooks()) == []
        # The address that it was sent to stays known.
        left = {listed.delivery_id: listed for listed in client.deliveries()}[delivery.delivery_id]
        assert (left.webhook_id, left.state) == (None, "done")
        assert client.disarm_watch(reason="over").why == "over"
