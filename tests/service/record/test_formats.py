"""A record of a former format is changed by the first start, or left as it is."""

import contextlib
import json
import os
import re
import shutil
import signal
import sqlite3
import sys
import tarfile
from datetime import UTC, datetime

import psycopg
import pytest

from bench.frozen_format import DATA, FOLDER, POSTGRES
from model.problems import InputProblem
from service.opening import open_folder
from service.ops.data_directory import hold
from service.postgres.database import FORMER as FORMER_IN_POSTGRES
from service.postgres.dialect import number_placeholders
from service.record.schema import FORMAT, FORMER, digest_of, read_schema, schema_of_format
from service.record.transaction import FILE
from service.settings import Settings
from service.store.backup import NAME_FORMAT, restore_backup
from service.store.formats import COPIES, change_format
from service.store.verify import verify
from tests.engines import database_url
from tests.forked import run_gmn
from tests.service.gallery.new_crops import listed
from tests.service.small_disk import small_disk

OLD = sorted(FORMER)
# What is found of a table of PostgreSQL.
COLUMNS = """
SELECT table_name, column_name, data_type, is_nullable, collation_name, column_default
FROM information_schema.columns WHERE table_schema = current_schema()
ORDER BY table_name, ordinal_position
"""
INDEXES = "SELECT indexdef FROM pg_indexes WHERE schemaname = current_schema() ORDER BY indexname"


@pytest.fixture(params=OLD)
def former(request, tmp_path):
    """Return a data directory of a former format."""
    with tarfile.open(FOLDER / str(request.param) / DATA) as packed:
        packed.extractall(tmp_path, filter="data")
    return tmp_path / "data"


def tables_of(path):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        sizes = connection.execute("SELECT * FROM sqlite_stat1 ORDER BY 1, 2, 3").fetchall()
        return version, read_schema(connection), sizes


def rows_of(path):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT * FROM crops ORDER BY 1, 2").fetchall()


def crops_of(folder):
    with contextlib.closing(open_folder(folder, database_url(folder))) as record:
        galleries = record.galleries.all()
        return [crop for gallery in galleries for crop in listed(record, gallery.gallery_id)]


def change(folder):
    change_format(Settings(data_dir=folder, database_url=database_url(folder)))


@pytest.mark.sqlite_alone
@pytest.mark.promise("former-format")
def test_the_first_start_makes_the_tables_of_a_new_record_and_keeps_a_copy(
    former, tmp_path, caplog
):
    before = rows_of(former / FILE)
    _, written, _ = tables_of(former / FILE)
    assert digest_of(written) == FORMER[OLD[0]]
    change(former)
    (tmp_path / "new").mkdir()
    open_folder(tmp_path / "new").close()
    assert tables_of(former / FILE) == tables_of(tmp_path / "new" / FILE)
    assert tables_of(former / FILE)[:2] == (FORMAT, schema_of_format())
    crops = crops_of(former)
    assert len(crops) == len(before) > 1
    assert all(crop.sha256 == crop.sent_sha256 for crop in crops)
    assert verify(former).damage == []
    # The copy is the way back, and the log says where it is.
    (copy,) = former.glob(COPIES)
    assert rows_of(copy) == before
    assert copy.stat().st_mode & 0o777 == 0o600
    assert re.search(rf"{re.escape(str(copy))} is a copy .* delete it", caplog.text)
    # A second start changes nothing.
    caplog.clear()
    change(former)
    assert (list(former.glob(COPIES)), caplog.text) == ([copy], "")


@pytest.mark.sqlite_alone
@pytest.mark.promise("2")
def test_visits_lose_the_crops_that_were_deleted_before(former):
    with contextlib.closing(sqlite3.connect(former / FILE)) as connection, connection:
        ((query_id,),) = connection.execute("SELECT query_id FROM searches")
        (crop_id,) = connection.execute("SELECT crop_id FROM crops").fetchone()
        visits = [
            {"crop_ids": [crop_id], "camera": "here"},
            {"crop_ids": ["0"], "camera": "Marktplatz"},
        ]
        row = (query_id, json.dumps({"results": [], "uncertain": visits}))
        connection.execute("INSERT INTO search_visits VALUES (?, ?)", row)
    change(former)
    with contextlib.closing(sqlite3.connect(former / FILE)) as connection:
        assert "Marktplatz" not in " ".join(connection.iterdump())
        ((left,),) = connection.execute("SELECT visits FROM search_visits")
        assert json.loads(left) == {"results": [], "uncertain": visits[:1], "removed": 1}
        assert connection.execute("SELECT * FROM visit_crops").fetchall() == [(query_id, crop_id)]


@pytest.mark.sqlite_alone
@pytest.mark.promise("former-format")
@pytest.mark.parametrize("point", ["format.copied", "format.changed", "format.committed"])
def test_a_kill_amid_the_change_leaves_one_format_or_the_other(former, point):
    before = rows_of(former / FILE)
    child = os.fork()
    if child == 0:
        sys.addaudithook(
            lambda event, _: event == f"gmn.{point}" and os.kill(os.getpid(), signal.SIGKILL)
        )
        change(former)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    version, _, _ = tables_of(former / FILE)
    assert version == (FORMAT if point == "format.committed" else OLD[0])
    change(former)
    assert tables_of(former / FILE)[0] == FORMAT
    assert len(crops_of(former)) == len(before)
    assert all(rows_of(copy) == before for copy in former.glob(COPIES))
    assert list(former.glob("*.part")) == []


@pytest.mark.sqlite_alone
@pytest.mark.promise("former-format")
def test_a_full_disk_refuses_the_start_and_loses_nothing(former, tmp_path):
    size = sum(path.stat().st_size for path in former.iterdir() if path.name != "reserve")
    with small_disk(tmp_path / "disk", size // 2**20 + 2) as disk:
        folder = disk.path / "data"
        shutil.copytree(former, folder, ignore=shutil.ignore_patterns("reserve"))
        before = rows_of(folder / FILE)
        disk.fill(100_000)
        with pytest.raises(InputProblem, match=r"could not be changed .* free space there"):
            change(folder)
        assert tables_of(folder / FILE)[0] == OLD[0]
        assert rows_of(folder / FILE) == before
        assert list(folder.glob("record-of-*")) == []
        disk.free()
        change(folder)
        assert len(crops_of(folder)) == len(before)


@pytest.mark.sqlite_alone
def test_a_record_that_another_process_serves_is_not_changed(former):
    with (
        hold(former / "lock", shared=True),
        pytest.raises(InputProblem, match="another process is serving it; stop that one first"),
    ):
        change(former)
    assert tables_of(former / FILE)[0] == OLD[0]
    assert list(former.glob(COPIES)) == []


@pytest.mark.sqlite_alone
def test_commands_say_that_a_start_changes_it_first(former, tmp_path):
    content = (former / FILE).read_bytes()
    for command in (
        ("store", "verify"),
        ("backup", str(tmp_path / "backups")),
        ("doctor", "--json"),
        ("keys", "list"),
    ):
        ran = run_gmn(*command, "--data-dir", str(former))
        assert ran.returncode != 0
        said = " ".join((ran.stdout + ran.stderr).split())
        assert f"is of format {OLD[0]}, which a start of this version changes" in said, command
    assert run_gmn("audit", "verify", "--data-dir", str(former)).returncode == 0
    assert (former / FILE).read_bytes() == content


@pytest.mark.sqlite_alone
def test_tables_that_no_version_has_written_are_not_changed(former):
    with contextlib.closing(sqlite3.connect(former / FILE)) as connection:
        connection.execute(
            "CREATE TRIGGER strange AFTER UPDATE ON crops BEGIN DELETE FROM people; END"
        )
    before = tables_of(former / FILE)
    change(former)
    with pytest.raises(InputProblem, match=f"its tables are not those of format {FORMAT}"):
        open_folder(former)
    assert tables_of(former / FILE) == before


@pytest.mark.sqlite_alone
def test_a_backup_of_a_former_format_is_restored(former, tmp_path):
    backup = tmp_path / "backups" / f"{datetime.now(UTC):{NAME_FORMAT}}"
    backup.mkdir(parents=True)
    for path in (former / FILE, former / "deletions.log", *former.glob("vectors-*")):
        shutil.copy(path, backup)
    content = (backup / FILE).read_bytes()
    restored = restore_backup(backup, tmp_path / "restored", former)
    assert sum(restored.crops.values()) == len(crops_of(tmp_path / "restored")) > 1
    assert verify(tmp_path / "restored").damage == []
    assert (backup / FILE).read_bytes() == content


@pytest.fixture
def former_in_postgres(former, tmp_path, postgres_server):
    """Return a data directory whose record, of a former format, is in PostgreSQL."""
    folder = tmp_path / "machine"
    url = database_url(folder)
    with (
        psycopg.connect(url) as target,
        contextlib.closing(sqlite3.connect(former / FILE)) as source,
    ):
        target.execute((FOLDER / str(OLD[0]) / POSTGRES).read_text(encoding="utf-8"))
        source.row_factory = sqlite3.Row
        for table in ("galleries", "people", "crops", "pictures", "searches", "search_files"):
            for row in source.execute(f"SELECT * FROM {table}"):
                places = ", ".join("?" * len(row))
                insert = f"INSERT INTO {table} ({', '.join(row.keys())}) VALUES ({places})"
                with psycopg.RawCursor(target) as cursor:
                    cursor.execute(number_placeholders(insert).text, list(row))
        for row in source.execute("SELECT * FROM record"):
            target.execute("INSERT INTO record VALUES (%s, %s)", list(row))
        written = f"{OLD[0]} {FORMER_IN_POSTGRES[OLD[0]]}"
        target.execute("INSERT INTO record VALUES ('format', %s)", (written,))
        target.execute(
            "INSERT INTO commits SELECT CAST(value AS BIGINT), 'a' FROM record "
            "WHERE name = 'commit'"
        )
    return folder


@pytest.mark.postgres_alone
@pytest.mark.promise("former-format")
def test_tables_in_postgresql_are_changed_by_the_first_start(former_in_postgres, tmp_path):
    folder = former_in_postgres
    with pytest.raises(InputProblem, match="which a start of this version changes"):
        open_folder(folder, database_url(folder))
    change(folder)
    change(folder)
    open_folder(tmp_path / "new", database_url(tmp_path / "new")).close()
    found = []
    for place in (folder, tmp_path / "new"):
        with psycopg.connect(database_url(place)) as connection:
            columns = connection.execute(COLUMNS).fetchall()
            indexes = connection.execute(INDEXES).fetchall()
            found.append((columns, [text.split(" USING ")[1] for (text,) in indexes]))
    assert found[0] == found[1]
    crops = crops_of(folder)
    assert len(crops) > 1
    assert all(crop.sha256 == crop.sent_sha256 for crop in crops)


@pytest.mark.postgres_alone
@pytest.mark.promise("former-format")
def test_a_record_in_postgresql_that_another_machine_serves_is_not_changed(former_in_postgres):
    url = database_url(former_in_postgres)
    with psycopg.connect(url) as other:
        other.execute(
            "SELECT pg_advisory_lock(hashtextextended('gmn-jobs:' || current_schema(), 0))"
        )
        with pytest.raises(InputProblem, match="stop all machines first"):
            change(former_in_postgres)
    with psycopg.connect(url) as connection:
        connection.execute("SELECT sha256 FROM crops")
        with pytest.raises(psycopg.errors.UndefinedColumn):
            connection.execute("SELECT sent_sha256 FROM crops")
