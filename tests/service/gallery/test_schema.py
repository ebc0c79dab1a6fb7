"""The SQLite file: older versions become the newest, and no listing sorts a gallery."""

from __future__ import annotations

import contextlib
import sqlite3

import numpy as np
import pytest

from service.gallery.records import CropFilter
from service.gallery.sqlite.schema import MIGRATIONS
from service.gallery.sqlite.store import SqliteStore


@pytest.mark.parametrize("version", range(len(MIGRATIONS)))
def test_a_file_of_an_older_version_keeps_its_galleries_and_crops(tmp_path, version):
    path = tmp_path / "galleries.sqlite3"
    with contextlib.closing(sqlite3.connect(path)) as older:
        for number in range(version):
            older.executescript(f"{MIGRATIONS[number]}; PRAGMA user_version = {number + 1};")
        if version:
            older.execute(
                "INSERT INTO galleries (gallery_id, name, embedding_fingerprint, version, "
                "created_at) VALUES (1, 'lobby', 'a', 3, '2026-03-01T09:30:00Z')"
            )
            older.execute(
                "INSERT INTO crops (row_id, gallery_id, crop_id, sha256, identity, content_type, "
                "created_at, vector) VALUES (5, 1, 'c5', 'x', '0042', 'image/png', "
                "'2026-03-01T09:30:00+00:00', ?)",
                (np.arange(3, dtype="<f4").tobytes(),),
            )
            older.execute("INSERT INTO pictures VALUES (5, x'0102')")
        older.commit()
    with contextlib.closing(SqliteStore(path)) as store:
        names = [gallery.name for gallery in store.galleries.all()]
        crops = store.crops.page(1, CropFilter(), 0, 9)
        vectors = [one.vector.tolist() for one in store.crops.vectors(1)]
        pictures = [store.crops.picture(1, crop.crop_id).content for crop in crops]
    with contextlib.closing(sqlite3.connect(path)) as newest:
        assert newest.execute("PRAGMA user_version").fetchone()[0] == len(MIGRATIONS)
    if version:
        assert (names, vectors, pictures) == (["lobby"], [[0.0, 1.0, 2.0]], [b"\1\2"])
        assert (crops[0].identity, crops[0].image_bytes) == ("0042", 2)
    else:
        assert names == []


@pytest.mark.parametrize(
    "narrowed", ["", "AND identity = 'a'", "AND camera = 'east'", "AND external_id = '7'"]
)
def test_a_page_of_a_listing_is_read_in_order_without_sorting(tmp_path, narrowed):
    path = tmp_path / "galleries.sqlite3"
    SqliteStore(path).close()
    with contextlib.closing(sqlite3.connect(path)) as database:
        plan = database.execute(
            "EXPLAIN QUERY PLAN SELECT crop_id FROM crops WHERE gallery_id = 1 AND row_id > 5 "
            f"{narrowed} ORDER BY row_id LIMIT 100"
        ).fetchall()
    assert plan
    assert not any("TEMP B-TREE" in step[-1] or "SCAN" in step[-1] for step in plan)


def test_vectors_are_read_in_order_without_sorting(tmp_path):
    path = tmp_path / "galleries.sqlite3"
    SqliteStore(path).close()
    with contextlib.closing(sqlite3.connect(path)) as database:
        plan = database.execute(
            "EXPLAIN QUERY PLAN SELECT vector FROM crops JOIN vectors_a USING (row_id) "
            "WHERE gallery_id = 1 ORDER BY row_id"
        ).fetchall()
    assert not any("TEMP B-TREE" in step[-1] for step in plan)
