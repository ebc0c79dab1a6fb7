"""The SQLite file: older versions become the newest, and no listing sorts a gallery."""

from __future__ import annotations

import contextlib
import sqlite3

import pytest

from service.gallery.schema import MIGRATIONS
from service.gallery.sqlite_store import SqliteStore


@pytest.mark.parametrize("version", range(len(MIGRATIONS)))
def test_a_file_of_an_older_version_keeps_its_galleries(tmp_path, version):
    path = tmp_path / "galleries.sqlite3"
    with contextlib.closing(sqlite3.connect(path)) as older:
        for number in range(version):
            older.executescript(f"{MIGRATIONS[number]}; PRAGMA user_version = {number + 1};")
        if version:
            older.execute(
                "INSERT INTO galleries VALUES (1, 'lobby', 'a', 3, '2026-03-01T09:30:00Z')"
            )
        older.commit()
    with contextlib.closing(SqliteStore(path)) as store:
        names = [gallery.name for gallery in store.galleries()]
    with contextlib.closing(sqlite3.connect(path)) as newest:
        assert newest.execute("PRAGMA user_version").fetchone()[0] == len(MIGRATIONS)
    assert names == (["lobby"] if version else [])


@pytest.mark.parametrize("narrowed", ["", "AND identity = 'a'", "AND camera = 'east'"])
def test_a_page_of_a_listing_is_read_in_order_without_sorting(tmp_path, narrowed):
    path = tmp_path / "galleries.sqlite3"
    SqliteStore(path).close()
    with contextlib.closing(sqlite3.connect(path)) as database:
        plan = database.execute(
            "EXPLAIN QUERY PLAN SELECT vector FROM crops WHERE gallery_id = 1 AND row_id > 5 "
            f"{narrowed} ORDER BY row_id LIMIT 100"
        ).fetchall()
    assert plan
    assert not any("TEMP B-TREE" in step[-1] or "SCAN" in step[-1] for step in plan)
