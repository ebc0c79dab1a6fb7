"""Records of the format before, and snapshots of every format, are read by this program.

`old_formats` holds what the program of the time wrote; `old_formats/make.py` says how. Whoever
raises a format's version adds a file of it.
"""

from __future__ import annotations

import contextlib
import gzip
import sqlite3
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import redis
from typer.testing import CliRunner

from model.problems import InputProblem
from service.commands.keys import keys as keys_command
from service.commands.store import store as store_command
from service.ops.commit_mark import LastCommitMark
from service.ops.data_directory import lock_data_directory
from service.record import migration
from service.record.record import Record, open_redis, open_sqlite, upgrade_store
from service.record.records import CropFilter, GallerySettings
from service.record.recovery import verify_record
from service.record.redis_engine import RedisEngine
from service.record.snapshot_file import FORMAT, read_snapshot, snapshot_header, write_snapshot
from tests.service.gallery.new_crops import new_crop
from tests.service.redis_server import RedisServer, redis_server

OLD = Path(__file__).parent / "old_formats"
SNAPSHOTS = sorted(OLD.glob("*/snapshot.gmn.gz"))
BEFORE = OLD / "version_6" / "galleries.sqlite3.gz"
CROPS, EMBEDDER = 30, "a" * 64


def _named(path: Path) -> str:
    return path.parent.name


def _unpacked(packed: Path, folder: Path) -> Path:
    path = folder / packed.stem
    path.write_bytes(gzip.decompress(packed.read_bytes()))
    return path


def _check_crops(store: Record) -> int:
    """All but the one that was removed, as they were drawn; answers their gallery's number."""
    (gallery,) = store.galleries.all()
    assert (gallery.name, gallery.crops, gallery.embedding_fingerprint) == (
        "lobby",
        CROPS - 1,
        EMBEDDER,
    )
    crops = store.crops.page(gallery.gallery_id, CropFilter(), limit=99).crops
    numbers = [crop.metadata["number"] for crop in crops]
    assert numbers == list(range(1, CROPS))
    vectors = [one.vector for one in store.crops.vectors(gallery.gallery_id)]
    for number, crop, vector in zip(numbers, crops, vectors, strict=True):
        drawn = np.random.default_rng(number).standard_normal(8).astype(np.float32)
        assert np.array_equal(vector, drawn)
        picture = store.crops.picture(gallery.gallery_id, crop.crop_id)
        assert picture.content == b"\x89PNG drawn %d" % number
        assert (crop.identity, crop.external_id) == (f"{number % 7:04d}", f"x{number}")
    return gallery.gallery_id


def _check_writes(store: Record, gallery: int, folder: Path) -> None:
    """Enrols, renames, removes, takes a snapshot and restores it."""
    landed = store.crops.enroll(gallery, EMBEDDER, [new_crop(100)]).landed
    assert store.identities.rename(gallery, "0001", "new").merge_id is None
    assert len(store.identities.forget(gallery, "0002").row_ids) > 0
    with store.crops.archive(gallery) as archive:
        content = write_snapshot(folder / "again.gmn", archive.crops)
    store.crops.remove(gallery, [landed[0].crop_id])
    store.crops.replace(gallery, EMBEDDER, read_snapshot(folder / "again.gmn"))
    assert store.galleries.get(gallery).crops == content.crops - 1


@pytest.mark.parametrize("packed", SNAPSHOTS, ids=_named)
def test_a_snapshot_of_an_older_format_is_restored(tmp_path, packed):
    path = _unpacked(packed, tmp_path)
    with contextlib.closing(open_sqlite(tmp_path / "galleries.sqlite3")) as store:
        gallery = store.galleries.create("lobby", EMBEDDER, GallerySettings()).gallery_id
        store.crops.replace(gallery, EMBEDDER, read_snapshot(path))
        _check_crops(store)


def _check_keys(record) -> None:
    assert [(key.key_id, key.scopes) for key in record.keys.all()] == [("door", ("query",))]


def test_a_file_of_the_newest_format_is_read_and_written_on(tmp_path):
    path = _unpacked(BEFORE, tmp_path)
    with contextlib.closing(sqlite3.connect(path)) as old:
        removed = [crop_id for (crop_id,) in old.execute("SELECT crop_id FROM tombstones")]
    with pytest.raises(InputProblem, match="run gmn store upgrade"):
        open_sqlite(path)
    assert path.read_bytes() == gzip.decompress(BEFORE.read_bytes())
    assert upgrade_store(None, path)
    assert not upgrade_store(None, path)
    with contextlib.closing(open_sqlite(path)) as record:
        gallery = _check_crops(record)
        assert record.crops.removed_among(gallery, removed) == removed != []
        _check_keys(record)
        _check_writes(record, gallery, tmp_path)
        crops = record.galleries.get(gallery).crops
    with contextlib.closing(open_sqlite(path)) as again:
        assert again.galleries.get(gallery).crops == crops


def test_a_redis_record_of_the_format_before_is_read_and_written_on(tmp_path):
    with _old_record("redis_format_4.tar.gz") as server:
        keys = server.ask("DBSIZE")
        with pytest.raises(InputProblem, match="run gmn store upgrade"):
            open_redis(server.url)
        assert (_format_of(server), server.ask("DBSIZE")) == (4, keys)
        assert upgrade_store(server.url, tmp_path / "galleries.sqlite3")
        assert not upgrade_store(server.url, tmp_path / "galleries.sqlite3")
        with contextlib.closing(open_redis(server.url)) as record:
            gallery = _check_crops(record)
            _check_keys(record)
            _check_writes(record, gallery, tmp_path)
            crops = record.galleries.get(gallery).crops
        with contextlib.closing(open_redis(server.url)) as again:
            assert again.galleries.get(gallery).crops == crops


def test_a_migration_that_was_killed_begins_again(tmp_path, monkeypatch):
    path = _unpacked(BEFORE, tmp_path)

    def killed(*record):
        migrate(*record)
        raise KeyboardInterrupt

    migrate = migration.migrate
    monkeypatch.setattr(migration, "migrate", killed)
    with pytest.raises(KeyboardInterrupt):
        upgrade_store(None, path)
    assert path.read_bytes() == gzip.decompress(BEFORE.read_bytes())
    monkeypatch.undo()
    upgrade_store(None, path)
    with contextlib.closing(open_sqlite(path)) as record:
        _check_crops(record)


def test_a_packing_of_keys_that_was_cut_off_goes_on(tmp_path, monkeypatch):
    database, answer, left = tmp_path / "galleries.sqlite3", RedisEngine.command, [0]

    def cut_off(self, *command):
        left[0] -= command[0] in ("EVAL", "ZADD", "ZREM")
        if left[0] < 0:
            raise KeyboardInterrupt
        return answer(self, *command)

    with _old_record("redis_format_4.tar.gz") as server:
        monkeypatch.setattr(migration, "KEYS_AT_ONCE", 20)
        monkeypatch.setattr(RedisEngine, "command", cut_off)
        for left[0] in (2, 5, 12, 13):
            with pytest.raises(KeyboardInterrupt):
                upgrade_store(server.url, database)
        monkeypatch.undo()
        with pytest.raises(InputProblem, match="run gmn store upgrade"):
            open_redis(server.url)
        assert upgrade_store(server.url, database)
        with contextlib.closing(open_redis(server.url)) as record:
            _check_crops(record)
            assert verify_record(record.engine, tmp_path).whole
        assert not [one for one in server.ask("KEYS", "*") if b"000000000000000001\0" in one[14:]]


def test_a_file_of_an_older_format_is_refused_with_the_remedy(tmp_path):
    path = _unpacked(OLD / "version_4" / "galleries.sqlite3.gz", tmp_path)
    with pytest.raises(InputProblem, match="serve it once with the program version between"):
        open_sqlite(path)


def test_a_redis_record_of_an_older_format_is_refused_with_the_remedy(tmp_path):
    with _old_record("redis_format_3.tar.gz") as server:
        keys = server.ask("DBSIZE")
        with pytest.raises(InputProblem, match="serve it once with the program version between"):
            open_redis(server.url)
        assert (_format_of(server), server.ask("DBSIZE")) == (3, keys)


def test_a_command_beside_a_running_service_leaves_a_record_of_the_format_before(tmp_path):
    path = _unpacked(BEFORE, tmp_path)
    for arguments in (["list"], ["create", "--scope", "query"], ["revoke", "door"]):
        refused = CliRunner().invoke(keys_command, [*arguments, "--data-dir", str(tmp_path)])
        assert "run gmn store upgrade" in str(refused.exception)
        assert path.read_bytes() == gzip.decompress(BEFORE.read_bytes())


@pytest.mark.parametrize("shared", [False, True])
def test_a_record_in_use_is_not_upgraded(tmp_path, shared):
    path = _unpacked(BEFORE, tmp_path)
    upgrade = ["upgrade", "--data-dir", str(tmp_path)]
    with lock_data_directory(tmp_path, shared):
        refused = CliRunner().invoke(store_command, upgrade)
    assert "another process is serving it" in str(refused.exception)
    assert path.read_bytes() == gzip.decompress(BEFORE.read_bytes())
    done = CliRunner().invoke(store_command, upgrade)
    assert done.output == "The record is upgraded.\n"
    assert CliRunner().invoke(store_command, upgrade).output == "The record needs no upgrade.\n"


def test_a_redis_record_that_another_process_holds_is_not_upgraded(tmp_path):
    database = tmp_path / "galleries.sqlite3"
    with _old_record("redis_format_4.tar.gz") as server:
        keys = server.ask("DBSIZE")
        # As a replica of the version before, on a data directory of its own.
        with redis.Redis.from_url(server.url, client_name="gmn") as replica:
            replica.ping()
            with pytest.raises(InputProblem, match="stop every service"):
                upgrade_store(server.url, database)
        assert (_format_of(server), server.ask("DBSIZE")) == (4, keys)
        assert upgrade_store(server.url, database)


def test_a_redis_record_keeps_its_name_through_an_upgrade(tmp_path):
    """So that a data directory that belongs to it still does."""
    database = tmp_path / "galleries.sqlite3"
    with _old_record("redis_format_4.tar.gz") as server:
        mark = LastCommitMark(tmp_path / "redis.acknowledged")
        mark.note(1, server.ask("GET", "gmn:epoch").decode())
        assert upgrade_store(server.url, database)
        open_redis(server.url, mark=mark).close()


@contextlib.contextmanager
def _old_record(name: str) -> Iterator[RedisServer]:
    with redis_server() as server:
        server.kill()
        with tarfile.open(OLD / name) as file:
            file.extractall(server.folder, filter="data")
        server.start()
        yield server


def test_every_format_of_snapshots_has_its_file(tmp_path):
    found = set()
    for packed in SNAPSHOTS:
        path = _unpacked(packed, tmp_path)
        snapshot_header(path)
        with contextlib.closing(sqlite3.connect(path)) as file:
            query = "SELECT value FROM header WHERE name = 'format'"
            found.add(int(file.execute(query).fetchone()[0]))
    assert found == set(range(1, FORMAT + 1))


def test_a_store_of_a_newer_format_is_refused_by_name_and_untouched(tmp_path):
    path = tmp_path / "galleries.sqlite3"
    open_sqlite(path).close()
    with contextlib.closing(sqlite3.connect(path)) as newer:
        newer.execute("PRAGMA user_version = 99")
    held = path.read_bytes()
    with pytest.raises(InputProblem, match=r"galleries\.sqlite3.*format version 99"):
        open_sqlite(path)
    assert path.read_bytes() == held


def test_a_redis_record_of_a_newer_format_is_refused_by_name_and_untouched():
    with redis_server() as server:
        open_redis(server.url).close()
        server.ask("SET", "gmn:format", 99)
        keys = server.ask("DBSIZE")
        with pytest.raises(InputProblem, match="format version 99"):
            open_redis(server.url)
        assert (_format_of(server), server.ask("DBSIZE")) == (99, keys)


def sqlite_version(content: bytes) -> int:
    """`user_version`, which stands at byte 60 of the file."""
    return int.from_bytes(content[60:64], "big")


def _format_of(server: RedisServer) -> int:
    return int(server.ask("GET", "gmn:format"))
