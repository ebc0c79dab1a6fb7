"""The service on a record in Redis."""

from __future__ import annotations

import io
import json
import time
import zipfile
from collections.abc import Iterator

import pytest
import redis
from typer.testing import CliRunner

from service.commands.keys import keys
from tests.service.client.conftest import run_gmn
from tests.service.conftest import Served
from tests.service.redis_server import RedisServer, redis_server
from tests.waiting import eventually


@pytest.mark.slow
def test_what_was_acknowledged_is_served_after_kill_9_of_service_and_redis(
    start, redis_record, drawn_crops, tmp_path
):
    settings = {"redis_url": redis_record.url, "data_dir": tmp_path / "data"}
    served = start(**settings)
    gallery = served.create("lobby")
    first = served.enroll(gallery, drawn_crops[0].png, identity="a").json()["results"][0]
    gone = served.enroll(gallery, drawn_crops[4].png, identity="b").json()["results"][0]
    deleted = served.http.delete(f"/v1/galleries/{gallery}/crops/{gone['crop_id']}")
    assert deleted.status_code == 200
    served.kill()
    redis_record.kill()
    redis_record.start()
    again = start(**settings)
    answer = again.query(gallery, drawn_crops[0].png).json()
    assert [one["crop_id"] for one in answer["results"]] == [first["crop_id"]]
    assert again.stop() == 0
    assert not (tmp_path / "data" / "galleries.sqlite3").exists()


@pytest.fixture(scope="module")
def interrupted(start) -> Iterator[tuple[RedisServer, Served]]:
    """A service with a Redis of its own, to be killed and started again."""
    with redis_server() as server:
        served = start(redis_url=server.url)
        yield server, served
        served.kill()


def test_while_redis_is_gone_writes_are_503_with_a_time_to_ask_again_and_queries_go_on(
    interrupted, drawn_crops
):
    server, served = interrupted
    named = served.enroll("default", drawn_crops[2].png, identity="gone").status_code
    assert (named, served.enroll("default", drawn_crops[0].png).status_code) == (201, 201)
    forgotten = served.http.delete("/v1/galleries/default/identities/gone").json()
    assert "Redis' append-only file" in [one["where"] for one in forgotten["remaining"]]
    server.kill()
    refused = served.enroll("default", drawn_crops[1].png)
    assert refused.status_code == 503
    assert refused.json()["type"] == "urn:gmn:problem:record_unavailable"
    assert int(refused.headers["Retry-After"]) > 0
    assert len(served.query("default", drawn_crops[0].png).json()["results"]) == 1
    server.start()
    eventually(served.is_in_step)
    assert served.enroll("default", drawn_crops[1].png).status_code == 201


@pytest.mark.slow
def test_an_answer_from_memory_alone_says_so_on_the_command_line(
    interrupted, drawn_crops, tmp_path
):
    server, served = interrupted
    image = tmp_path / "asked.png"
    image.write_bytes(drawn_crops[0].png)
    url = str(served.http.base_url)
    served.enroll("default", drawn_crops[0].png)
    assert "stale" not in run_gmn(url, "default", "query", str(image)).stdout
    server.kill()
    told = run_gmn(url, "default", "query", str(image)).stdout
    assert "stale: the service's record does not answer" in told
    told = run_gmn(url, "default", "query", str(image), "--json").stdout
    assert json.loads(told)["stale"] is True
    server.start()
    eventually(served.is_in_step)


def test_an_import_waits_for_redis_and_goes_on(interrupted, drawn_crops):
    server, served = interrupted
    gallery = served.create("imported")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for number, crop in enumerate(drawn_crops):
            archive.writestr(f"{number}.png", crop.png)
    begun = served.http.post(
        f"/v1/galleries/{gallery}/imports", files={"archive": ("a.zip", packed.getvalue())}
    )
    server.kill()
    time.sleep(0.5)
    server.start()
    eventually(served.is_in_step)
    job = served.ended_job(served.http.get(f"/v1/jobs/{begun.json()['job_id']}").json())
    assert (job["state"], job["progress"]["landed"]) == ("done", len(drawn_crops))


@pytest.mark.slow
def test_a_redis_that_cannot_be_used_keeps_the_service_from_starting(
    redis_record, refused_start, tmp_path
):
    redis_record.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    try:
        said = refused_start(tmp_path, redis_url=redis_record.url)
    finally:
        redis_record.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
    assert "maxmemory-policy is 'allkeys-lru' and has to be 'noeviction'" in said


@pytest.mark.slow
def test_a_start_on_another_record_than_the_data_directorys_is_refused_and_keeps_its_snapshots(
    start, refused_start, tmp_path, drawn_crops
):
    data = tmp_path / "data"
    with redis_server() as server:
        empty = f"{server.url[:-1]}1"
        served = start(data_dir=data, redis_url=server.url)
        served.enroll("default", *(crop.png for crop in drawn_crops[:3]))
        url = "/v1/galleries/default/snapshots"
        snapshot_id = served.http.post(url).json()["snapshot_id"]
        served.stop()
        (file,) = (data / "snapshots").glob("*/*")
        held = file.read_bytes()

        said = refused_start(data, redis_url=empty)
        assert "holds no record, and the data directory" in said
        assert "redis.acknowledged" in said
        assert server.ask("DBSIZE") > 0
        assert file.read_bytes() == held
        with redis.Redis.from_url(empty) as client:
            assert client.dbsize() == 0

        again = start(data_dir=data, redis_url=server.url)
        assert again.http.post(f"{url}/{snapshot_id}/restore").status_code == 200
        again.stop()

        # To begin with an empty record: its operator removes the mark, and nothing is lost.
        (data / "redis.acknowledged").unlink()
        start(data_dir=data, redis_url=empty).stop()
        assert (data / "snapshots" / "stray" / f"1-{file.name}").read_bytes() == held


def test_keys_are_kept_in_redis(redis_record, monkeypatch, tmp_path):
    monkeypatch.setenv("GMN_REDIS_URL", redis_record.url.replace("redis://", "redis://:pass@"))
    monkeypatch.setenv("GMN_DATA_DIR", str(tmp_path / "data"))
    redis_record.ask("CONFIG", "SET", "requirepass", "pass")
    try:
        made = CliRunner().invoke(keys, ["create", "--scope", "admin"])
        listed = CliRunner().invoke(keys, ["list"])
        key_id = made.stdout.split()[1].rstrip(":")
        revoked = CliRunner().invoke(keys, ["revoke", key_id])
    finally:
        monkeypatch.undo()
        url = redis_record.url.replace("redis://", "redis://:pass@")
        with redis.Redis.from_url(url) as client:
            client.execute_command("CONFIG", "SET", "requirepass", "")
    assert f"Redis at {redis_record.url}" in made.output
    assert "pass@" not in made.output
    assert key_id in listed.output
    assert "is revoked; 0 left" in revoked.output
