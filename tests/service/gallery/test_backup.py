"""`gmn backup`, `gmn restore`: copies made while writes go on, and nothing deleted comes back."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import threading

import pytest
from service.record.backup import Backup, kept_backups
from service.record.backup import write_backup as write_backup_of
from service.record.snapshot_file import snapshot_crop_ids, write_snapshot
from service.record.sqlite_engine import SqliteEngine

import gmn
from service.errors import DamagedRecord
from service.ops.audit import AuditLog
from service.ops.data_directory import DATABASE_NAME, snapshot_name
from service.record.kept_queries import Case, KeptQuery
from service.record.keys import ApiKey
from service.record.record import open_sqlite
from service.record.restoring import restore_backup
from service.record.values import CropFilter, GallerySettings, Snapshot, new_crop_id
from tests.service.gallery.new_crops import EMBEDDER, NOON, new_crop


@pytest.fixture(autouse=True)
def _on_sqlite(monkeypatch):
    for name in ("GMN_REDIS_URL", "GMN_IMAGES_URL", "GMN_BACKUP_DIR"):
        monkeypatch.delenv(name, raising=False)


def run(capsys, *arguments) -> dict:
    status = gmn.run([*map(str, arguments), "--json"])
    printed = capsys.readouterr()
    assert status == 0, printed.err
    return json.loads(printed.out)


def fill(place):
    """A record with two galleries, a snapshot, keys and an audit log."""
    place.mkdir()
    record = open_sqlite(place / DATABASE_NAME)
    record.galleries.group_secret()
    number = record.galleries.create("lobby", EMBEDDER, GallerySettings()).gallery_id
    other = record.galleries.create("gate", EMBEDDER, GallerySettings()).gallery_id
    crops = [new_crop(n, "ab"[n % 2]) for n in range(6)]
    record.crops.enroll(number, EMBEDDER, crops)
    record.crops.enroll(other, EMBEDDER, [new_crop(9, "c")])
    path = place / snapshot_name(number, "s1")
    header = write_snapshot(path, crops)
    size = path.stat().st_size
    record.snapshots.keep(
        Snapshot("s1", number, 1, EMBEDDER, header.crops, size, header.sha256, NOON)
    )
    for name in ("kept", "revoked"):
        record.keys.add(ApiKey(name, "0" * 64, ("query",), None, "", NOON))
    with AuditLog(place) as audit:
        audit.record("begun")
    return record, number, other, [crop.record.crop_id for crop in crops]


def held(record, number) -> dict[str, str]:
    page = record.crops.page(number, CropFilter()).crops
    return {crop.crop_id: crop.identity for crop in page}


def write_backup(data_dir, folder) -> Backup:
    engine = SqliteEngine(data_dir / DATABASE_NAME, only_read=True)
    with contextlib.closing(engine):
        return write_backup_of(engine, data_dir, folder)


def older(backup: Backup) -> Backup:
    """The backup as of an hour before, so that another one can be written in this second."""
    return Backup(backup.path.rename(backup.path.with_name("20260101T000000Z")))


def test_what_was_deleted_since_a_backup_is_not_in_what_it_is_restored_to(tmp_path, capsys):
    record, number, other, ids = fill(tmp_path / "data")
    searches = [
        KeptQuery(
            query_id=new_crop_id(),
            created_at=NOON,
            key_id="k",
            request={},
            answer={},
            results=[],
            crop_id=crop_id,
            content_type="image/png",
        )
        for crop_id in ids[1:3]
    ]
    record.kept.keep(number, [(one, b"picture") for one in searches], 10)
    for case_id in ("closed", "open"):
        moments = {"created_at": NOON, "changed_at": NOON}
        case = Case(case_id=case_id, name=case_id, notes="", key_id="k", **moments)
        record.cases.create(number, case)
    taken = run(capsys, "backup", tmp_path / "backups", "--data-dir", tmp_path / "data")["path"]
    record.kept.remove(number, [searches[0].query_id])
    record.cases.delete(number, "closed")
    record.crops.remove(number, [ids[0]])
    assert record.identities.rename(number, "b", "late")
    record.keys.revoke("revoked")
    record.galleries.delete(other)
    latest = record.galleries.get(number).version
    record.close()
    into = tmp_path / "new"
    before = (tmp_path / "data" / DATABASE_NAME).read_bytes()
    answer = run(capsys, "restore", taken, "--data-dir", into, "--replaces", tmp_path / "data")
    assert (tmp_path / "data" / DATABASE_NAME).read_bytes() == before
    assert answer["crops"] == {"lobby": 5}
    assert answer["left_out"] == {"lobby": 1}
    assert (answer["galleries"], answer["keys"]) == (["gate"], ["revoked"])
    restored = open_sqlite(into / DATABASE_NAME)
    assert sorted(held(restored, number)) == sorted(ids[1:])
    # What was no deletion is as it was.
    assert set(held(restored, number).values()) == {"a", "b"}
    assert [key.key_id for key in restored.keys.all()] == ["kept"]
    assert restored.galleries.get(number).version > latest
    found = restored.kept.page(number, None, 9)
    assert found == searches[1:]
    assert [case.case_id for case in restored.cases.page(number, None, 9)] == ["open"]
    # A snapshot brings nothing back either.
    assert ids[0] not in snapshot_crop_ids(into / snapshot_name(number, "s1"))
    assert restored.crops.removed_among(number, ids) == [ids[0]]
    assert restored.galleries.create("new", EMBEDDER, GallerySettings()).gallery_id > other
    restored.close()
    assert gmn.run(["store", "verify", "--data-dir", str(into)]) == 0
    assert gmn.run(["audit", "verify", "--data-dir", str(into)]) == 0
    lines = (into / "audit.jsonl").read_text().splitlines()
    events = [json.loads(line)["event"] for line in lines]
    assert events == ["begun", "backup", "backup", "restore_backup"]
    assert (into / "audit.key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("left", ["nothing", "a damaged file"])
def test_without_the_data_directory_a_newer_backup_shows_what_was_deleted(tmp_path, capsys, left):
    record, number, _, ids = fill(tmp_path / "data")
    first = older(write_backup(tmp_path / "data", tmp_path / "backups"))
    record.crops.remove(number, [ids[0]])
    second = write_backup(tmp_path / "data", tmp_path / "backups")
    with AuditLog(tmp_path / "data") as audit:
        audit.record("delete_crop", "asked", crop_ids=[ids[1]])
        audit.record("delete_crops", "asked", crop_ids=[ids[2]])
        audit.record("delete_crops", "asked", crop_ids=[ids[3]], filters={"camera": "west"})
    record.crops.remove(number, ids[1:3])
    record.close()
    if left == "nothing":
        shutil.rmtree(tmp_path / "data")
    else:
        (tmp_path / "data" / DATABASE_NAME).write_bytes(b"damage")
    new = ("--data-dir", tmp_path / "new", "--replaces", tmp_path / "data")
    answer = run(capsys, "restore", first.path, *new)
    assert answer["by"] == str(second.path)
    # The audit log of what is left names single crops that were deleted later.
    known = ids[:1] if left == "nothing" else ids[:3]
    restored = open_sqlite(tmp_path / "new" / DATABASE_NAME)
    assert sorted(held(restored, number)) == sorted(set(ids) - set(known))
    restored.close()
    last = ("--data-dir", tmp_path / "last", "--replaces", tmp_path / "data")
    assert gmn.run([*map(str, ("restore", second.path, *last))]) == 0
    assert "Forget these people again" in capsys.readouterr().out


def test_a_backup_amid_writes_is_of_one_moment(tmp_path):
    record, number, *_ = fill(tmp_path / "data")
    done = threading.Event()

    def write() -> None:
        at = 100
        while not done.is_set():
            record.crops.enroll(number, EMBEDDER, [new_crop(at, "x"), new_crop(at + 1, "y")])
            at += 2

    writer = threading.Thread(target=write)
    writer.start()
    try:
        backup = write_backup(tmp_path / "data", tmp_path / "backups")
    finally:
        done.set()
        writer.join()
    copy = open_sqlite(backup.path / DATABASE_NAME)
    names = list(held(copy, number).values())
    assert names.count("x") == names.count("y")
    copy.close()
    record.close()


def test_the_oldest_are_removed_and_a_disk_without_room_takes_none(tmp_path, capsys, monkeypatch):
    record, *_ = fill(tmp_path / "data")
    record.close()
    folder = tmp_path / "backups"
    for hour in range(3):
        one = write_backup(tmp_path / "data", folder)
        one.path.rename(one.path.with_name(f"20260101T0{hour}0000Z"))
    (folder / "20260101T090000Z.part").mkdir()
    answer = run(capsys, "backup", folder, "--keep", 2, "--data-dir", tmp_path / "data")
    assert [name.rsplit("/", 1)[1][:11] for name in answer["removed"]] == [
        "20260101T00",
        "20260101T01",
    ]
    assert len(list(folder.iterdir())) == len(kept_backups(folder)) == 2
    monkeypatch.setenv("GMN_RESERVED_DISK_BYTES", str(10**18))
    assert gmn.run(["backup", str(folder), "--data-dir", str(tmp_path / "data")]) == 2
    assert "stay free (GMN_RESERVED_DISK_BYTES); nothing was written" in capsys.readouterr().err
    assert len(list(folder.iterdir())) == 2


def test_what_cannot_be_restored_is_refused_with_the_remedy(tmp_path, capsys):
    record, _, _, ids = fill(tmp_path / "data")
    record.close()
    backup = write_backup(tmp_path / "data", tmp_path / "backups")
    another, *_ = fill(tmp_path / "another")
    another.close()
    database = backup.path / DATABASE_NAME
    whole = database.read_bytes()
    damaged = bytearray(whole)
    damaged[whole.index(ids[1].encode()) + 5] ^= 1

    def refused(*arguments: object) -> str:
        assert gmn.run(["restore", *map(str, arguments)]) == 2
        return capsys.readouterr().err

    place = ("--data-dir", tmp_path / "new", "--replaces", tmp_path / "data")
    assert "it holds " + str(backup.path) in refused(tmp_path / "backups", *place)
    database.write_bytes(damaged)
    assert "is damaged" in refused(backup.path, *place)
    database.write_bytes(whole)
    assert "is another record" in refused(backup.path, *place[:3], tmp_path / "another")
    (tmp_path / "empty").mkdir()
    open_sqlite(tmp_path / "empty" / DATABASE_NAME).close()
    assert "is another record" in refused(backup.path, *place[:3], tmp_path / "empty")
    assert "holds something already" in refused(backup.path, "--data-dir", tmp_path / "data")
    newer = tmp_path / "data" / DATABASE_NAME
    with contextlib.closing(sqlite3.connect(newer)) as later:
        later.execute("PRAGMA user_version = 1000")
        later.commit()
    assert f"or move {newer.parent} away" in refused(backup.path, *place)


def test_without_a_word_a_restore_replaces_the_data_directory_of_the_environment(
    tmp_path, capsys, monkeypatch
):
    record, number, _, ids = fill(tmp_path / "data")
    backup = write_backup(tmp_path / "data", tmp_path / "backups")
    record.crops.remove(number, ids[:1])
    record.close()
    monkeypatch.setenv("GMN_DATA_DIR", str(tmp_path / "data"))
    answer = run(capsys, "restore", backup.path, "--data-dir", tmp_path / "new")
    assert answer["by"] == str(tmp_path / "data")
    restored = open_sqlite(tmp_path / "new" / DATABASE_NAME)
    assert ids[0] not in held(restored, number)
    restored.close()
    # Without a new name it would be made where the present one is.
    assert gmn.run(["restore", str(backup.path)]) == 2
    assert "holds something already; name a new one with --data-dir" in capsys.readouterr().err


def test_a_restore_that_is_cut_off_serves_nothing(tmp_path, monkeypatch):
    record, number, _, ids = fill(tmp_path / "data")
    backup = write_backup(tmp_path / "data", tmp_path / "backups")
    record.crops.remove(number, ids[:1])
    record.close()

    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    monkeypatch.setattr("service.record.restoring.remove_gone", killed)
    into = tmp_path / "new"
    into.mkdir()
    with pytest.raises(Killed):
        restore_backup(backup, into, tmp_path / "data")
    with pytest.raises(DamagedRecord, match="it is gone"):
        open_sqlite(into / DATABASE_NAME)


def test_a_record_that_was_recovered_shows_what_was_deleted_since_a_backup(tmp_path, capsys):
    record, number, _, ids = fill(tmp_path / "data")
    backup = write_backup(tmp_path / "data", tmp_path / "backups")
    record.crops.remove(number, ids[:1])
    record.close()
    # A recovery reads the time in a snapshot's name, which this one has not got.
    (tmp_path / "data" / snapshot_name(number, "s1")).unlink()
    place = ("--data-dir", str(tmp_path / "data"), "--into", str(tmp_path / "recovered"))
    assert gmn.run(["store", "recover", *place]) == 0
    capsys.readouterr()
    new = ("--data-dir", tmp_path / "new", "--replaces", tmp_path / "recovered")
    assert run(capsys, "restore", backup.path, *new)["left_out"] == {"lobby": 1, "gate": 0}
