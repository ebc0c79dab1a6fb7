"""Records of the stores' newest formats are written anew in the record, and nothing is lost."""

from __future__ import annotations

import contextlib
import gzip
import sqlite3

import pytest

from model.problems import InputProblem
from service.record import sqlite_migration
from service.record.record import open_redis, open_sqlite
from tests.service.gallery.test_old_formats import (
    OLD,
    _check_crops,
    _check_writes,
    _old_record,
    _unpacked,
)

NEWEST = OLD / "version_6" / "galleries.sqlite3.gz"


def _check_keys(record) -> None:
    assert [(key.key_id, key.scopes) for key in record.keys.all()] == [("door", ("query",))]


def test_a_file_of_the_newest_format_is_read_and_written_on(tmp_path):
    path = _unpacked(NEWEST, tmp_path)
    with contextlib.closing(sqlite3.connect(path)) as old:
        removed = [crop_id for (crop_id,) in old.execute("SELECT crop_id FROM tombstones")]
    with contextlib.closing(open_sqlite(path)) as record:
        gallery = _check_crops(record)
        assert record.crops.removed_among(gallery, removed) == removed != []
        _check_keys(record)
        _check_writes(record, gallery, tmp_path)
        crops = record.galleries.get(gallery).crops
    with contextlib.closing(open_sqlite(path)) as again:
        assert again.galleries.get(gallery).crops == crops


def test_a_redis_record_of_the_newest_format_is_read_and_written_on(tmp_path):
    with _old_record("redis_format_3.tar.gz") as server:
        with contextlib.closing(open_redis(server.url)) as record:
            gallery = _check_crops(record)
            _check_keys(record)
            _check_writes(record, gallery, tmp_path)
            crops = record.galleries.get(gallery).crops
        assert server.ask("KEYS", "gmn:g:*") == []
        with contextlib.closing(open_redis(server.url)) as again:
            assert again.galleries.get(gallery).crops == crops


def test_a_migration_that_was_killed_begins_again(tmp_path, monkeypatch):
    path = _unpacked(NEWEST, tmp_path)

    def killed(old, engine):
        migrate(old, engine)
        raise KeyboardInterrupt

    migrate = sqlite_migration.migrate
    monkeypatch.setattr(sqlite_migration, "migrate", killed)
    with pytest.raises(KeyboardInterrupt):
        open_sqlite(path)
    assert path.read_bytes() == gzip.decompress(NEWEST.read_bytes())
    monkeypatch.undo()
    with contextlib.closing(open_sqlite(path)) as record:
        _check_crops(record)


def test_a_file_of_an_older_format_is_refused_with_the_remedy(tmp_path):
    path = _unpacked(OLD / "version_4" / "galleries.sqlite3.gz", tmp_path)
    with pytest.raises(InputProblem, match="serve it once with the program version between"):
        open_sqlite(path)
