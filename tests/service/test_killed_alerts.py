"""Alerts and their deliveries outlive the processes that write and send them."""

import contextlib
import json
import os
import threading

import httpx2
import pytest

from service.record.schema import now_micros
from service.record.transaction import Transaction
from service.store.backup import restore_backup, write_backup
from service.watch.tables.alerts import NEWEST_ALERT, NEXT_NUMBER
from tests.service.conftest import files
from tests.service.watch_places import Receiver, arm, create_webhook, passersby
from tests.waiting import eventually

# By hand more of them are run: GMN_KILLS=50. The service, which knows no such setting, is not given
# it.
KILLS = int(os.environ.pop("GMN_KILLS", "6"))


@pytest.fixture
def receiver():
    opened = Receiver()
    yield opened
    opened.close()


@pytest.fixture
def watching(start, monkeypatch):
    """Return a function that starts a service on a data directory, which may fail on purpose."""

    def start_one(data_dir, failpoint=""):
        monkeypatch.setenv("FAILPOINT", failpoint)
        return start(data_dir, webhook_private="true")

    return start_one


def prepared(served, crops, receiver):
    """Arm a list of two people, and send its alerts to a receiver."""
    served.fill(served.create("wanted"), [crops[0], crops[8]])
    create_webhook(served.http, receiver.url)
    arm(served, "wanted")
    return served


def deliveries(served, **asked):
    return served.results("/v1/webhooks/deliveries", params=asked)


def all_are_sent(served):
    return deliveries(served, state="waiting") == []


@pytest.mark.promise("alerts")
@pytest.mark.slow
def test_no_alert_is_lost_where_the_sender_is_killed_between_sending_and_noting_it(
    watching, tmp_path, drawn_crops, receiver
):
    prepared(watching(tmp_path), drawn_crops, receiver).kill()
    written = []
    with passersby(tmp_path) as people:
        for kill in range(KILLS):
            served = watching(tmp_path, f"webhook.sent:{1 + kill % 3}")
            for number in range(4):
                noted = people.pass_by("wanted", camera=f"{kill} {number}")
                written.append(noted.alert.alert_id)
            assert served.ended_with() != 0
    served = watching(tmp_path)
    eventually(lambda: all_are_sent(served))
    done = deliveries(served, limit="1000")
    assert sorted(alert["alert_id"] for alert in done) == sorted(written)
    assert {delivery["state"] for delivery in done} == {"done"}
    # A delivery that was sent twice had the same id both times.
    received = {got.headers["webhook-id"] for got in receiver.received}
    assert received == {delivery["delivery_id"] for delivery in done}
    assert len(receiver.received) >= len(written)


@pytest.mark.promise("alerts")
@pytest.mark.slow
def test_no_alert_is_lost_where_its_process_is_killed_between_the_commit_and_the_delivery(
    watching, tmp_path, drawn_crops, receiver
):
    prepared(watching(tmp_path), drawn_crops, receiver).kill()
    for kill in range(KILLS):
        served = watching(tmp_path, "watch.noted")
        sent = {"camera": str(kill), "wait": "true"}
        with contextlib.suppress(httpx2.TransportError):
            served.http.post("/v1/sightings", files=files(drawn_crops[0].png), data=sent)
        assert served.ended_with() != 0
    served = watching(tmp_path)
    eventually(lambda: len(receiver.received) >= KILLS and all_are_sent(served))
    alerts = [json.loads(got.body)["data"] for got in receiver.received]
    assert {alert["camera"] for alert in alerts} == {str(kill) for kill in range(KILLS)}
    assert len({alert["alert_id"] for alert in alerts}) == KILLS


@pytest.mark.slow
def test_the_end_of_a_list_is_told_where_the_process_that_noted_it_is_killed(
    watching, tmp_path, drawn_crops, receiver
):
    prepared(watching(tmp_path), drawn_crops, receiver).kill()
    with passersby(tmp_path) as people:
        people.end_time_of("wanted")
    assert watching(tmp_path, "watch.noted").ended_with() != 0
    served = watching(tmp_path)
    eventually(lambda: receiver.received and all_are_sent(served))
    ids = [delivery["delivery_id"] for delivery in deliveries(served)]
    # A delivery whose answer came too late is sent again.
    assert {got.headers["webhook-id"] for got in receiver.received} == {*ids}
    assert b'"watch.disarmed"' in receiver.received[0].body


def test_another_process_sends_where_the_sending_one_ends(
    watching, tmp_path, drawn_crops, receiver
):
    first = prepared(watching(tmp_path), drawn_crops, receiver)
    second = watching(tmp_path)
    with passersby(tmp_path) as people:
        people.pass_by("wanted", camera="before")
        # A message that the killed process had not noted as sent would be sent again.
        eventually(lambda: receiver.received and all_are_sent(first))
        first.kill()
        people.pass_by("wanted", camera="after")
        eventually(lambda: len(receiver.received) == 2)
    eventually(lambda: all_are_sent(second))
    # The list is watched there too.
    eventually(lambda: second.read("/v1/galleries/wanted/watch")["forecast"])


@pytest.mark.promise("alerts")
def test_a_restored_record_is_disarmed_and_sends_nothing_of_before(
    watching, tmp_path, drawn_crops, receiver
):
    data = tmp_path / "data"
    data.mkdir()
    answering = threading.Event()
    # None of them is sent again before the end of the test.
    refusal = (503, {"Retry-After": "600"})
    receiver.answer = lambda _: (204, {}) if answering.is_set() else refusal

    def messages():
        return {got.headers["webhook-id"] for got in receiver.received}

    served = prepared(watching(data), drawn_crops, receiver)
    with passersby(data) as people:
        kept = people.pass_by("wanted", camera="kept").alert
        people.pass_by("wanted", slot=2, camera="forgotten")
        eventually(lambda: len(messages()) == 2)
        backup = write_backup(people.record.database, tmp_path / "backups").path
        last = people.pass_by("wanted", camera="later").alert
        eventually(lambda: len(messages()) == 3)
    forgotten = served.http.delete(f"/v1/galleries/wanted/identities/{drawn_crops[8].identity}")
    assert forgotten.json()["alerts"] == 1
    served.kill()
    answering.set()
    sent = len(receiver.received)
    restore_backup(backup, tmp_path / "new", data)
    restored = watching(tmp_path / "new")
    state = restored.read("/v1/galleries/wanted/watch")
    assert (state["state"], state["why"]) == ("disarmed", "the record was restored")
    assert [alert["alert_id"] for alert in restored.results("/v1/alerts")] == [kept.alert_id]
    assert {delivery["state"] for delivery in deliveries(restored)} == {"dead"}
    assert len(receiver.received) == sent
    restored.kill()
    with passersby(tmp_path / "new") as people:
        # No number is given out twice.
        next_number = people.record.database.write(
            Transaction.value,
            f"{NEXT_NUMBER} RETURNING CAST(value AS BIGINT)",
            (NEWEST_ALERT, now_micros()),
        )
        assert next_number > last.number
        assert people.watch.alerts.page(10)
