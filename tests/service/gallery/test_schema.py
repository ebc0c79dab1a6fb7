"""The SQLite file: no listing sorts a gallery."""

from __future__ import annotations

import contextlib
import sqlite3

import pytest

from service.record.record import open_sqlite


@pytest.mark.parametrize(
    "narrowed", ["", "AND identity = 'a'", "AND camera = 'east'", "AND external_id = '7'"]
)
def test_a_page_of_a_listing_is_read_in_order_without_sorting(tmp_path, narrowed):
    path = tmp_path / "galleries.sqlite3"
    open_sqlite(path).close()
    with contextlib.closing(sqlite3.connect(path)) as database:
        plan = database.execute(
            "EXPLAIN QUERY PLAN SELECT crop_id FROM crops WHERE gallery_id = 1 AND row_id > 5 "
            f"{narrowed} ORDER BY row_id LIMIT 100"
        ).fetchall()
    assert plan
    assert not any("TEMP B-TREE" in step[-1] or "SCAN" in step[-1] for step in plan)


def test_vectors_are_read_in_order_without_sorting(tmp_path):
    path = tmp_path / "galleries.sqlite3"
    open_sqlite(path).close()
    with contextlib.closing(sqlite3.connect(path)) as database:
        plan = database.execute(
            "EXPLAIN QUERY PLAN SELECT vector FROM crops JOIN vectors_a USING (row_id) "
            "WHERE gallery_id = 1 ORDER BY row_id"
        ).fetchall()
    assert not any("TEMP B-TREE" in step[-1] for step in plan)
