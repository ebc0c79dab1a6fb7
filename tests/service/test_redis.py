"""Redis beside the record: rates that services share, and events; all goes on without it."""

import asyncio
import contextlib
import json
import signal
import time
from collections import Counter
from datetime import UTC, datetime

import httpx2
import pytest

from service.ops.shared import ANSWERS_WITHIN_SECONDS, SharedRedis
from tests.outside import bearer, figure, problem
from tests.service.conftest import START
from tests.service.redis_server import redis_server
from tests.waiting import eventually

RATE = 6
# Requests at each service.
BURST = 120
# So long that no request takes it without waiting for Redis.
GIVES_UP_AFTER_SECONDS = 5.0
SLOW_TO_GIVE_UP = (
    f"from service.ops import shared; shared.ANSWERS_WITHIN_SECONDS = {GIVES_UP_AFTER_SECONDS}\n"
)
# A busy machine may answer later than the 50 ms that a service waits for Redis.
PATIENT_SECONDS = 20.0
PATIENT = f"from service.ops import shared; shared.ANSWERS_WITHIN_SECONDS = {PATIENT_SECONDS}\n"


@pytest.fixture(scope="module")
def server():
    with redis_server() as running:
        yield running


@pytest.fixture(scope="module")
def services(start, server, tmp_path_factory):
    return _start_two(start, server, tmp_path_factory.mktemp("shared"), program=PATIENT + START)


def _start_two(start, server, data_dir, **settings):
    settings = {"data_dir": data_dir, "redis_url": server.url, **settings}
    one = start(**settings)
    admin = one.http.post("/v1/keys", data={"scopes": "admin"}).json()["key"]
    other = start(**settings)
    for served in (one, other):
        served.http.headers.update(bearer(admin))
        eventually(lambda served=served: served.http.get("/v1/keys").status_code == 200)
    return [one, other]


def _limited(services):
    """Return the header of a new key with a rate, once both services know it."""
    made = services[0].http.post("/v1/keys", data={"scopes": "query", "rate": RATE}).json()
    header = bearer(made["key"])

    def is_known():
        listed = services[1].results("/v1/keys")
        return made["key_id"] in [key["key_id"] for key in listed]

    eventually(is_known)
    return header


def _statuses(services, header, count):
    turns = [services[number % len(services)] for number in range(count)]
    return [served.http.get("/v1/model", headers=header).status_code for served in turns]


def _is_up(*services):
    return all(figure(served, "gmn_redis_up") for served in services)


def _one_is_over_the_rate(services):
    return _statuses(services, _limited(services), RATE + 1) == [*[200] * RATE, 429]


def test_a_rate_is_counted_over_both_services(services):
    header = _limited(services)
    assert _statuses(services, header, RATE) == [200] * RATE
    for served in services:
        refused = served.http.get("/v1/model", headers=header)
        assert problem(refused) == (429, "too_many_requests")
        assert 1 <= int(refused.headers["Retry-After"]) <= 10


async def test_a_key_that_sends_everything_at_once_gets_no_more_than_its_rate(services):
    """Not even where each service has more requests of it than connections to Redis."""
    header = _limited(services)

    async with httpx2.AsyncClient(limits=httpx2.Limits(), timeout=60, headers=header) as client:
        urls = [served.http.base_url.join("/v1/model") for served in services]
        answers = await asyncio.gather(*(client.get(url) for url in BURST * urls))
    statuses = [answer.status_code for answer in answers]
    assert Counter(statuses) == {200: RATE, 429: 2 * BURST - RATE}


def _events(server, gallery):
    """Return the events of a gallery without their times and without repetitions."""
    found = []
    for _, fields in server.ask("XRANGE", f"gmn:events:{gallery}", "-", "+"):
        event = json.loads(fields[b"json"])
        assert datetime.fromisoformat(event.pop("at")) <= datetime.now(UTC)
        # An event whose answer was lost is sent again.
        if event not in found:
            found.append(event)
    return found


def test_commits_and_jobs_are_announced_by_the_service_that_made_them(services, server, images):
    one, other = services
    gallery = one.create("announced")

    def announced(name):
        # Each service sends its own events in order.
        eventually(lambda: name in [event["event"] for event in _events(server, gallery)])

    ids = one.enrolled(gallery, images[0], identity="Ada")
    announced("enroll")
    job = other.ended_job(other.http.post(f"/v1/galleries/{gallery}/groups").json())
    identities = f"/v1/galleries/{gallery}/identities"
    other.http.patch(f"{identities}/Ada", data={"new_identity": "Grace"})
    announced("relabel")
    one.http.delete(f"{identities}/Grace")
    announced("forget-identity")
    other.http.delete(f"/v1/galleries/{gallery}")
    eventually(lambda: len(_events(server, gallery)) == 8)
    events = _events(server, gallery)
    jobs = [event for event in events if event["event"] == "job"]
    of_job = {"event": "job", "job_id": job["job_id"], "kind": "grouping"}
    states = ("queued", "running", "done")
    # The service that runs the job may announce it before the one that was asked for it.
    assert sorted(jobs, key=lambda event: states.index(event["state"])) == [
        {**of_job, "state": state} for state in states
    ]
    assert [event for event in events if event not in jobs] == [
        {"event": "create-gallery"},
        {"event": "enroll", "version": 1, "crop_ids": ids},
        {"event": "relabel", "version": 2, "crop_ids": ids},
        {"event": "forget-identity", "version": 3, "crop_ids": ids},
        {"event": "delete-gallery"},
    ]


def test_while_redis_hangs_nobody_waits_for_it_and_each_service_counts_by_itself(
    start, server, tmp_path
):
    assert ANSWERS_WITHIN_SECONDS <= 0.05
    services = _start_two(start, server, tmp_path, program=SLOW_TO_GIVE_UP + START)
    header = _limited(services)
    server.process.send_signal(signal.SIGSTOP)
    try:
        waits = []
        for served in RATE * services:
            began = time.monotonic()
            assert served.http.get("/v1/model", headers=header).status_code == 200
            waits.append(time.monotonic() - began)
        # The first request of each service waits for Redis, and no other one does.
        assert sorted(waits)[-3] < GIVES_UP_AFTER_SECONDS, waits
        assert _statuses(services, header, 2) == [429, 429]
        for served in services:
            assert not _is_up(served)
            assert served.http.get("/readyz").status_code == 200
            assert "Redis does not answer" in served.log.read_text()
    finally:
        server.process.send_signal(signal.SIGCONT)
    # A busy machine may be slower than the 50 ms that a service waits for Redis.
    eventually(lambda: _one_is_over_the_rate(services))


def test_while_redis_is_gone_everything_goes_on_and_its_return_brings_the_events_that_wait(
    services, server, images
):
    server.kill()
    gallery = services[0].create("killed")
    ids = services[1].enrolled(gallery, images[0])
    assert services[0].query(gallery, images[0]).status_code == 200
    eventually(lambda: not (_is_up(services[0]) or _is_up(services[1])))
    services[0].delete_crop(gallery, ids[0])
    server.start()
    eventually(lambda: _is_up(*services))
    deleted = {"event": "delete-crop", "version": 2, "crop_ids": ids}
    eventually(lambda: deleted in _events(server, gallery))
    eventually(lambda: _one_is_over_the_rate(services))


def test_events_that_redis_does_not_take_are_sent_again():
    with redis_server() as server, contextlib.closing(SharedRedis(server.url, None)) as shared:
        server.kill()
        shared.announce("killed", "job", job_id="1")
        eventually(lambda: not shared.is_up)
        shared.announce("killed", "job", job_id="2")
        server.start()
        eventually(lambda: shared.check() or shared.is_up)
        jobs = [{"event": "job", "job_id": number} for number in "12"]
        eventually(lambda: shared.check() or _events(server, "killed") == jobs)


def test_an_event_that_redis_refuses_holds_up_no_others():
    with redis_server() as server, contextlib.closing(SharedRedis(server.url, None)) as shared:
        server.ask("SET", "gmn:events:taken", "x")
        for gallery in ("taken", "free"):
            shared.announce(gallery, "create-gallery")
        eventually(lambda: shared.check() or _events(server, "free"))


@pytest.mark.slow
def test_a_start_goes_on_without_a_redis_that_does_not_answer_and_uses_it_later(
    start, tmp_path, images
):
    with redis_server() as late:
        late.process.send_signal(signal.SIGSTOP)
        try:
            served = start(data_dir=tmp_path / "data", redis_url=late.url)
            assert not _is_up(served)
            assert served.enroll("default", images[0]).status_code == 201
            assert "Redis does not answer" in served.log.read_text()
        finally:
            late.process.send_signal(signal.SIGCONT)
        eventually(lambda: _is_up(served))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"redis_url": "http://127.0.0.1"}, "write it like redis://"),
        ({"redis_password_file": "/no/such/file"}, "name a text file that this user may read"),
        ({"redis_password_file": __file__}, "Redis refuses the user or the password"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused(refused_start, server, tmp_path, settings, said):
    assert said in refused_start(tmp_path / "data", **{"redis_url": server.url, **settings})


@pytest.fixture
def shared(server, tmp_path, monkeypatch):
    """Connect as a user who may do no more than the service needs, by a password in a file."""
    monkeypatch.setattr("service.ops.shared.ANSWERS_WITHIN_SECONDS", PATIENT_SECONDS)
    allowed = ["~gmn:*", "-@all", "+ping", "+eval", "+time", "+hmget", "+hset"]
    server.ask("ACL", "SETUSER", "door", "on", ">s3cret", *allowed, "+expire", "+xadd")
    file = tmp_path / "password"
    file.write_text("s3cret\n")
    with contextlib.closing(SharedRedis(server.url.replace("//", "//door@"), file)) as opened:
        yield opened


async def test_the_password_of_a_user_may_be_in_a_file(shared):
    assert await shared.take("key", 1, 1) == 0
    assert await shared.take("key", 1, 1) == pytest.approx(60, abs=12)


def test_a_clock_that_was_put_back_locks_no_key_out(server, shared):
    an_hour_ahead = f"{time.time() + 3600:.3f}"
    server.ask("HSET", "gmn:rate:ahead", "left", "0", "at", an_hour_ahead)
    assert asyncio.run(shared.take("ahead", 120, 1)) == pytest.approx(0.5)
    eventually(lambda: asyncio.run(shared.take("ahead", 120, 1)) == 0)
