"""An older copy of the record in the place of the newer one brings no deleted crop back."""

from __future__ import annotations

import contextlib
import shutil
from datetime import UTC, datetime, timedelta

import pytest

from service.errors import DamagedRecord
from service.record.record import Record
from service.record.values import CropFilter, GallerySettings
from tests.service.gallery.new_crops import EMBEDDER, new_crop


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def ids(record, gallery):
    return [crop.crop_id for crop in record.crops.page(gallery, CropFilter()).crops]


def put_back(copy, folder):
    """Put an older copy of the record in place, and adopt it."""
    for path in copy.iterdir():
        shutil.copy(path, folder)
    with pytest.raises(DamagedRecord, match="older copy was put back"):
        Record(folder)
    (folder / "record.acknowledged").unlink()


def test_crops_and_galleries_that_were_deleted_since_are_deleted_again(folder, tmp_path):
    with contextlib.closing(Record(folder)) as record:
        lobby = record.galleries.create("lobby", EMBEDDER, GallerySettings()).gallery_id
        yard = record.galleries.create("yard", EMBEDDER, GallerySettings()).gallery_id
        crops = [new_crop(1), new_crop(2), new_crop(3, "b")]
        first, second, _ = [crop.record.crop_id for crop in crops]
        record.crops.enroll(lobby, EMBEDDER, crops)
        record.crops.enroll(yard, EMBEDDER, [new_crop(4)])
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "record.acknowledged").unlink()
    with contextlib.closing(Record(folder)) as record:
        record.crops.remove(lobby, [first])
        record.galleries.delete(yard)
        record.people.forget(lobby, "b")
    put_back(tmp_path / "copy", folder)
    with contextlib.closing(Record(folder)) as record:
        assert [gallery.name for gallery in record.galleries.all()] == ["lobby"]
        assert ids(record, lobby) == [second]
        side = record.database.vectors.open(lobby, 0, 4)
        assert not side.read([1, 3]).any()
    with contextlib.closing(Record(folder)) as record:
        assert ids(record, lobby) == [second]


def test_the_ids_of_deleted_crops_go_with_their_tombstones(folder):
    with contextlib.closing(Record(folder)) as record:
        lobby = record.galleries.create("lobby", EMBEDDER, GallerySettings()).gallery_id
        crops = [new_crop(1), new_crop(2)]
        first, second = [crop.record.crop_id for crop in crops]
        record.crops.enroll(lobby, EMBEDDER, crops)
        record.crops.remove(lobby, [first])
        between = datetime.now(UTC) + timedelta(microseconds=1)
        record.crops.remove(lobby, [second])
        assert record.database.deleted.read() == [first, second]
        record.crops.drop_tombstones(lobby, between)
        assert record.database.deleted.read() == [second]


def test_a_line_that_a_power_cut_tore_is_left_out(folder):
    with contextlib.closing(Record(folder)) as record:
        record.database.deleted.add(["one"])
        with record.database.deleted.path.open("ab") as file:
            file.write(b"tw")
        assert record.database.deleted.read() == ["one"]
        record.database.deleted.add(["three"])
        assert record.database.deleted.read() == ["one", "tw", "three"]
