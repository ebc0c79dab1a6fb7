"""Alerts and their deliveries outlive the processes that write and send them."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.record.restoring import Backup, restore_backup, write_backup
from tests.service.conftest import Served, files
from tests.service.watch_places import Receiver, arm, create_webhook, passersby
from tests.waiting import eventually

# By hand more of them are run: GMN_KILLS=50. The service, which knows no such setting, is not given
# it.
KILLS = int(os.environ.pop("GMN_KILLS", "6"))


def fill(served: Served, crops: list[Any]) -> None:
    served.create("wanted")
    answer = served.enroll(
        "wanted", crops[0].png, crops[8].png, identity=["one", "two"], camera=["east", "west"]
    )
    assert answer.status_code == 201


def receiver_of_a_list(start: Any, data_dir: Path, crops: list[Any]) -> Receiver:
    """Arm a list in a data directory, and open a receiver of its alerts."""
    receiver = Receiver()
    served = start(data_dir, webhook_private="true")
    fill(served, crops)
    arm(served, "wanted")
    create_webhook(served.http, receiver.url)
    served.kill()
    return receiver


def all_are_sent(served: Served) -> bool:
    waiting = served.http.get("/v1/webhooks/deliveries", params={"state": "waiting"})
    return waiting.json()["results"] == []


@pytest.mark.slow
def test_no_alert_is_lost_where_the_sender_is_killed_between_sending_and_noting_it(
    start: Any, tmp_path: Path, drawn_crops: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver = receiver_of_a_list(start, tmp_path, drawn_crops)
    written: list[str] = []
    with passersby(tmp_path) as people:
        for kill in range(KILLS):
            monkeypatch.setenv("FAILPOINT", f"webhook.sent:{1 + kill % 3}")
            served = start(tmp_path, webhook_private="true")
            for number in range(4):
                noted = people.pass_by("wanted", camera=f"{kill} {number}")
                written.append(noted.alert.alert_id)
            assert served.ended_with() != 0
    monkeypatch.delenv("FAILPOINT")
    served = start(tmp_path, webhook_private="true")
    eventually(lambda: all_are_sent(served))
    done = served.http.get("/v1/webhooks/deliveries", params={"limit": "1000"}).json()["results"]
    assert sorted(alert["alert_id"] for alert in done) == sorted(written)
    assert {delivery["state"] for delivery in done} == {"done"}
    # A delivery that was sent twice had the same id both times.
    received = Counter(got.headers["webhook-id"] for got in receiver.received)
    assert received.keys() == {delivery["delivery_id"] for delivery in done}
    assert len(receiver.received) >= len(written)
    receiver.close()


@pytest.mark.slow
def test_no_alert_is_lost_where_its_process_is_killed_between_the_commit_and_the_delivery(
    start: Any, tmp_path: Path, drawn_crops: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver = receiver_of_a_list(start, tmp_path, drawn_crops)
    monkeypatch.setenv("FAILPOINT", "watch.noted")
    for kill in range(KILLS):
        served = start(tmp_path, webhook_private="true")
        sent = {"camera": str(kill), "wait": "true"}
        with contextlib.suppress(httpx.TransportError):
            served.http.post("/v1/sightings", files=files(drawn_crops[0].png), data=sent)
        assert served.ended_with() != 0
    monkeypatch.delenv("FAILPOINT")
    served = start(tmp_path, webhook_private="true")
    eventually(lambda: len(receiver.received) >= KILLS and all_are_sent(served))
    alerts = [json.loads(got.body)["data"] for got in receiver.received]
    assert {alert["camera"] for alert in alerts} == {str(kill) for kill in range(KILLS)}
    assert len({alert["alert_id"] for alert in alerts}) == KILLS
    receiver.close()


@pytest.mark.slow
def test_the_end_of_a_list_is_told_where_the_process_that_noted_it_is_killed(
    start: Any, tmp_path: Path, drawn_crops: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver = Receiver()
    served = start(tmp_path, webhook_private="true")
    fill(served, drawn_crops)
    create_webhook(served.http, receiver.url)
    soon = (datetime.now(UTC) + timedelta(seconds=2)).isoformat()
    arm(served, "wanted", expires_at=soon)
    served.kill()
    monkeypatch.setenv("FAILPOINT", "watch.noted")
    served = start(tmp_path, webhook_private="true")
    assert served.ended_with() != 0
    monkeypatch.delenv("FAILPOINT")
    served = start(tmp_path, webhook_private="true")
    eventually(lambda: receiver.received and all_are_sent(served))
    assert [got.headers["webhook-id"] for got in receiver.received] == [
        delivery["delivery_id"]
        for delivery in served.http.get("/v1/webhooks/deliveries").json()["results"]
    ]
    assert b'"watch.disarmed"' in receiver.received[0].body
    receiver.close()


def test_another_process_sends_where_the_sending_one_ends(
    start: Any, tmp_path: Path, drawn_crops: list[Any]
) -> None:
    receiver = Receiver()
    first = start(tmp_path, webhook_private="true")
    fill(first, drawn_crops)
    arm(first, "wanted")
    create_webhook(first.http, receiver.url)
    second = start(tmp_path, webhook_private="true")
    with passersby(tmp_path) as people:
        people.pass_by("wanted", camera="before")
        # A message that the killed process had not noted as sent would be sent again.
        eventually(lambda: receiver.received and all_are_sent(first))
        first.kill()
        people.pass_by("wanted", camera="after")
        eventually(lambda: len(receiver.received) == 2)
    eventually(lambda: all_are_sent(second))
    # The list is watched there too.
    assert second.http.get("/v1/galleries/wanted/watch").json()["forecast"]
    receiver.close()


def test_a_restored_record_is_disarmed_and_sends_nothing_of_before(
    start: Any, tmp_path: Path, drawn_crops: list[Any]
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    receiver = Receiver()
    answering = threading.Event()
    receiver.answer = lambda _: (204, {}) if answering.is_set() else (500, {})
    served = start(data, webhook_private="true")
    fill(served, drawn_crops)
    arm(served, "wanted")
    create_webhook(served.http, receiver.url)
    with passersby(data) as people:
        kept = people.pass_by("wanted", camera="kept").alert
        forgotten = people.pass_by("wanted", row_id=2, camera="forgotten").alert
        eventually(lambda: len(receiver.received) >= 2)
        backup = write_backup(people.record.database, tmp_path / "backups")
        last = people.pass_by("wanted", camera="later").alert
    assert served.http.delete("/v1/galleries/wanted/identities/two").json()["alerts"] == 1
    served.kill()
    answering.set()
    sent = len(receiver.received)
    restore_backup(Backup(backup.path), tmp_path / "new", data)
    restored = start(tmp_path / "new", webhook_private="true")
    state = restored.http.get("/v1/galleries/wanted/watch").json()
    assert (state["state"], state["why"]) == ("disarmed", "the record was restored")
    left = restored.http.get("/v1/alerts").json()["results"]
    assert [alert["alert_id"] for alert in left] == [kept.alert_id]
    assert forgotten.alert_id not in str(left)
    deliveries = restored.http.get("/v1/webhooks/deliveries").json()["results"]
    assert {delivery["state"] for delivery in deliveries} == {"dead"}
    assert len(receiver.received) == sent
    restored.kill()
    with passersby(tmp_path / "new") as people:
        # No number is given out twice.
        assert people.record.watches.newest_number() == last.number
        assert people.record.watches.alerts(10)
    receiver.close()
