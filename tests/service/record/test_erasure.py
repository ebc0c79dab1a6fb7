"""What is deleted or changed leaves the files of the record: at once, or with the next night."""

import random
import re
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from service.record import database, sqlite
from service.record.sqlite import SQLiteDatabase
from service.record.transaction import Transaction
from tests.service.gallery.new_crops import enroll, forget, is_on_disk, new_crop, only, open_record
from tests.waiting import eventually

pytestmark = [pytest.mark.promise("2"), pytest.mark.sqlite_alone]

LOG = "record.sqlite3-wal"


def _log_bytes(folder):
    log = folder / LOG
    return log.stat().st_size if log.exists() else 0


def test_a_log_is_emptied_once_it_is_large_and_when_the_record_is_closed(
    record, gallery, tmp_path, monkeypatch
):
    monkeypatch.setattr(sqlite, "LOG_BYTES", 200_000)
    sizes = []
    for number in range(30):
        enroll(record, gallery, new_crop(number))
        sizes.append(_log_bytes(tmp_path))
    assert 0 in sizes
    assert max(sizes) < 300_000
    monkeypatch.setattr(sqlite, "LOG_BYTES", 4_000_000)
    enroll(record, gallery, new_crop(40))
    assert _log_bytes(tmp_path) > 0
    record.close()
    assert _log_bytes(tmp_path) == 0


def _delete_crop(record, gallery, crop_id):
    record.crops.remove(gallery, [crop_id])


def _relabel_crop(record, gallery, crop_id):
    record.crops.change(gallery, only(crop_id), {"camera": "west"})


def _rename_person(record, gallery, _):
    record.people.rename(gallery, "Annabel Quirke", "somebody")


def _forget_person(record, gallery, _):
    forget(record, gallery, "Annabel Quirke")


def _delete_gallery(record, gallery, _):
    record.galleries.delete(gallery)


@pytest.mark.parametrize(
    ("change", "secret"),
    [
        (_delete_crop, b"Annabel Quirke"),
        (_relabel_crop, b"the east entrance"),
        (_rename_person, b"Annabel Quirke"),
        (_forget_person, b"Annabel Quirke"),
        (_delete_gallery, b"Annabel Quirke"),
    ],
)
def test_what_a_change_overwrites_leaves_the_disk_before_it_returns(
    record, gallery, tmp_path, change, secret
):
    crop = new_crop(1, "Annabel Quirke", camera="the east entrance")
    (crop_id,) = enroll(record, gallery, crop)
    enroll(record, gallery, new_crop(2, "another"))
    assert is_on_disk(tmp_path, secret)
    change(record, gallery, crop_id)
    assert not is_on_disk(tmp_path, secret)


def test_a_kill_before_the_log_is_emptied_is_made_up_for_by_the_next_start(
    record, gallery, tmp_path, monkeypatch
):
    crop_ids = enroll(record, gallery, new_crop(1, "Annabel Quirke"), new_crop(2))
    with monkeypatch.context() as killed, open_record(tmp_path) as other:
        killed.setattr(SQLiteDatabase, "_truncate_log", lambda _: None)
        other.crops.remove(gallery, crop_ids[:1])
    assert is_on_disk(tmp_path, b"Annabel Quirke")
    with open_record(tmp_path):
        assert not is_on_disk(tmp_path, b"Annabel Quirke")


def test_a_log_that_a_long_read_kept_is_emptied_after_it(record, gallery, tmp_path):
    crop_ids = enroll(record, gallery, new_crop(1, "Annabel Quirke"), new_crop(2))
    with open_record(tmp_path) as other, other.database.read() as reader:
        assert reader.value("SELECT count(*) FROM crops") == 2
        record.crops.remove(gallery, crop_ids[:1])
        record.database.tend()
        assert is_on_disk(tmp_path, b"Annabel Quirke")
    record.database.tend()
    assert not is_on_disk(tmp_path, b"Annabel Quirke")


READS = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
print(connection.execute("SELECT count(*) FROM crops").fetchone()[0])
connection.close()
"""


def test_another_process_that_ends_leaves_the_log_of_an_open_record(record, gallery, tmp_path):
    """It would delete the log if this process had lost its locks by closing a file."""

    def count_elsewhere():
        command = [sys.executable, "-c", READS, str(tmp_path / "record.sqlite3")]
        return int(subprocess.check_output(command))

    log = tmp_path / LOG
    ids = enroll(record, gallery, new_crop(1), new_crop(2))
    record.crops.remove(gallery, ids[:1])
    record.database.prefetch()
    with open_record(tmp_path) as other:
        enroll(other, gallery, new_crop(3))
    before = log.stat().st_ino
    assert count_elsewhere() == 2
    assert log.exists()
    assert log.stat().st_ino == before
    enroll(record, gallery, new_crop(4))
    assert count_elsewhere() == 3


@pytest.mark.slow
def test_of_deleted_labels_few_copies_stay_and_fewer_once_the_indexes_are_built_anew(
    record, gallery, tmp_path
):
    """SQLite overwrites a deleted row, but not the copies that it left when it moved rows."""
    order = random.Random(3)
    numbers = list(range(1500))
    order.shuffle(numbers)
    crop_ids = {}
    for start in range(0, len(numbers), 50):
        part = numbers[start : start + 50]
        crops = [
            replace(
                new_crop(
                    number,
                    f"name-{number:06}" + "y" * (number * 7 % 60),
                    external_id=f"name-{number:06}" + "z" * (number * 3 % 50),
                ),
                picture=b"<picture %06d>" % number * 60,
            )
            for number in part
        ]
        crop_ids |= zip(part, enroll(record, gallery, *crops), strict=True)
    deleted = set(order.sample(numbers, 300))
    for number in deleted:
        record.crops.remove(gallery, [crop_ids[number]])

    def left(word):
        found = re.findall(word, (tmp_path / "record.sqlite3").read_bytes())
        return {int(number) for number in found} & deleted

    assert not _log_bytes(tmp_path)
    assert left(rb"<picture (\d{6})>") == set()
    copies = left(rb"name-(\d{6})")
    assert 0 < len(copies) < 10, "without copies, no index need be built anew"
    before = record.database.indexes_rebuilt_at()
    record.database.rebuild_indexes()
    assert left(rb"name-(\d{6})") < copies
    assert not _log_bytes(tmp_path)
    assert record.database.indexes_rebuilt_at() > before
    assert record.galleries.all()[0].crops == 1200


@pytest.mark.slow
def test_a_service_builds_the_indexes_anew_after_the_night(start, tmp_path):
    began = datetime.now(UTC)
    with open_record(tmp_path) as record:
        before = {"name": database.REBUILT, "value": began - timedelta(days=1)}
        record.database.write(Transaction.insert, "record", before, instead=True)
        start(tmp_path, housekeeping_seconds=0.2)
        eventually(lambda: record.database.indexes_rebuilt_at() > began)
