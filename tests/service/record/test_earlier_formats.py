"""Records and backups of version 0.5 open with the tables of today; others are refused by name."""

import contextlib
import sqlite3
from pathlib import Path

import pytest

from model.problems import InputProblem
from service.record.acknowledged import FORMER_NAME
from service.record.acknowledged import NAME as COMMIT_NAME
from service.record.backup import restore_backup, write_backup
from service.record.database import Database
from service.record.deletions import LOG_NAME
from service.record.schema import row_crc
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

# The statements in `sqlite_master` of a record that version 0.5.0 created.
FORMAT_11 = Path(__file__).with_name("format_11.sql")
# Values of the columns that the tables of today lack.
FORMER_VALUES = {"restores": "0", "at": "0", "sequence": "7", "token": "zeroblob(8)"}


def schema_of(path):
    """Return columns, keys, indexes and triggers of each table of a file."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        names = "SELECT name, tbl_name, type FROM sqlite_master WHERE name NOT LIKE 'sqlite_stat%'"
        found = {}
        for name, table, kind in connection.execute(names).fetchall():
            pragma = "index_xinfo" if kind == "index" else "table_xinfo"
            columns = connection.execute(f"PRAGMA {pragma}({name})").fetchall()
            parents = connection.execute(f"PRAGMA foreign_key_list({name})").fetchall()
            found[name] = (table, kind, columns, parents)
        sizes = connection.execute("SELECT * FROM sqlite_stat1 ORDER BY tbl, idx").fetchall()
        return found, sizes


def columns_of(connection, pragma):
    return [column[1] for column in connection.execute(f"PRAGMA {pragma}")]


def make_earlier(folder):
    """Put a record of format 11 with the same rows in the place of a record of today."""
    for later in (LOG_NAME, COMMIT_NAME):
        (folder / later).unlink(missing_ok=True)
    (folder / FORMER_NAME).write_bytes(bytes(24))
    today = (folder / FILE).rename(folder / "today")
    with contextlib.closing(sqlite3.connect(folder / FILE)) as connection:
        connection.create_function("row_crc", -1, row_crc, deterministic=True)
        connection.executescript(FORMAT_11.read_text())
        connection.execute("ATTACH ? AS today", (str(today),))
        tables = connection.execute("SELECT name FROM main.sqlite_master WHERE type = 'table'")
        for (name,) in tables.fetchall():
            if today_columns := columns_of(connection, f"today.table_info({name})"):
                earlier_columns = columns_of(connection, f"main.table_info({name})")
                values = [
                    column if column in today_columns else FORMER_VALUES[column]
                    for column in earlier_columns
                ]
                connection.execute(
                    f"INSERT INTO {name} ({', '.join(earlier_columns)}) "
                    f"SELECT {', '.join(values)} FROM today.{name}"
                )
        connection.execute("UPDATE record SET value = zeroblob(16) WHERE name = 'commit'")
        connection.execute("PRAGMA user_version = 11")
        connection.commit()
    today.unlink()


def test_a_record_of_version_0_5_gets_the_tables_of_a_new_one(record, gallery, tmp_path):
    (old,) = enroll(record, gallery, new_crop(1))
    record.close()
    today = schema_of(tmp_path / FILE)
    make_earlier(tmp_path)
    assert verify(tmp_path).damage == []
    with open_record(tmp_path) as opened:
        (new,) = enroll(opened, gallery, new_crop(2, track="7"))
    assert schema_of(tmp_path / FILE) == today
    assert not (tmp_path / FORMER_NAME).exists()
    with open_record(tmp_path) as again:
        tracks = {crop.crop_id: crop.track for crop in listed(again, gallery)}
        assert tracks == {old: None, new: "7"}
    assert verify(tmp_path).damage == []


@pytest.mark.parametrize(
    ("version", "remedy"),
    [
        (10, "serve it once with version 0.5.0"),
        (14, "a version wrote it that was never released"),
        (16, "use the program version that wrote it"),
    ],
)
def test_a_record_of_another_format_is_refused_with_a_remedy(record, tmp_path, version, remedy):
    record.close()
    with contextlib.closing(sqlite3.connect(tmp_path / FILE)) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    before = (tmp_path / FILE).read_bytes()
    for read in (Database, verify):
        with pytest.raises(InputProblem, match=f"format version {version}, .*{remedy}"):
            read(tmp_path)
    assert (tmp_path / FILE).read_bytes() == before


def test_a_backup_of_version_0_5_is_restored(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    with open_record(data) as record:
        gallery = new_gallery(record)
        ids = enroll(record, gallery, new_crop(1), new_crop(2), new_crop(3))
        backup = write_backup(record.database, tmp_path / "backups").path
        record.crops.remove(gallery, ids[2:])
    make_earlier(backup)
    restore_backup(backup, tmp_path / "restored", data)
    with open_record(tmp_path / "restored") as record:
        assert listed_ids(record, gallery) == ids[:2]
        record.crops.change(gallery, only(ids[0]), {"track": "new"})
        assert [crop.track for crop in listed(record, gallery)] == ["new", None]
