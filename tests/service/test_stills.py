"""Stills and zones of cameras: who asks, who sends, who reads, and what a program is answered."""

import contextlib
import random
from uuid import uuid4

import pytest
from PIL import Image

from service.watch import stills
from service.watch.stills import MAX_STILL_BYTES
from tests.outside import audit_lines, bearer, encoded, problem, refused_fields
from tests.service.redis_server import redis_server
from tests.waiting import eventually

LOWER_HALF = "0,0.5 1,0.5 1,1 0,1"
LEFT = "0,0 0.5,0 0.5,1 0,1"


def jpeg(shade=90, size=(64, 48)):
    return encoded(Image.new("RGB", size, (shade, shade, shade)), "JPEG")


def declared(width, height):
    """Return a JPEG whose header declares another size."""
    content = bytearray(jpeg())
    at = content.index(b"\xff\xc0") + 5
    content[at : at + 4] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return bytes(content)


@pytest.fixture(scope="module")
def served(open_service, data_dir):
    """A service with keys, asked as an administrator."""
    service = open_service(data_dir)
    service.http.headers.update(
        bearer(service.http.post("/v1/keys", data={"scopes": "admin"}).json()["key"])
    )
    return service


@pytest.fixture
def camera(served):
    """Return the name of a camera, and the id and the header of the key that sends its crops."""
    key_id, header = served.make_key("sight")
    name = f"gate {uuid4().hex[:8]}"
    beat(served, name, header)
    return name, key_id, header


def beat(served, name, header):
    """Send a heartbeat, and return its answer."""
    answer = served.http.post(f"/v1/cameras/{name}/heartbeat", data={"state": "ok"}, headers=header)
    assert answer.status_code == 200, answer.text
    return answer.json()


def ask(served, name, key_id):
    answer = served.http.post(f"/v1/cameras/{name}/still", data={"key_id": key_id})
    assert answer.status_code == 202, answer.text


def send(served, name, header, content):
    sent = {"images": ("still.jpg", content)}
    return served.http.put(f"/v1/cameras/{name}/still", files=sent, headers=header)


def read(served, name, key_id):
    return served.http.get(f"/v1/cameras/{name}/still", params={"key_id": key_id})


def draw(served, name, key_id, *zones):
    return served.http.put(f"/v1/cameras/{name}/zones", data={"key_id": key_id, "zones": zones})


def listed_zones(served, name):
    (zones,) = (
        entry["zones"]
        for entry in served.results("/v1/cameras", params={"limit": 1000})
        if entry["camera"] == name
    )
    return zones


def test_a_still_is_asked_for_with_the_heartbeat_and_read_once_it_came(served, camera, data_dir):
    name, key_id, header = camera
    assert beat(served, name, header)["still_wanted"] is False
    assert problem(read(served, name, key_id)) == (404, "unknown_still")
    ask(served, name, key_id)
    waiting = read(served, name, key_id)
    assert (waiting.status_code, waiting.content) == (204, b"")
    assert beat(served, name, header)["still_wanted"] is True
    still = jpeg()
    assert send(served, name, header, still).status_code == 204
    answer = read(served, name, key_id)
    assert (answer.content, answer.headers["content-type"]) == (still, "image/jpeg")
    assert answer.headers["cache-control"] == "no-store"
    assert beat(served, name, header)["still_wanted"] is False
    eventually(
        lambda: (
            {
                line["event"]
                for line in audit_lines(data_dir, "ask_for_still", "read_still")
                if line["camera"] == name
            }
            == {"ask_for_still", "read_still"}
        )
    )


def test_a_newer_still_takes_the_place_of_the_former_one(served, camera):
    name, key_id, header = camera
    for shade in (10, 200):
        ask(served, name, key_id)
        assert read(served, name, key_id).status_code == 204
        assert send(served, name, header, jpeg(shade)).status_code == 204
    assert read(served, name, key_id).content == jpeg(200)


@pytest.mark.promise("stills")
def test_a_still_that_nobody_asked_for_is_refused_and_so_is_a_second_one(served, camera):
    name, key_id, header = camera
    refused = send(served, name, header, jpeg())
    assert problem(refused) == (404, "unknown_still")
    assert "nobody has asked for one in the last 10 minutes" in refused.json()["detail"]
    ask(served, name, key_id)
    assert send(served, name, header, jpeg()).status_code == 204
    assert problem(send(served, name, header, jpeg())) == (404, "unknown_still")


@pytest.mark.promise("stills")
def test_only_administrators_read_a_still(served, camera):
    name, key_id, header = camera
    ask(served, name, key_id)
    assert send(served, name, header, jpeg()).status_code == 204
    for scope in ("sight", "query", "enroll"):
        _, other = served.make_key(scope)
        for method, call in {"GET": "still", "POST": "still", "PUT": "zones"}.items():
            answer = served.http.request(method, f"/v1/cameras/{name}/{call}", headers=other)
            assert answer.status_code == 403, (scope, method)


def test_an_administrator_of_a_gallery_reaches_the_cameras_of_its_keys_alone(served, camera):
    name, key_id, _ = camera
    lobby = served.create(f"lobby-{uuid4().hex[:8]}")
    made = served.http.post("/v1/keys", data={"scopes": "admin", "gallery": lobby}).json()
    own = bearer(made["key"])
    sent = {"key_id": key_id}
    refused = served.http.post(f"/v1/cameras/{name}/still", data=sent, headers=own)
    assert problem(refused) == (404, "unknown_camera")
    of_lobby = served.http.post("/v1/keys", data={"scopes": "sight", "gallery": lobby}).json()
    beat(served, name, bearer(of_lobby["key"]))
    sent = {"key_id": of_lobby["key_id"], "zones": [LEFT]}
    asked = served.http.put(f"/v1/cameras/{name}/zones", data=sent, headers=own)
    assert asked.status_code == 204


def test_a_key_sends_stills_of_its_own_cameras_alone(served, camera):
    name, key_id, _ = camera
    _, other = served.make_key("sight")
    beat(served, name, other)
    ask(served, name, key_id)
    assert problem(send(served, name, other, jpeg())) == (404, "unknown_still")
    assert beat(served, name, other)["still_wanted"] is False


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"no picture", "the still is no JPEG of at most 4,096 pixels"),
        (
            encoded(Image.new("RGB", (64, 48)), "PNG"),
            "the still is no JPEG of at most 4,096 pixels",
        ),
        (jpeg(size=(5000, 16)), "the still is no JPEG of at most 4,096 pixels"),
        (declared(65_000, 65_000), "the still is no JPEG of at most 4,096 pixels"),
        (jpeg() + b"x" * MAX_STILL_BYTES, "more than 262,144; send a smaller JPEG"),
    ],
)
def test_a_still_that_cannot_be_held_is_refused(served, camera, content, said):
    name, key_id, header = camera
    ask(served, name, key_id)
    refused = send(served, name, header, content)
    assert refused_fields(refused) == {"images"}
    assert said in refused.json()["detail"]
    assert beat(served, name, header)["still_wanted"] is True


@pytest.mark.promise("stills")
def test_a_still_is_gone_when_its_time_is_over(served, camera, monkeypatch):
    name, key_id, header = camera
    monkeypatch.setattr(stills, "KEPT_SECONDS", 0.5)
    ask(served, name, key_id)
    assert send(served, name, header, jpeg()).status_code == 204
    held = served.http.app.state.runtime.watch.stills._held
    eventually(lambda: (key_id, name) not in held)
    assert problem(read(served, name, key_id)) == (404, "unknown_still")


def test_a_process_holds_only_so_many_stills_and_drops_the_oldest(served, monkeypatch):
    monkeypatch.setattr(stills, "MOST_STILLS", 2)
    key_id, header = served.make_key("sight")
    held = served.http.app.state.runtime.watch.stills._held
    for name in list(held):
        served.http.app.state.runtime.watch.stills._drop(name)
    for number in range(3):
        beat(served, f"yard {number}", header)
        ask(served, f"yard {number}", key_id)
        assert send(served, f"yard {number}", header, jpeg()).status_code == 204
    statuses = [read(served, f"yard {number}", key_id).status_code for number in range(3)]
    assert statuses == [404, 200, 200]


@pytest.mark.promise("stills")
def test_a_still_is_in_no_file_of_the_data_directory(served, camera, data_dir):
    name, key_id, header = camera
    noise = random.Random(7).randbytes(64 * 64 * 3)
    still = encoded(Image.frombytes("RGB", (64, 64), noise), "JPEG")
    ask(served, name, key_id)
    assert send(served, name, header, still).status_code == 204
    assert read(served, name, key_id).content == still
    part = still[len(still) // 2 :][:64]
    files = [file for file in data_dir.rglob("*") if file.is_file()]
    assert files
    assert [file for file in files if part in file.read_bytes()] == []


def test_a_camera_that_was_never_heard_is_unknown(served):
    key_id, _ = served.make_key("sight")
    for method, call in {"POST": "still", "PUT": "zones"}.items():
        for key in (key_id, "nobody"):
            sent = {"key_id": key}
            answer = served.http.request(method, f"/v1/cameras/nowhere/{call}", data=sent)
            assert problem(answer) == (404, "unknown_camera")
            assert "GET /v1/cameras" in answer.json()["detail"]


def test_zones_are_listed_and_answered_with_the_heartbeat_until_they_are_taken_away(served, camera):
    name, key_id, header = camera
    assert beat(served, name, header)["zones"] == listed_zones(served, name) == []
    assert draw(served, name, key_id, LOWER_HALF, LEFT).status_code == 204
    assert beat(served, name, header)["zones"] == [LOWER_HALF, LEFT]
    assert listed_zones(served, name) == [LOWER_HALF, LEFT]
    named = f"the step: {LEFT}"
    assert draw(served, name, key_id, named).status_code == 204
    assert beat(served, name, header)["zones"] == listed_zones(served, name) == [named]
    assert draw(served, name, key_id).status_code == 204
    assert beat(served, name, header)["zones"] == listed_zones(served, name) == []


@pytest.mark.parametrize(
    "zones",
    [
        ["0,0 1,1"],
        ["0,0 1,1 2,0"],
        ["0,0 1,1 nan,0"],
        ["a,b c,d e,f"],
        [" ".join(["0.5,0.5"] * 65)],
        [LEFT] * 17,
        ["0" * 2049],
        ["door: 0,0 1,1"],
        [f": {LEFT}"],
        [f"{65 * 'a'}: {LEFT}"],
        [f"a\u200bb: {LEFT}"],
    ],
)
def test_what_is_no_zone_is_refused(served, camera, zones):
    name, key_id, header = camera
    refused = draw(served, name, key_id, *zones)
    assert {field.partition(".")[0] for field in refused_fields(refused)} == {"zones"}
    assert beat(served, name, header)["zones"] == []


def test_the_client_draws_zones_asks_for_a_still_and_reads_it(served, camera):
    name, key_id, header = camera
    admin = served.http.headers["Authorization"].removeprefix("Bearer ")
    own = header["Authorization"].removeprefix("Bearer ")
    with served.connect(admin) as client, served.connect(own) as program:
        client.set_zones(name, [LEFT], key_id=key_id)
        client.ask_for_still(name, key_id=key_id)
        assert client.still(name, key_id=key_id) == b""
        wanted = program.heartbeat(name)
        assert (wanted.zones, wanted.still_wanted) == ([LEFT], True)
        program.send_still(name, jpeg())
        assert client.still(name, key_id=key_id) == jpeg()
        client.set_zones(name, [], key_id=key_id)
        assert program.heartbeat(name).zones == []


def test_several_processes_without_redis_say_what_is_missing(open_service, tmp_path):
    service = open_service(tmp_path / "data", processes=2)
    service.http.post("/v1/cameras/gate/heartbeat", data={"state": "ok"})
    for method in ("POST", "GET"):
        refused = service.http.request(method, "/v1/cameras/gate/still")
        assert problem(refused) == (501, "needs_redis")
        assert "name a Redis with GMN_REDIS_URL" in refused.json()["detail"]
    assert service.http.put("/v1/cameras/gate/zones", data={"zones": LEFT}).status_code == 204


@pytest.fixture
def two_services(start, tmp_path):
    """Yield two services on one record that share a Redis, and that Redis."""
    with redis_server() as server, contextlib.ExitStack() as ended:
        services = [start(tmp_path / "data", redis_url=server.url, processes=2) for _ in range(2)]
        for service in services:
            ended.callback(service.kill)
        yield (*services, server)


@pytest.mark.promise("stills")
def test_services_share_stills_in_redis_which_drops_them(two_services):
    one, other, server = two_services
    one.http.post("/v1/cameras/gate/heartbeat", data={"state": "ok"})
    eventually(lambda: one.http.post("/v1/cameras/gate/still").status_code == 202)
    assert other.http.post("/v1/cameras/gate/heartbeat", data={"state": "ok"}).json()[
        "still_wanted"
    ]
    still = jpeg()
    # Behind the coded pixels, before the end marker.
    largest = still[:-2] + b"\0" * (MAX_STILL_BYTES - len(still)) + still[-2:]
    # A call that Redis answers too late counts as one without an answer.
    eventually(lambda: send(other, "gate", {}, largest).status_code == 204)
    eventually(lambda: one.http.get("/v1/cameras/gate/still").content == largest)
    (name,) = server.ask("KEYS", "gmn:still:*")
    assert 0 < server.ask("TTL", name) <= 600
    eventually(lambda: one.http.post("/v1/cameras/gate/still").status_code == 202)
    assert server.ask("KEYS", "gmn:still:*") == []
    server.kill()
    assert problem(one.http.get("/v1/cameras/gate/still")) == (503, "redis_away")
    assert problem(send(other, "gate", {}, jpeg())) == (503, "redis_away")
    assert problem(one.http.post("/v1/cameras/gate/still")) == (503, "redis_away")
