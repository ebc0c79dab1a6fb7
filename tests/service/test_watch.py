"""Watch lists: armed by their forecast, one alert a visit, reviews, and their end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import numpy as np
import pytest

from gmn_client import Client, RequestRefused
from service.http.limits import MOST_STREAMS
from service.record.schema import as_micros
from tests.service.conftest import Served
from tests.service.http.conftest import make_key
from tests.service.watch_places import (
    SETTINGS,
    Passersby,
    Receiver,
    arm,
    create_webhook,
    fill,
    passersby,
    settings,
)
from tests.waiting import eventually


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("watched")


@pytest.fixture(scope="module")
def watching(start: Any, data_dir: Path) -> Served:
    return start(data_dir, webhook_private="true", housekeeping_seconds="0.2")


@pytest.fixture(scope="module")
def people(watching: Served, data_dir: Path) -> Iterator[Passersby]:
    with passersby(data_dir) as found:
        yield found


def filled(served: Served, crops: list[Any]) -> str:
    """Enroll six people in a new gallery."""
    gallery = f"wanted-{uuid4().hex[:8]}"
    fill(served, gallery, crops)
    return gallery


@pytest.fixture
def wanted(watching: Served, drawn_crops: list[Any]) -> str:
    return filled(watching, drawn_crops)


def read_list(served: Served, gallery: str) -> dict[str, Any]:
    return served.http.get(f"/v1/galleries/{gallery}/watch").json()


def alerts(served: Served, **asked: str) -> list[dict[str, Any]]:
    return served.http.get("/v1/alerts", params=asked).json()["results"]


def test_a_list_is_armed_by_the_forecast_that_was_read(watching: Served, wanted: str) -> None:
    path = f"/v1/galleries/{wanted}/watch"
    assert read_list(watching, wanted)["state"] == "disarmed"
    fields = settings(cameras="gate,yard", hours="22:00-06:00", time_zone="Europe/Zurich")
    proposal = watching.http.put(path, data=fields).json()
    assert proposal["forecast"]["people"] == 6
    assert proposal["forecast"]["sentence"]
    assert read_list(watching, wanted)["state"] == "disarmed"
    for wrong in (
        {**fields, "budget": "4", "confirm": proposal["confirm"]},
        {**fields, "confirm": "9" + proposal["confirm"]},
        {**fields, "confirm": proposal["confirm"][:-1]},
    ):
        refused = watching.http.put(path, data=wrong)
        assert refused.status_code == 422
        assert refused.json()["errors"][0]["field"] == "confirm"
    armed = watching.http.put(path, data={**fields, "confirm": proposal["confirm"]})
    assert armed.status_code == 200, armed.text
    assert armed.json()["state"] == "armed"
    assert armed.json()["promised"] == proposal["forecast"]
    assert armed.json()["settings"]["cameras"] == ["gate", "yard"]


def test_the_token_of_a_forecast_is_for_its_list_alone(
    watching: Served, wanted: str, drawn_crops: list[Any]
) -> None:
    other = watching.create(f"others-{uuid4().hex[:8]}")
    watching.enroll(other, drawn_crops[0].png, identity="x")
    fields = settings()
    confirm = watching.http.put(f"/v1/galleries/{wanted}/watch", data=fields).json()["confirm"]
    both = {**fields, "confirm": confirm}
    assert watching.http.put(f"/v1/galleries/{other}/watch", data=both).status_code == 422


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"budget": "0"}, "budget"),
        ({"budget": "1e-300"}, "budget"),
        ({"hours": "25:00-06:00"}, "hours"),
        ({"time_zone": "Mars/Olympus"}, "time_zone"),
        ({"time_zone": "../../etc/passwd"}, "time_zone"),
        ({"expires_at": "2001-01-01T00:00:00Z"}, "expires_at"),
        ({"expires_at": (datetime.now(UTC) + timedelta(91)).isoformat()}, "expires_at"),
        ({"reason": ""}, "reason"),
        ({"retention_days": "366"}, "retention_days"),
        ({"tracks_per_day": ""}, "tracks_per_day"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_its_name(
    watching: Served, wanted: str, wrong: dict[str, str], field: str
) -> None:
    fields = {**settings(), **wrong}
    refused = watching.http.put(f"/v1/galleries/{wanted}/watch", data=fields)
    assert refused.status_code == 422, refused.text
    assert refused.json()["errors"][0]["field"] == field


def test_a_list_without_people_cannot_be_armed(watching: Served, drawn_crops: list[Any]) -> None:
    watching.create("empty")
    refused = watching.http.put("/v1/galleries/empty/watch", data=settings())
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "gallery")
    watching.enroll("empty", drawn_crops[0].png)
    assert watching.http.put("/v1/galleries/empty/watch", data=settings()).status_code == 422


def test_a_visit_is_one_alert_however_many_processes_see_it(
    watching: Served, wanted: str, people: Passersby, data_dir: Path
) -> None:
    arm(watching, wanted, quiet_seconds="60")
    begin = datetime.now(UTC) - timedelta(minutes=5)

    def seen_after(seconds: float) -> Any:
        moment = begin + timedelta(seconds=seconds)
        return people.pass_by(wanted, first_seen=moment, last_seen=moment, crops=1)

    with passersby(data_dir) as others, ThreadPoolExecutor(8) as threads:
        both = [people, others] * 8
        noted = list(threads.map(lambda eyes: eyes.pass_by(wanted, crops=2), both))
    assert sum(note.is_new for note in noted) == 1
    (alert,) = alerts(watching, gallery=wanted)
    assert (alert["kind"], alert["crops"], alert["identity"]) == ("visit", 32, "0000")
    assert alert["reference_url"].startswith(f"/v1/galleries/{wanted}/crops/")
    assert watching.http.get(alert["reference_url"]).status_code == 200
    # A quiet minute ends a visit, and an earlier one is another visit.
    assert seen_after(0).is_new
    assert not seen_after(59).is_new
    assert seen_after(59 + 61).is_new
    assert len(alerts(watching, gallery=wanted)) == 3


def test_another_camera_is_another_visit_that_follows_the_one_before(
    watching: Served, wanted: str, people: Passersby
) -> None:
    arm(watching, wanted)
    first = people.pass_by(wanted, camera="gate")
    second = people.pass_by(wanted, camera="yard")
    other = people.pass_by(wanted, row_id=24, camera="yard")
    assert second.alert.follows == first.alert.alert_id
    assert (other.alert.identity, other.alert.follows) == ("0005", None)
    assert [
        alert["camera"]
        for alert in alerts(
            watching,
            gallery=wanted,
            camera="gate",
        )
    ] == ["gate"]
    assert [
        alert["identity"]
        for alert in alerts(
            watching,
            gallery=wanted,
            identity="0005",
        )
    ] == ["0005"]


def test_what_comes_late_is_noted_and_sent_to_nobody(
    watching: Served, wanted: str, people: Passersby
) -> None:
    receiver = Receiver()
    webhook = create_webhook(watching.http, receiver.url)
    arm(watching, wanted)
    hours_ago = datetime.now(UTC) - timedelta(hours=3)
    late = {"kind": "late", "first_seen": hours_ago, "last_seen": hours_ago}
    assert people.pass_by(wanted, **late).is_new
    assert not people.pass_by(wanted, **late).is_new
    assert [alert["kind"] for alert in alerts(watching, gallery=wanted)] == ["late"]
    asked = {"webhook_id": webhook["webhook_id"]}
    assert watching.http.get("/v1/webhooks/deliveries", params=asked).json()["results"] == []
    receiver.close()


def test_nothing_is_noted_of_a_list_that_is_disarmed(
    watching: Served, wanted: str, people: Passersby
) -> None:
    arm(watching, wanted)
    path = f"/v1/galleries/{wanted}/watch"
    disarmed = watching.http.request(
        "DELETE",
        path,
        data={"reason": "case closed"},
    ).json()
    assert (disarmed["state"], disarmed["why"]) == ("disarmed", "case closed")
    assert people.pass_by(wanted) is None
    assert alerts(watching, gallery=wanted) == []


def test_a_list_whose_time_is_over_is_disarmed_with_an_alert(
    watching: Served, wanted: str, people: Passersby
) -> None:
    soon = (datetime.now(UTC) + timedelta(seconds=2)).isoformat()
    arm(watching, wanted, expires_at=soon)
    eventually(lambda: read_list(watching, wanted)["state"] == "disarmed")
    (alert,) = alerts(watching, gallery=wanted, kind="disarmed")
    assert (alert["detail"], alert["gallery"], alert["identity"]) == (
        "its time is over",
        wanted,
        None,
    )
    assert people.pass_by(wanted) is None


def test_a_restored_gallery_is_disarmed_with_an_alert(watching: Served, wanted: str) -> None:
    path = f"/v1/galleries/{wanted}/snapshots"
    snapshot = watching.http.post(path).json()["snapshot_id"]
    arm(watching, wanted)
    assert watching.http.post(f"{path}/{snapshot}/restore").status_code == 200
    eventually(lambda: read_list(watching, wanted)["state"] == "disarmed")
    assert "restored" in alerts(watching, gallery=wanted, kind="disarmed")[0]["detail"]


def test_a_list_without_its_last_person_warns_and_goes_on_with_another(
    watching: Served, drawn_crops: list[Any]
) -> None:
    wanted = watching.create(f"wanted-{uuid4().hex[:8]}")
    watching.enroll(wanted, drawn_crops[0].png, identity="one")
    arm(watching, wanted)
    watching.http.delete(f"/v1/galleries/{wanted}/identities/one")
    eventually(lambda: read_list(watching, wanted)["why"])
    assert read_list(watching, wanted)["state"] == "armed"
    assert [alert["kind"] for alert in alerts(watching, gallery=wanted)] == ["promise_broken"]
    watching.enroll(wanted, drawn_crops[5].png, identity="two")
    eventually(lambda: read_list(watching, wanted)["forecast"])
    assert read_list(watching, wanted)["forecast"]["people"] == 1


def test_reviews_give_the_obtained_rate_and_the_decision_of_another_key_needs_admin(
    start: Any, tmp_path: Path, drawn_crops: list[Any]
) -> None:
    data_dir = tmp_path
    keys = {
        scope: {"Authorization": f"Bearer {make_key(data_dir, '--scope', scope)}"}
        for scope in ("admin", "query", "sight")
    }
    other = {"Authorization": f"Bearer {make_key(data_dir, '--scope', 'query')}"}
    served = start(data_dir)
    served.http.headers.update(keys["admin"])
    served.create("wanted")
    served.enroll(
        "wanted",
        drawn_crops[0].png,
        drawn_crops[8].png,
        identity=["a", "b"],
    )
    arm(served, "wanted")
    with passersby(data_dir) as people:
        found = [people.pass_by("wanted", camera=str(n)).alert.alert_id for n in range(3)]

    def review(
        alert_id: str,
        decision: str,
        headers: dict[str, str],
    ) -> httpx.Response:
        path = f"/v1/alerts/{alert_id}/review"
        return served.http.post(path, data={"decision": decision}, headers=headers)

    assert review(found[0], "confirmed", keys["query"]).json()["state"] == "confirmed"
    assert review(found[1], "rejected", keys["query"]).status_code == 200
    assert review(found[1], "confirmed", other).status_code == 403
    assert review(found[1], "confirmed", keys["sight"]).status_code == 403
    state = read_list(served, "wanted")
    assert (state["alerts"], state["confirmed"], state["rejected"]) == (3, 1, 1)
    assert state["false_alarms"] == pytest.approx(1.5 / state["days"])
    assert review(found[1], "open", keys["admin"]).json()["reviewed_by"] is None
    assert [alert["alert_id"] for alert in alerts(served, state="confirmed")] == [found[0]]


def test_a_list_that_raises_more_than_was_forecast_warns_once(
    watching: Served, wanted: str, people: Passersby
) -> None:
    arm(watching, wanted)

    def promise_one_a_day(transaction: Any) -> None:
        gallery_id = people.gallery_id(wanted)
        asked = "SELECT forecast FROM watches WHERE gallery_id = ?"
        row = json.loads(transaction.value(asked, (gallery_id,)))
        forecast = json.dumps({**row, "high": 1})
        changed = "UPDATE watches SET forecast = ? WHERE gallery_id = ?"
        transaction.change(changed, (forecast, gallery_id))

    people.record.database.write(promise_one_a_day)
    for camera in range(3):
        alert_id = people.pass_by(wanted, camera=str(camera)).alert.alert_id
        path = f"/v1/alerts/{alert_id}/review"
        assert watching.http.post(path, data={"decision": "rejected"}).status_code == 200
    (broken,) = alerts(watching, gallery=wanted, kind="promise_broken")
    assert "2 false alarms were rejected" in broken["detail"]


def test_events_are_replayed_and_come_at_once_from_every_process(
    watching: Served, wanted: str, people: Passersby
) -> None:
    arm(watching, wanted)
    before = [people.pass_by(wanted, camera=str(n)).alert for n in range(3)]
    last_seen = {"Last-Event-ID": str(before[0].number)}
    with watching.http.stream("GET", "/v1/alerts/events", headers=last_seen) as stream:
        lines = stream.iter_lines()

        def next_event() -> dict[str, str]:
            event = {}
            for line in lines:
                if not line and event:
                    return event
                name, _, value = line.partition(": ")
                if name:
                    event[name] = value
            raise AssertionError("the stream has ended")

        replayed = [next_event(), next_event()]
        assert [int(one["id"]) for one in replayed] == [one.number for one in before[1:]]
        assert replayed[0]["event"] == "visit"
        assert json.loads(replayed[0]["data"])["alert_id"] == before[1].alert_id
        began = datetime.now(UTC)
        new = people.pass_by(wanted, camera="yard").alert
        assert next_event()["id"] == str(new.number)
        assert datetime.now(UTC) - began < timedelta(seconds=2)


def test_a_key_holds_a_few_streams_of_alerts(watching: Served) -> None:
    held = [
        watching.http.send(watching.http.build_request("GET", "/v1/alerts/events"), stream=True)
        for _ in range(MOST_STREAMS)
    ]
    assert watching.http.get("/v1/alerts/events").status_code == 429
    for stream in held:
        stream.close()


def test_a_key_of_one_gallery_sees_that_list_alone(
    start: Any, tmp_path: Path, drawn_crops: list[Any]
) -> None:
    data_dir = tmp_path
    admin = {"Authorization": f"Bearer {make_key(data_dir, '--scope', 'admin')}"}
    scopes = ("--scope", "query,admin", "--gallery", "wanted")
    own = {"Authorization": f"Bearer {make_key(data_dir, *scopes)}"}
    served = start(data_dir, webhook_private="true")
    served.http.headers.update(admin)
    for gallery in ("wanted", "others"):
        served.create(gallery)
        served.enroll(gallery, drawn_crops[0].png, identity=f"of {gallery}")
        arm(served, gallery)
    with passersby(data_dir) as people:
        for gallery in ("wanted", "others"):
            people.pass_by(gallery)
    by_gallery = {alert["gallery"]: alert["alert_id"] for alert in alerts(served)}
    assert by_gallery.keys() == {"wanted", "others"}

    def ask(method: str, path: str, **more: Any) -> httpx.Response:
        return served.http.request(method, path, headers=own, **more)

    seen = ask("GET", "/v1/alerts").json()["results"]
    assert [alert["gallery"] for alert in seen] == ["wanted"]
    other = f"/v1/alerts/{by_gallery['others']}"
    for method, path in (
        ("GET", other),
        ("GET", f"{other}/image"),
        ("GET", "/v1/alerts?gallery=others"),
        ("GET", "/v1/galleries/others/watch"),
        ("DELETE", "/v1/galleries/others/watch"),
    ):
        assert ask(method, path).status_code == 403, path
    assert ask("POST", f"{other}/review", data={"decision": "rejected"}).status_code == 403
    receiver = Receiver()
    of_all = create_webhook(served.http, receiver.url)["webhook_id"]
    made = ask(
        "POST",
        "/v1/webhooks",
        data={"url": receiver.url},
    ).json()
    assert made["gallery"] == "wanted"
    listed = ask("GET", "/v1/webhooks").json()["results"]
    assert [webhook["webhook_id"] for webhook in listed] == [made["webhook_id"]]
    for method, path in (
        ("DELETE", f"/v1/webhooks/{of_all}"),
        ("POST", f"/v1/webhooks/{of_all}/rotate"),
        ("POST", f"/v1/webhooks/{of_all}/test"),
        ("GET", f"/v1/webhooks/deliveries?webhook_id={of_all}"),
    ):
        assert ask(method, path).status_code == 404, path
    receiver.close()


def test_forgetting_removes_alerts_pictures_and_deliveries_and_names_who_was_told(
    watching: Served, wanted: str, people: Passersby, data_dir: Path
) -> None:
    receiver = Receiver()
    webhook = create_webhook(watching.http, receiver.url, gallery=wanted)
    arm(watching, wanted)
    picture = people.pass_by(wanted).alert.alert_id
    other = people.pass_by(wanted, row_id=24).alert.alert_id
    asked = {"webhook_id": webhook["webhook_id"], "state": "done"}

    def deliveries() -> list[dict[str, Any]]:
        return watching.http.get("/v1/webhooks/deliveries", params=asked).json()["results"]

    eventually(lambda: len(deliveries()) == 2)
    forgotten = watching.http.delete(f"/v1/galleries/{wanted}/identities/0000").json()
    assert forgotten["alerts"] == 1
    (told,) = [
        place for place in forgotten["remaining"] if place["where"].startswith("the receiver")
    ]
    assert receiver.url.removesuffix("/alerts") in told["where"]
    assert told["what"].startswith("1 messages")
    assert watching.http.get(f"/v1/alerts/{picture}").status_code == 404
    assert watching.http.get(f"/v1/alerts/{picture}/image").status_code == 404
    assert [alert["alert_id"] for alert in alerts(watching, gallery=wanted)] == [other]
    (left,) = deliveries()
    assert left["alert_id"] == other
    receiver.close()


def test_alerts_follow_their_crop_through_a_rename_a_merge_and_its_end(
    watching: Served, wanted: str, people: Passersby
) -> None:
    arm(watching, wanted)
    alert_id = people.pass_by(wanted).alert.alert_id

    def named() -> str:
        return watching.http.get(f"/v1/alerts/{alert_id}").json()["identity"]

    def rename(identity: str, new: str) -> Any:
        path = f"/v1/galleries/{wanted}/identities/{identity}"
        return watching.http.patch(path, data={"new_identity": new}).json()

    rename("0000", "zero")
    assert named() == "zero"
    merge = rename("zero", "0001")
    assert named() == "0001"
    watching.http.post(f"/v1/galleries/{wanted}/merges/{merge['merge_id']}/undo")
    assert named() == "zero"
    # The other person is forgotten without it.
    assert watching.http.delete(f"/v1/galleries/{wanted}/identities/0001").json()["alerts"] == 0
    assert named() == "zero"


def test_alerts_end_with_their_days_and_with_their_gallery(
    watching: Served, wanted: str, people: Passersby
) -> None:
    arm(watching, wanted, retention_days="2")
    old = people.pass_by(wanted, camera="gate").alert
    new = people.pass_by(wanted, camera="yard").alert

    def make_old(transaction: Any) -> None:
        then = as_micros(datetime.now(UTC) - timedelta(days=2, minutes=1))
        made = "UPDATE alerts SET created_at = ? WHERE number = ?"
        transaction.change(made, (then, old.number))

    people.record.database.write(make_old)
    eventually(
        lambda: [alert["alert_id"] for alert in alerts(watching, gallery=wanted)] == [new.alert_id]
    )
    assert watching.http.delete(f"/v1/galleries/{wanted}").status_code == 200
    assert watching.http.get(f"/v1/alerts/{new.alert_id}").status_code == 404
    # A number is never given out again.
    assert people.record.watches.newest_number() == new.number


def test_the_oldest_alert_gives_place_where_too_many_are_kept(
    start: Any, tmp_path: Path, drawn_crops: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.record.watch.KEPT_ALERTS", 3)
    served = start(tmp_path)
    wanted = filled(served, drawn_crops)
    arm(served, wanted)
    with passersby(tmp_path) as people:
        noted = [people.pass_by(wanted, camera=str(number)) for number in range(5)]
    assert [note.removed for note in noted] == [0, 0, 0, 1, 1]
    kept = [alert["number"] for alert in alerts(served)]
    assert kept == [note.alert.number for note in noted[:1:-1]]


def test_alerts_about_one_person_push_out_none_about_another(
    start: Any, tmp_path: Path, drawn_crops: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.record.watch.KEPT_ALERTS", 3)
    served = start(tmp_path)
    served.create("wanted")
    images = [drawn_crops[0].png, drawn_crops[8].png]
    assert served.enroll("wanted", *images, identity=["a", "b"]).status_code == 201
    arm(served, "wanted")
    with passersby(tmp_path) as people:
        first = people.pass_by("wanted", row_id=1)
        for number in range(9):
            people.pass_by("wanted", row_id=2, camera=f"invented {number}")
    kept = alerts(served)
    assert [alert["identity"] for alert in kept] == ["b", "b", "a"]
    assert kept[-1]["number"] == first.alert.number


def test_processes_add_to_one_histogram_and_other_scores_begin_anew(
    watching: Served, wanted: str, people: Passersby, data_dir: Path
) -> None:
    number = people.gallery_id(wanted)
    with passersby(data_dir) as others:
        for eyes in (people, others):
            eyes.record.watches.add_traffic(number, "a", np.array([1, 0, 2]))
    counts, since = people.record.watches.traffic(number, "a")
    assert counts.tolist() == [2, 0, 4]
    assert since < datetime.now(UTC)
    people.record.watches.add_traffic(number, "b", np.array([0, 5]))
    assert people.record.watches.traffic(number, "a")[0].tolist() == []
    assert people.record.watches.traffic(number, "b")[0].tolist() == [0, 5]


def test_a_cursor_that_no_alert_can_have_is_refused(watching: Served) -> None:
    assert watching.http.get("/v1/alerts", params={"cursor": 2**63}).status_code == 422


def test_what_was_done_with_a_list_is_in_the_audit_log_without_names(
    watching: Served, wanted: str, people: Passersby, data_dir: Path
) -> None:
    arm(watching, wanted)
    alert_id = people.pass_by(wanted).alert.alert_id
    watching.http.get(f"/v1/alerts/{alert_id}")
    watching.http.post(f"/v1/alerts/{alert_id}/review", data={"decision": "confirmed"})
    path = f"/v1/galleries/{wanted}/watch"
    watching.http.request("DELETE", path, data={"reason": "case closed"})

    def lines() -> dict[str, Any]:
        text = (data_dir / "audit.jsonl").read_text()
        read = [json.loads(line) for line in text.splitlines()]
        own = [line for line in read if line.get("gallery") == wanted]
        return {line["event"]: line for line in own if line.get("phase") == "done"}

    eventually(lambda: "read_alert" in lines())
    noted = lines()
    assert noted["arm_list"]["reason"] == SETTINGS["reason"]
    assert noted["disarm_list"]["reason"] == "case closed"
    assert noted["review_alert"]["decision"] == "confirmed"
    assert noted["read_alert"]["alert_id"] == alert_id
    assert "0000" not in [noted[event].get("identity") for event in noted]


def test_the_client_has_a_method_for_every_call(
    watching: Served, wanted: str, people: Passersby
) -> None:
    receiver = Receiver()
    with Client(str(watching.http.base_url), gallery=wanted) as client:
        fields: Any = {
            "budget": 3,
            "tracks_per_day": 300,
            "expires_at": datetime.now(UTC) + timedelta(days=1),
            "reason": "case 7/2026",
            "retention_days": 30,
            "cameras": ["gate"],
        }
        proposal = client.propose_watch(**fields)
        assert client.arm_watch(proposal.confirm, **fields).state == "armed"
        assert client.watch().settings == proposal.settings
        with pytest.raises(RequestRefused):
            client.arm_watch("0.0", **fields)
        webhook = client.create_webhook(receiver.url, wanted, note="desk")
        assert webhook.secret not in repr(webhook)
        assert client.test_webhook(webhook.webhook_id).delivered
        alert_id = people.pass_by(wanted).alert.alert_id
        assert [alert.alert_id for alert in client.alerts(wanted, camera="gate")] == [alert_id]
        assert client.alert(alert_id).identity == "0000"
        assert client.alert_image(alert_id) == b"a picture"
        assert client.review_alert(alert_id, "rejected").state == "rejected"
        eventually(lambda: list(client.deliveries(state="done", webhook_id=webhook.webhook_id)))
        (delivery,) = client.deliveries(webhook_id=webhook.webhook_id)
        assert client.retry_delivery(delivery.delivery_id).state == "done"
        assert client.change_webhook(webhook.webhook_id, enabled=False).enabled is False
        assert client.rotate_webhook(webhook.webhook_id).secret != webhook.secret
        client.delete_webhook(webhook.webhook_id)
        assert webhook.webhook_id not in [listed.webhook_id for listed in client.webhooks()]
        # The address that it was sent to stays known.
        left = {listed.delivery_id: listed for listed in client.deliveries()}[delivery.delivery_id]
        assert (left.webhook_id, left.state) == (None, "done")
        assert client.disarm_watch(reason="over").why == "over"
    receiver.close()
