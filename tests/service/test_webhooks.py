"""Webhooks: signed, at least once, to no address inside, and none waits for another."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from service.record.webhooks import MOST_WEBHOOKS, StoredWebhook
from service.watch.sender import Sender
from tests.service.conftest import Served
from tests.service.http.conftest import make_key
from tests.service.watch_places import (
    Passersby,
    Received,
    Receiver,
    arm,
    create_webhook,
    fill,
    passersby,
    receiving,
)
from tests.waiting import eventually


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("watched")


@pytest.fixture(scope="module")
def watching(start: Any, data_dir: Path, drawn_crops: list[Any]) -> Served:
    """Serve an armed list, and let webhooks reach this machine."""
    served = start(data_dir, webhook_private="true")
    fill(served, "wanted", drawn_crops)
    arm(served, "wanted")
    return served


@pytest.fixture(scope="module")
def people(watching: Served, data_dir: Path) -> Iterator[Passersby]:
    with passersby(data_dir) as found:
        yield found


@pytest.fixture
def receiver(watching: Served) -> Iterator[Receiver]:
    with receiving(watching) as opened:
        yield opened


_cameras = iter(range(10**6))


def one_more(people: Passersby) -> str:
    """Report a visit at a camera of its own, and return the id of its alert."""
    noted = people.pass_by("wanted", camera=f"camera {next(_cameras)}")
    assert noted is not None
    assert noted.is_new
    return noted.alert.alert_id


def state_of(
    watching: Served,
    webhook: dict[str, Any],
    state: str,
) -> list[dict[str, Any]]:
    asked = {"webhook_id": webhook["webhook_id"], "state": state}
    return watching.http.get("/v1/webhooks/deliveries", params=asked).json()["results"]


def verified(secret: str, got: Received) -> dict[str, Any]:
    return Webhook(secret).verify(got.body, got.headers)


def test_a_delivery_is_signed_as_the_library_of_standard_webhooks_checks(
    watching: Served, people: Passersby, receiver: Receiver
) -> None:
    webhook = create_webhook(watching.http, receiver.url, note="desk")
    alert_id = one_more(people)
    eventually(lambda: state_of(watching, webhook, "done"))
    (got,) = receiver.received
    message = verified(webhook["secret"], got)
    assert message["type"] == "watch.visit"
    alert = message["data"]
    assert (alert["alert_id"], alert["gallery"], alert["identity"]) == (alert_id, "wanted", "0000")
    assert "vector" not in got.body.decode()
    (delivery,) = state_of(watching, webhook, "done")
    assert (delivery["delivery_id"], delivery["attempts"]) == (got.headers["webhook-id"], 1)
    with pytest.raises(WebhookVerificationError):
        verified("whsec_" + "A" * 43 + "=", got)
    forged = Received(got.path, got.headers, got.body.replace(b"0000", b"0001"))
    with pytest.raises(WebhookVerificationError):
        verified(webhook["secret"], forged)


def test_the_picture_of_a_message_needs_no_key_for_an_hour_and_a_signature(
    watching: Served, people: Passersby, receiver: Receiver
) -> None:
    create_webhook(watching.http, receiver.url)
    one_more(people)
    eventually(lambda: receiver.received)
    path = json.loads(receiver.received[0].body)["data"]["image_url"]
    assert watching.http.get(path).content == b"a picture"
    assert watching.http.get(path[:-1] + ("0" if path[-1] != "0" else "1")).status_code == 401
    for other in ("x", "9" * 30, "1.x"):
        forged = path.replace("signature=", f"signature={other}")
        assert watching.http.get(forged).status_code == 401
    until = int(path.partition("signature=")[2].partition(".")[0])
    assert 3500 < until - time.time() <= 3600


def test_two_secrets_sign_after_a_rotation(
    watching: Served, people: Passersby, receiver: Receiver
) -> None:
    webhook = create_webhook(watching.http, receiver.url)
    rotated = watching.http.post(f"/v1/webhooks/{webhook['webhook_id']}/rotate").json()
    assert rotated["secret"] != webhook["secret"]
    tested = watching.http.post(f"/v1/webhooks/{webhook['webhook_id']}/test").json()
    assert tested == {"delivered": True, "status": 204, "error": None}
    (got,) = receiver.received
    for secret in (webhook["secret"], rotated["secret"]):
        assert verified(secret, got)["type"] == "test"
    # The secret before the last rotation signs no more.
    last = watching.http.post(f"/v1/webhooks/{webhook['webhook_id']}/rotate").json()
    watching.http.post(f"/v1/webhooks/{webhook['webhook_id']}/test")
    assert verified(last["secret"], receiver.received[1])
    with pytest.raises(WebhookVerificationError):
        verified(webhook["secret"], receiver.received[1])


def test_a_secret_is_answered_by_the_calls_that_make_it_alone(
    watching: Served, receiver: Receiver
) -> None:
    webhook = create_webhook(watching.http, receiver.url)
    path = f"/v1/webhooks/{webhook['webhook_id']}"
    rotated = watching.http.post(f"{path}/rotate").json()
    assert "former_secret" not in rotated
    listed = watching.http.get("/v1/webhooks").text
    changed = watching.http.patch(path, data={"note": "desk"}).text
    for secret in (webhook["secret"], rotated["secret"]):
        assert secret not in listed
        assert secret not in changed


def test_a_redirect_is_not_followed(
    watching: Served, people: Passersby, receiver: Receiver
) -> None:
    webhook = create_webhook(watching.http, receiver.url)
    receiver.answer = lambda _: (307, {"Location": f"{receiver.url}-elsewhere"})
    tested = watching.http.post(f"/v1/webhooks/{webhook['webhook_id']}/test").json()
    assert (tested["delivered"], tested["status"]) == (False, 307)
    assert "redirects are not followed" in tested["error"]
    assert [got.path for got in receiver.received] == ["/alerts"]


def test_a_failed_delivery_is_sent_again_under_its_id_after_the_pause_that_is_asked_for(
    watching: Served, people: Passersby, receiver: Receiver
) -> None:
    webhook = create_webhook(watching.http, receiver.url)
    receiver.answer = lambda _: (
        (204, {}) if len(receiver.received) > 1 else (429, {"Retry-After": "8"})
    )
    one_more(people)
    eventually(lambda: state_of(watching, webhook, "done"))
    first, second = receiver.received
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    # Without the header it is 5 seconds, give or take a fifth.
    assert second.at - first.at >= 7.5
    (delivery,) = state_of(watching, webhook, "done")
    assert (delivery["attempts"], delivery["status"]) == (2, 204)


def test_a_receiver_that_is_gone_is_disabled_and_its_delivery_sent_again_on_demand(
    watching: Served, people: Passersby, receiver: Receiver
) -> None:
    webhook = create_webhook(watching.http, receiver.url)
    receiver.answer = lambda _: (410, {})
    one_more(people)
    eventually(lambda: state_of(watching, webhook, "dead"))
    (listed,) = watching.http.get("/v1/webhooks").json()["results"]
    assert (listed["enabled"], listed["why"]) == (False, "it answered 410: it is gone")
    assert listed["dead"] == 1
    one_more(people)
    receiver.answer = lambda _: (200, {})
    path = f"/v1/webhooks/{webhook['webhook_id']}"
    assert watching.http.patch(path, data={"enabled": "true"}).json()["why"] is None
    (dead,) = state_of(watching, webhook, "dead")
    retried = watching.http.post(f"/v1/webhooks/deliveries/{dead['delivery_id']}/retry")
    assert retried.json()["state"] in ("waiting", "done")
    eventually(lambda: state_of(watching, webhook, "done"))
    # Nothing was kept for it while it was disabled.
    assert len(receiver.received) == 2
    assert len({got.headers["webhook-id"] for got in receiver.received}) == 1


def test_the_last_of_the_attempts_leaves_a_dead_letter(
    watching: Served, people: Passersby, receiver: Receiver
) -> None:
    receiver.answer = lambda _: (500, {})
    webhook = create_webhook(watching.http, receiver.url)
    one_more(people)
    eventually(
        lambda: [
            delivery for delivery in state_of(watching, webhook, "waiting") if delivery["attempts"]
        ]
    )
    (waiting,) = state_of(watching, webhook, "waiting")
    assert (waiting["status"], waiting["error"]) == (500, "it answered 500")

    def skip_to_the_last(transaction: Any) -> None:
        transaction.change(
            "UPDATE deliveries SET attempts = 7, next_at = 0 WHERE delivery_id = ?",
            (waiting["delivery_id"],),
        )

    people.record.database.write(skip_to_the_last)
    eventually(lambda: state_of(watching, webhook, "dead"))
    (dead,) = state_of(watching, webhook, "dead")
    assert (dead["attempts"], dead["next_at"]) == (8, None)
    assert 'gmn_webhook_deliveries{state="dead"} 1.0' in watching.http.get("/metrics").text


def test_a_slow_receiver_delays_no_other(
    watching: Served, people: Passersby, receiver: Receiver
) -> None:
    slow = Receiver()
    slow.answer = lambda _: time.sleep(12) or (200, {})
    slow_webhook = create_webhook(watching.http, slow.url)
    quick = create_webhook(watching.http, receiver.url)
    for _ in range(6):
        one_more(people)
    began = time.monotonic()
    eventually(lambda: len(state_of(watching, quick, "done")) == 6, 8.0)
    assert time.monotonic() - began < 8.0
    # Two of its deliveries are under way at most.
    assert len(slow.received) <= 2

    def is_late() -> bool:
        waiting = state_of(watching, slow_webhook, "waiting")
        return any(delivery["error"] == "no answer came within 10 s" for delivery in waiting)

    eventually(is_late)
    slow.close()


def test_a_webhook_of_one_list_gets_no_alert_of_another(
    watching: Served, people: Passersby, receiver: Receiver, drawn_crops: list[Any]
) -> None:
    watching.create("others")
    watching.enroll("others", drawn_crops[0].png, identity="someone")
    own = create_webhook(watching.http, receiver.url + "-own", gallery="others")
    of_all = create_webhook(watching.http, receiver.url)
    one_more(people)
    eventually(lambda: state_of(watching, of_all, "done"))
    assert [got.path for got in receiver.received] == ["/alerts"]
    assert state_of(watching, own, "done") == []
    # It goes with its list.
    watching.http.delete("/v1/galleries/others")
    listed = watching.http.get("/v1/webhooks").json()["results"]
    assert [webhook["webhook_id"] for webhook in listed] == [of_all["webhook_id"]]


def test_too_many_waiting_deliveries_are_dropped_and_counted_and_the_alert_is_kept(
    watching: Served, people: Passersby, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.record.watch.WAITING_OF_WEBHOOK", 2)
    receiver.answer = lambda _: (500, {})
    webhook = create_webhook(watching.http, receiver.url)
    alerts = [one_more(people) for _ in range(5)]
    listed = watching.http.get("/v1/webhooks").json()["results"]
    assert [(one["waiting"], one["dropped"]) for one in listed] == [(2, 3)]
    for alert_id in alerts:
        assert watching.http.get(f"/v1/alerts/{alert_id}").status_code == 200
    assert len(state_of(watching, webhook, "waiting")) == 2


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("ftp://desk.example/alerts", "write it like"),
        ("https://user:word@desk.example/", "without a user"),
        ("https://", "write it like"),
        ("https://xn--/", "write it like"),
        ("https://1.1.1.1:99999/", "no port 99999"),
        ("https://1.1.1.1:0/", "no port 0"),
        ("https://no-such-name.invalid/", "cannot be looked up"),
        ("http://93.184.215.14/alerts", "by https"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused(watching: Served, url: str, why: str) -> None:
    refused = watching.http.post("/v1/webhooks", data={"url": url})
    assert refused.status_code == 422, refused.text
    assert why in refused.json()["detail"]


@pytest.mark.parametrize(
    "answered",
    [
        {"Location": "mailto:x"},
        {"Location": "http://xn--/"},
        {"Retry-After": "Mon, 01 Jan 99999999999999999999 00:00:00 GMT"},
        {"Set-Cookie": "a=b; domain=[::"},
    ],
)
def test_an_answer_that_cannot_be_read_is_a_failed_attempt(
    watching: Served, people: Passersby, receiver: Receiver, answered: dict[str, str]
) -> None:
    webhook = create_webhook(watching.http, receiver.url)
    receiver.answer = lambda _: (503 if "Retry-After" in answered else 302, answered)
    tested = watching.http.post(f"/v1/webhooks/{webhook['webhook_id']}/test")
    assert tested.status_code == 200
    one_more(people)
    eventually(
        lambda: [
            delivery for delivery in state_of(watching, webhook, "waiting") if delivery["attempts"]
        ]
    )


@contextmanager
def pouring(poured: bytes) -> Iterator[str]:
    """Listen for requests, answer each by the same bytes again and again; yield the address."""

    class Pour(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):
                while True:
                    self.request.sendall(poured)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Pour) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


@pytest.mark.parametrize(
    "poured", [b"HTTP/1.1 100 \r\n\r\n" * 1000, b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 10_000]
)
def test_an_answer_without_an_end_is_given_up_and_holds_no_other_request(
    watching: Served, receiver: Receiver, poured: bytes
) -> None:
    slowest = 0.0
    with pouring(poured) as url, ThreadPoolExecutor(4) as threads:
        webhook = create_webhook(watching.http, url)
        path = f"/v1/webhooks/{webhook['webhook_id']}/test"
        testing = [threads.submit(watching.http.post, path) for _ in range(4)]
        while not all(test.done() for test in testing):
            began = time.monotonic()
            assert watching.http.get("/livez").status_code == 200
            slowest = max(slowest, time.monotonic() - began)
    assert {test.result().json()["delivered"] for test in testing} == {False}
    assert {test.result().json()["status"] for test in testing} == {None}
    assert slowest < 1.0


def test_there_are_no_more_webhooks_than_twenty(watching: Served, receiver: Receiver) -> None:
    for _ in range(MOST_WEBHOOKS):
        create_webhook(watching.http, receiver.url)
    refused = watching.http.post("/v1/webhooks", data={"url": receiver.url})
    assert refused.status_code == 422
    assert "20 webhooks" in refused.json()["detail"]


PRIVATE = [
    "2130706433",
    "0x7f000001",
    "127.1",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "192.0.0.192",
    "0.0.0.0",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:10.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b::a9fe:a9fe]",
    "[64:ff9b:1::a9fe:a9fe]",
    "[2002:7f00:1::]",
    "[fe80::1]",
    "[fec0::1]",
    "[fd00::1]",
    "[ff02::1]",
]


@pytest.mark.parametrize("host", PRIVATE)
def test_no_webhook_leads_into_the_services_own_network(served: Served, host: str) -> None:
    for scheme in ("https", "http"):
        refused = served.http.post("/v1/webhooks", data={"url": f"{scheme}://{host}:9/x"})
        assert refused.status_code == 422, refused.text
        why = refused.json()["detail"]
        assert "private network" in why or "cannot be looked up" in why


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_an_address_that_says_it_is_of_this_machine_may_be_used(served: Served, host: str) -> None:
    made = served.http.post("/v1/webhooks", data={"url": f"http://{host}:9/x"})
    assert made.status_code == 201, made.text
    served.http.delete(f"/v1/webhooks/{made.json()['webhook_id']}")


def test_a_key_for_one_gallery_sends_nothing_to_this_machine(start: Any, tmp_path: Path) -> None:
    every = make_key(tmp_path, "--scope", "admin")
    served = start(tmp_path)
    served.http.headers["Authorization"] = f"Bearer {every}"
    served.create("wanted")
    own = make_key(tmp_path, "--scope", "admin", "--gallery", "wanted")
    headers = {"Authorization": f"Bearer {own}"}
    asked = {"url": "http://127.0.0.1:9/x"}
    eventually(lambda: served.http.get("/v1/webhooks", headers=headers).status_code == 200)
    refused = served.http.post("/v1/webhooks", data=asked, headers=headers)
    assert refused.status_code == 422
    assert "a key for all galleries" in refused.json()["detail"]
    made = served.http.post("/v1/webhooks", data={**asked, "gallery": "wanted"}).json()
    path = f"/v1/webhooks/{made['webhook_id']}"
    assert served.http.patch(path, data=asked, headers=headers).status_code == 422


def test_a_name_is_looked_up_once_for_the_check_and_the_connection(
    watching: Served, people: Passersby, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connect to the checked address, though the name server answers another one later."""
    looked_up = []
    real = socket.getaddrinfo

    def look_up(host: Any, *rest: Any, **more: Any) -> Any:
        if host == "rebinding.example":
            looked_up.append(host)
            host = "127.0.0.1" if len(looked_up) == 1 else "127.0.0.2"
        return real(host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    webhook = StoredWebhook(
        webhook_id="w",
        gallery=None,
        url=receiver.url.replace("127.0.0.1", "rebinding.example"),
        secret="whsec_c2VjcmV0",
        former_secret=None,
        former_until=None,
        enabled=True,
        why=None,
        note="",
        key_id="k",
        created_at=datetime.now(UTC),
        waiting=0,
        dead=0,
        dropped=0,
    )
    sender = Sender(allow_private=True)
    outcome = asyncio.run(sender.send(webhook, "m", b"{}"))
    sender.close()
    assert outcome.delivered
    assert looked_up == ["rebinding.example"]
    assert receiver.received[0].headers["host"].startswith("rebinding.example:")
