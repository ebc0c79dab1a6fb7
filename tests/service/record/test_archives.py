"""Archives: a record or a gallery copied during writes, without crops deleted since."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from dataclasses import replace

import numpy as np
import pytest

from model.problems import InputProblem
from service.errors import DamagedSnapshot, StorageFailed
from service.record import archive, replacing
from service.record.archive import (
    archived_ids,
    check_archive,
    describe_snapshot,
    remove_from_archive,
    write_archive,
)
from service.record.record import Record
from service.record.replacing import replace_crops
from service.record.values import CropFilter, GallerySettings
from service.record.verify import verify
from tests.service.gallery.new_crops import (
    EMBEDDER,
    NOON,
    OTHER_EMBEDDER,
    new_crop,
    only,
    snapshot_of,
)

EVERYTHING = CropFilter()


@pytest.fixture
def record(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    with contextlib.closing(Record(folder)) as opened:
        yield opened


def enroll(record, gallery, *numbers, embedder=EMBEDDER, **said):
    crops = [new_crop(number, **said) for number in numbers]
    return [image.crop_id for image in record.crops.enroll(gallery, embedder, crops).landed]


def contents(record, gallery):
    """Read every crop with its slot, vector and picture."""
    crops = record.crops.page(gallery, EVERYTHING).crops
    vectors = {crop.record.row_id: crop.vector.tolist() for crop in record.crops.vectors(gallery)}
    return [
        (crop, vectors[crop.row_id], record.crops.picture(gallery, crop.crop_id).content)
        for crop in crops
    ]


def ids(record, gallery):
    return [crop.crop_id for crop in record.crops.page(gallery, EVERYTHING).crops]


@pytest.fixture
def snapshot(record, gallery, tmp_path):
    """Three crops in a snapshot."""
    enroll(record, gallery, 1, 2, 3)
    write_archive(record.database, tmp_path / "s1.gmn", gallery)
    return tmp_path / "s1.gmn"


def restore(record, gallery, folder):
    check_archive(folder)
    return replace_crops(record.database, gallery, folder)


def test_a_snapshot_holds_a_galleries_crops_with_vectors_and_pictures(
    record, gallery, snapshot, tmp_path
):
    with contextlib.closing(Record(shutil.copytree(snapshot, tmp_path / "copy"))) as copy:
        assert contents(copy, gallery) == contents(record, gallery)
    described = describe_snapshot(snapshot, NOON)
    assert (described.version, described.crops, described.embedding_fingerprint) == (1, 3, EMBEDDER)
    assert sorted(path.name for path in snapshot.iterdir()) == [
        "record.sqlite3",
        "vectors-1-0.f32",
    ]


def test_a_snapshot_has_no_other_gallery_and_no_keys_or_secret(record, gallery, tmp_path):
    yard = record.galleries.create("yard", EMBEDDER, GallerySettings()).gallery_id
    enroll(record, gallery, 1)
    (other,) = enroll(record, yard, 2, identity="someone")
    write_archive(record.database, tmp_path / "s1", gallery)
    held = b"".join(path.read_bytes() for path in (tmp_path / "s1").iterdir())
    assert other.encode() not in held
    assert b"someone" not in held
    assert record.galleries.group_secret() not in held


def test_crops_that_are_there_unchanged_keep_their_slots(record, gallery, snapshot):
    before = contents(record, gallery)
    record.crops.change(gallery, only(before[1][0].crop_id), {"camera": "west"})
    enroll(record, gallery, 4)
    version = restore(record, gallery, snapshot)
    assert version == 4
    assert contents(record, gallery) == before
    assert verify(record.database.folder).damage == []


def test_a_crop_that_was_removed_since_stays_removed(record, gallery, snapshot):
    first, *others = ids(record, gallery)
    record.crops.remove(gallery, [first])
    restore(record, gallery, snapshot)
    assert ids(record, gallery) == others
    assert verify(record.database.folder).damage == []


def test_a_restore_of_another_embedder_has_vectors_of_another_dimension(
    record, gallery, snapshot, tmp_path
):
    crops = [replace(new_crop(n), vector=np.full(6, n, np.float32)) for n in range(3)]
    others = snapshot_of(crops, tmp_path, OTHER_EMBEDDER)
    restore(record, gallery, others)
    assert record.galleries.get(gallery).embedding_fingerprint == OTHER_EMBEDDER
    vectors = [crop.vector.tolist() for crop in record.crops.vectors(gallery)]
    assert vectors == [[number] * 6 for number in (0.0, 1.0, 2.0)]
    assert "vectors-1-0.f32" in record.unneeded_files.all()
    restore(record, gallery, snapshot)
    assert [crop.vector[0] for crop in record.crops.vectors(gallery)] == [1.25, 2.25, 3.25]
    assert verify(record.database.folder).damage == []


def test_a_restore_amid_a_reindex_drops_the_vectors_that_were_prepared(record, gallery, snapshot):
    record.staged.begin(gallery, OTHER_EMBEDDER)
    record.staged.add(gallery, [(1, np.ones(3, np.float32))])
    restore(record, gallery, snapshot)
    assert record.galleries.get(gallery).staged_fingerprint is None
    assert record.unneeded_files.all() == ["vectors-1-1.f32"]
    assert verify(record.database.folder).damage == []


@pytest.mark.parametrize("embedder", [EMBEDDER, OTHER_EMBEDDER])
def test_a_restore_that_fails_leaves_neither_rows_nor_vectors(
    record, gallery, snapshot, tmp_path, monkeypatch, embedder
):
    before = contents(record, gallery)
    others = snapshot_of([new_crop(number) for number in range(9)], tmp_path, embedder)

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr(replacing, "count_crops", fail)
    with pytest.raises(StorageFailed, match="no space left"):
        restore(record, gallery, others)
    assert contents(record, gallery) == before
    assert (record.database.folder / "vectors-1-0.f32").stat().st_size == 4 * 4 * 4
    assert not (record.database.folder / "vectors-1-1.f32").exists()


def test_vectors_of_a_restore_that_was_killed_are_gone_after_the_next_start(
    record, gallery, snapshot, tmp_path, monkeypatch
):
    others = snapshot_of([new_crop(number) for number in range(9)], tmp_path, OTHER_EMBEDDER)
    monkeypatch.setattr(record.database, "_cut_vectors", lambda: None)
    monkeypatch.setattr(replacing, "count_crops", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        restore(record, gallery, others)
    left = record.database.folder / "vectors-1-1.f32"
    assert left.exists()
    with contextlib.closing(Record(record.database.folder)) as again:
        assert not left.exists()
        assert len(ids(again, gallery)) == 3


@pytest.mark.parametrize("kind", ["backup", "snapshot"])
@pytest.mark.parametrize("when", ["before its vector", "after its row"])
def test_a_crop_removed_while_an_archive_is_written_is_no_part_of_it(
    record, gallery, tmp_path, monkeypatch, kind, when
):
    first, second, _third = enroll(record, gallery, 1, 2, 3)
    name = "_copy_vectors" if when == "before its vector" else "_remove_deleted"
    goes_on = getattr(archive, name)

    def meanwhile(*arguments):
        record.crops.remove(gallery, [second])
        enroll(record, gallery, 4)
        return goes_on(*arguments)

    monkeypatch.setattr(archive, name, meanwhile)
    number = gallery if kind == "snapshot" else None
    write_archive(record.database, tmp_path / "archive", number)
    assert second not in archived_ids(tmp_path / "archive")
    assert first in archived_ids(tmp_path / "archive")
    assert describe_snapshot(tmp_path / "archive", NOON).crops == 2
    assert verify(tmp_path / "archive").damage == []


def test_forgotten_crops_leave_nothing_in_a_snapshot(record, gallery, tmp_path):
    enroll(record, gallery, 1, 2)
    (theirs,) = enroll(record, gallery, 3, identity="Zacharias", camera="behind the bins")
    folder = tmp_path / "s1.gmn"
    write_archive(record.database, folder, gallery)
    assert archived_ids(folder, "Zacharias") == [theirs]
    remove_from_archive(folder, gallery, [theirs])
    described = describe_snapshot(folder, NOON)
    assert (described.crops, described.version) == (2, 2)
    held = b"".join(path.read_bytes() for path in folder.iterdir())
    assert b"Zacharias" not in held
    assert b"behind the bins" not in held
    assert b"image 3" not in held
    assert np.full(4, 3.25, "<f4").tobytes() not in held
    check_archive(folder)


def fail_at(wanted):
    def failpoint(name):
        if name == wanted:
            raise OSError("killed")

    return failpoint


def test_forgetting_that_was_cut_off_leaves_a_snapshot_that_can_be_read(
    record, gallery, snapshot, monkeypatch
):
    first, *others = ids(record, gallery)
    described = describe_snapshot(snapshot, NOON)
    monkeypatch.setattr(archive, "failpoint", fail_at("snapshot-rewrite.removed"))
    with pytest.raises(OSError, match="killed"):
        remove_from_archive(snapshot, gallery, [first])
    monkeypatch.undo()
    assert archived_ids(snapshot) == others
    assert (snapshot / "record.lock").exists()
    check_archive(snapshot)
    remove_from_archive(snapshot, gallery, [])
    assert len(list(snapshot.iterdir())) == 2
    assert describe_snapshot(snapshot, NOON).version == described.version
    check_archive(snapshot)
    assert archived_ids(snapshot) == others


def test_a_snapshot_with_a_transaction_that_a_power_cut_ended_is_read_without_it(
    record, gallery, snapshot, tmp_path
):
    with contextlib.closing(sqlite3.connect(snapshot / "record.sqlite3")) as amid:
        # A page that does not fit into the memory is written before the commit.
        amid.execute("PRAGMA cache_size = 1")
        amid.execute("BEGIN")
        amid.execute("CREATE TABLE unfinished (content)")
        amid.execute("INSERT INTO unfinished VALUES (zeroblob(1000000))")
        shutil.copytree(snapshot, tmp_path / "s2.gmn")
    assert (tmp_path / "s2.gmn" / "record.sqlite3-journal").stat().st_size
    assert archived_ids(tmp_path / "s2.gmn") == ids(record, gallery)
    check_archive(tmp_path / "s2.gmn")


@pytest.mark.parametrize("name", ["record.sqlite3", "vectors-1-0.f32"])
def test_a_flipped_bit_of_a_snapshot_is_found_before_the_gallery_changes(
    record, gallery, snapshot, name
):
    before = contents(record, gallery)
    path = snapshot / name
    body = bytearray(path.read_bytes())
    body[-3 if name != "record.sqlite3" else body.index(b"image/png")] ^= 4
    path.write_bytes(body)
    with pytest.raises(DamagedSnapshot):
        restore(record, gallery, snapshot)
    assert contents(record, gallery) == before


def test_an_archive_that_does_not_fit_leaves_nothing(record, gallery, tmp_path, monkeypatch):
    enroll(record, gallery, 1)

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(archive, "_copy_vectors", full)
    with pytest.raises(StorageFailed, match="nothing is left"):
        write_archive(record.database, tmp_path / "backups" / "b1", None)
    assert list((tmp_path / "backups").iterdir()) == []


def test_a_damaged_record_gives_no_archive(record, gallery, tmp_path):
    enroll(record, gallery, 1, 2)
    record.database.vectors.open(gallery, 0, 4).clear([2])
    with pytest.raises(InputProblem, match="vector of crop"):
        write_archive(record.database, tmp_path / "b1")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
