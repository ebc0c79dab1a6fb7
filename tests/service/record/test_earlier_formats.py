"""Records and archives of the formats from 8 on: they open as before, with the tables of today."""

import contextlib
import sqlite3

import pytest

from service.record.backup import restore_backup, write_backup
from service.record.deletions import LOG_NAME
from service.record.schema import CHECKED_TABLES, TABLES, row_crc
from service.record.transaction import FILE
from service.record.verify import verify
from tests.service.gallery.new_crops import (
    enroll,
    listed,
    listed_ids,
    new_crop,
    new_gallery,
    only,
    open_record,
)

WATCHES = ("watches", "watch_traffic", "alerts", "alert_pictures", "webhooks", "deliveries")
OF_REVIEWS = ("alert_scores", "review_changes", "ignored_reviews")
OF_CAMERAS = ("cameras", "camera_hours", "camera_traffic")
OF_FORMAT_13 = (*OF_CAMERAS, "watch_trials", "trial_alerts", *OF_REVIEWS)
OF_FORMAT_14 = ("imported_crops", "deletions")
LATEST = ("counted_tracks", "alert_crops", *OF_FORMAT_13, *OF_FORMAT_14)
OBSOLETE = (
    "restores",
    "incoming",
    "incoming_tracks",
    "collections",
    "unneeded_collections",
    "snapshots",
)
# Tables that came with later formats.
LATER_TABLES = {
    8: ("tracks", "remote_indexes", *WATCHES, *LATEST),
    9: ("remote_indexes", *WATCHES, *LATEST),
    10: ("remote_indexes", *LATEST),
    11: LATEST,
    12: (*OF_FORMAT_13, *OF_FORMAT_14),
    13: OF_FORMAT_14,
}


def _add_checksums(connection, table):
    """Give a table the checksums that all had until format 13."""
    columns = ", ".join(table.columns)
    checksum = f"crc INTEGER GENERATED ALWAYS AS (row_crc({columns})) STORED"
    statement = "SELECT sql FROM sqlite_master WHERE name = ?"
    ((created,),) = connection.execute(statement, (table.name,)).fetchall()
    indexes = "SELECT sql FROM sqlite_master WHERE type = 'index' AND tbl_name = ? AND sql NOT NULL"
    statements = [sql for (sql,) in connection.execute(indexes, (table.name,))]
    rows = connection.execute(f"SELECT {columns} FROM {table.name}").fetchall()
    last = table.definition.splitlines()[len(table.columns) - 1].strip().rstrip(",")
    connection.execute(f"DROP TABLE {table.name}")
    connection.execute(created.replace(last, f"{last}, {checksum}", 1))
    for sql in statements:
        connection.execute(sql)
    marks = ", ".join("?" * len(table.columns))
    connection.executemany(f"INSERT INTO {table.name} ({columns}) VALUES ({marks})", rows)


def make_earlier(folder, version):
    """Give a record the tables of an earlier format, all that were dropped since, and no log."""
    (folder / LOG_NAME).unlink(missing_ok=True)
    with contextlib.closing(sqlite3.connect(folder / FILE)) as connection:
        triggers = connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")
        for (name,) in triggers.fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        connection.create_function("row_crc", -1, row_crc, deterministic=True)
        for table in TABLES.values():
            if table.name not in CHECKED_TABLES:
                _add_checksums(connection, table)
        for name in LATER_TABLES[version]:
            connection.execute(f"DROP TABLE {name}")
            connection.execute("DELETE FROM sqlite_stat1 WHERE tbl = ?", (name,))
        for name in OBSOLETE:
            connection.execute(f"CREATE TABLE {name} (gallery_id INTEGER REFERENCES galleries)")
            connection.execute(f"INSERT INTO {name} VALUES (1)")
        connection.execute(f"PRAGMA user_version = {version}")
        connection.commit()


@pytest.mark.parametrize("version", LATER_TABLES)
def test_a_record_of_an_earlier_format_opens_without_its_obsolete_tables(
    record, gallery, tmp_path, version
):
    (old,) = enroll(record, gallery, new_crop(1))
    record.close()
    make_earlier(tmp_path, version)
    assert verify(tmp_path).damage == []
    with open_record(tmp_path) as opened:
        tables = opened.database.connection().execute("SELECT name FROM sqlite_master").fetchall()
        assert {name for (name,) in tables}.isdisjoint(OBSOLETE)
        (new,) = enroll(opened, gallery, new_crop(2, track="7"))
    with open_record(tmp_path) as again:
        tracks = {crop.crop_id: crop.track for crop in listed(again, gallery)}
        assert tracks == {old: None, new: "7"}


@pytest.mark.parametrize("version", [8, 10, 13])
def test_a_backup_of_an_earlier_format_is_restored(tmp_path, version):
    data = tmp_path / "data"
    data.mkdir()
    with open_record(data) as record:
        gallery = new_gallery(record)
        ids = enroll(record, gallery, new_crop(1), new_crop(2), new_crop(3))
        backup = write_backup(record.database, tmp_path / "backups").path
        record.crops.remove(gallery, ids[2:])
    make_earlier(backup, version)
    restore_backup(backup, tmp_path / "restored", data)
    with open_record(tmp_path / "restored") as record:
        assert listed_ids(record, gallery) == ids[:2]
        record.crops.change(gallery, only(ids[0]), {"track": "new"})
        assert [crop.track for crop in listed(record, gallery)] == ["new", None]
