"""Several real processes on one data directory: two services, and one of two processes."""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.outside import crop_ids
from tests.service.conftest import START, Served, files
from tests.waiting import eventually

WRITERS = 4
ENROLLED_BY_EACH = 6
LIVES = 12


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def services(start, data_dir) -> list[Served]:
    with ThreadPoolExecutor(2) as both:
        starting = [both.submit(start, data_dir=data_dir, housekeeping_seconds=0.5) for _ in "ab"]
        return [future.result() for future in starting]


def test_a_search_that_one_keeps_the_other_opens_reviews_and_forgets_at_once(services, drawn_crops):
    one, other = services
    gallery = one.create("searched")
    crop_id = one.enrolled(gallery, drawn_crops[0].png, identity="Ann")[0]
    kept = one.query(gallery, drawn_crops[0].png, keep=True, keep_picture=True).json()
    path = f"/v1/galleries/{gallery}/queries/{kept['query_id']}"
    assert other.http.get(f"{path}/image").content == drawn_crops[0].png
    decision = {"crop_ids": crop_id, "decision": "confirmed"}
    reviewed = other.http.post(f"{path}/reviews", data=decision)
    assert reviewed.json()["reviews"] == one.read(path)["reviews"]
    forgotten = other.http.delete(f"/v1/galleries/{gallery}/identities/Ann")
    assert forgotten.json()["kept_searches"] == 1
    assert one.http.get(path).status_code == 404


def test_settings_names_copies_and_forgetting_reach_the_other(services, drawn_crops):
    one, other = services
    gallery = one.create("kept")
    at = f"/v1/galleries/{gallery}"
    for crop in drawn_crops[:8]:
        one.enroll(gallery, crop.png, identity=crop.identity)
    assert one.http.patch(at, data={"retention_days": "9"}).status_code == 200
    eventually(lambda: other.read(at)["retention_days"] == 9)
    snapshot = one.http.post(f"{at}/snapshots").json()["snapshot_id"]
    renamed = other.http.patch(f"{at}/identities/0000", data={"new_identity": "Ann"}).json()
    version = renamed["gallery_version"]
    found = one.search(gallery, drawn_crops[0].png, min_version=version)
    assert found[0]["identity"] == "Ann"
    forgotten = other.http.delete(f"{at}/identities/0001").json()
    assert forgotten["snapshots"] == {snapshot: 4}
    restored = other.http.post(f"{at}/snapshots/{snapshot}/restore").json()
    version = restored["gallery_version"]
    found = one.search(gallery, drawn_crops[0].png, min_version=version)
    assert {result["identity"] for result in found} == {"0000"}
    assert one.http.delete(at).status_code == 200
    assert other.query(gallery, drawn_crops[0].png).status_code == 404


def test_many_writers_of_both_services_land_everything_in_one_gallery(services, drawn_crops):
    gallery = services[0].create("crowded")

    def enroll(writer: int) -> list[str]:
        served = services[writer % 2]
        answers = [
            served.enroll(gallery, drawn_crops[number].png + bytes([writer]))
            for number in range(ENROLLED_BY_EACH)
        ]
        assert [answer.status_code for answer in answers] == [201] * ENROLLED_BY_EACH
        return [crop_id for answer in answers for crop_id in crop_ids(answer)]

    with ThreadPoolExecutor(WRITERS) as writers:
        landed = [crop_id for ids in writers.map(enroll, range(WRITERS)) for crop_id in ids]
    assert len(set(landed)) == WRITERS * ENROLLED_BY_EACH
    for served in services:
        listed = served.results(f"/v1/galleries/{gallery}/crops?limit=100")
        assert {crop["crop_id"] for crop in listed} == set(landed)
        counted = served.read(f"/v1/galleries/{gallery}")
        assert (counted["crops"], counted["version"]) == (len(landed), len(landed))


@pytest.mark.slow
def test_every_crop_is_found_once_it_was_enrolled_and_never_once_it_was_deleted(
    services, drawn_crops
):
    gallery = services[0].create("histories")

    def live_and_die(writer: int) -> None:
        """Enroll and delete one crop after another, each call at either service by chance."""
        chance = random.Random(writer)

        def any_service() -> Served:
            return chance.choice(services)

        image = drawn_crops[writer].png
        for _ in range(LIVES):
            enrolled = any_service().enroll(gallery, image, identity=f"writer {writer}")
            assert enrolled.status_code == 201
            (crop_id,) = crop_ids(enrolled)
            version = enrolled.json()["gallery_version"]
            found = any_service().query(gallery, image, top_k=100, min_version=version)
            assert crop_id in crop_ids(found)
            url = f"/v1/galleries/{gallery}/crops/{crop_id}"
            assert any_service().http.delete(url).status_code == 200
            assert crop_id not in any_service().found(gallery, image, top_k=100)
            assert any_service().http.get(url).status_code == 404

    with ThreadPoolExecutor(WRITERS) as writers:
        assert list(writers.map(live_and_die, range(WRITERS))) == [None] * WRITERS
    for served in services:
        assert served.results(f"/v1/galleries/{gallery}/crops") == []


def test_a_service_that_is_killed_leaves_the_other_serving_and_catches_up(
    services, start, data_dir, drawn_crops
):
    one, other = services
    gallery = one.create("left")
    first = other.enroll(gallery, drawn_crops[0].png)
    other.kill()
    version = first.json()["gallery_version"]
    found = one.query(gallery, drawn_crops[0].png, min_version=version)
    assert crop_ids(found) == crop_ids(first)
    second = one.enroll(gallery, drawn_crops[4].png)
    gone = one.http.delete(f"/v1/galleries/{gallery}/crops/{crop_ids(first)[0]}")
    assert gone.status_code == 200
    services[1] = start(data_dir=data_dir, housekeeping_seconds=0.5)
    assert services[1].found(gallery, drawn_crops[0].png) == crop_ids(second)


@pytest.fixture(scope="module")
def pair(tiny_artefact, tmp_path_factory) -> Served:
    """Return one service of two processes behind one port."""
    place = tmp_path_factory.mktemp("pair")
    settings = {"artefact": tiny_artefact, "data_dir": place / "data", "processes": 2}
    served = Served(place / "log", START, forked=False, **settings)
    yield served
    served.stop()


def _workers(served: Served) -> list[int]:
    children = Path(f"/proc/{served.process.pid}/task/{served.process.pid}/children")
    pids = [int(pid) for pid in children.read_text().split()]
    return [pid for pid in pids if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def _answered(served: Served) -> float:
    metrics = served.http.get("/metrics").text
    pattern = r'^gmn_http_requests_total\{.*/queries".*\} (\S+)$'
    return sum(float(count) for count in re.findall(pattern, metrics, re.MULTILINE))


@pytest.mark.slow
def test_metrics_are_the_sum_over_the_processes_of_a_port(pair, drawn_crops):
    gallery = pair.create("summed")
    assert pair.enroll(gallery, drawn_crops[0].png).status_code == 201
    before = _answered(pair)

    def search(_: int) -> int:
        # Over a connection of its own, which either process may accept.
        url = f"{pair.http.base_url}/v1/galleries/{gallery}/queries"
        return httpx.post(url, files=files(drawn_crops[0].png), timeout=60.0).status_code

    with ThreadPoolExecutor(8) as clients:
        assert list(clients.map(search, range(24))) == [200] * 24
    # A request is counted once it was answered.
    eventually(lambda: _answered(pair) == before + 24)
    for _ in range(4):
        assert _answered(pair) == before + 24


@pytest.mark.slow
def test_a_process_that_is_killed_is_replaced_and_loses_nothing(pair, drawn_crops):
    gallery = pair.create("replaced")
    landed = pair.enrolled(gallery, drawn_crops[0].png)
    killed = _workers(pair)[0]
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: len(set(_workers(pair)) - {killed}) == 2, 30)
    eventually(lambda: pair.http.get("/readyz").status_code == 200, 30)
    assert pair.found(gallery, drawn_crops[0].png) == landed


@pytest.mark.slow
def test_the_log_of_several_processes_has_no_paths(pair):
    assert pair.http.get("/v1/galleries/default/identities/Ann").status_code == 404
    eventually(lambda: "{identity:path} 404" in pair.log.read_text())
    assert "Ann" not in pair.log.read_text()


def _refuses(served: Served) -> bool:
    try:
        socket.create_connection((served.http.base_url.host, served.http.base_url.port)).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.slow
def test_several_processes_that_are_stopped_refuse_connections_and_finish_what_was_begun(
    pair, drawn_crops
):
    begun = threading.Event()
    refused = threading.Event()

    def body() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="images"; filename="a.png"\r\n\r\n'
        begun.set()
        refused.wait(60)
        yield drawn_crops[0].png + b"\r\n--b--\r\n"

    form = {"Content-Type": "multipart/form-data; boundary=b"}
    url = "/v1/galleries/default/crops"
    with ThreadPoolExecutor(1) as client:
        sent = client.submit(pair.http.post, url, content=body(), headers=form)
        assert begun.wait(20)
        pair.process.send_signal(signal.SIGTERM)
        eventually(lambda: _refuses(pair))
        assert not sent.done()
        refused.set()
        assert sent.result().status_code == 201
    assert pair.process.wait(40) == 0


@pytest.mark.slow
def test_where_the_first_process_is_killed_the_others_end_and_the_port_is_free(
    tiny_artefact, tmp_path
):
    settings = {"artefact": tiny_artefact, "data_dir": tmp_path / "data", "processes": 2}
    served = Served(tmp_path / "log", START, forked=False, **settings)
    workers = _workers(served)
    served.kill()
    eventually(lambda: _refuses(served), 30)
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), 30)
