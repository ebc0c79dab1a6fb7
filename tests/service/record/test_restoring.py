"""Backups: copied while writes go on, and nothing that was deleted since comes back."""

import contextlib
import json
import shutil
import sqlite3
import threading
from dataclasses import replace

import pytest

import gmn
from gmn_client.models import JobProblem
from model.problems import InputProblem
from service.errors import StorageFailed
from service.ops.audit import AuditLog
from service.record.crops import deleted_among
from service.record.keys import ApiKey
from service.record.record import Record
from service.record.restoring import restore_backup, write_backup
from service.record.transaction import Transaction
from service.record.verify import verify
from tests.service.gallery.new_crops import (
    NOON,
    enroll,
    is_on_disk,
    listed,
    new_crop,
    new_gallery,
    open_record,
)
from tests.service.gallery.new_jobs import new_job
from tests.service.record.new_searches import kept_ids, new_search


@pytest.fixture
def filled(tmp_path):
    folder = empty(tmp_path / "data")
    with open_record(folder) as record:
        lobby = new_gallery(record)
        gate = new_gallery(record, "gate")
        ids = enroll(record, lobby, *(new_crop(n, "ab"[n % 2]) for n in range(6)))
        enroll(record, gate, new_crop(9, "c"))
        for name in ("kept", "revoked"):
            record.keys.add(ApiKey(name, "0" * 64, ("query",), None, "", NOON))
        record.jobs.create(new_job("open", lobby))
        with AuditLog(folder) as audit:
            audit.record("begun")
        yield record, lobby, gate, ids


def identities(record, gallery):
    return {crop.crop_id: crop.identity for crop in listed(record, gallery)}


def empty(folder):
    folder.mkdir()
    return folder


def test_what_was_deleted_since_a_backup_is_not_in_what_it_is_restored_to(filled, tmp_path):
    record, lobby, gate, ids = filled
    searches = [new_search(crop_id=crop_id) for crop_id in ids[1:3]]
    record.kept.keep(lobby, [(search, b"picture") for search in searches], 10)
    closed = record.cases.create(lobby, "closed", "", "k")
    record.cases.create(lobby, "open", "", "k")
    backup = write_backup(record.database, tmp_path / "backups")
    record.kept.remove(lobby, [searches[0]["query_id"]])
    record.cases.delete(lobby, closed.case_id)
    record.crops.remove(lobby, [ids[0]])
    record.people.rename(lobby, "b", "late")
    record.keys.revoke("revoked")
    (kept,) = record.keys.all()
    record.keys.add(replace(kept, secret_sha256="1" * 64))
    record.galleries.delete(gate)
    latest = record.galleries.get(lobby).version
    record.close()
    before = (tmp_path / "data" / "record.sqlite3").read_bytes()
    into = empty(tmp_path / "new")
    restored = restore_backup(backup, into, tmp_path / "data")
    assert (tmp_path / "data" / "record.sqlite3").read_bytes() == before
    assert (restored.crops, restored.left_out) == ({"lobby": 5}, {"lobby": 1})
    assert (restored.galleries, restored.keys) == (["gate"], ["revoked"])
    assert verify(into).damage == []
    assert not is_on_disk(into, b"image 0")
    with open_record(into) as again:
        # All but the deletions is as it was.
        names = {crop_id: "ab"[number % 2] for number, crop_id in enumerate(ids)}
        assert identities(again, lobby) == {crop_id: names[crop_id] for crop_id in ids[1:]}
        assert again.keys.all() == [replace(kept, secret_sha256="1" * 64)]
        assert again.galleries.get(lobby).version > latest
        assert kept_ids(again, lobby) == [searches[1]["query_id"]]
        assert [case.name for case in again.cases.page(lobby, None, 9).results] == ["open"]
        assert again.jobs.get("open").state == "cancelled"
        assert deleted_among(again.database, ids) == {ids[0]}
        assert new_gallery(again, "new") > gate
    assert (into / "audit.jsonl").read_text().count("begun") == 1


@pytest.mark.parametrize("backed_up", ["former", None])
def test_a_record_whose_keys_are_all_newer_than_the_backup_still_asks_for_a_key(
    tmp_path, backed_up
):
    current = empty(tmp_path / "data")
    with open_record(current) as record:
        if backed_up:
            record.keys.add(ApiKey(backed_up, "0" * 64, ("admin",), None, "", NOON))
        backup = write_backup(record.database, tmp_path / "backups")
        record.keys.add(ApiKey("newer", "1" * 64, ("admin",), None, "", NOON))
        if backed_up:
            record.keys.revoke(backed_up)
    into = empty(tmp_path / "new")
    restored = restore_backup(backup, into, current)
    with open_record(into) as again:
        assert again.keys.all() == []
        assert again.keys.asked_for
    assert restored.keys == ([backed_up] if backed_up else [])


def test_without_a_word_a_restore_replaces_the_data_directory_of_the_environment(
    filled, tmp_path, capsys, monkeypatch
):
    record, lobby, _, ids = filled
    backup = write_backup(record.database, tmp_path / "backups")
    record.crops.remove(lobby, ids[:1])
    record.close()
    monkeypatch.setenv("GMN_DATA_DIR", str(tmp_path / "data"))
    arguments = ["restore", str(backup), "--into", str(tmp_path / "new"), "--json"]
    assert gmn.run(arguments) == 0
    assert json.loads(capsys.readouterr().out)["by"] == str(tmp_path / "data")
    with open_record(tmp_path / "new") as again:
        assert ids[0] not in identities(again, lobby)
    # The option's name in earlier versions works too.
    lost = ["--replaces", str(tmp_path / "lost"), "--data-dir", str(tmp_path / "newer")]
    assert gmn.run(["restore", str(backup), *lost]) == 0
    assert "Forget these people and revoke these keys again" in capsys.readouterr().out
    # Without a new name it would be made where the present one is.
    assert gmn.run(["restore", str(backup)]) == 2
    assert "name a new one with --into" in capsys.readouterr().err


@pytest.mark.parametrize("left", ["nothing", "a damaged file", "the beginning"])
def test_without_the_data_directory_a_newer_backup_shows_what_was_deleted(filled, tmp_path, left):
    record, lobby, _, ids = filled
    written = write_backup(record.database, tmp_path / "backups")
    first = written.rename(written.with_name("20260101T000000Z"))
    record.crops.remove(lobby, [ids[0]])
    second = write_backup(record.database, tmp_path / "backups")
    record.crops.remove(lobby, [ids[1]])
    record.close()
    file = tmp_path / "data" / "record.sqlite3"
    if left == "nothing":
        shutil.rmtree(tmp_path / "data")
    else:
        file.write_bytes(b"damage" if left == "a damaged file" else file.read_bytes()[:10_000])
    into = empty(tmp_path / "new")
    restored = restore_backup(first, into, tmp_path / "data", [ids[2]])
    assert restored.by == second
    # The ids of deleted crops may be left, although the record is damaged.
    gone = {ids[0], ids[2]} if left == "nothing" else set(ids[:3])
    with open_record(into) as again:
        assert set(identities(again, lobby)) == set(ids) - gone


def test_a_name_that_was_forgotten_since_is_in_no_report_of_a_job(filled, tmp_path):
    record, lobby, *_ = filled
    record.jobs.create(new_job("ended", lobby))
    record.jobs.create(new_job("dropped", lobby))
    problem = JobProblem(position=1, source="Zoe/1.png", code="truncated", detail="cut off")
    for job_id in ("ended", "dropped"):
        record.jobs.update(job_id, "failed", None, [problem], detail="Zoe: is wrong")
    backup = write_backup(record.database, tmp_path / "backups")
    record.jobs.forget_name(lobby, "Zoe")
    record.database.write(Transaction.change, "DELETE FROM jobs WHERE job_id = 'dropped'")
    record.close()
    restore_backup(backup, tmp_path / "new", tmp_path / "data")
    with open_record(tmp_path / "new") as again:
        assert [job.job_id for job in again.jobs.page(lobby, 9)] == ["open", "ended"]
        assert again.jobs.get("ended").detail == "…: is wrong"
        (reported,) = again.jobs.problems("ended", 0, 9)
        assert reported.source == "…/1.png"
    assert verify(tmp_path / "new").damage == []
    assert not is_on_disk(tmp_path / "new", b"Zoe")


def test_a_backup_amid_writes_is_of_one_moment(filled, tmp_path):
    record, lobby, *_ = filled
    done = threading.Event()

    def write():
        at = 100
        while not done.is_set():
            ids = enroll(record, lobby, new_crop(at, "x"), new_crop(at + 1, "y"))
            if at % 20 == 0:
                record.crops.remove(lobby, ids)
            at += 2

    writer = threading.Thread(target=write)
    writer.start()
    try:
        backups = [write_backup(record.database, tmp_path / "backups") for _ in range(2)]
    finally:
        done.set()
        writer.join()
    for number, backup in enumerate(backups):
        assert verify(backup).damage == []
        copy = shutil.copytree(backup, tmp_path / f"copy-{number}")
        with open_record(copy) as opened:
            names = list(identities(opened, lobby).values())
        assert names.count("x") == names.count("y")


def test_a_disk_without_room_takes_no_backup(filled, tmp_path):
    with pytest.raises(StorageFailed, match="nothing was written"):
        write_backup(filled[0].database, tmp_path / "backups", 10**18)
    assert list((tmp_path / "backups").iterdir()) == []


def test_what_cannot_be_restored_is_refused_with_the_remedy(filled, tmp_path):
    record, _, _, ids = filled
    backup = write_backup(record.database, tmp_path / "backups")
    record.close()
    Record(empty(tmp_path / "another")).close()
    with pytest.raises(InputProblem, match="is another record"):
        restore_backup(backup, empty(tmp_path / "first"), tmp_path / "another")
    newer = empty(tmp_path / "newer")
    with contextlib.closing(sqlite3.connect(newer / "record.sqlite3")) as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(InputProblem, match="format version 99"):
        restore_backup(backup, empty(tmp_path / "other"), newer)
    path = backup / "record.sqlite3"
    body = bytearray(path.read_bytes())
    body[body.index(ids[1].encode()) + 5] ^= 1
    path.write_bytes(body)
    into = empty(tmp_path / "second")
    with pytest.raises(InputProblem, match=r"is damaged .* restore another one"):
        restore_backup(backup, into, tmp_path / "data")
    assert list(into.iterdir()) == []
