"""Webhooks: signed, at least once, to no address inside, and none waits for another."""

import contextlib
import json
import socket
import socketserver
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from service.errors import InvalidField, StorageFailed
from service.watch import sender, webhooks
from service.watch.addresses import PermittedAddresses
from service.watch.sender import Sender
from service.watch.tables.alerts import note_change
from service.watch.tables.webhooks import MOST_WEBHOOKS, Webhooks
from tests.outside import bearer, figure, refused_fields
from tests.service.conftest import START, loop_cpu_seconds
from tests.service.http.conftest import make_key
from tests.service.watch_places import (
    Received,
    Receiver,
    arm,
    arm_new,
    create_webhook,
    deliveries,
    passersby,
    receiving,
    unused_port,
)
from tests.waiting import LONGEST_SECONDS, eventually


@pytest.fixture(scope="module")
def watching(open_service, data_dir, drawn_crops):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(webhooks, "PAUSES", (FIRST_PAUSE_SECONDS, *webhooks.PAUSES[1:]))
        served = open_service(data_dir, webhook_private="true")
        arm_new(served, "wanted", drawn_crops)
        yield served


@pytest.fixture
def webhook(watching, receiver):
    return create_webhook(watching.http, receiver.url)


FIRST_PAUSE_SECONDS = 0.2
# With it, no attempt comes amid a test.
MUCH_LATER = {"Retry-After": "600"}
_cameras = iter(range(10**6))


def one_more(people):
    noted = people.pass_by("wanted", camera=f"camera {next(_cameras)}")
    assert noted.is_new
    return noted.alert.alert_id


def ask_for(watching, webhook, call):
    answer = watching.http.post(f"/v1/webhooks/{webhook['webhook_id']}/{call}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def verified(secret, got):
    return Webhook(secret).verify(got.body, got.headers)


def ends(watching, webhook, state):
    """Wait until the only delivery of a webhook is in a state, and return it."""
    eventually(lambda: deliveries(watching, webhook, state=state))
    (delivery,) = deliveries(watching, webhook, state=state)
    return delivery


def dead_letters(watching):
    return figure(watching, 'gmn_webhook_deliveries{state="dead"}')


def fails_once(watching, webhook):
    """Wait until a delivery has failed and is to be sent again, and return it."""

    def failed():
        waiting = deliveries(watching, webhook, state="waiting")
        return [delivery for delivery in waiting if delivery["attempts"]]

    eventually(failed)
    return failed()[0]


def test_a_delivery_is_signed_as_the_library_of_standard_webhooks_checks(
    watching, people, receiver, webhook
):
    alert_id = one_more(people)
    delivery = ends(watching, webhook, "done")
    (got,) = receiver.received
    assert (delivery["delivery_id"], delivery["attempts"]) == (got.headers["webhook-id"], 1)
    message = verified(webhook["secret"], got)
    alert = message["data"]
    assert (message["type"], alert["alert_id"]) == ("watch.visit", alert_id)
    assert (alert["gallery"], alert["identity"]) == ("wanted", "0000")
    assert b"vector" not in got.body
    forged = Received(got.path, got.headers, got.body.replace(b"0000", b"0001"))
    for secret, sent in (("whsec_" + "A" * 43 + "=", got), (webhook["secret"], forged)):
        with pytest.raises(WebhookVerificationError):
            verified(secret, sent)


def test_the_picture_of_a_message_needs_no_key_for_an_hour_and_a_signature(
    watching, people, receiver, webhook
):
    one_more(people)
    eventually(lambda: receiver.received)
    path = json.loads(receiver.received[0].body)["data"]["image_url"]
    assert watching.http.get(path).content == b"a picture"
    changed = path[:-1] + ("0" if path[-1] != "0" else "1")
    signatures = ("x", "9" * 30, "1.x")
    for forged in (
        changed,
        *(path.replace("signature=", f"signature={one}") for one in signatures),
    ):
        assert watching.http.get(forged).status_code == 401
    until = int(path.partition("signature=")[2].partition(".")[0])
    assert 3500 < until - time.time() <= 3600


def test_two_secrets_sign_after_a_rotation(watching, receiver, webhook):
    rotated = ask_for(watching, webhook, "rotate")
    assert rotated["secret"] != webhook["secret"]
    assert "former_secret" not in rotated
    delivered = {"delivered": True, "status": 204, "error": None}
    assert ask_for(watching, webhook, "test") == delivered
    for secret in (webhook["secret"], rotated["secret"]):
        assert verified(secret, receiver.received[0])["type"] == "test"
    # The secret before the last rotation signs no more.
    last = ask_for(watching, webhook, "rotate")
    ask_for(watching, webhook, "test")
    assert verified(last["secret"], receiver.received[1])
    with pytest.raises(WebhookVerificationError):
        verified(webhook["secret"], receiver.received[1])
    # No other call answers a secret.
    path = f"/v1/webhooks/{webhook['webhook_id']}"
    shown = watching.http.get("/v1/webhooks").text
    shown += watching.http.patch(path, data={"note": "desk"}).text
    for made in (webhook, rotated, last):
        assert made["secret"] not in shown


def test_a_redirect_is_not_followed(watching, receiver, webhook):
    receiver.answer = lambda _: (307, {"Location": f"{receiver.url}-elsewhere"})
    tested = ask_for(watching, webhook, "test")
    assert (tested["delivered"], tested["status"]) == (False, 307)
    assert "redirects are not followed" in tested["error"]
    assert [got.path for got in receiver.received] == ["/alerts"]


def test_a_failed_delivery_is_sent_again_under_its_id_after_the_pause_that_is_asked_for(
    watching, people, receiver, webhook
):
    receiver.answer = lambda _: (
        (204, {}) if len(receiver.received) > 1 else (429, {"Retry-After": "2"})
    )
    one_more(people)
    delivery = ends(watching, webhook, "done")
    first, second = receiver.received
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    # Without the header it is that of the file, give or take a fifth.
    assert second.at - first.at >= 2.0 - FIRST_PAUSE_SECONDS
    assert (delivery["attempts"], delivery["status"]) == (2, 204)


def test_a_receiver_that_is_gone_is_disabled_and_its_delivery_sent_again_on_demand(
    watching, people, receiver, webhook
):
    receiver.answer = lambda _: (410, {})
    one_more(people)
    dead = ends(watching, webhook, "dead")
    (listed,) = watching.results("/v1/webhooks")
    assert (listed["enabled"], listed["why"]) == (False, "it answered 410: it is gone")
    assert listed["dead"] == 1
    # Nothing is kept for it while it is disabled.
    one_more(people)
    receiver.answer = lambda _: (200, {})
    path = f"/v1/webhooks/{webhook['webhook_id']}"
    assert watching.http.patch(path, data={"enabled": "true"}).json()["why"] is None
    retried = watching.http.post(f"/v1/webhooks/deliveries/{dead['delivery_id']}/retry")
    assert retried.json()["state"] in ("waiting", "done")
    ends(watching, webhook, "done")
    first, second = receiver.received
    assert first.headers["webhook-id"] == second.headers["webhook-id"]


def test_a_change_of_nothing_is_refused_by_the_fields_of_a_webhook(watching, webhook):
    path = f"/v1/webhooks/{webhook['webhook_id']}"
    for fields in ({}, {"note": ""}):
        assert refused_fields(watching.http.patch(path, data=fields)) >= {"url"}


def test_an_address_that_is_gone_disables_no_webhook_that_has_another_one_by_now(
    watching, people, receiver, webhook
):
    path = f"/v1/webhooks/{webhook['webhook_id']}"

    def answer(got):
        if got.path.endswith("-new"):
            return 204, {}
        assert watching.http.patch(path, data={"url": f"{receiver.url}-new"}).status_code == 200
        return 410, {}

    receiver.answer = answer
    one_more(people)
    ends(watching, webhook, "done")
    assert [got.path for got in receiver.received] == ["/alerts", "/alerts-new"]
    (listed,) = watching.results("/v1/webhooks")
    assert (listed["enabled"], listed["why"]) == (True, None)


def test_the_last_of_the_attempts_leaves_a_dead_letter(watching, people, receiver, webhook):
    before = dead_letters(watching)
    receiver.answer = lambda _: (503, MUCH_LATER)
    one_more(people)
    waiting = fails_once(watching, webhook)
    assert (waiting["status"], waiting["error"]) == (503, "it answered 503")

    def skip_to_the_last(transaction):
        skipped = "UPDATE deliveries SET attempts = 7, next_at = 0 WHERE delivery_id = ?"
        transaction.change(skipped, (waiting["delivery_id"],))
        note_change(transaction)

    people.record.database.write(skip_to_the_last)
    dead = ends(watching, webhook, "dead")
    assert (dead["attempts"], dead["next_at"]) == (8, None)
    assert dead_letters(watching) == before + 1


def test_a_slow_receiver_delays_no_other(open_service, tmp_path, drawn_crops, monkeypatch):
    monkeypatch.setattr(sender, "ATTEMPT_SECONDS", 3600.0)
    served = open_service(tmp_path, webhook_private="true")
    arm_new(served, "wanted", drawn_crops)
    with passersby(tmp_path) as people, receiving(served) as receiver:
        slow = Receiver()
        may_answer = threading.Event()
        slow.answer = lambda _: may_answer.wait(LONGEST_SECONDS) and (200, {})
        create_webhook(served.http, slow.url)
        webhook = create_webhook(served.http, receiver.url)
        for _ in range(6):
            one_more(people)
        eventually(lambda: len(deliveries(served, webhook, state="done")) == 6)
        # Two of its deliveries are under way at most.
        assert len(slow.received) <= 2
        may_answer.set()
        slow.close()


def test_an_attempt_without_an_answer_ends_after_ten_seconds(watching, people, receiver):
    slow = Receiver()
    may_answer = threading.Event()
    slow.answer = lambda _: may_answer.wait(LONGEST_SECONDS) and (200, {})
    late = create_webhook(watching.http, slow.url)
    one_more(people)
    assert fails_once(watching, late)["error"] == "no answer came within 10 s"
    may_answer.set()
    slow.close()


def test_a_webhook_of_one_list_gets_no_alert_of_another(
    watching, people, receiver, webhook, images
):
    watching.create("others")
    watching.enrolled("others", images[0], identity="someone")
    own = create_webhook(watching.http, receiver.url + "-own", gallery="others")
    one_more(people)
    ends(watching, webhook, "done")
    assert [got.path for got in receiver.received] == ["/alerts"]
    assert deliveries(watching, own) == []
    # It goes with its list.
    watching.http.delete("/v1/galleries/others")
    (listed,) = watching.results("/v1/webhooks")
    assert listed["webhook_id"] == webhook["webhook_id"]


def test_too_many_waiting_deliveries_are_dropped_and_counted_and_the_alert_is_kept(
    watching, people, receiver, webhook, monkeypatch
):
    monkeypatch.setattr("service.watch.tables.alerts.WAITING_OF_WEBHOOK", 2)
    receiver.answer = lambda _: (500, {})
    alerts = [one_more(people) for _ in range(5)]
    (listed,) = watching.results("/v1/webhooks")
    assert (listed["waiting"], listed["dropped"]) == (2, 3)
    for alert_id in alerts:
        watching.read(f"/v1/alerts/{alert_id}")
    assert len(deliveries(watching, webhook, state="waiting")) == 2


def test_a_dead_delivery_is_not_sent_again_while_too_many_wait(
    watching, people, receiver, webhook, monkeypatch
):
    monkeypatch.setattr("service.watch.tables.webhooks.WAITING_OF_WEBHOOK", 2)
    receiver.answer = lambda _: (503, MUCH_LATER)
    for _ in range(3):
        one_more(people)
    # The outcome of an attempt that is under way would be stored over the end below.
    eventually(lambda: all(delivery["attempts"] for delivery in deliveries(watching, webhook)))
    first, second, _ = deliveries(watching, webhook)

    def end(delivery):
        ended = "UPDATE deliveries SET state = 'dead' WHERE delivery_id = ?"
        people.record.database.write(
            lambda transaction: transaction.change(ended, (delivery["delivery_id"],))
        )

    retry = people.watch.webhooks.retry
    end(first)
    with pytest.raises(InvalidField, match="2 messages wait"):
        retry(first["delivery_id"])
    assert len(deliveries(watching, webhook, state="waiting")) == 2
    end(second)
    assert retry(first["delivery_id"]).state == "waiting"
    # One that waits already is left as it is.
    assert retry(first["delivery_id"]).state == "waiting"


@pytest.mark.parametrize(("status", "times"), [(500, 3), (204, 1)])
def test_a_message_is_not_sent_every_few_seconds_while_its_outcome_cannot_be_stored(
    open_service, tmp_path, drawn_crops, monkeypatch, status, times
):
    is_full = threading.Event()
    settle = Webhooks.settle

    def settle_unless_full(*given):
        if is_full.is_set():
            raise StorageFailed("the disk is full")
        settle(*given)

    monkeypatch.setattr(Webhooks, "settle", settle_unless_full)
    monkeypatch.setattr(webhooks, "AFTER_FAILURE_SECONDS", 0.1)
    monkeypatch.setattr(webhooks, "PAUSES", (0.2, 0.5, 60.0))
    served = open_service(tmp_path, webhook_private="true")
    arm_new(served, "wanted", drawn_crops)
    with passersby(tmp_path) as people, receiving(served) as receiver:
        receiver.answer = lambda _: (status, {})
        webhook = create_webhook(served.http, receiver.url)
        is_full.set()
        # Messages that pause keep no other from being sent.
        for _ in range(3):
            one_more(people)
        eventually(lambda: len(receiver.received) == 3 * times)
        time.sleep(1.5)
        assert len(receiver.received) == 3 * times
        assert len({got.headers["webhook-id"] for got in receiver.received}) == 3
        is_full.clear()
        receiver.answer = lambda _: (204, {})
        one_more(people)
        done = 4 if status == 204 else 1
        eventually(lambda: len(deliveries(served, webhook, state="done")) == done)
        assert len(receiver.received) == 3 * times + 1


def test_nothing_of_a_gallery_that_is_being_deleted_is_listed_or_sent(
    watching, people, receiver, images
):
    watching.create("ending")
    watching.enrolled("ending", images[0], identity="someone")
    arm(watching, "ending")
    receiver.answer = lambda _: (500, {})
    create_webhook(watching.http, receiver.url, gallery="ending")
    every = create_webhook(watching.http, receiver.url)
    people.pass_by("ending")
    fails_once(watching, every)
    # As a process leaves a large gallery that is killed while it deletes the crops.
    people.record.galleries._unlist(people.gallery_id("ending"))
    in_an_hour = datetime.now(UTC) + timedelta(hours=1)
    assert people.watch.webhooks.due(in_an_hour, {}, 2)[0] == []
    (listed,) = watching.results("/v1/webhooks")
    assert listed["webhook_id"] == every["webhook_id"]
    assert deliveries(watching, every) == []
    people.record.galleries.finish_deletions()


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("ftp://desk.example/alerts", "write it like"),
        ("https://user:word@desk.example/", "without a user"),
        ("https://", "write it like"),
        ("https://xn--/", "cannot be looked up"),
        ("https://1.1.1.1:99999/", "no port 99999"),
        ("https://1.1.1.1:0/", "no port 0"),
        ("https://no-such-name.invalid/", "cannot be looked up"),
        ("http://93.184.215.14/alerts", "by https"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused(watching, url, why):
    refused = watching.http.post("/v1/webhooks", data={"url": url})
    assert refused.status_code == 422
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
    watching, people, receiver, webhook, answered
):
    receiver.answer = lambda _: (503 if "Retry-After" in answered else 302, answered)
    assert not ask_for(watching, webhook, "test")["delivered"]
    one_more(people)
    fails_once(watching, webhook)


@contextmanager
def pouring(poured):
    """Listen for requests, answer each by the same bytes again and again; yield the address."""

    class Pour(socketserver.BaseRequestHandler):
        def handle(self):
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
def test_an_answer_without_an_end_is_given_up_and_holds_no_other_request(start, poured):
    served = start(webhook_private="true")
    before = loop_cpu_seconds(served)
    with pouring(poured) as url, ThreadPoolExecutor(4) as threads:
        webhook = create_webhook(served.http, url)
        testing = [threads.submit(ask_for, served, webhook, "test") for _ in range(4)]
        while not all(test.done() for test in testing):
            assert served.http.get("/livez").status_code == 200
            time.sleep(0.2)
    for test in testing:
        assert (test.result()["delivered"], test.result()["status"]) == (False, None)
    # An answer that is read without an end would occupy the event loop for seconds.
    assert loop_cpu_seconds(served) - before < 2.0


@pytest.mark.promise("shares")
def test_a_gallery_has_no_more_webhooks_than_twenty_and_leaves_others_theirs(watching, receiver):
    of_list = {"url": receiver.url, "gallery": "wanted"}
    for _ in range(MOST_WEBHOOKS):
        create_webhook(watching.http, **of_list)
    refused = watching.http.post("/v1/webhooks", data=of_list)
    assert refused.status_code == 422
    assert "20 webhooks" in refused.json()["detail"]
    create_webhook(watching.http, receiver.url, gallery="default")
    create_webhook(watching.http, receiver.url)


SLOW_NAMES = """
import socket
import time

from service.watch import sender

look_up = socket.getaddrinfo

def look_up_slowly(host, *rest, **more):
    if host == "slow.example":
        time.sleep(1.0)
    return look_up("127.0.0.1", *rest, **more)

socket.getaddrinfo = look_up_slowly
sender.LOOK_UPS_AT_ONCE = 2
"""


@pytest.mark.promise("shares")
@pytest.mark.slow
def test_names_that_one_key_looks_up_keep_no_other_waiting(start, tmp_path):
    every, own = (
        bearer(make_key(tmp_path, "--scope", "admin", *options))
        for options in ((), ("--gallery", "default"))
    )
    served = start(tmp_path, program=SLOW_NAMES + START)

    def create(url, headers):
        return served.http.post("/v1/webhooks", data={"url": url}, headers=headers).status_code

    with ThreadPoolExecutor(40) as threads:
        flood = [threads.submit(create, "https://slow.example/x", own) for _ in range(40)]
        time.sleep(1.5)
        assert create("http://127.0.0.1:9/x", every) == 201
        # It has not waited for all of them.
        assert not all(future.done() for future in flood)
        # The slow name stands for this machine, or was not looked up in time.
        assert {future.result() for future in flood} == {422}


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
    "192.0.2.1",
    "192.88.99.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
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
    "[2002:c058:6301::]",
    "[2001::1]",
    "[2001:20::1]",
    "[2001:db8::1]",
    "[3fff::1]",
    "[5f00::1]",
    "[100::1]",
    "[fe80::1]",
    "[fec0::1]",
    "[fd00::1]",
    "[ff02::1]",
]


@pytest.mark.parametrize("host", PRIVATE)
def test_no_webhook_leads_into_the_services_own_network(served, host):
    for scheme in ("https", "http"):
        refused = served.http.post("/v1/webhooks", data={"url": f"{scheme}://{host}:9/x"})
        assert refused.status_code == 422, refused.text
        why = refused.json()["detail"]
        assert "private network" in why or "cannot be looked up" in why


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_an_address_that_says_it_is_of_this_machine_may_be_used(served, host):
    made = create_webhook(served.http, f"http://{host}:9/x")
    served.http.delete(f"/v1/webhooks/{made['webhook_id']}")


def test_no_message_goes_to_the_service_itself(start):
    served = start(webhook_private="true")
    url = f"{served.http.base_url}/v1/galleries"
    refused = served.http.post("/v1/webhooks", data={"url": url})
    assert refused.status_code == 422
    assert "is this service itself" in refused.json()["detail"]
    assert "list the hosts and networks" in served.log.read_text()


def test_a_key_for_one_gallery_sends_nothing_to_this_machine(open_service, tmp_path):
    every = make_key(tmp_path, "--scope", "admin")
    served = open_service(tmp_path)
    served.http.headers.update(bearer(every))
    made = create_webhook(served.http, "http://127.0.0.1:9/x", gallery="default")
    own = make_key(tmp_path, "--scope", "admin", "--gallery", "default")
    asked = {"headers": bearer(own), "data": {"url": made["url"]}}
    path = f"/v1/webhooks/{made['webhook_id']}"
    eventually(lambda: served.http.post("/v1/webhooks", **asked).status_code == 422)
    assert "a key for all galleries" in served.http.post("/v1/webhooks", **asked).json()["detail"]
    assert served.http.patch(path, **asked).status_code == 422


EVERY_ADDRESS = PermittedAddresses.read(("true",), own_port=8000)


def stored_webhook(url):
    return SimpleNamespace(url=url, secret="whsec_c2VjcmV0", former_secret=None, former_until=None)


async def failure_of(url):
    """Return the reason for which a message does not arrive at an address."""
    with contextlib.closing(Sender(EVERY_ADDRESS)) as sender:
        return (await sender.send(stored_webhook(url), "m", b"{}")).error


async def test_a_failed_connection_is_explained_in_plain_words(receiver):
    unanswered = await failure_of(f"http://127.0.0.1:{unused_port()}/")
    assert unanswered == (
        "nothing answers at this address; start the receiver there, or name another one"
    )
    without_tls = await failure_of(receiver.url.replace("http:", "https:"))
    assert without_tls == "it does not answer by https; name an address that does"


async def test_an_answer_that_is_no_http_is_explained_in_plain_words():
    with pouring(b"SSH-2.0-OpenSSH_9.2\r\n\r\n") as url:
        assert await failure_of(url) == "its answer is not HTTP; name the address of a web server"


async def test_a_name_is_looked_up_once_for_the_check_and_the_connection(receiver, monkeypatch):
    """Connect to the checked address, though the name server answers another one later."""
    looked_up = []
    real = socket.getaddrinfo

    def look_up(host, *rest, **more):
        if host == "rebinding.example":
            looked_up.append(host)
            host = "127.0.0.1" if len(looked_up) == 1 else "127.0.0.2"
        return real(host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    webhook = stored_webhook(receiver.url.replace("127.0.0.1", "rebinding.example"))
    with contextlib.closing(Sender(EVERY_ADDRESS)) as sender:
        assert (await sender.send(webhook, "m", b"{}")).delivered
    assert looked_up == ["rebinding.example"]
    assert receiver.received[0].headers["host"].startswith("rebinding.example:")
