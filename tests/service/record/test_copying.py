"""Copies of a whole record from SQLite into PostgreSQL, and back."""

import contextlib
import hashlib
import json
import shutil
import signal
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import psycopg
import pytest

import gmn
from service.ops.data_directory import lock_data_directory
from service.postgres import copying as postgres_copying
from service.record.acknowledged import AcknowledgedCommit
from service.record.deletions import Deletion, DeletionLog, read_beginning, read_deletions
from service.record.keys import ApiKey
from service.record.record import Record
from service.record.schema import TABLES
from service.record.transaction import Reader
from service.record.vectors import vectors_name
from service.store import copying
from service.store.verify import verify
from tests.forked import run_forked
from tests.service.conftest import Served
from tests.service.gallery.new_crops import (
    NOON,
    OTHER_EMBEDDER,
    enroll,
    listed_ids,
    new_crop,
    new_gallery,
    open_record,
)
from tests.service.gallery.new_jobs import new_job
from tests.service.record.filled import fill_record, flip
from tests.service.record.new_searches import kept_ids, new_search
from tests.service.record.test_cameras import arm

pytestmark = pytest.mark.sqlite_alone

# Values that a record in PostgreSQL has beside those of SQLite.
OF_POSTGRES = {"format"}
KILLED = (
    "import os, signal; from service.store import copying; "
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


def copy(source, into, machine):
    return gmn.run(["store", "copy", str(source), "--into", str(into), *of(machine)])


def of(machine):
    return ["--data-dir", str(machine)]


def in_postgres(folder, url):
    return contextlib.closing(Record(folder, url))


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
        if name not in OF_POSTGRES
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
        record.kept.keep(lobby, [search], 10)
        case = record.cases.create(lobby, "theft", "notes", "k")
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
def test_a_record_that_was_copied_there_and_back_is_as_it_was(data, url, tmp_path, capsys):
    lobby, gate, ids, query_id, case_id = fill(data)
    with open_record(data) as record:
        rows = rows_of(record)
        secret = record.galleries.group_secret()
        vectors = {gallery: vectors_of(record, gallery) for gallery in (lobby, gate)}
        pictures = pictures_of(record, lobby, ids[1:])
    assert copy(data, url, tmp_path / "machine") == 0
    printed = capsys.readouterr().out
    assert "lobby: 5 crops\n" in printed
    assert "gate: 1 crop\n" in printed
    assert "8 vectors, as many as in the source" in printed
    back = tmp_path / "back"
    assert copy(url, back, tmp_path / "machine") == 0
    assert verify(back).damage == []
    # A machine that was never there joins with an empty directory.
    machines = [in_postgres(tmp_path / name, url) for name in ("machine", "other")]
    for opened in [*machines, open_record(back)]:
        with opened as record:
            assert rows_of(record) == rows
            assert record.galleries.group_secret() == secret
            assert {gallery: vectors_of(record, gallery) for gallery in vectors} == vectors
            assert pictures_of(record, lobby, ids[1:]) == pictures
            assert kept_ids(record, lobby) == [query_id]
            assert record.cases.get(lobby, case_id).name == "theft"
            assert [watched.gallery_id for watched in record.watches.armed()] == [gate]
            assert [key.key_id for key in record.keys.all()] == ["door"]
            # The reindex goes on.
            assert [crop.slot for crop in record.staged.missing(lobby, 0, 9)] == [4, 5, 6]
    with open_record(back) as record:
        # The number of a deleted gallery is not given again.
        assert new_gallery(record, "next") == gate + 2


def test_every_table_is_copied(data, url, tmp_path):
    fill_record(data)
    with open_record(data) as record:
        rows = rows_of(record)
    assert all(rows.values())
    assert copy(data, url, tmp_path / "machine") == 0
    assert copy(url, tmp_path / "back", tmp_path / "machine") == 0
    with in_postgres(tmp_path / "machine", url) as record:
        assert rows_of(record) == rows
    with open_record(tmp_path / "back") as record:
        assert rows_of(record) == rows


def test_pages_of_rows_leave_none_out(data, url, tmp_path, monkeypatch):
    for limit in ("ROWS_AT_ONCE", "LARGE_ROWS_AT_ONCE"):
        monkeypatch.setattr(copying, limit, 2)
    lobby, *_ = fill(data)
    with open_record(data) as record:
        rows = rows_of(record)
        vectors = vectors_of(record, lobby)
    assert copy(data, url, tmp_path / "machine") == 0
    assert copy(url, tmp_path / "back", tmp_path / "machine") == 0
    with open_record(tmp_path / "back") as record:
        assert rows_of(record) == rows
        assert vectors_of(record, lobby) == vectors


@pytest.mark.promise("2")
def test_what_was_deleted_before_a_copy_stays_deleted_in_it(data, url, tmp_path):
    lobby, _, ids, *_ = fill(data)
    before = list(read_deletions(data / "deletions.log"))
    named = {(line.kind, line.id) for line in before if line.kind != "since"}
    assert {"crop", "key", "gallery"} <= {kind for kind, _ in named}
    assert copy(data, url, tmp_path / "machine") == 0
    assert copy(url, tmp_path / "back", tmp_path / "machine") == 0
    for folder in ("machine", "back"):
        assert read_beginning(tmp_path / folder / "deletions.log") == before[0]
    opened = {
        "machine": in_postgres(tmp_path / "machine", url),
        # It gets the deletions from PostgreSQL.
        "other": in_postgres(tmp_path / "other", url),
        "back": open_record(tmp_path / "back"),
    }
    for folder, opening in opened.items():
        with opening as record:
            assert ids[0] not in listed_ids(record, lobby)
            lines = read_deletions(tmp_path / folder / "deletions.log")
            assert named <= {(line.kind, line.id) for line in lines}


@pytest.mark.promise("2")
def test_deletions_of_a_machine_and_of_the_record_are_in_the_log_of_the_copy(data, url, tmp_path):
    lobby, _, ids, *_ = fill(data)
    assert copy(data, url, tmp_path / "machine") == 0
    with in_postgres(tmp_path / "other", url) as record:
        record.crops.remove(lobby, [ids[1]])
    # The record lost this deletion with a server, and the machine did not.
    lost = Deletion(datetime.now(UTC), "crop", "lost", lobby)
    DeletionLog(tmp_path / "machine").append([lost])
    assert copy(url, tmp_path / "back", tmp_path / "machine") == 0
    logged = {line.id for line in read_deletions(tmp_path / "back" / "deletions.log")}
    assert {ids[0], ids[1], "lost"} <= logged


def test_a_copied_tombstone_is_no_new_deletion(data, url, tmp_path):
    fill(data)
    # Its line is older than the log keeps it.
    with open_record(data) as record:
        record_id = Reader(record.database).value("SELECT value FROM record WHERE name='record_id'")
    since = Deletion(datetime.now(UTC), "since", record_id)
    DeletionLog(data).write([since.as_line()])
    assert copy(data, url, tmp_path / "machine") == 0
    assert copy(url, tmp_path / "back", tmp_path / "machine") == 0
    for folder in ("machine", "back"):
        assert list(read_deletions(tmp_path / folder / "deletions.log")) == [since]


def test_a_former_secret_ends_when_it_was_to_end(data, url, tmp_path):
    with open_record(data) as record:
        key = ApiKey("door", "1" * 64, ("query",), None, "", NOON)
        record.keys.add(key)
        later = datetime.now(UTC) + timedelta(days=1)
        rotated = replace(key, secret_sha256="2" * 64, former_sha256="1" * 64, former_until=later)
        record.keys.change(rotated)
    assert copy(data, url, tmp_path / "machine") == 0
    for machine in ("machine", "other"):
        with in_postgres(tmp_path / machine, url) as record:
            assert record.keys.all() == [rotated]


def test_a_record_that_answers_without_a_key_again_does_so_in_the_copy(data, url, tmp_path):
    with open_record(data) as record:
        record.keys.add(ApiKey("door", "1" * 64, ("query",), None, "", NOON))
        record.keys.revoke("door")
    assert copy(data, url, tmp_path / "machine") == 0
    for machine in ("machine", "other"):
        with in_postgres(tmp_path / machine, url) as record:
            assert not record.keys.asked_for


def test_imports_that_have_not_ended_are_cancelled_in_the_copy(data, url, tmp_path):
    lobby, *_ = fill(data)
    with open_record(data) as record:
        record.jobs.create(new_job("waiting", lobby))
    assert copy(data, url, tmp_path / "machine") == 0
    with in_postgres(tmp_path / "machine", url) as record:
        assert record.jobs.get("waiting").state == "cancelled"
        gate = new_gallery(record, "yard")
        record.jobs.create(new_job("begun there", gate, worker=record.database.machine))
    assert copy(url, tmp_path / "back", tmp_path / "machine") == 0
    with open_record(tmp_path / "back") as record:
        assert record.jobs.open() == []


def test_a_schema_with_tables_is_refused_and_unchanged(data, url, tmp_path, capsys):
    fill(data)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE cashbox (coins BIGINT)")
    there = tables_of(url)
    assert copy(data, url, tmp_path / "machine") == 2
    assert "has tables already (cashbox)" in capsys.readouterr().err
    assert tables_of(url) == there
    assert not (tmp_path / "machine").exists()


def test_directories_with_something_in_them_are_refused_and_unchanged(data, url, tmp_path, capsys):
    fill(data)
    other = tmp_path / "other"
    other.mkdir()
    with open_record(other) as record:
        kept = enroll(record, new_gallery(record), new_crop(1))
    assert copy(data, url, other) == 2
    assert f"{other}: holds something already" in capsys.readouterr().err
    assert tables_of(url) == set()
    assert copy(data, url, tmp_path / "machine") == 0
    assert copy(url, other, tmp_path / "machine") == 2
    assert f"{other}: holds something already" in capsys.readouterr().err
    with open_record(other) as record:
        assert listed_ids(record, 1) == kept


def test_the_log_of_another_record_is_refused(data, url, tmp_path, capsys):
    fill(data)
    assert copy(data, url, tmp_path / "machine") == 0
    (tmp_path / "other").mkdir()
    with open_record(tmp_path / "other"):
        pass
    assert copy(url, tmp_path / "back", tmp_path / "other") == 2
    assert "its deletions.log is that of another record" in capsys.readouterr().err
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("arguments", [("data", "back"), ("postgresql://a/b", "postgresql://c/d")])
def test_a_copy_is_from_one_engine_into_the_other(tmp_path, capsys, arguments):
    source, into = arguments
    assert copy(source, into, tmp_path / "machine") == 2
    assert "one of them names a data directory" in capsys.readouterr().err


def test_a_source_without_a_record_is_named(data, url, tmp_path, capsys):
    assert copy(data, url, tmp_path / "machine") == 2
    assert f"{data}: has no record" in capsys.readouterr().err
    assert copy(url, tmp_path / "back", tmp_path / "machine") == 2
    assert "has no record; name the database of a service" in capsys.readouterr().err
    assert not (tmp_path / "back").exists()
    assert tables_of(url) == set()


def test_a_server_that_does_not_answer_is_named(data, tmp_path, capsys):
    fill(data)
    nowhere = f"postgresql:///gmn?host={tmp_path}"
    assert copy(data, nowhere, tmp_path / "machine") == 2
    assert "PostgreSQL does not answer" in capsys.readouterr().err
    assert copy(nowhere, tmp_path / "back", tmp_path / "machine") == 2
    assert "nothing was copied, try again once it does" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


def test_the_outcome_is_printed_as_json(data, url, tmp_path, capsys):
    fill(data)
    # The directory of the source stays its own, and PostgreSQL has the deletions.
    assert gmn.run(["store", "copy", str(data), "--into", url, "--json", *of(data)]) == 0
    copied = json.loads(capsys.readouterr().out)
    assert copied["crops"] == {"gate": 1, "lobby": 5}
    assert copied["rows"]["crops"] == 6
    assert copied["vectors"] == 8
    assert gmn.run(["store", "copy", url, "--into", str(tmp_path / "back"), *of(data)]) == 0
    with open_record(data) as record:
        rows = rows_of(record)
    with open_record(tmp_path / "back") as record:
        assert rows_of(record) == rows


def test_a_directory_that_is_served_is_refused(data, url, tmp_path, capsys):
    fill(data)
    with lock_data_directory(data, shared=True):
        assert copy(data, url, tmp_path / "machine") == 2
    assert "another process is serving it; stop it" in capsys.readouterr().err


def test_a_copy_that_fails_amid_leaves_the_targets_empty(data, url, tmp_path, monkeypatch):
    fill(data)

    def fail(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as failing:
        failing.setattr(copying, "_require_count", fail)
        assert copy(data, url, tmp_path / "machine") != 0
    assert tables_of(url) == set()
    assert not (tmp_path / "machine").exists()
    assert copy(data, url, tmp_path / "machine") == 0
    with monkeypatch.context() as failing:
        failing.setattr(copying, "_require_count", fail)
        assert copy(url, tmp_path / "back", tmp_path / "machine") != 0
    assert not (tmp_path / "back").exists()
    assert copy(url, tmp_path / "back", tmp_path / "machine") == 0


def test_a_copy_that_is_killed_leaves_nothing_that_is_served(data, url, tmp_path):
    fill(data)
    machine = str(tmp_path / "machine")
    killed = run_forked(KILLED, "store", "copy", str(data), "--into", url, "--data-dir", machine)
    assert killed.returncode == -signal.SIGKILL
    assert tables_of(url) == set()
    assert copy(data, url, tmp_path / "machine-2") == 0
    back = str(tmp_path / "back")
    killed = run_forked(KILLED, "store", "copy", url, "--into", back, "--data-dir", machine)
    assert killed.returncode == -signal.SIGKILL
    with pytest.raises(Exception, match=r"was cut off .* delete this directory and start over"):
        Record(tmp_path / "back")


def test_a_damaged_vector_is_named_with_its_crop_and_gallery(data, url, tmp_path, capsys):
    lobby, _, ids, *_ = fill(data)
    whole = tmp_path / "whole"
    shutil.copytree(data, whole)
    flip(data / vectors_name(lobby, 0), np.full(4, 3.25, "<f4").tobytes())
    assert copy(data, url, tmp_path / "machine") == 2
    said = capsys.readouterr().err
    assert f"the vector of crop {ids[3]} in gallery lobby is damaged" in said
    assert f"gmn store verify --data-dir {data}" in said
    assert tables_of(url) == set()
    assert copy(whole, url, tmp_path / "machine") == 0
    with psycopg.connect(url) as connection:
        damage = "UPDATE checksums SET content = %s WHERE gallery_id = %s AND slot = 4 AND side = 0"
        connection.execute(damage, (bytes(16), lobby))
    assert copy(url, tmp_path / "back", tmp_path / "machine") == 2
    assert f"the vector of crop {ids[3]} in gallery lobby is damaged" in capsys.readouterr().err
    assert not (tmp_path / "back").exists()


def test_a_vector_without_a_crop_ends_no_copy(data, url, tmp_path):
    lobby, *_ = fill(data)
    assert copy(data, url, tmp_path / "machine") == 0
    with psycopg.connect(url) as connection:
        left = "INSERT INTO checksums (gallery_id, slot, side, checksum, content) VALUES "
        connection.execute(f"{left} (%s, 99, 0, 1, %s)", (lobby, bytes(16)))
    assert copy(url, tmp_path / "back", tmp_path / "machine") == 0
    with open_record(tmp_path / "back") as record:
        assert len(vectors_of(record, lobby)) == 5


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (b"image 3", "the picture of crop {} in gallery lobby is damaged"),
        (b'{"number":3}', "the row of crop {} in gallery lobby is damaged"),
        (b"Ann", "a row of people is not what was written"),
    ],
)
def test_a_damaged_row_is_named(data, url, tmp_path, capsys, wanted, said):
    _, _, ids, *_ = fill(data)
    with open_record(data) as record:
        record.database.connection().execute("PRAGMA wal_checkpoint(TRUNCATE)")
    flip(data / "record.sqlite3", wanted)
    assert copy(data, url, tmp_path / "machine") == 2
    assert said.format(ids[3]) in capsys.readouterr().err
    assert tables_of(url) == set()


def test_commits_go_on_with_larger_numbers(data, url, tmp_path):
    fill(data)
    with open_record(data) as record:
        newest = Reader(record.database).newest_commit()
    assert copy(data, url, tmp_path / "machine") == 0
    with in_postgres(tmp_path / "machine", url) as record:
        new_gallery(record, "next")
        assert Reader(record.database).newest_commit() == newest + 1
    assert copy(url, tmp_path / "back", tmp_path / "machine") == 0
    assert AcknowledgedCommit(tmp_path / "back").read() == newest + 1


def test_later_changes_of_the_source_are_counted(data, url, tmp_path, monkeypatch, capsys):
    fill(data)
    assert copy(data, url, tmp_path / "machine") == 0
    read_since = copying.read_since
    capsys.readouterr()

    with in_postgres(tmp_path / "machine", url) as record:

        def write_meanwhile(*arguments):
            new_gallery(record, "meanwhile")
            return read_since(*arguments)

        monkeypatch.setattr(postgres_copying, "read_since", write_meanwhile)
        assert copy(url, tmp_path / "back", tmp_path / "machine") == 0
    assert "1 later changes of the source are not in the copy" in capsys.readouterr().out
    with open_record(tmp_path / "back") as record:
        assert [gallery.name for gallery in record.galleries.all()] == ["gate", "lobby"]


@pytest.mark.slow
def test_a_service_on_the_copy_finds_what_the_former_one_found(
    url, tmp_path, tiny_artefact, drawn_crops, images
):
    data = tmp_path / "data"
    machine = tmp_path / "machine"
    back = tmp_path / "back"
    settings = {"artefact": tiny_artefact}
    served = Served(tmp_path / "log-1", data_dir=data, **settings)
    try:
        served.create("lobby")
        crop_ids = served.fill("lobby", drawn_crops)
        served.delete_crop("lobby", crop_ids[0])
        found = served.search("lobby", images[0])
    finally:
        served.stop()
    assert copy(data, url, machine) == 0
    for log, place in (("log-2", {"data_dir": machine, "database_url": url}), ("log-3", None)):
        if place is None:
            assert copy(url, back, machine) == 0
            place = {"data_dir": back}
        served = Served(tmp_path / log, **place, **settings)
        try:
            assert served.search("lobby", images[0]) == found
            assert crop_ids[0] not in served.found("lobby", images[0])
        finally:
            served.stop()
