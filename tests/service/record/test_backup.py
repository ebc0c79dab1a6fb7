"""Backups: copied while writes go on, and nothing that was deleted since comes back."""

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import threading
from dataclasses import replace
from datetime import UTC, datetime
from errno import ENOSPC
from unittest.mock import Mock

import pytest

import gmn
from gmn_client.models import JobProblem
from model.problems import InputProblem
from service.errors import DamagedRecord, RecordUnavailable, StorageFailed
from service.opening import open_folder
from service.ops.audit import AuditLog
from service.record.deletions import KEPT_FOR, TRIMMED_AFTER, read_deletions
from service.record.keys import NO_HASH, ApiKey
from service.record.transaction import Reader, Transaction
from service.record.vectors import VectorFiles
from service.store import backup as backup_module
from service.store.backup import NAME_FORMAT, kept_backups, restore_backup, write_backup
from service.store.verify import verify
from tests.forked import GMN, run_forked, run_gmn
from tests.service.gallery.new_crops import (
    NOON,
    desk_of,
    enroll,
    forget,
    is_on_disk,
    listed,
    listed_ids,
    new_crop,
    new_gallery,
    open_record,
    watch_of,
)
from tests.service.gallery.new_jobs import new_job
from tests.service.record.filled import flip
from tests.service.record.new_searches import kept_ids, new_search

pytestmark = pytest.mark.sqlite_alone

ALERT = {
    "number": 1,
    "alert_id": "a1",
    "kind": "visit",
    "first_seen": NOON,
    "last_seen": NOON,
    "crops": 1,
    "state": "open",
    "trial": False,
    "created_at": NOON,
}
WEBHOOK = {"url": "https://example.org/", "secret": "s", "note": "", "key_id": "kept"}


@pytest.fixture
def filled(tmp_path):
    folder = empty(tmp_path / "data")
    with open_record(folder) as record:
        lobby = new_gallery(record)
        gate = new_gallery(record, "gate")
        ids = enroll(record, lobby, *(new_crop(n, "ab"[n % 2]) for n in range(6)))
        enroll(record, gate, new_crop(9, "c"))
        for name in ("kept", "revoked"):
            record.keys.add(ApiKey(name, "1" * 64, ("query",), None, "", NOON))
        record.jobs.create(new_job("open", lobby))
        with AuditLog(folder) as audit:
            audit.record("begun")
        yield record, lobby, gate, ids


def identities(record, gallery):
    return {crop.crop_id: crop.identity for crop in listed(record, gallery)}


def empty(folder):
    folder.mkdir()
    return folder


def delete_one_of_each_kind(record, lobby, gate, ids, searches, closed, webhook, merge):
    desk_of(record).kept.remove(lobby, [searches[0].query_id])
    desk_of(record).cases.delete(lobby, closed.case_id)
    record.crops.remove(lobby, [ids[0]])
    forget(record, lobby, "c")
    record.people.undo_merge(lobby, merge)
    record.keys.revoke("revoked")
    (kept,) = record.keys.all()
    record.keys.change(replace(kept, secret_sha256="2" * 64))
    watch_of(record).webhooks.delete(webhook.webhook_id)
    record.database.write(Transaction.change, "DELETE FROM alerts")
    record.database.write(Transaction.change, "DELETE FROM jobs WHERE job_id = 'ended'")
    record.galleries.delete(gate)


@pytest.mark.promise("2")
@pytest.mark.parametrize("left", ["the data directory", "its log of deletions", "a newer backup"])
def test_what_was_deleted_since_a_backup_is_not_in_what_it_is_restored_to(
    filled, tmp_path, caplog, left
):
    record, lobby, gate, ids = filled
    ids += enroll(record, lobby, new_crop(6, "c"), new_crop(7, "d"), new_crop(8, "e"))
    searches = [new_search(crop_id=crop_id, picture=b"picture") for crop_id in ids[1:3]]
    desk_of(record).kept.keep(lobby, searches, 10)
    closed = desk_of(record).cases.create(lobby, "closed", "", "k")
    desk_of(record).cases.create(lobby, "open", "", "k")
    webhook = watch_of(record).webhooks.create(lobby, WEBHOOK)
    merge = record.people.rename(lobby, "e", "d").merge_id
    record.jobs.create(new_job("ended", lobby))
    record.jobs.update("ended", "done", None)
    record.database.write(Transaction.insert, "alerts", {**ALERT, "gallery_id": lobby})
    written = write_backup(record.database, tmp_path / "backups").path
    backup = written.rename(written.with_name("29000101T000000Z"))
    delete_one_of_each_kind(record, lobby, gate, ids, searches, closed, webhook, merge)
    latest = record.galleries.get(lobby).version
    if left == "a newer backup":
        newer = write_backup(record.database, tmp_path / "backups").path
        newer.rename(newer.with_name("29000102T000000Z"))
    record.close()
    replaced = tmp_path / "data"
    if left != "the data directory":
        replaced = empty(tmp_path / "left")
    if left == "its log of deletions":
        shutil.copy(tmp_path / "data" / "deletions.log", replaced)
    into = empty(tmp_path / "new")
    restored = restore_backup(backup, into, replaced)
    assert restored.crops == {"lobby": 7}
    assert restored.secrets == ["kept"]
    assert (restored.unknown_after is None) == (left != "a newer backup")
    assert not restored.lacks_lines
    assert verify(into).damage == []
    assert not is_on_disk(into, b"image 0")
    with open_record(into) as again:
        assert "older copy" not in caplog.text
        # All but the deletions is as it was.
        names = {ids[7]: "d", ids[8]: "d"}
        names |= {crop_id: "ab"[number % 2] for number, crop_id in enumerate(ids[:6]) if number}
        assert identities(again, lobby) == names
        # The former secret is not accepted any more.
        assert [key.secret_sha256 for key in again.keys.all()] == [NO_HASH]
        assert again.galleries.get(lobby).version > latest
        assert kept_ids(again, lobby) == [searches[1].query_id]
        assert [case.name for case in desk_of(again).cases.page(lobby, None, 9).results] == ["open"]
        assert again.jobs.get("open").state == "cancelled"
        assert again.jobs.get("ended") is None
        assert watch_of(again).webhooks.all() == {}
        assert again.people.merges(lobby) == []
        assert Reader(again.database).value("SELECT count(*) FROM alerts") == 0
        assert new_gallery(again, "new") > gate
    assert (into / "audit.jsonl").read_text().count("begun") == 1


def test_a_deletion_before_and_one_after_a_restore_hold_in_the_next_one(filled, tmp_path):
    record, lobby, _, ids = filled
    backup = write_backup(record.database, tmp_path / "backups").path
    record.crops.remove(lobby, [ids[0]])
    record.close()
    restore_backup(backup, empty(tmp_path / "first"), tmp_path / "data")
    with open_record(tmp_path / "first") as again:
        again.crops.remove(lobby, [ids[1]])
    restored = restore_backup(backup, empty(tmp_path / "second"), tmp_path / "first")
    assert restored.unknown_after is None
    with open_record(tmp_path / "second") as again:
        assert listed_ids(again, lobby) == ids[2:]
    lines = list(read_deletions(tmp_path / "second" / "deletions.log"))
    assert [line.number for line in lines] == [0, 1, 2, 3]
    assert [line.kind for line in lines].count("since") == 1


def test_a_crop_that_another_gallery_has_too_is_deleted_from_its_own_alone(filled, tmp_path):
    record, lobby, gate, _ = filled
    crop = new_crop(10)
    (crop_id,) = enroll(record, lobby, crop)
    enroll(record, gate, crop)
    backup = write_backup(record.database, tmp_path / "backups").path
    record.crops.remove(lobby, [crop_id])
    record.close()
    restore_backup(backup, empty(tmp_path / "new"), tmp_path / "data")
    with open_record(tmp_path / "new") as again:
        assert crop_id not in listed_ids(again, lobby)
        assert crop_id in listed_ids(again, gate)


@pytest.mark.parametrize("backed_up", ["former", None])
def test_a_record_whose_keys_are_all_newer_than_the_backup_still_asks_for_a_key(
    tmp_path, backed_up
):
    current = empty(tmp_path / "data")
    with open_record(current) as record:
        if backed_up:
            record.keys.add(ApiKey(backed_up, "0" * 64, ("admin",), None, "", NOON))
        backup = write_backup(record.database, tmp_path / "backups").path
        record.keys.add(ApiKey("newer", "1" * 64, ("admin",), None, "", NOON))
        if backed_up:
            record.keys.revoke(backed_up)
    into = empty(tmp_path / "new")
    restore_backup(backup, into, current)
    with open_record(into) as again:
        assert again.keys.all() == []
        assert again.keys.asked_for


@pytest.mark.promise("restore-replaces")
def test_without_a_word_a_restore_replaces_the_data_directory_of_the_environment(
    filled, tmp_path, capsys, monkeypatch
):
    record, lobby, _, ids = filled
    backup = write_backup(record.database, tmp_path / "backups").path
    record.crops.remove(lobby, ids[:1])
    record.close()
    monkeypatch.setenv("GMN_DATA_DIR", str(tmp_path / "data"))
    arguments = ["restore", str(backup), "--into", str(tmp_path / "new"), "--json"]
    assert gmn.run(arguments) == 0
    assert json.loads(capsys.readouterr().out)["unknown_after"] is None
    with open_record(tmp_path / "new") as again:
        assert ids[0] not in identities(again, lobby)
    lost = ["--replaces", str(tmp_path / "lost"), "--into", str(tmp_path / "newer")]
    assert gmn.run(["restore", str(backup), *lost]) == 0
    assert "forget these people and revoke these keys again" in capsys.readouterr().out
    # Without a new name it would be made where the present one is.
    assert gmn.run(["restore", str(backup)]) == 2
    assert "name a new one with --into" in capsys.readouterr().err


def test_without_the_data_directory_only_deletions_until_the_newest_backup_are_known(
    filled, tmp_path, capsys
):
    record, lobby, _, ids = filled
    written = write_backup(record.database, tmp_path / "backups").path
    first = written.rename(written.with_name("29000101T000000Z"))
    record.crops.remove(lobby, [ids[0]])
    written = write_backup(record.database, tmp_path / "backups").path
    written.rename(written.with_name("29000102T000000Z"))
    record.crops.remove(lobby, [ids[1]])
    record.close()
    shutil.rmtree(tmp_path / "data")
    new = tmp_path / "new"
    assert gmn.run(["restore", str(first), "--into", str(new), "--replaces", str(new)]) == 0
    said = capsys.readouterr().out
    assert "What was deleted after 2900-01-02 00:00 UTC is not known" in said
    assert "forget these people and revoke these keys again" in said
    with open_record(new) as again:
        assert listed_ids(again, lobby) == ids[1:]
    other = str(tmp_path / "other")
    assert gmn.run(["restore", str(first), "--into", other, "--replaces", other, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["unknown_after"].startswith("2900-01-02T00:00:00")


def test_a_name_that_was_forgotten_since_is_in_no_report_of_a_job(filled, tmp_path):
    record, lobby, *_ = filled
    record.jobs.create(new_job("ended", lobby))
    record.jobs.create(new_job("other", lobby))
    problem = JobProblem(position=1, source="Zoe/1.png", code="truncated", detail="cut off")
    record.jobs.update("ended", "failed", None, [problem], detail="Zoe: is wrong")
    backup = write_backup(record.database, tmp_path / "backups").path
    record.jobs.forget_name(lobby, "Zoe")
    record.close()
    restore_backup(backup, tmp_path / "new", tmp_path / "data")
    with open_record(tmp_path / "new") as again:
        assert {job.job_id for job in again.jobs.page(lobby, 9)} == {"open", "other"}
    assert not is_on_disk(tmp_path / "new", b"Zoe")


@pytest.mark.promise("backup-moment")
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
        backups = [write_backup(record.database, tmp_path / "backups").path for _ in range(2)]
    finally:
        done.set()
        writer.join()
    for number, backup in enumerate(backups):
        assert verify(backup).damage == []
        copy = shutil.copytree(backup, tmp_path / f"copy-{number}")
        with open_record(copy) as opened:
            names = list(identities(opened, lobby).values())
        assert names.count("x") == names.count("y")


@pytest.mark.promise("2")
@pytest.mark.parametrize("round_number", range(3))
def test_nothing_acknowledged_is_lost_and_nothing_deleted_is_back_with_writers_during_a_backup(
    filled, tmp_path, round_number
):
    record, lobby, gate, ids = filled
    acknowledged, deleted = [], list(ids[:2])
    record.crops.remove(lobby, deleted)
    done = threading.Event()

    def write(first):
        number = first
        while not done.is_set():
            enrolled = enroll(record, lobby, *(new_crop(number + n, "w") for n in range(3)))
            acknowledged.extend(enrolled)
            record.crops.remove(lobby, enrolled[:1])
            deleted.append(enrolled[0])
            number += 3

    writers = [threading.Thread(target=write, args=[10**5 * (n + 1)]) for n in range(2)]
    for writer in writers:
        writer.start()
    try:
        expected = {*ids, *acknowledged}
        backup = write_backup(record.database, tmp_path / "backups").path
    finally:
        done.set()
        for writer in writers:
            writer.join()
    forget(record, lobby, "b")
    deleted += ids[1::2]
    record.galleries.delete(gate)
    record.close()
    restore_backup(backup, tmp_path / "new", tmp_path / "data")
    assert verify(tmp_path / "new").damage == []
    with open_record(tmp_path / "new") as again:
        there = set(listed_ids(again, lobby))
        assert [entry.name for entry in again.galleries.all()] == ["lobby"]
    assert expected - set(deleted) <= there
    assert there.isdisjoint(deleted)


@pytest.mark.parametrize("when", ["after the vectors", "before the vectors"])
@pytest.mark.parametrize("what", ["crop", "gallery"])
def test_what_is_deleted_while_a_backup_is_written_is_no_part_of_it(
    filled, tmp_path, monkeypatch, when, what
):
    record, lobby, gate, ids = filled
    name = "_read_vector_files" if when == "before the vectors" else "_copy_file"
    goes_on = getattr(backup_module, name)

    def meanwhile(*arguments):
        if what == "crop":
            record.crops.remove(lobby, [ids[1]])
        elif record.galleries.get(gate):
            record.galleries.delete(gate)
        enroll(record, lobby, new_crop(100))
        return goes_on(*arguments)

    monkeypatch.setattr(backup_module, name, meanwhile)
    backup = write_backup(record.database, tmp_path / "backups").path
    assert verify(backup).damage == []
    left = [crop_id for crop_id in ids if what == "gallery" or crop_id != ids[1]]
    with contextlib.closing(sqlite3.connect(backup / "record.sqlite3")) as file:
        stored = file.execute("SELECT crop_id FROM crops WHERE gallery_id = ?", (lobby,))
        assert {crop_id for (crop_id,) in stored} == {*left}
    with open_record(shutil.copytree(backup, tmp_path / "copy")) as copy:
        assert listed_ids(copy, lobby) == left
        assert len(copy.galleries.all()) == (2 if what == "crop" else 1)


def test_a_reindex_that_replaces_vectors_during_a_backup_has_it_made_again(
    filled, tmp_path, monkeypatch
):
    record, lobby, *_ = filled
    opens = VectorFiles.open

    def replaced_meanwhile(self, gallery_id, *arguments):
        if gallery_id == lobby:
            raise FileNotFoundError
        return opens(self, gallery_id, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(backup_module.VectorFiles, "open", replaced_meanwhile)
        with pytest.raises(RecordUnavailable, match="replaced by a reindex"):
            write_backup(record.database, tmp_path / "backups")
    assert kept_backups(tmp_path / "backups") == []


def test_the_names_of_people_who_were_forgotten_since_are_nowhere_in_what_is_restored(
    record, gallery, tmp_path
):
    # Names that come in no order split the pages of their index, which leaves copies behind.
    names = [f"person {number * 7919 % 10007:05} of here" for number in range(300)]
    for start in range(0, len(names), 50):
        crops = [new_crop(n, names[n]) for n in range(start, start + 50)]
        enroll(record, gallery, *crops)
    backup = write_backup(record.database, tmp_path / "backups").path
    for name in names[::3]:
        forget(record, gallery, name)
    record.close()
    new = tmp_path / "new"
    restore_backup(backup, new, tmp_path)
    content = b"".join(path.read_bytes() for path in new.iterdir())
    assert [name for name in names if name.encode() not in content] == names[::3]


def test_a_damaged_crop_is_named_by_a_backup_and_its_restore_and_costs_no_other_crop(
    record, gallery, tmp_path
):
    first, second = enroll(record, gallery, new_crop(1), new_crop(2))
    record.database.vectors.open(gallery, 0, 4).clear([2])
    written = write_backup(record.database, tmp_path / "backups")
    told = [f"the vector of crop {second} is missing or corrupt"]
    assert written.damaged_crops == told
    restored = restore_backup(written.path, tmp_path / "restored", tmp_path)
    assert restored.damaged_crops == told
    with open_record(tmp_path / "restored") as again:
        again.check()
        assert listed_ids(again, gallery) == [first]
        again.crops.remove(gallery, [second])
    assert verify(tmp_path / "restored").damage == []


def test_a_record_with_more_than_damaged_crops_gives_no_backup(record, gallery, tmp_path):
    enroll(record, gallery, new_crop(1), new_crop(2))
    record.database.write(Transaction.change, "UPDATE galleries SET crops = 7")
    with pytest.raises(DamagedRecord, match="it has 2 crops instead of 7"):
        write_backup(record.database, tmp_path / "backups")
    assert list((tmp_path / "backups").iterdir()) == []


def test_a_crop_that_is_damaged_by_the_copying_gives_no_backup(filled, tmp_path, monkeypatch):
    record, _, _, ids = filled
    verifies = backup_module.verify

    def damaged_copy(folder):
        if folder != record.database.folder:
            with (folder / "vectors-1-0.f32").open("r+b") as file:
                file.seek(-4, os.SEEK_END)
                file.write(b"\xff" * 4)
        return verifies(folder)

    monkeypatch.setattr(backup_module, "verify", damaged_copy)
    with pytest.raises(DamagedRecord, match=f"the vector of crop {ids[-1]} is missing or corrupt"):
        write_backup(record.database, tmp_path / "backups")
    assert kept_backups(tmp_path / "backups") == []


def test_a_disk_without_room_takes_no_backup(filled, tmp_path):
    with pytest.raises(StorageFailed, match="nothing was written"):
        write_backup(filled[0].database, tmp_path / "backups", 10**18)
    assert list((tmp_path / "backups").iterdir()) == []


@pytest.mark.parametrize("step", ["_copy_file", "verify", "_copy_audit_log", "put_in_place"])
def test_a_backup_that_is_killed_leaves_none_and_the_next_one_is_made(filled, tmp_path, step):
    record, lobby, _, ids = filled
    record.close()
    killed_at_the_step = (
        "import os; import service.store.backup as made; "
        f"made.{step} = lambda *_, **__: os.kill(os.getpid(), 9)\n{GMN}"
    )
    command = ("backup", str(tmp_path / "backups"), "--data-dir", str(tmp_path / "data"))
    assert run_forked(killed_at_the_step, *command).returncode == -signal.SIGKILL
    assert kept_backups(tmp_path / "backups") == []
    assert run_gmn(*command).returncode == 0
    (backup,) = kept_backups(tmp_path / "backups")
    assert list((tmp_path / "backups").iterdir()) == [backup]
    restore_backup(backup, tmp_path / "new", tmp_path / "data")
    with open_record(tmp_path / "new") as again:
        assert listed_ids(again, lobby) == ids


@pytest.mark.parametrize("step", ["_copy_file", "verify", "_apply_log", "stop_watching"])
def test_a_restore_that_is_killed_is_never_opened_and_can_be_repeated(filled, tmp_path, step):
    record, lobby, _, ids = filled
    backup = write_backup(record.database, tmp_path / "backups").path
    record.crops.remove(lobby, ids[:1])
    record.close()
    killed_at_the_step = (
        "import os; import service.store.backup as made; "
        f"made.{step} = lambda *_, **__: os.kill(os.getpid(), 9)\n{GMN}"
    )
    new = tmp_path / "new"
    command = ("restore", str(backup), "--into", str(new), "--replaces", str(tmp_path / "data"))
    assert run_forked(killed_at_the_step, *command).returncode == -signal.SIGKILL
    with pytest.raises(InputProblem, match="was cut off"):
        open_folder(new)
    shutil.rmtree(new)
    assert run_gmn(*command).returncode == 0
    with open_record(new) as again:
        assert listed_ids(again, lobby) == ids[1:]


@pytest.mark.promise("backup-moment")
def test_what_cannot_be_restored_is_refused_with_the_remedy(filled, tmp_path):
    record, *_ = filled
    backup = write_backup(record.database, tmp_path / "backups").path
    record.close()
    other = shutil.copytree(backup, tmp_path / "other" / backup.name)
    with contextlib.closing(sqlite3.connect(other / "record.sqlite3")) as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(InputProblem, match=r"not those of format 2, .* restore another one"):
        restore_backup(other, empty(tmp_path / "other" / "new"), tmp_path / "data")
    path = backup / "record.sqlite3"
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(InputProblem, match=r"is damaged .* restore another one"):
        restore_backup(backup, empty(tmp_path / "second"), tmp_path / "data")
    assert not (tmp_path / "second" / "record.sqlite3").exists()


def test_a_disk_that_fills_up_amid_a_restore_is_named_and_the_backup_is_not_called_damaged(
    filled, tmp_path, monkeypatch
):
    record, *_ = filled
    backup = write_backup(record.database, tmp_path / "backups").path
    record.close()
    for step in ("_copy_file", "_apply_log"):
        with monkeypatch.context() as full:
            full.setattr(backup_module, step, Mock(side_effect=OSError(ENOSPC, "no space left")))
            with pytest.raises(StorageFailed, match=r"could not be restored .*no space left"):
                restore_backup(backup, tmp_path / "new", tmp_path / "data")


def renamed(backup, moment):
    return backup.rename(backup.with_name(f"{moment:{NAME_FORMAT}}"))


@pytest.mark.promise("backup-moment")
def test_a_log_of_another_record_is_not_applied_and_a_restore_says_what_is_not_known(
    filled, tmp_path, capsys
):
    record, lobby, _, ids = filled
    backup = write_backup(record.database, tmp_path / "backups").path
    record.close()
    other = empty(tmp_path / "other")
    with open_record(other) as another:
        gallery = new_gallery(another)
        another.crops.remove(gallery, enroll(another, gallery, new_crop(0)))
    log = other / "deletions.log"
    (deleted,) = [line.id for line in read_deletions(log) if line.kind == "crop"]
    log.write_text(log.read_text().replace(deleted, ids[0]))
    new = tmp_path / "new"
    command = ["restore", str(backup), "--into", str(new), "--replaces", str(other)]
    assert gmn.run(command) == 0
    assert f"{other} has no deletions.log of this record" in capsys.readouterr().out
    with open_record(new) as again:
        assert listed_ids(again, lobby) == ids


@pytest.mark.promise("backup-moment")
def test_a_restore_of_a_backup_that_is_older_than_the_log_says_so(filled, tmp_path, capsys):
    record, lobby, _, ids = filled
    backup = write_backup(record.database, tmp_path / "backups").path
    record.crops.remove(lobby, ids[:1])
    record.database.deletions.trim(datetime.now(UTC) + KEPT_FOR + TRIMMED_AFTER)
    record.crops.remove(lobby, ids[1:2])
    record.close()
    new = tmp_path / "new"
    command = ["restore", str(backup), "--into", str(new), "--replaces", str(tmp_path / "data")]
    assert gmn.run(command) == 0
    assert "Some of what was deleted since the backup is not known" in capsys.readouterr().out
    with open_record(new) as again:
        assert listed_ids(again, lobby) == [ids[0], *ids[2:]]


@pytest.mark.promise("backup-moment")
def test_a_damaged_line_of_a_log_is_told_as_nobody_knows_what_it_says(filled, tmp_path):
    record, lobby, _, ids = filled
    record.crops.remove(lobby, ids[:1])
    backup = write_backup(record.database, tmp_path / "backups").path
    record.crops.remove(lobby, ids[1:2])
    record.close()
    flip(tmp_path / "data" / "deletions.log", b'"crop"')
    restored = restore_backup(backup, empty(tmp_path / "new"), tmp_path / "data")
    assert restored.lacks_lines
    with open_record(tmp_path / "new") as again:
        assert listed_ids(again, lobby) == ids[2:]


def hostile(filled, tmp_path):
    record, *_ = filled
    backup = write_backup(record.database, tmp_path / "backups").path
    record.close()
    (tmp_path / "secret").write_text("SECRET OF THE OPERATOR")
    return backup


def restored_or_refused(backup, tmp_path):
    """Restore a backup that a stranger has changed; return what the command said."""
    new = tmp_path / "deep" / "er" / "new"
    command = ("restore", str(backup), "--into", str(new), "--replaces", str(tmp_path / "lost"))
    ran = run_gmn(*command)
    assert "Traceback" not in ran.stderr
    assert ran.returncode == 0 or not new.exists()
    assert not new.exists() or not is_on_disk(new, b"SECRET OF THE OPERATOR")
    return ran.stdout + ran.stderr


@pytest.mark.promise("backup-paths")
@pytest.mark.parametrize(
    "name", ["record.sqlite3", "vectors-1-0.f32", "deletions.log", "audit.jsonl", "audit.key"]
)
def test_no_link_in_a_backup_is_followed(filled, tmp_path, name):
    backup = hostile(filled, tmp_path)
    (backup / name).unlink()
    (backup / name).symlink_to(tmp_path / "secret")
    said = restored_or_refused(backup, tmp_path)
    assert "restore another one" in said
    assert any(words in said for words in ("symbolic links", "is a link", "is no ordinary file"))


@pytest.mark.promise("backup-paths")
@pytest.mark.parametrize(
    "name", ["vectors-9-9.f32", "audit.20200101.jsonl", "other", "audit.pipe.jsonl"]
)
def test_what_a_stranger_put_into_a_backup_is_no_part_of_its_restore(filled, tmp_path, name):
    backup = hostile(filled, tmp_path)
    if name == "audit.pipe.jsonl":
        os.mkfifo(backup / name)
    elif name.startswith("audit"):
        (backup / name).mkdir()
    else:
        (backup / name).symlink_to(tmp_path / "secret")
    restored_or_refused(backup, tmp_path)
    assert not (tmp_path / "deep" / "er" / "new" / name).exists()


@pytest.mark.promise("backup-paths")
@pytest.mark.parametrize(
    ("statement", "refusal"),
    [
        ("UPDATE galleries SET generation = '../../../escaped'", "is damaged"),
        ("UPDATE galleries SET dimension = 4000000000", "is damaged"),
        ("UPDATE galleries SET next_slot = 'nine'", "is damaged"),
        ("CREATE TRIGGER t AFTER DELETE ON crops BEGIN SELECT 1; END", "restore another one"),
        ("CREATE VIEW v AS SELECT * FROM crops", "restore another one"),
        ("UPDATE galleries SET name = '../../x' || char(10) WHERE gallery_id = 1", ""),
    ],
)
def test_nothing_in_the_record_of_a_backup_is_used_as_a_path_or_run(
    filled, tmp_path, statement, refusal
):
    backup = hostile(filled, tmp_path)
    with contextlib.closing(sqlite3.connect(backup / "record.sqlite3")) as changed:
        changed.execute(statement)
        changed.commit()
    before = {path for path in tmp_path.rglob("*") if "deep" not in path.parts}
    assert refusal in restored_or_refused(backup, tmp_path)
    assert {path for path in tmp_path.rglob("*") if "deep" not in path.parts} == before


@pytest.mark.parametrize(
    "line",
    [
        '{"number":9,"at":"2026-03-01T12:00:00Z","kind":"gallery","id":"../../x"}',
        '{"number":9,"at":"2026-03-01T12:00:00Z","kind":"gallery","id":"99999999999999999999-1"}',
        '{"number":9,"at":"2026-03-01T12:00:00Z","kind":"table","id":"crops"}',
        '{"number":9,"at":"2026-03-01T12:00:00Z","kind":"crop","gallery":"1;DROP TABLE","id":"x"}',
        '{"number":9,"at":"9999-99-99","kind":"crop","id":"x"}',
        '{"number":-1,"at":"2026-03-01T12:00:00Z","kind":"crop","id":"x"}',
        '{"number":99999999999999999999,"at":"2026-03-01T12:00:00Z","kind":"crop","id":"x"}',
        "[" * 990,
        "x" * 100_000,
    ],
)
def test_a_line_of_a_log_that_this_program_does_not_write_is_damage(filled, tmp_path, line):
    record, lobby, _, ids = filled
    record.crops.remove(lobby, ids[:1])
    backup = hostile(filled, tmp_path)
    with (backup / "deletions.log").open("a") as log:
        log.write(f"{line}\n")
    assert "lines of deletions.log are damaged" in restored_or_refused(backup, tmp_path)


def test_a_backup_larger_than_the_disk_is_refused_before_it_is_copied(filled, tmp_path):
    backup = hostile(filled, tmp_path)
    with (backup / "vectors-1-0.f32").open("r+b") as file:
        file.truncate(2**43)
    assert "nothing was written" in restored_or_refused(backup, tmp_path)


def test_a_backup_that_another_program_has_changed_is_refused(filled, tmp_path):
    backup = hostile(filled, tmp_path)
    (backup / "record.sqlite3-wal").write_bytes(b"x")
    assert "another program has opened" in restored_or_refused(backup, tmp_path)
