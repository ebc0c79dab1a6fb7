"""An older copy of the record in the place of the newer one brings nothing back."""

import shutil

import pytest

from service.opening import open_folder
from service.record import record as record_module
from service.record.crops import Crops
from service.record.keys import NO_HASH, ApiKey
from tests.service.gallery.new_crops import (
    NOON,
    enroll,
    forget,
    listed_ids,
    new_crop,
    new_gallery,
    open_record,
)


def put_back(copy, folder):
    for path in (*copy.glob("record.sqlite3*"), *copy.glob("vectors-*")):
        shutil.copy(path, folder)


@pytest.mark.sqlite_alone
@pytest.mark.promise("2", "older-copies")
def test_what_was_deleted_since_is_deleted_again(record, gallery, tmp_path, caplog):
    folder = record.database.folder
    yard = new_gallery(record, "yard")
    first, second, _ = enroll(record, gallery, new_crop(1), new_crop(2), new_crop(3, "b"))
    enroll(record, yard, new_crop(4))
    key = ApiKey("rotated", "1" * 64, ("query",), None, "", NOON)
    record.keys.add(key)
    record.keys.add(ApiKey("revoked", "2" * 64, ("query",), None, "", NOON))
    record.close()
    copy = shutil.copytree(folder, tmp_path / "copy")
    with open_record(folder) as later:
        later.crops.remove(gallery, [first])
        forget(later, gallery, "b")
        later.keys.revoke("revoked")
        later.keys.change(ApiKey("rotated", "3" * 64, ("query",), None, "", NOON))
        # The copy has nothing of what was deleted last.
        later.crops.remove(gallery, enroll(later, gallery, new_crop(5)))
        later.galleries.delete(yard)
        later.galleries.delete(new_gallery(later, "late"))
    put_back(copy, folder)
    for warnings in (1, 0):
        caplog.clear()
        with open_record(folder) as again:
            assert caplog.text.count("an older copy of the record: it lacks deletions") == warnings
            assert [entry.name for entry in again.galleries.all()] == ["lobby"]
            assert listed_ids(again, gallery) == [second]
            assert not again.database.vectors.open(gallery, 0, 4).read([1, 3]).any()
            (left,) = again.keys.all()
            assert (left.key_id, left.secret_sha256) == ("rotated", NO_HASH)


@pytest.mark.sqlite_alone
@pytest.mark.promise("older-copies")
def test_a_start_that_is_killed_amid_the_deletions_is_gone_on_with_by_the_next_one(
    record, gallery, tmp_path, monkeypatch
):
    folder = record.database.folder
    first, second, third = enroll(record, gallery, new_crop(1), new_crop(2), new_crop(3))
    record.close()
    copy = shutil.copytree(folder, tmp_path / "copy")
    with open_record(folder) as later:
        later.crops.remove(gallery, [first])
        later.crops.remove(gallery, [second])
    put_back(copy, folder)
    monkeypatch.setattr(record_module, "DELETIONS_AT_ONCE", 1)
    with monkeypatch.context() as killed:
        removals = iter([None, KeyboardInterrupt])
        remove = Crops.remove

        def kill_at_the_second(self, gallery_id, crop_ids):
            if raised := next(removals):
                raise raised
            return remove(self, gallery_id, crop_ids)

        killed.setattr(Crops, "remove", kill_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            open_folder(folder)
    with open_record(folder) as again:
        assert listed_ids(again, gallery) == [third]


@pytest.mark.sqlite_alone
@pytest.mark.promise("older-copies")
def test_a_copy_that_lacks_no_deletion_is_served_without_a_word(record, gallery, tmp_path, caplog):
    folder = record.database.folder
    first, second = enroll(record, gallery, new_crop(1), new_crop(2))
    record.crops.remove(gallery, [first])
    record.close()
    copy = shutil.copytree(folder, tmp_path / "copy")
    with open_record(folder) as later:
        enroll(later, gallery, new_crop(3))
    put_back(copy, folder)
    with open_record(folder) as again:
        assert listed_ids(again, gallery) == [second]
    assert "older copy" not in caplog.text


def test_an_idle_record_writes_nothing(record, gallery, tmp_path):
    enroll(record, gallery, new_crop(1))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir() if path.is_file()}
    record.database.tend()
    written = [path.name for path, moment in before.items() if path.stat().st_mtime_ns != moment]
    assert [name for name in written if not name.endswith((".lock", ".turn"))] == []
