"""Records of the first version, and snapshots of every format, are read by this program.

`old_formats` holds what the program of the time wrote; `old_formats/make.py` has the commands.
"""

from __future__ import annotations

import contextlib
import gzip
import sqlite3
import tarfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from service.record.snapshot_file import FORMAT, read_snapshot, snapshot_header, write_snapshot
from service.record.verification import verify_record
from typer.testing import CliRunner

from model.problems import InputProblem
from service.commands.keys import keys as keys_command
from service.record.record import Record, open_redis, open_sqlite
from service.record.values import CropFilter, GallerySettings
from tests.service.gallery.new_crops import new_crop
from tests.service.redis_server import RedisServer, redis_server

OLD = Path(__file__).parent / "old_formats"
SNAPSHOTS = sorted(OLD.glob("*/snapshot.gmn.gz"))
FIRST = OLD / "version_0.1.0"
BEFORE = OLD / "version_6"
CROPS = 30
EMBEDDER = "a" * 64


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


def _check_record(store: Record, folder: Path) -> None:
    """Everything is there, and can be changed."""
    (merge,) = store.identities.merges(1)
    assert store.identities.undo_merge(1, merge.merge_id).count == 4
    gallery = _check_crops(store)
    assert [(key.key_id, key.scopes) for key in store.keys.all()] == [("door", ("query",))]
    people = store.people.page(gallery, "", 99, sort="last_seen")
    assert [(one.identity, one.last_seen) for one in people] == [
        (f"{number:04d}", datetime(2026, 3, 1, 12, tzinfo=UTC)) for number in range(7)
    ]
    store.people.complete(gallery, store.people.incomplete(gallery))
    assert store.people.page(gallery, "", 99, sort="last_seen") == people
    assert verify_record(store.engine, folder).whole
    _check_writes(store, gallery, folder)


def test_a_file_of_the_first_version_is_read_and_written_on(tmp_path):
    path = _unpacked(FIRST / "galleries.sqlite3.gz", tmp_path)
    with contextlib.closing(open_sqlite(path)) as store:
        _check_record(store, tmp_path)
        galleries = store.galleries.all()
    with contextlib.closing(open_sqlite(path)) as again:
        assert again.galleries.all() == galleries


def test_a_redis_record_of_the_first_version_is_read_and_written_on(tmp_path):
    with _old_record(FIRST) as server:
        with contextlib.closing(open_redis(server.url)) as store:
            _check_record(store, tmp_path)
            galleries = store.galleries.all()
        with contextlib.closing(open_redis(server.url)) as again:
            assert again.galleries.all() == galleries


def test_a_file_of_an_older_format_is_refused_by_name_and_untouched(tmp_path):
    path = _unpacked(BEFORE / "galleries.sqlite3.gz", tmp_path)
    held = path.read_bytes()
    with pytest.raises(InputProblem, match=r"format version 6.*the program version that wrote"):
        open_sqlite(path)
    for arguments in (["list"], ["create", "--scope", "query"], ["revoke", "door"]):
        refused = CliRunner().invoke(keys_command, [*arguments, "--data-dir", str(tmp_path)])
        assert "format version 6" in str(refused.exception)
    assert path.read_bytes() == held


def test_a_redis_record_of_an_older_format_is_refused_by_name_and_untouched():
    with _old_record(BEFORE) as server:
        keys = server.ask("DBSIZE")
        with pytest.raises(InputProblem, match=r"format version 4.*the program version that wrote"):
            open_redis(server.url)
        assert (_format_of(server), server.ask("DBSIZE")) == (4, keys)


@contextlib.contextmanager
def _old_record(folder: Path) -> Iterator[RedisServer]:
    with redis_server() as server:
        server.kill()
        with tarfile.open(folder / "redis.tar.gz") as file:
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


def _format_of(server: RedisServer) -> int:
    return int(server.ask("GET", "gmn:format"))
