"""Stores and snapshots of every format that ever was are read by this program.

`old_formats` holds what the program of the time wrote; `old_formats/make.py` says how. Whoever
raises a format's version adds a file of it.
"""

from __future__ import annotations

import contextlib
import gzip
import logging
import sqlite3
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from service.gallery.redis import record_format
from service.gallery.redis.sums import record_sum
from service.gallery.sqlite.checksums import register
from service.gallery.sqlite.schema import MIGRATIONS

from model.problems import InputProblem
from service.gallery.records import CropFilter, GallerySettings
from service.gallery.snapshot_file import FORMAT, read_snapshot, snapshot_content, write_snapshot
from service.problems import DamagedRecord, DamagedRedisRecord
from service.record.record import Record, open_redis, open_sqlite
from tests.service.gallery.new_crops import new_crop
from tests.service.redis_server import RedisServer, redis_server

OLD = Path(__file__).parent / "old_formats"
STORES = sorted(OLD.glob("*/galleries.sqlite3.gz"))
SNAPSHOTS = sorted(OLD.glob("*/snapshot.gmn.gz"))
RECORDS = sorted(OLD.glob("redis_format_*.tar.gz"))
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
    crops = store.crops.page(gallery.gallery_id, CropFilter(), 0, 99)
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
    assert store.crops.relabel(gallery, "0001", "new").merged is False
    assert len(store.crops.remove_identity(gallery, "0002").row_ids) > 0
    with store.crops.archive(gallery) as archive:
        content = write_snapshot(folder / "again.gmn", archive.crops)
    store.crops.remove(gallery, [landed[0].crop_id])
    store.crops.replace(gallery, EMBEDDER, read_snapshot(folder / "again.gmn"))
    assert store.galleries.get(gallery).crops == content.crops - 1


@pytest.mark.parametrize("packed", STORES, ids=_named)
def test_a_store_of_an_older_format_opens_answers_and_is_written_on(tmp_path, packed):
    path = _unpacked(packed, tmp_path)
    with contextlib.closing(open_sqlite(path)) as store:
        _check_writes(store, _check_crops(store), tmp_path)
    with contextlib.closing(sqlite3.connect(path)) as newest:
        assert newest.execute("PRAGMA user_version").fetchone()[0] == len(MIGRATIONS)
        assert newest.execute("PRAGMA integrity_check").fetchone()[0] == "ok"


@pytest.mark.parametrize("packed", STORES, ids=_named)
def test_what_an_older_format_forgot_is_still_forgotten(tmp_path, packed):
    path = _unpacked(packed, tmp_path)
    with contextlib.closing(sqlite3.connect(path)) as old:
        older = old.execute("PRAGMA user_version").fetchone()[0] < 3
        removed = [] if older else old.execute("SELECT crop_id FROM tombstones").fetchall()
    with contextlib.closing(open_sqlite(path)) as store:
        ids = [crop_id for (crop_id,) in removed]
        (gallery,) = store.galleries.all()
        assert store.crops.removed_among(gallery.gallery_id, ids) == ids
        assert older or ids


@pytest.mark.parametrize("packed", SNAPSHOTS, ids=_named)
def test_a_snapshot_of_an_older_format_is_restored(tmp_path, packed):
    path = _unpacked(packed, tmp_path)
    with contextlib.closing(open_sqlite(tmp_path / "galleries.sqlite3")) as store:
        gallery = store.galleries.create("lobby", EMBEDDER, GallerySettings()).gallery_id
        store.crops.replace(gallery, EMBEDDER, read_snapshot(path))
        _check_crops(store)


@pytest.mark.parametrize("packed", RECORDS, ids=lambda path: path.name)
def test_a_redis_record_of_an_older_format_opens_answers_and_is_written_on(tmp_path, packed):
    with _old_record(packed.name) as server, contextlib.closing(open_redis(server.url)) as store:
        _check_writes(store, _check_crops(store), tmp_path)
        assert _format_of(server) == record_format.FORMAT


def test_a_store_of_version_4_keeps_its_settings_and_reports_what_it_drops(tmp_path, caplog):
    path = _unpacked(OLD / "version_4" / "galleries.sqlite3.gz", tmp_path)
    with contextlib.closing(sqlite3.connect(path)) as old:
        register(old)
        old.execute("UPDATE galleries SET recalibration = 0, calibration = '{\"rows\": []}'")
        old.commit()
    for dropped in (["the calibration that 1 galleries had learned was dropped"], []):
        caplog.clear()
        with (
            caplog.at_level(logging.WARNING),
            contextlib.closing(open_sqlite(path)) as store,
        ):
            (gallery,) = store.galleries.all()
            assert gallery.settings == GallerySettings(36_500, "off", "captured")
            assert store.calibrations.published(gallery.gallery_id) == {}
            assert [(key.learn, key.expires_at) for key in store.keys.all()] == [(True, None)]
            assert [message.partition(";")[0] for message in caplog.messages] == dropped
    assert b'{"rows": []}' not in path.read_bytes()


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        ("UPDATE galleries SET retention_days = 1", "row 1 of galleries is not what was written"),
        ("DELETE FROM api_keys", "row door of api_keys is gone"),
    ],
)
def test_a_row_that_was_damaged_before_an_upgrade_is_refused_after_it(tmp_path, damage, named):
    path = _unpacked(OLD / "version_4" / "galleries.sqlite3.gz", tmp_path)
    kept = []
    with contextlib.closing(sqlite3.connect(path)) as old:
        triggers = old.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
        for name, sql in triggers.fetchall():
            old.execute(f"DROP TRIGGER {name}")
            kept.append(sql)
        old.execute(damage)
        for sql in kept:
            old.execute(sql)
        old.commit()
    for _ in range(2):
        with pytest.raises(DamagedRecord, match=named):
            open_sqlite(path)


def test_a_redis_record_of_format_2_keeps_its_settings_and_reports_what_it_drops(caplog):
    with _old_record("redis_format_2.tar.gz") as server:
        _set_in_format_2(server, "recalibration", "0")
        server.ask("HSET", "gmn:g:1", "calibration", '{"rows": []}')
        for dropped in (["the calibration that 1 galleries had learned was dropped"], []):
            caplog.clear()
            with (
                caplog.at_level(logging.WARNING),
                contextlib.closing(open_redis(server.url)) as store,
            ):
                (gallery,) = store.galleries.all()
                assert gallery.settings == GallerySettings(36_500, "off", "captured")
                assert store.calibrations.published(gallery.gallery_id) == {}
                assert [(key.learn, key.expires_at) for key in store.keys.all()] == [(True, None)]
                assert [message.partition(";")[0] for message in caplog.messages] == dropped


def test_a_gallery_that_was_damaged_before_an_upgrade_is_refused_after_it():
    with _old_record("redis_format_2.tar.gz") as server:
        _set_in_format_2(server, "recalibration", "1")
        server.ask("HSET", "gmn:g:1", "retention_days", "1")
        with (
            contextlib.closing(open_redis(server.url)) as store,
            pytest.raises(DamagedRedisRecord, match="gallery 1 is not what was written"),
        ):
            store.galleries.all()


@contextlib.contextmanager
def _old_record(name: str) -> Iterator[RedisServer]:
    with redis_server() as server:
        server.kill()
        with tarfile.open(OLD / name) as file:
            file.extractall(server.folder, filter="data")
        server.start()
        yield server


def _set_in_format_2(server: RedisServer, name: str, value: str) -> None:
    """Sets a field of the gallery as the program of format 2 did, with its sum."""
    names = (
        "generation side name embedder staged staged_side created_at retention_days recalibration"
    )
    server.ask("HSET", "gmn:g:1", name, value)
    values = [server.ask("HGET", "gmn:g:1", one) for one in names.split()]
    server.ask("HSET", "gmn:g:1", "sum", record_sum(b"1", values))


def test_every_format_has_its_file():
    """Fails for whoever raises a version: see old_formats/make.py."""
    stored = {sqlite_version(gzip.decompress(packed.read_bytes())) for packed in STORES}
    assert stored == set(range(1, len(MIGRATIONS) + 1))
    numbers = {int(packed.name.split("_")[2].split(".")[0]) for packed in RECORDS}
    assert numbers == set(range(1, record_format.FORMAT + 1))


def test_every_format_of_snapshots_has_its_file(tmp_path):
    found = set()
    for packed in SNAPSHOTS:
        path = _unpacked(packed, tmp_path)
        snapshot_content(path)
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
