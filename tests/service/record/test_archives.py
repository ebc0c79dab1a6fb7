"""Archives: a record or a gallery copied during writes, without crops deleted since."""

import contextlib
import shutil
import sqlite3
from dataclasses import replace

import numpy as np
import pytest

from model.problems import InputProblem
from service.errors import StorageFailed
from service.record import archive, replacing
from service.record.archive import (
    archived_ids,
    check_archive,
    describe_snapshot,
    open_archive,
    remove_from_archive,
    write_archive,
)
from service.record.crops import Crops
from service.record.record import Record
from service.record.replacing import replace_crops
from service.record.verify import StoredRecord, verify
from tests.service.gallery.new_crops import (
    EMBEDDER,
    NOON,
    OTHER_EMBEDDER,
    enroll,
    is_on_disk,
    listed,
    listed_ids,
    new_crop,
    new_gallery,
    only,
    open_record,
    snapshot_of,
)
from tests.service.small_disk import small_disk


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.fixture
def record(folder):
    with open_record(folder) as opened:
        yield opened


def contents(record, gallery):
    vectors = {crop.record.row_id: crop.vector.tolist() for crop in record.crops.vectors(gallery)}
    return [
        (crop, vectors[crop.row_id], record.crops.picture(gallery, crop.crop_id).content)
        for crop in listed(record, gallery)
    ]


@pytest.fixture
def snapshot(record, gallery, tmp_path):
    enroll(record, gallery, new_crop(1, track="7"), new_crop(2), new_crop(3))
    write_archive(record.database, tmp_path / "s1.gmn", gallery)
    return tmp_path / "s1.gmn"


def restore(record, gallery, snapshot):
    check_archive(snapshot)
    return record.database.write_from(snapshot, replace_crops, gallery, snapshot)


def test_a_snapshot_holds_its_gallery_whole_and_nothing_of_others_no_keys_and_no_secret(
    record, gallery, tmp_path
):
    yard = new_gallery(record, "yard")
    enroll(record, gallery, new_crop(1), new_crop(2))
    (other,) = enroll(record, yard, new_crop(3, "someone"))
    path = tmp_path / "s1"
    write_archive(record.database, path, gallery)
    for secret in (other.encode(), b"someone", record.galleries.group_secret()):
        assert not is_on_disk(path, secret)
    with open_record(shutil.copytree(path, tmp_path / "copy")) as copy:
        assert contents(copy, gallery) == contents(record, gallery)


def test_crops_that_are_there_unchanged_keep_their_slots(record, gallery, snapshot, folder):
    before = contents(record, gallery)
    ids = listed_ids(record, gallery)
    record.crops.change(gallery, only(ids[0]), {"camera": "west", "track": "moved"})
    record.crops.change(gallery, only(ids[1]), {"track": "new"})
    enroll(record, gallery, new_crop(4))
    assert restore(record, gallery, snapshot) == 5
    assert contents(record, gallery) == before
    assert verify(folder).damage == []


def test_a_crop_that_was_removed_since_stays_removed(record, gallery, snapshot, folder):
    first, *others = listed_ids(record, gallery)
    record.crops.remove(gallery, [first])
    restore(record, gallery, snapshot)
    assert listed_ids(record, gallery) == others
    assert verify(folder).damage == []


def test_a_restore_of_another_embedder_has_vectors_of_another_dimension(
    record, gallery, snapshot, tmp_path, folder
):
    crops = [replace(new_crop(n), vector=np.full(6, n, np.float32)) for n in range(3)]
    restore(record, gallery, snapshot_of(crops, tmp_path, OTHER_EMBEDDER))
    assert record.galleries.get(gallery).embedding_fingerprint == OTHER_EMBEDDER
    vectors = [crop.vector.tolist() for crop in record.crops.vectors(gallery)]
    assert vectors == [[number] * 6 for number in (0.0, 1.0, 2.0)]
    restore(record, gallery, snapshot)
    assert [crop.vector[0] for crop in record.crops.vectors(gallery)] == [1.25, 2.25, 3.25]
    assert verify(folder).damage == []


@pytest.mark.parametrize("embedder", [EMBEDDER, OTHER_EMBEDDER])
@pytest.mark.parametrize("ends", ["fails", "is killed"])
def test_a_restore_that_is_cut_off_leaves_neither_rows_nor_vectors(
    record, gallery, snapshot, tmp_path, folder, monkeypatch, embedder, ends
):
    before = contents(record, gallery)
    others = snapshot_of([new_crop(number) for number in range(9)], tmp_path, embedder)

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr(replacing, "count_crops", fail)
    if ends == "is killed":
        monkeypatch.setattr(record.database, "_cut_vectors", lambda: None)
    with pytest.raises(StorageFailed, match="no space left"):
        restore(record, gallery, others)
    if ends == "is killed":
        Record(folder).close()
    assert contents(record, gallery) == before
    assert (folder / "vectors-1-0.f32").stat().st_size == 4 * 4 * 4
    assert not (folder / "vectors-1-1.f32").exists()


@pytest.mark.parametrize("when", ["before its vector", "after its row"])
def test_a_crop_removed_while_an_archive_is_written_is_no_part_of_it(
    record, gallery, tmp_path, monkeypatch, when
):
    first, second, third = enroll(record, gallery, *(new_crop(number) for number in range(3)))
    name = "_copy_vectors" if when == "before its vector" else "_remove_deleted"
    goes_on = getattr(archive, name)

    def meanwhile(*arguments):
        record.crops.remove(gallery, [second])
        enroll(record, gallery, new_crop(4))
        return goes_on(*arguments)

    monkeypatch.setattr(archive, name, meanwhile)
    path = tmp_path / "archive"
    write_archive(record.database, path, gallery)
    assert archived_ids(path) == [first, third]
    assert describe_snapshot(path, NOON).crops == 2
    assert verify(path).damage == []


def test_forgotten_crops_leave_nothing_in_a_snapshot(record, gallery, tmp_path):
    theirs, _ = enroll(record, gallery, new_crop(3, "Zacharias", "behind the bins"), new_crop(1))
    path = tmp_path / "s1.gmn"
    write_archive(record.database, path, gallery)
    assert archived_ids(path, "Zacharias") == [theirs]
    remove_from_archive(path, gallery, [theirs])
    assert describe_snapshot(path, NOON).crops == 1
    vector = np.full(4, 3.25, "<f4").tobytes()
    for secret in (b"Zacharias", b"behind the bins", b"image 3", vector):
        assert not is_on_disk(path, secret)
    check_archive(path)


def test_forgetting_that_was_cut_off_leaves_a_snapshot_that_can_be_read(
    record, gallery, snapshot, monkeypatch
):
    first, *others = listed_ids(record, gallery)

    def killed(name):
        if name == "snapshot-rewrite.removed":
            raise OSError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(archive, "failpoint", killed)
        with pytest.raises(StorageFailed, match="killed"):
            remove_from_archive(snapshot, gallery, [first])
    assert archived_ids(snapshot) == others
    check_archive(snapshot)
    remove_from_archive(snapshot, gallery, [])
    assert len(list(snapshot.iterdir())) == 2
    check_archive(snapshot)
    assert archived_ids(snapshot) == others


def test_a_full_disk_is_no_damage_of_the_snapshot_that_is_rewritten(record, gallery, tmp_path):
    ids = enroll(record, gallery, *(new_crop(number) for number in range(20)))
    with small_disk(tmp_path / "disk", 3) as disk:
        snapshot = disk.path / "s1.gmn"
        write_archive(record.database, snapshot, gallery)
        for bytes_left in (0, 40_960):
            disk.fill(bytes_left)
            with pytest.raises(StorageFailed, match="snapshot s1 could not be rewritten"):
                remove_from_archive(snapshot, gallery, ids[:1])
            disk.free()
        check_archive(snapshot)
        remove_from_archive(snapshot, gallery, ids[:1])
        assert archived_ids(snapshot) == ids[1:]


def test_a_snapshot_that_is_being_verified_is_rewritten_later(
    record, gallery, snapshot, monkeypatch
):
    first, *others = listed_ids(record, gallery)
    with contextlib.ExitStack() as verification, monkeypatch.context() as patch:

        def begin_to_verify(name):
            if name == "snapshot-rewrite.removed":
                verification.enter_context(open_archive(snapshot)).rows("crops")

        patch.setattr(archive, "failpoint", begin_to_verify)
        with pytest.raises(StorageFailed, match="wait for a gmn store verify to end"):
            remove_from_archive(snapshot, gallery, [first])
    remove_from_archive(snapshot, gallery, [])
    assert archived_ids(snapshot) == others
    assert not is_on_disk(snapshot, b"image 1")
    assert not (snapshot / "record.lock").exists()


def test_a_snapshot_with_a_transaction_that_a_power_cut_ended_is_read_without_it(
    record, gallery, snapshot, tmp_path
):
    copy = tmp_path / "s2.gmn"
    with contextlib.closing(sqlite3.connect(snapshot / "record.sqlite3")) as amid:
        # A page that does not fit into the memory is written before the commit.
        amid.execute("PRAGMA cache_size = 1")
        amid.execute("BEGIN")
        amid.execute("CREATE TABLE unfinished (content)")
        amid.execute("INSERT INTO unfinished VALUES (zeroblob(1000000))")
        shutil.copytree(snapshot, copy)
    assert (copy / "record.sqlite3-journal").stat().st_size
    assert archived_ids(copy) == listed_ids(record, gallery)
    check_archive(copy)


def test_a_damaged_record_gives_no_archive(record, gallery, tmp_path):
    enroll(record, gallery, new_crop(1), new_crop(2))
    record.database.vectors.open(gallery, 0, 4).clear([2])
    with pytest.raises(InputProblem, match="vector of crop"):
        write_archive(record.database, tmp_path / "b1", gallery)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_parts_of_the_record_read_an_archive(record, gallery, tmp_path):
    (crop_id,) = enroll(record, gallery, new_crop(1))
    write_archive(record.database, tmp_path / "archive", gallery)
    with contextlib.closing(StoredRecord(tmp_path / "archive")) as stored:
        assert Crops(stored).picture(gallery, crop_id).content == b"image 1"
