"""Which Redis may hold the record: one that could lose it is refused, and told why."""

from __future__ import annotations

import pytest

from model.problems import InputProblem
from service.errors import StorageFailed
from service.record.record import open_redis
from service.record.values import GallerySettings
from tests.service.gallery.new_crops import EMBEDDER, new_crop
from tests.service.redis_server import free_port, redis_server

USED = ("+@read", "+@write", "+@scripting", "+@connection", "+info", "+time", "+config|get")


@pytest.fixture
def configure(redis_record):
    """Sets what Redis lets one set, and puts it back."""
    changed = {}

    def set_to(name: str, value: str) -> None:
        changed.setdefault(name, redis_record.ask("CONFIG GET", name)[name])
        redis_record.ask("CONFIG", "SET", name, value)

    yield set_to
    for name, value in changed.items():
        redis_record.ask("CONFIG", "SET", name, value)


def test_the_shipped_configuration_is_accepted(redis_record):
    open_redis(redis_record.url).close()


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("appendonly", "no", "appendonly is 'no' and has to be 'yes'"),
        ("appendfsync", "no", "appendfsync is 'no' and has to be 'always'"),
        ("appendfsync", "everysec", "appendfsync is 'everysec' and has to be 'always'"),
        ("no-appendfsync-on-rewrite", "yes", "no-appendfsync-on-rewrite is 'yes'"),
        ("aof-load-truncated", "yes", "aof-load-truncated is 'yes' and has to be 'no'"),
        ("maxmemory-policy", "allkeys-lru", "maxmemory-policy is 'allkeys-lru'"),
    ],
)
def test_a_setting_that_could_lose_the_record_is_named(
    redis_record, configure, name, value, wanted
):
    configure(name, value)
    with pytest.raises(InputProblem, match=wanted):
        open_redis(redis_record.url)


def test_a_replica_is_refused(redis_record):
    redis_record.ask("REPLICAOF", "127.0.0.1", free_port())
    try:
        with pytest.raises(InputProblem, match="is a replica of 127"):
            open_redis(redis_record.url)
    finally:
        redis_record.ask("REPLICAOF", "NO", "ONE")


def test_a_user_needs_what_the_manual_says_and_is_told_what_is_missing(redis_record):
    url = redis_record.url.replace("redis://", "redis://gmn:secret@")
    redis_record.ask("ACL", "SETUSER", "gmn", "reset", "on", ">secret", "~gmn:*", *USED)
    store = open_redis(url)
    assert store.galleries.create("allowed", "a" * 64, GallerySettings()).name == "allowed"
    store.close()
    redis_record.ask("ACL", "SETUSER", "gmn", "-config|get")
    with pytest.raises(InputProblem, match=r"allow this user \+config\|get") as refused:
        open_redis(url)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("scheme", ["redis", "http"])
def test_what_is_said_of_a_redis_that_cannot_be_used_shows_no_password(scheme):
    place = f"127.0.0.1:{free_port()}/0"
    with pytest.raises(InputProblem, match=place) as refused:
        open_redis(f"{scheme}://somebody:secret@{place}", timeout_seconds=0.5)
    assert "secret" not in str(refused.value)
    assert "GMN_REDIS_URL" in str(refused.value)


def test_a_record_of_a_newer_program_is_refused():
    with redis_server() as server:
        server.ask("SET", "gmn:format", 99)
        with pytest.raises(InputProblem, match="format version 99"):
            open_redis(server.url)


def test_a_full_redis_takes_nothing_in_and_lets_things_be_removed(redis_record, configure):
    store = open_redis(redis_record.url)
    gallery = store.galleries.create("full", EMBEDDER, GallerySettings()).gallery_id
    landed = store.crops.enroll(gallery, EMBEDDER, [new_crop(1), new_crop(2, "b")]).landed
    configure("maxmemory", "1")
    with pytest.raises(StorageFailed, match="maxmemory"):
        store.crops.enroll(gallery, EMBEDDER, [new_crop(3)])
    assert store.galleries.get(gallery).crops == 2
    assert store.crops.remove(gallery, [landed[0].crop_id]).version == 2
    assert store.identities.forget(gallery, "b").version == 3
    store.galleries.delete(gallery)
    assert store.galleries.get(gallery) is None
    store.close()


def test_a_full_redis_can_be_opened(redis_record, configure):
    store = open_redis(redis_record.url)
    gallery = store.galleries.create("full", EMBEDDER, GallerySettings()).gallery_id
    store.close()
    configure("maxmemory", "1")
    store = open_redis(redis_record.url)
    assert store.galleries.get(gallery).name == "full"
    store.galleries.delete(gallery)
    store.close()
