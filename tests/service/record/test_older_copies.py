"""An older copy of the record in the place of the newer one brings no deleted crop back."""

import os
import shutil
from datetime import UTC, datetime, timedelta
from errno import ENOSPC
from unittest.mock import Mock

import pytest

from service.errors import DamagedRecord
from service.record.galleries import deleted_name
from service.record.record import Record
from tests.service.gallery.new_crops import (
    enroll,
    listed_ids,
    new_crop,
    new_gallery,
    open_record,
)


def put_back(copy, folder):
    for path in copy.iterdir():
        shutil.copy(path, folder)
    with pytest.raises(DamagedRecord, match="older copy was put back"):
        Record(folder)
    (folder / "record.acknowledged").unlink()


def test_crops_and_galleries_that_were_deleted_since_are_deleted_again(record, gallery, tmp_path):
    folder = record.database.folder
    yard = new_gallery(record, "yard")
    first, second, _ = enroll(record, gallery, new_crop(1), new_crop(2), new_crop(3, "b"))
    enroll(record, yard, new_crop(4))
    record.close()
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "record.acknowledged").unlink()
    with open_record(folder) as later:
        later.crops.remove(gallery, [first])
        later.galleries.delete(yard)
        later.people.forget(gallery, "b")
    put_back(copy, folder)
    for _ in range(2):
        with open_record(folder) as adopted:
            assert [entry.name for entry in adopted.galleries.all()] == ["lobby"]
            assert listed_ids(adopted, gallery) == [second]
            assert not adopted.database.vectors.open(gallery, 0, 4).read([1, 3]).any()


def test_the_ids_of_deleted_crops_go_with_their_tombstones(record, gallery):
    first, second = enroll(record, gallery, new_crop(1), new_crop(2))
    record.crops.remove(gallery, [first])
    between = datetime.now(UTC) + timedelta(microseconds=1)
    record.crops.remove(gallery, [second])
    assert record.database.deleted.read() == [first, second]
    record.crops.drop_tombstones(gallery, between)
    assert record.database.deleted.read() == [second]


def test_the_ids_of_deleted_crops_outlive_their_gallery_for_exports_of_it(record, gallery):
    yard = new_gallery(record, "yard")
    (first,) = enroll(record, gallery, new_crop(1))
    record.crops.remove(gallery, [first])
    (second,) = enroll(record, yard, new_crop(2))
    record.crops.remove(yard, [second])
    deleted = deleted_name(record.galleries.get(yard))
    record.galleries.delete(yard)
    assert record.database.deleted.read() == [first, second, deleted]


def test_no_id_of_a_deleted_crop_is_lost_where_the_disk_is_full(record, monkeypatch):
    deleted = record.database.deleted
    deleted.add(["one", "two"])
    with monkeypatch.context() as full:
        full.setattr(os, "fdopen", Mock(side_effect=OSError(ENOSPC, "no space")))
        deleted.drop({"one"})
    assert deleted.read() == ["one", "two"]
    deleted.drop({"one"})
    assert deleted.read() == ["two"]
    deleted.drop({"two"})
    assert deleted.read() == []


def test_a_line_that_a_power_cut_tore_is_left_out(record):
    deleted = record.database.deleted
    deleted.add(["one"])
    with deleted.path.open("ab") as file:
        file.write(b"tw")
    assert deleted.read() == ["one"]
    deleted.add(["three"])
    assert deleted.read() == ["one", "tw", "three"]
