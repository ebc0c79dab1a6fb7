"""Redis beside the record: rates that services share, and events; all goes on without it."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections import Counter
from datetime import UTC, datetime

import httpx
import pytest

from service.ops.shared import SharedRedis
from tests.outside import problem
from tests.service.conftest import Served
from tests.service.redis_server import RedisServer, redis_server
from tests.waiting import eventually

RATE = 6
# Requests at each service.
BURST = 120
SLOWEST_SECONDS = 0.5


@pytest.fixture(scope="module")
def server():
    with redis_server() as running:
        yield running


@pytest.fixture(scope="module")
def services(start, server, tmp_path_factory) -> list[Served]:
    """Two services on one data directory that ask for a key."""
    settings = {"data_dir": tmp_path_factory.mktemp("shared"), "redis_url": server.url}
    one = start(**settings)
    admin = one.http.post("/v1/keys", data={"scopes": "admin"}).json()["key"]
    other = start(**settings)
    for served in (one, other):
        served.http.headers["Authorization"] = f"Bearer {admin}"
        eventually(lambda served=served: served.http.get("/v1/keys").status_code == 200)
    return [one, other]


def _limited(services: list[Served]) -> dict[str, str]:
    """Return the header of a new key with a rate, once both services know it."""
    made = services[0].http.post("/v1/keys", data={"scopes": "query", "rate": RATE}).json()
    header = {"Authorization": f"Bearer {made['key']}"}

    def is_known() -> bool:
        listed = services[1].results("/v1/keys")
        return made["key_id"] in [key["key_id"] for key in listed]

    eventually(is_known)
    return header


def _statuses(services: list[Served], header: dict[str, str], count: int) -> list[int]:
    """Ask so often, in turn at each service."""
    turns = [services[number % len(services)] for number in range(count)]
    return [served.http.get("/v1/model", headers=header).status_code for served in turns]


def _redis_is_up(served: Served) -> bool:
    return "gmn_redis_up 1.0" in served.http.get("/metrics").text


def test_a_rate_is_counted_over_both_services(services, server):
    header = _limited(services)
    assert _statuses(services, header, RATE) == [200] * RATE
    refused = services[0].http.get("/v1/model", headers=header)
    assert problem(refused) == (429, "too_many_requests")
    assert 1 <= int(refused.headers["Retry-After"]) <= 10
    assert services[1].http.get("/v1/model", headers=header).status_code == 429


def test_a_key_that_sends_everything_at_once_gets_no_more_than_its_rate(services):
    """Not even where each service has more requests of it than connections to Redis."""
    header = _limited(services)

    async def send() -> list[int]:
        async with httpx.AsyncClient(limits=httpx.Limits(), timeout=60, headers=header) as client:
            urls = [served.http.base_url.join("/v1/model") for served in services]
            answers = await asyncio.gather(*(client.get(url) for url in BURST * urls))
        return [answer.status_code for answer in answers]

    statuses = asyncio.run(send())
    assert Counter(statuses) == {200: RATE, 429: 2 * BURST - RATE}


def _events(server: RedisServer, gallery: str) -> list[dict[str, object]]:
    """Return the events of a gallery without their times."""
    found = []
    for _, fields in server.ask("XRANGE", f"gmn:events:{gallery}", "-", "+"):
        event = json.loads(fields[b"json"])
        assert datetime.fromisoformat(event.pop("at")) <= datetime.now(UTC)
        found.append(event)
    return found


def test_commits_and_jobs_are_announced_once_by_the_service_that_made_them(
    services, server, drawn_crops
):
    one, other = services
    gallery = one.create("announced")
    enrolled = one.enroll(gallery, drawn_crops[0].png, identity="Ada").json()
    crop_id = enrolled["results"][0]["crop_id"]
    identities = f"/v1/galleries/{gallery}/identities"
    renamed = other.http.patch(f"{identities}/Ada", data={"new_identity": "Grace"})
    assert renamed.status_code == 200
    assert one.http.delete(f"{identities}/Grace").status_code == 200
    assert other.http.delete(f"/v1/galleries/{gallery}").status_code == 200
    eventually(lambda: len(_events(server, gallery)) == 5)
    assert _events(server, gallery) == [
        {"event": "create-gallery"},
        {"event": "enroll", "version": 1, "crop_ids": [crop_id]},
        {"event": "relabel", "version": 2, "crop_ids": [crop_id]},
        {"event": "forget-identity", "version": 3, "crop_ids": [crop_id]},
        {"event": "delete-gallery"},
    ]


def test_the_states_of_a_job_are_announced(services, server):
    gallery = services[0].create("jobs")
    job = services[0].http.post(f"/v1/galleries/{gallery}/groups").json()
    assert services[0].ended_job(job)["state"] == "done"

    def states() -> list[object]:
        events = [event for event in _events(server, gallery) if event["event"] == "job"]
        assert {(event["job_id"], event["kind"]) for event in events} <= {
            (job["job_id"], "grouping")
        }
        return [event["state"] for event in events]

    eventually(lambda: "done" in states())
    assert sorted(states(), key=["queued", "running", "done"].index) == [
        "queued",
        "running",
        "done",
    ]


def test_while_redis_hangs_nobody_waits_for_it_and_each_service_counts_by_itself(services, server):
    header = _limited(services)
    server.process.send_signal(signal.SIGSTOP)
    try:
        waits = []
        for served in RATE * services:
            began = time.monotonic()
            assert served.http.get("/v1/model", headers=header).status_code == 200
            waits.append(time.monotonic() - began)
        # The first request of each service waits for at most 50 ms.
        assert max(waits) < SLOWEST_SECONDS
        assert _statuses(services, header, 2) == [429, 429]
        for served in services:
            assert not _redis_is_up(served)
            assert served.http.get("/readyz").status_code == 200
            assert "Redis does not answer" in served.log.read_text()
    finally:
        server.process.send_signal(signal.SIGCONT)
    eventually(lambda: all(_redis_is_up(served) for served in services))
    assert _statuses(services, _limited(services), RATE + 1) == [*[200] * RATE, 429]


def test_while_redis_is_gone_everything_goes_on_and_its_return_brings_the_events_that_wait(
    services, server, drawn_crops
):
    server.kill()
    gallery = services[0].create("killed")
    crop_id = services[1].enroll(gallery, drawn_crops[0].png).json()["results"][0]["crop_id"]
    assert services[0].query(gallery, drawn_crops[0].png).status_code == 200
    eventually(lambda: not any(_redis_is_up(served) for served in services))
    assert services[0].http.delete(f"/v1/galleries/{gallery}/crops/{crop_id}").status_code == 200
    server.start()
    eventually(lambda: all(_redis_is_up(served) for served in services))
    deleted = {"event": "delete-crop", "version": 2, "crop_ids": [crop_id]}
    eventually(lambda: deleted in _events(server, gallery))
    assert _statuses(services, _limited(services), RATE + 1) == [*[200] * RATE, 429]


@pytest.mark.slow
def test_a_start_goes_on_without_a_redis_that_does_not_answer_and_finds_an_old_record_later(
    start, tmp_path, drawn_crops
):
    with redis_server() as late:
        late.ask("SET", "gmn:format", "5")
        late.process.send_signal(signal.SIGSTOP)
        try:
            served = start(data_dir=tmp_path / "data", redis_url=late.url)
            assert not _redis_is_up(served)
            assert served.enroll("default", drawn_crops[0].png).status_code == 201
            assert "Redis does not answer" in served.log.read_text()
        finally:
            late.process.send_signal(signal.SIGCONT)
        eventually(lambda: "the record of version 0.4 or earlier" in served.log.read_text())
        assert not _redis_is_up(served)
        assert late.ask("KEYS", "*") == [b"gmn:format"]


def test_a_record_of_an_earlier_version_in_redis_is_refused_with_the_commands(
    refused_start, server, tmp_path
):
    server.ask("SET", "gmn:format", "5")
    try:
        said = refused_start(tmp_path / "data", redis_url=server.url)
    finally:
        server.ask("DEL", "gmn:format")
    assert "gmn backup BACKUPS by the old version" in said
    assert "gmn store upgrade BACKUPS/NAME --into DATA_DIR" in said
    assert "name another database of Redis, such as /1, or empty this one" in said


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


def test_the_password_of_a_user_may_be_in_a_file(server, tmp_path):
    allowed = ["~gmn:*", "-@all", "+exists", "+ping", "+eval", "+time", "+hmget", "+hset"]
    server.ask("ACL", "SETUSER", "door", "on", ">s3cret", *allowed, "+expire", "+xadd")
    file = tmp_path / "password"
    file.write_text("s3cret\n")
    shared = SharedRedis(server.url.replace("//", "//door@"), file)
    try:
        assert asyncio.run(shared.take("key", 60, 60)) == 0
        assert asyncio.run(shared.take("key", 60, 1)) == pytest.approx(1, abs=0.2)
    finally:
        shared.close()


def test_a_clock_that_was_put_back_locks_no_key_out(server):
    an_hour_ahead = f"{time.time() + 3600:.3f}"
    server.ask("HSET", "gmn:rate:ahead", "left", "0", "at", an_hour_ahead)
    shared = SharedRedis(server.url, None)
    try:
        assert asyncio.run(shared.take("ahead", 120, 1)) == pytest.approx(0.5)
        eventually(lambda: asyncio.run(shared.take("ahead", 120, 1)) == 0, seconds=5)
    finally:
        shared.close()
