"""Redis beside the record: rates that services share, and events; all goes on without it."""

from __future__ import annotations

import json
import signal
import time

import httpx
import pytest

from tests.service.conftest import Served
from tests.service.redis_server import redis_server
from tests.waiting import eventually

RATE = 6


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
    """The header of a new key with a rate, once both services know it."""
    made = services[0].http.post("/v1/keys", data={"scopes": "query", "rate": RATE}).json()
    header = {"Authorization": f"Bearer {made['key']}"}

    def is_known() -> bool:
        listed = services[1].http.get("/v1/keys").json()["results"]
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
    assert (refused.status_code, refused.json()["type"]) == (
        429,
        "urn:gmn:problem:too_many_requests",
    )
    assert 1 <= int(refused.headers["Retry-After"]) <= 10
    assert services[1].http.get("/v1/model", headers=header).status_code == 429


def test_commits_and_jobs_are_announced_by_who_made_them(services, server, drawn_crops):
    one, other = services
    gallery = one.create("announced")
    enrolled = one.enroll(gallery, drawn_crops[0].png).json()
    crop_id = enrolled["results"][0]["crop_id"]
    assert other.http.delete(f"/v1/galleries/{gallery}/crops/{crop_id}").status_code == 200
    job = one.http.post(f"/v1/galleries/{gallery}/groups").json()
    assert one.ended_job(job)["state"] == "done"

    def events() -> list[tuple[str, dict[str, object]]]:
        found = []
        for _, fields in server.ask("XRANGE", f"gmn:events:{gallery}", "-", "+"):
            what = {name.decode(): value.decode() for name, value in fields.items()}
            del what["at"]
            event = what.pop("event")
            found.append((event, {name: json.loads(value) for name, value in what.items()}))
        return found

    eventually(lambda: len(events()) == 4)
    assert events() == [
        ("create-gallery", {}),
        ("enroll", {"version": 1, "crop_ids": [crop_id]}),
        ("delete-crop", {"version": 2, "crop_ids": [crop_id]}),
        ("grouping", {"job_id": job["job_id"], "state": "done"}),
    ]


def test_without_redis_nobody_waits_and_each_service_counts_by_itself(services, server):
    header = _limited(services)
    server.process.send_signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        # The first request of each waits for at most 50 ms.
        assert _statuses(services, header, 2 * RATE) == [200] * 2 * RATE
        assert time.monotonic() - began < 2.0
        assert _statuses(services, header, 2) == [429, 429]
        for served in services:
            assert not _redis_is_up(served)
            assert served.http.get("/readyz").status_code == 200
            assert "Redis does not answer" in served.log.read_text()
    finally:
        server.process.send_signal(signal.SIGCONT)
    eventually(lambda: all(_redis_is_up(served) for served in services))
    assert _statuses(services, _limited(services), RATE + 1) == [*[200] * RATE, 429]


def test_redis_is_killed_and_comes_back_empty(services, server, drawn_crops):
    server.kill()
    gallery = services[0].create("killed")
    assert services[1].enroll(gallery, drawn_crops[0].png).status_code == 201
    assert services[0].query(gallery, drawn_crops[0].png).status_code == 200
    server.start()
    eventually(lambda: all(_redis_is_up(served) for served in services))
    assert _statuses(services, _limited(services), RATE + 1) == [*[200] * RATE, 429]


def test_a_start_goes_on_without_a_redis_that_does_not_answer(start, tmp_path, drawn_crops):
    served = start(data_dir=tmp_path / "data", redis_url="redis://127.0.0.1:1/0")
    assert served.enroll("default", drawn_crops[0].png).status_code == 201
    assert "Redis does not answer" in served.log.read_text()
    assert isinstance(served.http, httpx.Client)


def test_a_record_of_an_earlier_version_in_redis_is_refused_with_the_commands(
    refused_start, server, tmp_path
):
    server.ask("SET", "gmn:format", "7")
    try:
        said = refused_start(tmp_path / "data", redis_url=server.url)
    finally:
        server.ask("DEL", "gmn:format")
    assert "gmn backup BACKUPS by the old version" in said
    assert "gmn store upgrade BACKUPS/NAME --into DATA_DIR" in said


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"redis_url": "http://127.0.0.1"}, "write it like redis://"),
        ({"redis_password_file": "/no/such/file"}, "name a file that this user may read"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused(refused_start, server, tmp_path, settings, said):
    assert said in refused_start(tmp_path / "data", **{"redis_url": server.url, **settings})
