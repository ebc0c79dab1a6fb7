"""Copies of a whole record from SQLite into PostgreSQL."""

import contextlib
import hashlib
import json
import signal
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import psycopg
import pytest

import gmn
from service.opening import open_folder
from service.ops.data_directory import lock_data_directory
from service.postgres import copying
from service.postgres.connection import PostgresConnection
from service.record.deletions import Deletion, DeletionLog, read_deletions
from service.record.keys import ApiKey
from service.record.schema import TABLES
from service.record.transaction import Reader
from service.record.vectors import vectors_name
from tests.forked import run_forked
from tests.service.conftest import Served
from tests.service.gallery.new_crops import (
    NOON,
    OTHER_EMBEDDER,
    desk_of,
    enroll,
    listed_ids,
    new_crop,
    new_gallery,
    open_record,
    watch_of,
)
from tests.service.gallery.new_jobs import new_job
from tests.service.record.filled import fill_record, flip
from tests.service.record.new_searches import kept_ids, new_search
from tests.service.record.test_cameras import arm

pytestmark = pytest.mark.sqlite_alone

# Values that a record has in one of the engines alone.
OF_AN_ENGINE = {"format", "newest_deletion"}
KILLED = (
    "import os, signal; from service.postgres import copying; "
    "copying._require_count = lambda *_: os.kill(os.getpid(), signal.SIGKILL); "
    "import gmn; gmn.main()"
)


@pytest.fixture
def url(postgres_server, tmp_path):
    """Return the URL of an empty schema."""
    name = hashlib.sha256(str(tmp_path).encode()).hexdigest()[:16]
    return postgres_server.url(f"copy_{name}")


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


def copy(source, into):
    return gmn.run(["store", "copy", str(source), "--into", str(into)])


def in_postgres(folder, url):
    return contextlib.closing(open_folder(folder, url))


def rows_of(record):
    """Return the rows of every table, but what an engine has alone."""
    rows = {}
    with record.database.read() as reader:
        for name, table in TABLES.items():
            columns = ", ".join(table.columns)
            rows[name] = sorted(reader.tuples(f"SELECT {columns} FROM {name}"), key=repr)
    rows["record"] = [
        (name, value.hex() if isinstance(value, bytes) else str(value))
        for name, value in rows["record"]
        if name not in OF_AN_ENGINE
    ]
    del rows["deletions"]
    return rows


def vectors_of(record, gallery):
    return {crop.record.crop_id: crop.vector.tolist() for crop in record.crops.vectors(gallery)}


def pictures_of(record, gallery, crop_ids):
    return [record.crops.picture(gallery, crop_id) for crop_id in crop_ids]


def tables_of(url):
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = current_schema()::regnamespace"
        )
        return {name for (name,) in rows}


def fill(data):
    """Fill a record by its own rules; return what a user knows of it."""
    with open_record(data) as record:
        lobby = new_gallery(record)
        gate = new_gallery(record, "gate")
        ids = enroll(record, lobby, *(new_crop(number, "ab"[number % 2]) for number in range(6)))
        enroll(record, gate, new_crop(9, "c"))
        gone = new_gallery(record, "gone")
        record.galleries.delete(gone)
        record.crops.remove(lobby, [ids[0]])
        search = new_search(ids[1], ids[2], crop_id=ids[1], picture=b"picture")
        desk_of(record).kept.keep(lobby, [search], 10)
        case = desk_of(record).cases.create(lobby, "theft", "notes", "k")
        record.people.rename(lobby, "a", "Ann")
        record.staged.begin(lobby, OTHER_EMBEDDER)
        record.staged.add(lobby, {2: np.full(3, 2.5), 3: np.full(3, 3.5)})
        arm(record, gate)
        record.keys.add(ApiKey("door", "1" * 64, ("query",), None, "", NOON))
        record.keys.add(ApiKey("lost", "2" * 64, ("query",), None, "", NOON))
        record.keys.revoke("lost")
        record.jobs.create(new_job("begun", gate))
        record.jobs.update("begun", "done", {"done": 1})
    return lobby, gate, ids, search.query_id, case.case_id


@pytest.mark.promise("1")
def test_a_copied_record_is_as_it_was(data, url, tmp_path, capsys):
    lobby, gate, ids, query_id, case_id = fill(data)
    with open_record(data) as record:
        rows = rows_of(record)
        secret = record.galleries.group_secret()
        vectors = {gallery: vectors_of(record, gallery) for gallery in (lobby, gate)}
        pictures = pictures_of(record, lobby, ids[1:])
    assert copy(data, url) == 0
    printed = capsys.readouterr().out
    assert "lobby: 5 crops\n" in printed
    assert "gate: 1 crop\n" in printed
    assert "8 vectors, as many as in the source" in printed
    for machine in ("machine", "other"):
        with in_postgres(tmp_path / machine, url) as record:
            assert rows_of(record) == rows
            assert record.galleries.group_secret() == secret
            assert {gallery: vectors_of(record, gallery) for gallery in vectors} == vectors
            assert pictures_of(record, lobby, ids[1:]) == pictures
            assert kept_ids(record, lobby) == [query_id]
            assert desk_of(record).cases.get(lobby, case_id).name == "theft"
            assert [watched.gallery_id for watched in watch_of(record).watches.armed()] == [gate]
            assert [key.key_id for key in record.keys.all()] == ["door"]
            # The reindex goes on.
            assert [crop.slot for crop in record.staged.missing(lobby, 0, 9)] == [4, 5, 6]
    with in_postgres(tmp_path / "machine", url) as record:
        # The number of a deleted gallery is not given again.
        assert new_gallery(record, "next") == gate + 2


def test_every_table_is_copied(data, url, tmp_path):
    fill_record(data)
    with open_record(data) as record:
        rows = rows_of(record)
    assert all(rows.values())
    assert copy(data, url) == 0
    with in_postgres(tmp_path / "machine", url) as record:
        copied = rows_of(record)
    # The rows of this table belong to no vectors.
    del rows["checksums"], copied["checksums"]
    assert copied == rows


def test_pages_of_rows_leave_none_out(data, url, tmp_path, monkeypatch):
    monkeypatch.setattr(copying, "ROWS_AT_ONCE", 2)
    lobby, *_ = fill(data)
    with open_record(data) as record:
        rows = rows_of(record)
        vectors = vectors_of(record, lobby)
    assert copy(data, url) == 0
    with in_postgres(tmp_path / "machine", url) as record:
        assert rows_of(record) == rows
        assert vectors_of(record, lobby) == vectors


@pytest.mark.promise("2")
def test_what_was_deleted_before_a_copy_stays_deleted_in_it(data, url, tmp_path):
    lobby, _, ids, *_ = fill(data)
    before = read_deletions(data / "deletions.log")
    named = {(line.kind, line.id) for line in before if line.kind != "since"}
    assert {"crop", "key", "gallery"} <= {kind for kind, _ in named}
    assert copy(data, url) == 0
    for machine in ("machine", "other"):
        with in_postgres(tmp_path / machine, url) as record:
            assert ids[0] not in listed_ids(record, lobby)
            lines = read_deletions(tmp_path / machine / "deletions.log")
            assert named <= {(line.kind, line.id) for line in lines}


def test_a_copied_tombstone_is_no_new_deletion(data, url, tmp_path):
    fill(data)
    # Its line is older than the log keeps it.
    with open_record(data) as record:
        record_id = Reader(record.database).value("SELECT value FROM record WHERE name='record_id'")
    since = Deletion(0, datetime.now(UTC), "since", record_id)
    DeletionLog(data).write([since.as_line()])
    assert copy(data, url) == 0
    with in_postgres(tmp_path / "machine", url):
        lines = read_deletions(tmp_path / "machine" / "deletions.log")
        assert [line.kind for line in lines] == ["since"]


def test_a_former_secret_ends_when_it_was_to_end(data, url, tmp_path):
    with open_record(data) as record:
        key = ApiKey("door", "1" * 64, ("query",), None, "", NOON)
        record.keys.add(key)
        later = datetime.now(UTC) + timedelta(days=1)
        rotated = replace(key, secret_sha256="2" * 64, former_sha256="1" * 64, former_until=later)
        record.keys.change(rotated)
    assert copy(data, url) == 0
    for machine in ("machine", "other"):
        with in_postgres(tmp_path / machine, url) as record:
            assert record.keys.all() == [rotated]


def test_a_record_that_answers_without_a_key_again_does_so_in_the_copy(data, url, tmp_path):
    with open_record(data) as record:
        record.keys.add(ApiKey("door", "1" * 64, ("query",), None, "", NOON))
        record.keys.revoke("door")
    assert copy(data, url) == 0
    for machine in ("machine", "other"):
        with in_postgres(tmp_path / machine, url) as record:
            assert not record.keys.asked_for


def test_imports_that_have_not_ended_are_cancelled_in_the_copy(data, url, tmp_path):
    lobby, *_ = fill(data)
    with open_record(data) as record:
        record.jobs.create(new_job("waiting", lobby))
    assert copy(data, url) == 0
    with in_postgres(tmp_path / "machine", url) as record:
        assert record.jobs.get("waiting").state == "cancelled"
        assert record.jobs.open() == []


def test_a_schema_with_tables_is_refused_and_unchanged(data, url, tmp_path, capsys):
    fill(data)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE cashbox (coins BIGINT)")
    there = tables_of(url)
    assert copy(data, url) == 2
    assert "has tables already (cashbox)" in capsys.readouterr().err
    assert tables_of(url) == there


def test_a_database_with_a_record_is_refused_and_unchanged(data, url, tmp_path, capsys):
    fill(data)
    assert copy(data, url) == 0
    with in_postgres(tmp_path / "machine", url) as record:
        new_gallery(record, "next")
        rows = rows_of(record)
    assert copy(data, url) == 2
    assert "has tables already" in capsys.readouterr().err
    with in_postgres(tmp_path / "machine", url) as record:
        assert rows_of(record) == rows


def test_a_copy_goes_into_a_database_alone(data, url, tmp_path, capsys):
    fill(data)
    assert copy(data, tmp_path / "back") == 2
    assert "the URL of PostgreSQL" in capsys.readouterr().err
    assert not (tmp_path / "back").exists()
    assert copy(data, url) == 0
    assert copy(url, tmp_path / "back") == 2
    assert "name the data directory of a service" in capsys.readouterr().err
    assert not (tmp_path / "back").exists()


def test_a_source_without_a_record_is_refused(data, url, capsys):
    assert copy(data, url) == 2
    assert "has no record; name the data directory of a service" in capsys.readouterr().err
    assert tables_of(url) == set()


def test_a_server_that_does_not_answer_is_named(data, tmp_path, capsys):
    fill(data)
    nowhere = f"postgresql:///gmn?host={tmp_path}"
    assert copy(data, nowhere) == 2
    said = capsys.readouterr().err
    assert "PostgreSQL does not answer" in said
    assert "nothing was copied, try again once it does" in said


def test_the_outcome_is_printed_as_json(data, url, capsys):
    fill(data)
    assert gmn.run(["store", "copy", str(data), "--into", url, "--json"]) == 0
    copied = json.loads(capsys.readouterr().out)
    assert copied["crops"] == {"gate": 1, "lobby": 5}
    assert copied["rows"]["crops"] == 6
    assert copied["vectors"] == 8


def test_a_directory_that_is_served_is_refused(data, url, capsys):
    fill(data)
    with lock_data_directory(data, shared=True):
        assert copy(data, url) == 2
    assert "another process is serving it; stop it" in capsys.readouterr().err


def test_a_copy_that_fails_amid_leaves_the_target_empty(data, url, monkeypatch):
    fill(data)

    def fail(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as failing:
        failing.setattr(copying, "_require_count", fail)
        assert copy(data, url) != 0
    assert tables_of(url) == set()
    assert copy(data, url) == 0


def test_a_copy_that_is_killed_leaves_nothing_and_succeeds_the_next_time(data, url):
    fill(data)
    killed = run_forked(KILLED, "store", "copy", str(data), "--into", url)
    assert killed.returncode == -signal.SIGKILL
    assert tables_of(url) == set()
    assert copy(data, url) == 0


def test_a_damaged_vector_is_named_with_its_crop_and_gallery(data, url, capsys):
    lobby, _, ids, *_ = fill(data)
    flip(data / vectors_name(lobby, 0), np.full(4, 3.25, "<f4").tobytes())
    assert copy(data, url) == 2
    said = capsys.readouterr().err
    assert f"the vector of crop {ids[3]} in gallery lobby is damaged" in said
    assert f"gmn store verify --data-dir {data}" in said
    assert tables_of(url) == set()


def test_a_crop_whose_checksum_is_missing_is_named(data, url, capsys):
    lobby, _, ids, *_ = fill(data)
    with open_record(data) as record:
        lost = "DELETE FROM checksums WHERE gallery_id = ? AND slot = 4 AND generation = 0"
        record.database.connection().execute(lost, (lobby,))
    assert copy(data, url) == 2
    assert f"the vector of crop {ids[3]} in gallery lobby is damaged" in capsys.readouterr().err
    assert tables_of(url) == set()


def test_a_copy_that_lacks_a_row_is_dropped(data, url, monkeypatch, capsys):
    fill(data)
    copy_rows = PostgresConnection.copy_rows

    def lose_one(connection, table, columns, rows):
        copy_rows(connection, table, columns, rows[1:] if table == "people" else rows)

    monkeypatch.setattr(PostgresConnection, "copy_rows", lose_one)
    assert copy(data, url) != 0
    assert "rows of people instead of" in capsys.readouterr().err
    assert tables_of(url) == set()


def test_commits_go_on_with_larger_numbers(data, url, tmp_path):
    fill(data)
    with open_record(data) as record:
        newest = Reader(record.database).newest_commit()
    assert copy(data, url) == 0
    with in_postgres(tmp_path / "machine", url) as record:
        new_gallery(record, "next")
        assert Reader(record.database).newest_commit() == newest + 1


@pytest.mark.slow
def test_a_service_on_the_copy_finds_what_the_former_one_found(
    url, tmp_path, tiny_artefact, drawn_crops, images
):
    data = tmp_path / "data"
    settings = {"artefact": tiny_artefact}
    served = Served(tmp_path / "log-1", data_dir=data, **settings)
    try:
        served.create("lobby")
        crop_ids = served.fill("lobby", drawn_crops)
        served.delete_crop("lobby", crop_ids[0])
        found = served.search("lobby", images[0])
    finally:
        served.stop()
    assert copy(data, url) == 0
    machine = tmp_path / "machine"
    served = Served(tmp_path / "log-2", data_dir=machine, database_url=url, **settings)
    try:
        assert served.search("lobby", images[0]) == found
        assert crop_ids[0] not in served.found("lobby", images[0])
    finally:
        served.stop()
