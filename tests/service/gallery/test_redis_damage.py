"""A damaged record in Redis is refused by name, checked, and recovered; nothing is silent."""

from __future__ import annotations

import contextlib
import json
import os
import random
from pathlib import Path

import pytest
import redis
from service.record.engine import seal
from service.record.entries import Generation
from service.record.snapshot_file import SnapshotHeader, write_snapshot
from typer.testing import CliRunner

from model.problems import InputProblem
from service.commands.store import store as store_command
from service.errors import DamagedRedisRecord
from service.ops.commit_mark import LastCommitMark
from service.record import identity_changes
from service.record.crop_changes import tombstone
from service.record.galleries import NAMES
from service.record.keys import key, packed
from service.record.record import Record, open_redis
from service.record.values import CropFilter, GallerySettings
from tests.service.gallery.new_crops import EMBEDDER, new_crop
from tests.service.redis_server import RedisServer, redis_server

CROPS = 12
# docs/reliability.md has the figures of a long run.
FLIPS = int(os.environ.get("REID_TEST_FLIPS", "120"))


@pytest.fixture
def server():
    with redis_server() as one:
        yield one


@pytest.fixture
def store(server, tmp_path):
    with contextlib.closing(_open(server, tmp_path)) as one:
        yield one


def _open(server: RedisServer, folder: Path) -> Record:
    return open_redis(server.url, mark=LastCommitMark(folder / "redis.acknowledged"))


@pytest.fixture
def gallery(store):
    """A gallery with a removed crop, a renamed person and another embedder's vectors."""
    number = store.galleries.create("lobby", EMBEDDER, GallerySettings()).gallery_id
    crops = [new_crop(one, identity=f"p{one % 5}") for one in range(CROPS + 1)]
    landed = store.crops.enroll(number, EMBEDDER, crops).landed
    store.crops.remove(number, [landed[0].crop_id])
    store.identities.rename(number, "p1", "renamed")
    # As whoever follows the record does, which notes how far it was acknowledged.
    store.changes.after(0, 99, 0.0)
    return number


def _everything(store: Record) -> dict[str, object]:
    """All that a store answers of its crops, as a service reads it at its start and later."""
    answer: dict[str, object] = {}
    for gallery in store.galleries.all():
        number = gallery.gallery_id
        vectors = [one.vector.tobytes() for one in store.crops.vectors(number)]
        crops = store.crops.page(number, CropFilter(), limit=999).crops
        pictures = [store.crops.picture(number, crop.crop_id) for crop in crops]
        by_id = [store.crops.get(number, crop.crop_id) for crop in crops]
        assert by_id == crops
        answer[gallery.name] = list(zip(crops, vectors, pictures, strict=True))
    return answer


def _crop_key(gallery: int, row: int) -> bytes:
    return _value(Generation(gallery, 0).key("crop", row))


def _value(own: bytes) -> bytes:
    return b"gmn:v:" + packed(own)


# What is done, what is reported, and whether the crop cannot be had any more.
DAMAGE = {
    "another entry": (["APPEND", "{crop}", "x"], "is not what was written", True),
    "a bit of a vector": (["FLIP", "{vector}"], "the vector of crop", True),
    "no vector": (["DEL", "{vector}"], "the vector of crop", True),
    "nothing left": (["ZREM", "gmn:order", "{order}"], "crops", True),
    "an id of another": (["SET", "{id}", "{other}"], "is not found by its crop_id", False),
}


@pytest.mark.parametrize(("how", "said", "lost"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_named_at_the_next_start_found_by_verify_and_left_out_by_recover(
    server, store, gallery, tmp_path, monkeypatch, how, said, lost
):
    before = _everything(store)["lobby"]
    crop = before[3][0]
    _damage(server, gallery, crop, how)
    with (
        contextlib.closing(_open(server, tmp_path)) as again,
        pytest.raises(DamagedRedisRecord) as told,
    ):
        list(again.crops.vectors(gallery))
    assert said in str(told.value)
    assert "gmn store recover" in str(told.value)
    store.close()
    monkeypatch.setenv("GMN_REDIS_URL", server.url)
    verified = _run("verify", tmp_path)
    assert (verified.exit_code, said in verified.output) == (1, True), verified.output
    recovered = _run("recover", tmp_path)
    assert (recovered.exit_code, said in recovered.output) == (0, True), recovered.output
    assert "the record in Redis: as written" in _run("verify", tmp_path).output
    with contextlib.closing(_open(server, tmp_path)) as again:
        after = [(one.crop_id, *rest) for one, *rest in _everything(again)["lobby"]]
    left_out = {crop.crop_id} if lost else set()
    assert after == [(one.crop_id, *rest) for one, *rest in before if one.crop_id not in left_out]


def test_a_damaged_picture_is_told_when_it_is_asked_for_and_by_verify(
    server, store, gallery, tmp_path, monkeypatch
):
    crop = store.crops.page(gallery, CropFilter(), limit=1).crops[0]
    server.ask("SET", _value(Generation(gallery, 0).lookup("picture", crop.row_id)), "another")
    with pytest.raises(DamagedRedisRecord, match=f"the picture of crop {crop.crop_id}"):
        store.crops.picture(gallery, crop.crop_id)
    with pytest.raises(DamagedRedisRecord), store.crops.archive(gallery) as archive:
        list(archive.crops)
    store.close()
    monkeypatch.setenv("GMN_REDIS_URL", server.url)
    assert f"the picture of crop {crop.crop_id}" in _run("verify", tmp_path).output


def test_a_damaged_crop_is_not_made_good_by_renaming_it(server, store, gallery):
    crop = store.crops.page(gallery, CropFilter(identity="p2"), limit=1).crops[0]
    server.ask("APPEND", _crop_key(gallery, crop.row_id), "x")
    with pytest.raises(DamagedRedisRecord, match=f"crop {gallery}/0/{crop.row_id}"):
        store.identities.rename(gallery, "p2", "new")
    assert store.people.page(gallery, "", 99)[1].identity == "p2"


def test_what_the_audit_log_shows_as_deleted_is_not_recovered_from_a_snapshot(
    server, store, gallery, tmp_path, monkeypatch
):
    with store.crops.archive(gallery) as archive:
        crops = list(archive.crops)
        version = archive.version
    header = SnapshotHeader(embedding_fingerprint=EMBEDDER, version=version)
    write_snapshot(tmp_path / "snapshots" / str(gallery) / "20260301T120000Z-1.gmn", crops, header)
    damaged = crops[0].record
    deleted = crops[1].record
    store.crops.remove(gallery, [deleted.crop_id])
    server.ask("DEL", _value(tombstone(gallery, deleted.crop_id)))
    server.ask("ZREM", "gmn:order", tombstone(gallery, deleted.crop_id))
    server.ask("APPEND", _crop_key(gallery, damaged.row_id), "x")
    line = {"event": "delete_crop", "phase": "asked", "crop_ids": [deleted.crop_id]}
    (tmp_path / "audit.jsonl").write_text(json.dumps(line) + "\n")
    store.close()
    monkeypatch.setenv("GMN_REDIS_URL", server.url)
    assert "1 from snapshots" in _run("recover", tmp_path).output
    with contextlib.closing(_open(server, tmp_path)) as again:
        left = {crop.crop_id for crop in again.crops.page(gallery, CropFilter(), limit=99).crops}
        assert again.crops.removed_among(gallery, [deleted.crop_id])
    assert left == {crop.record.crop_id for crop in crops} - {deleted.crop_id}


def test_recover_ends_the_forgetting_that_damage_interrupted(
    server, store, gallery, tmp_path, monkeypatch
):
    monkeypatch.setattr(identity_changes, "CROPS_AT_ONCE", 1)
    crops = store.crops.page(gallery, CropFilter(identity="p2"), limit=99).crops
    server.ask("APPEND", _crop_key(gallery, crops[1].row_id), "x")
    with pytest.raises(DamagedRedisRecord, match=f"crop {gallery}/0/{crops[1].row_id}"):
        store.identities.forget(gallery, "p2")
    (later,) = store.crops.enroll(gallery, EMBEDDER, [new_crop(50, identity="p2")]).landed
    with pytest.raises(DamagedRedisRecord):
        store.identities.rename(gallery, "p3", "new")
    store.close()
    monkeypatch.setenv("GMN_REDIS_URL", server.url)
    assert _run("recover", tmp_path).exit_code == 0
    with contextlib.closing(_open(server, tmp_path)) as again:
        left = again.crops.page(gallery, CropFilter(identity="p2"), limit=99).crops
        assert [crop.crop_id for crop in left] == [later.crop_id]
        assert again.crops.removed_among(gallery, [crops[2].crop_id]) == [crops[2].crop_id]
        assert again.identities.rename(gallery, "p3", "new") is not None


def test_a_gallery_that_is_not_what_was_written_is_reported(server, store, gallery):
    server.ask("APPEND", _value(key("gallery", gallery)), "x")
    with pytest.raises(DamagedRedisRecord, match="gallery 1 is not what was written"):
        store.galleries.all()
    with pytest.raises(DamagedRedisRecord, match="gallery 1 is not what was written"):
        store.galleries.change(gallery, {"retention_days": 3})


def test_a_gallery_without_its_name_is_reported(server, store, gallery):
    server.ask("ZREM", "gmn:order", NAMES + key("lobby"))
    with pytest.raises(DamagedRedisRecord, match="1 galleries have 0 names"):
        store.galleries.all()


def test_prepared_vectors_are_checked_too(server, store, gallery):
    store.staged.begin(gallery, "b" * 64)
    crops = store.staged.missing(gallery, 0, 99)
    store.staged.add(gallery, [(one.row_id, new_crop(one.row_id).vector) for one in crops])
    _damage(server, gallery, crops[2], (["FLIP", "{staged}"]))
    assert store.staged.switch(gallery) is not None
    with pytest.raises(DamagedRedisRecord, match=f"vector of crop {crops[2].crop_id}"):
        list(store.crops.vectors(gallery))


def test_nothing_is_recovered_while_a_service_is_connected(
    server, store, gallery, tmp_path, monkeypatch
):
    crop = store.crops.page(gallery, CropFilter(), limit=1).crops[0]
    server.ask("DEL", _crop_key(gallery, crop.row_id))
    monkeypatch.setenv("GMN_REDIS_URL", server.url)
    refused = _run("recover", tmp_path)
    assert refused.exit_code != 0
    assert "a service is connected" in str(refused.exception)


@pytest.mark.slow
def test_a_service_does_not_start_on_a_damaged_record(
    server, start, refused_start, tmp_path, drawn_crops
):
    served = start(data_dir=tmp_path / "data", redis_url=server.url)
    served.enroll("default", *(crop.png for crop in drawn_crops[:3]))
    served.stop()
    server.ask("APPEND", _crop_key(1, 2), "x")
    said = refused_start(tmp_path / "data", redis_url=server.url)
    assert "crop 1/0/2 is not what was written" in said
    assert "gmn store recover" in said


def test_a_bit_flipped_anywhere_in_redis_file_is_told_or_changes_no_crop(
    server, store, gallery, tmp_path
):
    before = _everything(store)
    store.close()
    server.kill()
    (file,) = (server.folder / "appendonlydir").glob("*.incr.aof")
    content = file.read_bytes()
    chance = random.Random(5)
    told = 0
    for _ in range(FLIPS):
        flipped = bytearray(content)
        flipped[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        file.write_bytes(flipped)
        found = _opened(server, tmp_path)
        told += found is None
        assert found in (None, before)
    assert told > FLIPS / 2


def _opened(server: RedisServer, tmp_path: Path) -> dict[str, object] | None:
    """All that is answered; None where Redis or the store says that something is damaged."""
    try:
        server.start()
    except pytest.fail.Exception:
        return None
    try:
        with contextlib.closing(_open(server, tmp_path)) as store:
            return _everything(store)
    except (DamagedRedisRecord, InputProblem):
        return None
    finally:
        server.kill()


def _damage(server: RedisServer, gallery: int, crop, command) -> None:
    at = Generation(gallery, 0)
    row = crop.row_id
    known = {
        "{crop}": _crop_key(gallery, row),
        "{order}": packed(at.key("crop", row)),
        "{vector}": _value(at.lookup("vector", 0, row)),
        "{staged}": _value(at.lookup("vector", 1, row)),
        "{id}": _value(at.lookup("crop id", crop.crop_id)),
        "{other}": seal(at.lookup("crop id", crop.crop_id), b"1"),
    }
    name, *arguments = command
    filled = [known.get(one, one) for one in arguments]
    with redis.Redis.from_url(server.url, protocol=2) as client:
        if name == "FLIP":
            vector = bytearray(client.get(*filled))
            vector[9] ^= 4
            client.set(*filled, bytes(vector))
        else:
            client.execute_command(name, *filled)


def _run(command: str, data_dir: Path):
    return CliRunner().invoke(store_command, [command, "--data-dir", str(data_dir)])
