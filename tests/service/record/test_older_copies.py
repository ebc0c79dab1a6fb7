"""An older copy of the record in the place of the newer one brings nothing back."""

import shutil

import pytest

import gmn
from service.errors import DamagedRecord
from service.opening import open_folder
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
    with pytest.raises(DamagedRecord, match=r"older copy was put back\. .* run gmn store adopt"):
        open_folder(folder)
    assert gmn.run(["store", "adopt", "--data-dir", str(folder)]) == 0


@pytest.mark.sqlite_alone
@pytest.mark.promise("2")
def test_what_was_deleted_since_is_deleted_again(record, gallery, tmp_path):
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
    for _ in range(2):
        with open_record(folder) as adopted:
            assert [entry.name for entry in adopted.galleries.all()] == ["lobby"]
            assert listed_ids(adopted, gallery) == [second]
            assert not adopted.database.vectors.open(gallery, 0, 4).read([1, 3]).any()
            (left,) = adopted.keys.all()
            assert (left.key_id, left.secret_sha256) == ("rotated", NO_HASH)


def test_an_idle_record_writes_nothing(record, gallery, tmp_path):
    enroll(record, gallery, new_crop(1))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir() if path.is_file()}
    record.database.tend()
    written = [path.name for path, moment in before.items() if path.stat().st_mtime_ns != moment]
    assert [name for name in written if not name.endswith((".lock", ".turn"))] == []
