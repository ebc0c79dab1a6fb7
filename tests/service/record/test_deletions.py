"""The log of deletions: each deletion is in it before it is acknowledged, and for 400 days."""

import os
import shutil
from datetime import UTC, datetime, timedelta
from errno import ENOSPC
from unittest.mock import Mock

import pytest

from service.errors import StorageFailed
from service.record.deletions import (
    KEPT_FOR,
    TRIMMED_AFTER,
    DeletedCrops,
    Deletion,
    DeletionLog,
    parse_line,
    read_beginning,
    read_deletions,
    read_lines,
)
from service.record.transaction import Reader
from tests.service.gallery.new_crops import (
    NOON,
    desk_of,
    enroll,
    forget,
    is_on_disk,
    listed_ids,
    new_crop,
    new_gallery,
    open_record,
)

pytestmark = pytest.mark.promise("2")


def logged(folder):
    return [(line.kind, line.id) for line in read_deletions(folder / "deletions.log")][1:]


@pytest.fixture
def log(tmp_path):
    folder = tmp_path / "log"
    folder.mkdir()
    made = DeletionLog(folder)
    made.begin("this record", 0)
    return made


def test_a_log_begins_with_its_record_and_has_ids_and_no_names(record, gallery, tmp_path):
    (first, second) = enroll(record, gallery, new_crop(1, "Zoe"), new_crop(2, "Zoe"))
    record.crops.remove(gallery, [first])
    forget(record, gallery, "Zoe")
    beginning = read_beginning(tmp_path / "deletions.log")
    assert beginning.id == Reader(record.database).value(
        "SELECT value FROM record WHERE name = 'record_id'"
    )
    assert logged(tmp_path) == [("crop", first), ("crop", second)]
    assert b"Zoe" not in (tmp_path / "deletions.log").read_bytes()
    assert (tmp_path / "deletions.log").stat().st_mode & 0o777 == 0o600


def test_a_crop_that_has_a_tombstone_already_is_logged_and_its_vector_overwritten(
    record, gallery, tmp_path
):
    (crop_id,) = enroll(record, gallery, new_crop(1))

    def bury(transaction):
        tombstone = {"gallery_id": gallery, "crop_id": crop_id, "removed_at": 0, "slot": 1}
        transaction.insert("tombstones", tombstone)

    record.database.write(bury)
    record.crops.remove(gallery, [crop_id])
    assert logged(tmp_path) == [("crop", crop_id)] * 2
    assert not is_on_disk(tmp_path, new_crop(1).vector.tobytes())


def test_what_a_deleted_gallery_had_needs_no_lines(record, gallery, tmp_path):
    enroll(record, gallery, new_crop(1), new_crop(2))
    desk_of(record).cases.create(gallery, "case", "", "k")
    deletion_id = record.galleries.get(gallery).deletion_id
    record.galleries.delete(gallery)
    assert logged(tmp_path) == [("gallery", deletion_id)]


def test_a_rule_that_fails_logs_nothing(record, gallery, tmp_path):
    ids = enroll(record, gallery, new_crop(1))

    def failing(transaction):
        transaction.change("DELETE FROM galleries")
        raise ValueError

    with pytest.raises(ValueError):
        record.database.write(failing)
    assert logged(tmp_path) == []
    assert listed_ids(record, gallery) == ids


def test_a_deletion_whose_line_cannot_be_written_is_not_acknowledged_and_logged_later(
    record, gallery, tmp_path, monkeypatch
):
    first, second = enroll(record, gallery, new_crop(1), new_crop(2))
    with monkeypatch.context() as full:
        full.setattr(os, "fdatasync", Mock(side_effect=OSError(ENOSPC, "no space left")))
        with pytest.raises(StorageFailed, match="no space left"):
            record.crops.remove(gallery, [first])
    assert logged(tmp_path) == []
    record.crops.remove(gallery, [second])
    assert sorted(logged(tmp_path)) == sorted([("crop", first), ("crop", second)])
    assert not is_on_disk(tmp_path, new_crop(1).vector.tobytes())


def test_a_deletion_that_was_committed_and_killed_is_logged_by_another_process_within_a_second(
    record, gallery, tmp_path, monkeypatch
):
    first, _ = enroll(record, gallery, new_crop(1), new_crop(2))
    with open_record(tmp_path) as other:
        with monkeypatch.context() as patch:
            patch.setattr(record.database.deletions, "append", Mock(side_effect=KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                record.crops.remove(gallery, [first])
        assert logged(tmp_path) == []
        # A service does this each second.
        other.database.tend()
        assert logged(tmp_path) == [("crop", first)]


@pytest.mark.sqlite_alone
@pytest.mark.parametrize("moment", ["before its line", "after its line"])
def test_a_deletion_that_was_committed_and_killed_is_in_the_log_after_the_next_start(
    record, gallery, tmp_path, monkeypatch, caplog, moment
):
    first, second, third = enroll(record, gallery, *(new_crop(number) for number in range(3)))
    record.crops.remove(gallery, [second])
    step = "append" if moment == "before its line" else "_overwrite_removed"
    owner = record.database.deletions if step == "append" else record.database
    with monkeypatch.context() as patch:
        patch.setattr(owner, step, Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            record.crops.remove(gallery, [first])
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in (*tmp_path.glob("record.*"), *tmp_path.glob("*.log"), *tmp_path.glob("*.f32")):
        shutil.copy(path, copy)
    with open_record(copy) as again:
        assert logged(copy)[-1] == ("crop", first)
        assert Reader(again.database).value("SELECT count(*) FROM deletions") == 0
    with open_record(copy) as again:
        assert listed_ids(again, gallery) == [third]
    assert "older copy" not in caplog.text


def test_a_line_that_another_process_was_killed_amid_damages_no_later_one(
    record, gallery, tmp_path
):
    first, second = enroll(record, gallery, new_crop(1), new_crop(2))
    record.crops.remove(gallery, [first])
    with (tmp_path / "deletions.log").open("ab") as file:
        file.write(b'{"number":2,"at":"2026-03-01T12:00:00Z","kind":"crop","id":"tw')
    record.crops.remove(gallery, [second])
    assert logged(tmp_path) == [("crop", first), ("crop", second)]
    assert all(parse_line(line) for line in read_lines(tmp_path / "deletions.log"))


def test_a_log_that_was_removed_while_the_record_is_open_begins_anew(record, gallery, tmp_path):
    (crop_id,) = enroll(record, gallery, new_crop(1))
    before = read_beginning(tmp_path / "deletions.log")
    (tmp_path / "deletions.log").unlink()
    record.crops.remove(gallery, [crop_id])
    assert read_beginning(tmp_path / "deletions.log").at > before.at
    assert logged(tmp_path) == [("crop", crop_id)]


def test_a_line_that_a_power_cut_tore_is_cut_off_and_a_damaged_one_left_out(log):
    log.append([Deletion(1, NOON, "crop", "one", 1)])
    with log.path.open("ab") as file:
        file.write(b'{"number":2,"at":"2026-03-01T12:00:00Z","kind":"crop","id":"tw')
    assert [line.id for line in read_deletions(log.path)] == ["this record", "one"]
    assert log.begin("this record", 0) == 1
    log.append([Deletion(2, NOON, "crop", "three", 1)])
    assert [line.id for line in read_deletions(log.path)] == ["this record", "one", "three"]
    with log.path.open("ab") as file:
        file.write(b"x" * 5000 + b"\n" + b'{"kind": "crop"}\n')
    log.append([Deletion(3, NOON, "crop", "four", 1)])
    assert [line.id for line in read_deletions(log.path)][-2:] == ["three", "four"]


def test_lines_live_for_400_days_and_the_first_one_says_from_when_on_they_are_there(log):
    now = datetime.now(UTC)
    days = [500, 401, 399, 1]
    log.append(
        Deletion(number, now - timedelta(days=day), "crop", f"{day} days", 1)
        for number, day in enumerate(days, 1)
    )
    with log.path.open("ab") as file:
        file.write(b"damaged\n")
    size = log.path.stat().st_size
    log.trim(now)
    # The log has just begun.
    assert log.path.stat().st_size == size
    later = now + KEPT_FOR + TRIMMED_AFTER
    log.trim(later)
    first, *others = read_deletions(log.path)
    assert (first.kind, first.id, first.at) == ("since", "this record", later - KEPT_FOR)
    assert others == []
    assert log.path.read_bytes().endswith(b"damaged\n")
    # The numbers go on.
    assert (first.number, log.begin("this record", 0)) == (4, 4)
    log.append([Deletion(5, later, "crop", "new", 1)])
    log.trim(later + timedelta(days=1))
    assert [line.id for line in read_deletions(log.path)] == ["this record", "new"]


def test_crops_that_were_deleted_from_any_gallery_are_known(record, gallery):
    yard = new_gallery(record, "yard")
    first, second = enroll(record, gallery, new_crop(1), new_crop(2))
    (third,) = enroll(record, yard, new_crop(3))
    record.crops.remove(gallery, [first])
    record.crops.remove(yard, [third])
    deletions = DeletedCrops(record.database.deletions)
    wanted = [first, second, third, "other"]
    assert deletions.among(wanted) == {first, third}
    record.crops.remove(gallery, [second])
    assert deletions.among(wanted) == {first, second, third}
    # Trimming writes the log anew.
    record.database.deletions.write(
        Deletion(0, NOON, kind, deleted_id).as_line()
        for kind, deleted_id in [("since", "record"), ("crop", "other")]
    )
    assert deletions.among(wanted) == {*wanted}
