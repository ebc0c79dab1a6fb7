"""A data directory and a backup of version 0.5.0, which tests/service/v050/make.py wrote."""

import contextlib
import json
import os
import shutil
import sqlite3
import unicodedata
import zipfile
from datetime import UTC, datetime, timedelta

import pytest

from model.problems import InputProblem
from service.checks import examine
from service.errors import StorageFailed
from service.ops.data_directory import hold
from service.record.backup import (
    COPY_KEPT_FOR,
    kept_backups,
    remove_old_copy,
    remove_oldest,
    restore_backup,
    taken_at,
    write_backup,
)
from service.record.deletions import read_deletions
from service.record.record import Record
from service.record.sqlite import SQLiteDatabase
from service.record.transaction import FILE, Reader
from service.record.upgrade import find_copy, upgrade_record
from service.record.values import FILTER, ListFilter
from service.record.verify import StoredRecord, verify
from service.required_artefacts import require_artefacts
from service.settings import Settings
from service.upgrade import upgrade_data_directory
from tests.forked import Forked
from tests.outside import bearer
from tests.service.gallery.new_crops import listed, open_record
from tests.service.record.new_searches import WEEK
from tests.service.v050.unpacked import (
    CAFE,
    DAMAGED,
    DOOR_KEY,
    JOSE,
    SNAPSHOT,
    ZOE,
    format_of,
    open_raw,
    unpack,
)

# Files that an open record has, or one that was locked.
OF_OPEN_RECORDS = ("lock", "record.lock", "record.turn", f"{FILE}-shm", f"{FILE}-wal")
LOBBY = 1
WANTED = 3
JOINED = f"{JOSE} (2)"
KILLS = 20
DYING = "import sys; from tests.service.v050.dying import upgrade; upgrade(*sys.argv[1:])"


@pytest.fixture
def made(tmp_path):
    return unpack(tmp_path)


@pytest.fixture
def data(made):
    return made[0]


@pytest.fixture
def upgraded(data):
    upgrade_data_directory(Settings(data_dir=data))
    with open_record(data) as record:
        yield record


def labels_of(record):
    return sorted(
        (crop.crop_id, crop.identity, crop.camera, crop.track) for crop in listed(record, LOBBY)
    )


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in OF_OPEN_RECORDS
    }


def schema_of(path):
    """Return columns, keys, indexes and triggers of a file, and the sizes told to the planner."""
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


def test_an_upgraded_record_has_the_tables_of_a_new_one(upgraded, data, tmp_path):
    new = tmp_path / "new"
    new.mkdir()
    with open_record(new):
        assert schema_of(data / FILE) == schema_of(new / FILE)
    assert verify(data).damage == []


@pytest.mark.promise("upgrade")
def test_an_upgrade_keeps_lists_keys_jobs_cases_and_staged_vectors(upgraded, data):
    lobby, wanted = upgraded.galleries.all()
    assert (lobby.name, lobby.crops, wanted.name, wanted.crops) == ("lobby", 7, "wanted", 1)
    assert (lobby.staged_embedder, lobby.staged_crops) == ("b" * 64, 2)
    (armed,) = upgraded.watches.armed()
    assert (armed.gallery_id, armed.settings.reason) == (WANTED, "a test")
    assert [key.key_id for key in upgraded.keys.all()] == ["door"]
    assert upgraded.keys.asked_for
    (job,) = upgraded.jobs.open()
    assert (job.kind, job.state, job.parameters) == ("import", "running", {"camera": "east"})
    assert (data / "imports" / "import-1" / "archive").exists()
    (case,) = upgraded.cases.page(LOBBY, None, 10).results
    assert [search.note for search in upgraded.cases.get(LOBBY, case.case_id).queries] == ["a note"]
    (outside,) = [crop for crop in listed(upgraded, LOBBY) if crop.elsewhere]
    assert outside.identity == "Ann"
    (webhook,) = upgraded.webhooks.all().values()
    assert webhook.url == "https://example.org/"


def test_a_grouping_that_had_not_ended_keeps_its_filter(data):
    as_sent = unicodedata.normalize("NFD", CAFE)
    parameters = {"camera": as_sent, "unnamed": True, "captured_after": "2026-03-01T12:00:00Z"}
    with open_raw(data) as connection:
        connection.execute(
            "UPDATE jobs SET kind = 'grouping', parameters = ?", (json.dumps(parameters),)
        )
        connection.commit()
    upgrade_data_directory(Settings(data_dir=data))
    with open_record(data) as record:
        (job,) = record.jobs.open()
        assert FILTER.validate_python(job.parameters) == ListFilter(
            cameras=frozenset({CAFE}),
            named=False,
            captured_after=datetime(2026, 3, 1, 12, tzinfo=UTC),
        )


def test_the_results_of_a_kept_search_become_rows(data):
    with open_raw(data) as connection:
        select = "SELECT crop_id FROM crops WHERE gallery_id = ? ORDER BY slot LIMIT 2"
        first, second = (crop_id for (crop_id,) in connection.execute(select, (LOBBY,)))
        results = [
            [second, 0.1 + 0.2, 1.5, 0.75, "match"],
            ["0" * 32, 0.25, None, 0.5, "uncertain"],
            [first, 0.125, None, None, None],
        ]
        connection.execute("UPDATE searches SET results = ?", (json.dumps(results),))
        connection.commit()
    upgrade_data_directory(Settings(data_dir=data))
    columns = ("crop_id", "cosine", "pair_logit", "probability", "verdict")
    with open_record(data) as record:
        (search,) = record.kept.page(LOBBY, WEEK, None, 9).results
        assert search["best"] == {"crop_id": second, "identity": JOSE, "probability": 0.75}
        opened = record.kept.open(LOBBY, WEEK, search["query_id"])
        found = [
            (result["rank"], [result[name] for name in columns])
            for result in opened["answer"]["results"]
        ]
        assert found == [(1, results[0]), (3, results[2])]
        assert opened["removed"] == 1
        assert record.kept.result_ids(LOBBY, search["query_id"]) == [second, "0" * 32, first]


def test_labels_become_nfc_and_people_of_one_name_are_joined(upgraded):
    crops = listed(upgraded, LOBBY)
    assert {crop.camera for crop in crops} == {CAFE}
    assert {crop.track for crop in crops} == {None, f"{CAFE} 7"}
    names = [person["identity"] for person in upgraded.people.page(LOBBY, None, 100).results]
    assert names == ["Ann", JOSE, ZOE]
    assert upgraded.people.counts(LOBBY, [JOSE]) == {JOSE: 3}


def test_the_joining_of_people_can_be_undone_and_so_can_an_earlier_merge(upgraded):
    merges = {merge.identity: merge for merge in upgraded.people.merges(LOBBY)}
    assert {name: merge.into for name, merge in merges.items()} == {JOINED: JOSE, "Bob": "Ann"}
    assert merges[JOINED].undo_until > datetime.now(UTC) + timedelta(days=29)
    for merge in merges.values():
        upgraded.people.undo_merge(LOBBY, merge.merge_id)
    assert upgraded.people.counts(LOBBY, [JOSE, JOINED, "Ann", "Bob"]) == {
        JOSE: 2,
        JOINED: 1,
        "Ann": 1,
        "Bob": 1,
    }


@pytest.mark.promise("upgrade")
def test_a_snapshot_becomes_an_export_that_expires_and_a_damaged_one_is_named(data, caplog):
    upgrade_data_directory(Settings(data_dir=data))
    exported = data / "exports" / str(LOBBY) / SNAPSHOT
    described = json.loads((exported / "listed.json").read_text())
    until = datetime.fromisoformat(described["expires_at"]) - datetime.now(UTC)
    assert timedelta(days=29) < until < timedelta(days=30)
    with zipfile.ZipFile(exported / "export.zip") as packed:
        crops = [json.loads(line) for line in packed.open("crops.jsonl")]
        assert packed.testzip() is None
    assert (described["crops"], described["pictures"], len(crops)) == (7, 6, 7)
    assert {crop["identity"] for crop in crops} == {JOSE, ZOE, "Ann", "Bob", None}
    assert {crop["camera"] for crop in crops} == {CAFE}
    assert (data / "snapshots" / "stray" / f"{LOBBY}-{DAMAGED}.gmn").is_dir()
    assert not (data / "snapshots" / str(LOBBY)).exists()
    assert f"{DAMAGED}.gmn becomes no export" in caplog.text


def test_what_was_deleted_before_the_upgrade_is_in_the_log_of_deletions(data):
    ids = [line for line in (data / "deleted.ids").read_text().split("\n") if line]
    upgrade_data_directory(Settings(data_dir=data))
    logged = list(read_deletions(data / "deletions.log"))
    assert [deletion.kind for deletion in logged] == ["since", "gallery", "crop", "crop"]
    for line, deletion in zip(ids, logged[1:], strict=True):
        assert line.split()[-1] in deletion.id
    assert not (data / "deleted.ids").exists()


@pytest.mark.promise("upgrade")
def test_the_copy_is_a_backup_of_version_0_5_that_restores(data, tmp_path):
    before = contents(data)
    upgrade_data_directory(Settings(data_dir=data))
    (copy,) = kept_backups(data / "before-upgrade")
    assert format_of(copy) == 11
    assert (copy / "snapshots" / str(LOBBY) / f"{SNAPSHOT}.gmn" / FILE).exists()
    assert verify(copy).damage == []
    with open_raw(copy) as kept:
        names = [name for (name,) in kept.execute("SELECT name FROM people ORDER BY person_id")]
    assert len(names) == 5
    assert (copy / "deleted.ids").read_bytes() == next(
        content for path, content in before.items() if path.name == "deleted.ids"
    )
    restore_backup(copy, tmp_path / "restored", data)
    with open_record(data) as record, open_record(tmp_path / "restored") as restored:
        assert labels_of(restored) == labels_of(record)


def test_the_copy_is_named_by_doctor_and_removed_after_a_week(made, tmp_path):
    data, backup = made
    settings = Settings(data_dir=data, backup_dir=tmp_path / "backups")
    upgrade_data_directory(settings)
    with open_record(data) as record:
        copy = find_copy(Reader(record.database))
        assert kept_backups(tmp_path / "backups") == [backup, copy]
        texts = [finding.text for finding in examine(settings, record.database)]
        assert any(text.startswith(f"{copy} was made before the upgrade") for text in texts)
        later = write_backup(record.database, tmp_path / "backups").path
        # It does not count among the backups that are kept.
        assert remove_oldest(tmp_path / "backups", 1, record.database) == [backup]
        due = taken_at(copy) + COPY_KEPT_FOR
        remove_old_copy(record.database, due - timedelta(seconds=1))
        assert kept_backups(tmp_path / "backups") == [copy, later]
        remove_old_copy(record.database, due)
        assert kept_backups(tmp_path / "backups") == [later]
        assert find_copy(Reader(record.database)) is None


def test_an_upgrade_after_a_kill_of_version_0_5_has_what_the_log_of_its_record_holds(
    data, tmp_path
):
    killed = tmp_path / "killed"
    with open_raw(data) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("UPDATE cases SET name = 'case 8'")
        connection.commit()
        shutil.copytree(data, killed)
    assert (killed / f"{FILE}-wal").stat().st_size
    upgrade_data_directory(Settings(data_dir=killed))
    (copy,) = kept_backups(killed / "before-upgrade")
    for folder in (killed, copy):
        with open_raw(folder) as connection:
            assert connection.execute("SELECT name FROM cases").fetchall() == [("case 8",)]


@pytest.mark.promise("upgrade")
def test_an_upgrade_waits_for_no_other_process_but_names_it(data):
    before = contents(data)
    with (
        hold(data / "lock", shared=True),
        pytest.raises(InputProblem, match=f"process {os.getpid()} uses it.*Nothing was changed"),
    ):
        upgrade_data_directory(Settings(data_dir=data))
    assert contents(data) == before


@pytest.mark.promise("upgrade")
def test_a_command_that_has_the_record_open_is_named_too(data):
    program = (
        "import sqlite3, sys; connection = sqlite3.connect(sys.argv[1]); "
        "connection.execute('SELECT * FROM record').fetchall(); print('open', flush=True); "
        "sys.stdin.read()"
    )
    reading, written = os.pipe()
    output, end = os.pipe()
    process = Forked(program, str(data / FILE), stdin=reading, stdout=end)
    try:
        assert os.read(output, 4) == b"open"
        with pytest.raises(InputProblem, match=f"process {process.pid} has it open"):
            upgrade_record(data)
        assert format_of(data) == 11
    finally:
        for descriptor in (written, reading, output, end):
            os.close(descriptor)
        process.kill()
        process.wait(10)


@pytest.mark.promise("upgrade")
def test_an_upgrade_that_has_no_room_for_the_copy_changes_nothing(data):
    before = contents(data)
    with pytest.raises(StorageFailed, match="nothing was written, free space"):
        upgrade_data_directory(Settings(data_dir=data, reserved_disk_bytes=10**18))
    assert contents(data) == before


def test_a_command_refuses_a_record_of_version_0_5_and_doctor_announces_the_upgrade(data):
    with pytest.raises(InputProblem, match="the next start of gmn serve upgrades it"):
        SQLiteDatabase(data)
    with contextlib.closing(StoredRecord(data)) as database:
        findings = list(examine(Settings(data_dir=data), database))
    (text,) = [finding.text for finding in findings if "of version 0.5" in finding.text]
    assert "the next start of gmn serve upgrades it" in text
    assert verify(data).damage == []
    assert format_of(data) == 11


def test_a_directory_whose_artefact_is_missing_is_refused_before_the_upgrade(data):
    with pytest.raises(InputProblem, match="filled lobby, wanted: name its file"):
        require_artefacts(Settings(data_dir=data))
    assert format_of(data) == 11


@pytest.mark.promise("former-backups")
@pytest.mark.parametrize(
    ("version", "remedy"),
    [
        (10, "serve it once with version 0.5.0"),
        (14, "a version wrote it that was never released"),
        (99, "use the program version that wrote it"),
    ],
)
def test_a_record_of_another_format_is_refused_with_a_remedy(data, version, remedy):
    with open_raw(data) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    before = contents(data)
    for read in (
        SQLiteDatabase,
        verify,
        lambda path: upgrade_data_directory(Settings(data_dir=path)),
    ):
        with pytest.raises(InputProblem, match=f"format version {version}, .*{remedy}"):
            read(data)
    assert contents(data) == before


@pytest.mark.promise("former-backups")
@pytest.mark.parametrize("is_upgraded", [False, True], ids=["of 0.5", "upgraded"])
def test_a_restored_backup_of_version_0_5_has_nothing_that_was_deleted_since(
    made, tmp_path, is_upgraded
):
    data, backup = made
    assert len(crops_in(backup)) == len(crops_in(data)) + 1
    if is_upgraded:
        upgrade_data_directory(Settings(data_dir=data))
    restored = restore_backup(backup, tmp_path / "restored", data)
    assert restored.keys == ["gate"]
    assert restored.left_out == {"lobby": 1, "wanted": 0}
    with open_record(tmp_path / "restored") as record:
        assert crops_in(tmp_path / "restored") == crops_in(data)
        assert {crop.identity for crop in listed(record, LOBBY)} == {JOSE, ZOE, "Ann", None}
        assert find_copy(Reader(record.database)) is None
        assert record.watches.armed() == []
    assert verify(tmp_path / "restored").damage == []


def crops_in(folder):
    with open_raw(folder) as connection:
        return sorted(connection.execute("SELECT gallery_id, crop_id FROM crops").fetchall())


def test_a_damaged_crop_keeps_its_labels_and_stays_damaged(data):
    with open_raw(data) as connection:
        connection.create_function("row_crc", -1, lambda *_: 0, deterministic=True)
        changed = "UPDATE crops SET quality = 0.5 WHERE slot = 4 AND gallery_id = ?"
        connection.execute(changed, (LOBBY,))
        connection.commit()
    upgrade_data_directory(Settings(data_dir=data))
    with open_record(data) as record:
        assert len(listed(record, LOBBY)) == 6
        assert len(verify(data).galleries[LOBBY].damaged_crops) == 1
        # The damaged crop is Zoé's, who is forgotten by her name with it.
        assert record.people.forget(LOBBY, ZOE).count == 1
        assert verify(data).damage == []


def dump(data):
    with open_raw(data) as connection:
        return list(connection.iterdump())


def test_a_start_upgrades_a_directory_and_forgetting_names_what_keeps_the_person(start, data):
    served = start(data_dir=data, accept_unserved=True)
    served.http.headers.update(bearer(DOOR_KEY))
    (copy,) = kept_backups(data / "before-upgrade")
    (export,) = served.results("/v1/galleries/lobby/exports")
    assert export["export_id"] == SNAPSHOT
    content = served.http.get(f"/v1/galleries/lobby/exports/{SNAPSHOT}/content")
    assert len(content.content) == export["bytes"]
    answer = served.http.delete(f"/v1/galleries/lobby/identities/{ZOE}").json()
    assert answer["removed"] == 1
    remaining = {remainder["where"]: remainder["until"] for remainder in answer["remaining"]}
    until = f"{taken_at(copy) + COPY_KEPT_FOR:%Y-%m-%d %H:%M} UTC"
    assert until in remaining[f"backup {copy}"]
    assert f"export {SNAPSHOT}" in remaining


@pytest.mark.promise("upgrade")
@pytest.mark.slow
def test_an_upgrade_killed_at_any_step_leaves_the_old_record_or_the_new_one(tmp_path):
    def run(folder, last):
        data, _ = unpack(folder)
        before = dump(data)
        process = Forked(DYING, str(data), str(last), str(folder / "steps"))
        return data, before, process.wait(60)

    whole, _, status = run(tmp_path / "whole", 0)
    assert status == 0
    steps = int((tmp_path / "whole" / "steps").read_text())
    with open_record(whole) as record:
        wanted = labels_of(record)
    found = set()
    for number in range(KILLS):
        last = 1 + number * (steps - 1) // (KILLS - 1)
        data, before, status = run(tmp_path / f"killed-{last}", last)
        assert status == -9
        with contextlib.closing(Record(data) if format_of(data) != 11 else StoredRecord(data)) as r:
            found.add(type(r))
            if isinstance(r, Record):
                assert labels_of(r) == wanted
            else:
                assert dump(data) == before
        upgrade_data_directory(Settings(data_dir=data))
        with open_record(data) as record:
            assert labels_of(record) == wanted
            assert find_copy(Reader(record.database)) in kept_backups(data / "before-upgrade")
        assert len(kept_backups(data / "before-upgrade")) == 1
        assert (data / "exports" / str(LOBBY) / SNAPSHOT / "export.zip").exists()
        assert verify(data).damage == []
    assert found == {Record, StoredRecord}
