"""Archives: a record or a gallery copied during writes, without crops deleted since."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3

import numpy as np
import pytest

from model.problems import InputProblem
from service.errors import DamagedSnapshot, RecordUnavailable, StorageFailed
from service.record import archive, replacing
from service.record.archive import (
    archived_ids,
    check_archive,
    describe_snapshot,
    read_archive,
    read_description,
    remove_from_archive,
    write_archive,
)
from service.record.record import Record
from service.record.values import CropFilter, GallerySettings
from service.record.verify import verify
from tests.service.gallery.new_crops import EMBEDDER, NOON, OTHER_EMBEDDER, new_crop

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
    vectors = {crop.label.row_id: crop.vector.tolist() for crop in record.crops.vectors(gallery)}
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
    embedder = describe_snapshot(folder, NOON).embedding_fingerprint
    return record.crops.replace(gallery, embedder, read_archive(folder))


def test_a_snapshot_holds_a_galleries_crops_with_vectors_and_pictures(record, gallery, snapshot):
    found = list(read_archive(snapshot))
    assert [(crop.record, crop.vector.tolist(), crop.picture) for crop in found] == contents(
        record, gallery
    )
    described = describe_snapshot(snapshot, NOON)
    assert (described.version, described.crops, described.embedding_fingerprint) == (1, 3, EMBEDDER)
    assert sorted(path.name for path in snapshot.iterdir()) == [
        "archive.json",
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
    record.crops.change(gallery, [before[1][0].crop_id], {"camera": "west"})
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


def test_a_crop_removed_while_the_restore_is_filled_is_not_brought_back(
    record, gallery, snapshot, monkeypatch
):
    first, second, third = ids(record, gallery)
    monkeypatch.setattr(replacing, "CROPS_PER_PART", 1)

    def crops():
        found = read_archive(snapshot)
        yield next(found)
        yield next(found)
        record.crops.remove(gallery, [second])
        yield from found

    record.crops.replace(gallery, EMBEDDER, crops())
    assert ids(record, gallery) == [first, third]
    side = record.database.vectors.open(gallery, 0, 4)
    assert not side.read([2]).any()


def test_a_restore_of_another_embedder_has_vectors_of_another_dimension(record, gallery, snapshot):
    others = [replacing_vector(crop) for crop in read_archive(snapshot)]
    record.crops.replace(gallery, OTHER_EMBEDDER, others)
    assert record.galleries.get(gallery).embedding_fingerprint == OTHER_EMBEDDER
    vectors = [crop.vector.tolist() for crop in record.crops.vectors(gallery)]
    assert vectors == [[number] * 6 for number in (0.0, 1.0, 2.0)]
    assert "vectors-1-0.f32" in record.unneeded_files.all()
    restore(record, gallery, snapshot)
    assert [crop.vector[0] for crop in record.crops.vectors(gallery)] == [1.25, 2.25, 3.25]
    assert verify(record.database.folder).damage == []


def replacing_vector(crop):
    vector = np.full(6, crop.record.row_id - 1, np.float32)
    return type(crop)(crop.record, vector, crop.picture)


def test_a_restore_mends_what_is_damaged(record, gallery, snapshot):
    before = contents(record, gallery)
    side = record.database.vectors.open(gallery, 0, 4)
    side.clear([2])
    with contextlib.closing(sqlite3.connect(record.database.path)) as file:
        file.create_function("row_crc", -1, lambda *_: 0, deterministic=True)
        file.execute("UPDATE crops SET camera = 'nowhere' WHERE slot = 3")
        file.execute("DELETE FROM pictures WHERE slot = 1")
        file.execute("UPDATE people SET sort_key = 'z'")
        file.commit()
    assert len(verify(record.database.folder).damage) == 4
    restore(record, gallery, snapshot)
    assert verify(record.database.folder).damage == []
    after = contents(record, gallery)
    assert [(crop.crop_id, crop.camera, *rest) for crop, *rest in after] == [
        (label.crop_id, label.camera, *rest) for label, *rest in before
    ]


def test_a_restore_that_fails_leaves_neither_rows_nor_vectors(record, gallery, snapshot):
    before = contents(record, gallery)

    def cut_off():
        for number in range(300):
            yield new_crop(number + 10)
        raise OSError("the file ends here")

    with pytest.raises(OSError, match="ends here"):
        record.crops.replace(gallery, EMBEDDER, cut_off())
    assert contents(record, gallery) == before
    side = record.database.vectors.open(gallery, 0, 4)
    assert not side.read(range(4, 204)).any()
    assert record.database.connection().execute("SELECT count(*) FROM incoming").fetchone()[0] == 0


def test_a_restore_ends_one_that_has_begun_before(record, gallery, snapshot):
    def crops():
        restore(record, gallery, snapshot)
        yield from read_archive(snapshot)

    def begun():
        yield from (new_crop(number) for number in range(replacing.CROPS_PER_PART))
        yield from crops()

    with pytest.raises(RecordUnavailable, match="another one began"):
        record.crops.replace(gallery, EMBEDDER, begun())
    assert len(ids(record, gallery)) == 3
    assert verify(record.database.folder).damage == []


def test_a_restore_that_was_killed_is_given_up_by_a_later_start(
    record, gallery, snapshot, monkeypatch
):
    before = contents(record, gallery)
    monkeypatch.setattr(replacing, "_give_up", lambda *_: None)
    with pytest.raises(RuntimeError):
        record.crops.replace(gallery, EMBEDDER, killed())
    monkeypatch.undo()
    folder = record.database.folder
    with contextlib.closing(Record(folder)) as again:
        assert again.database.connection().execute("SELECT 1 FROM restores").fetchone()
        again.database.write(lambda held: held.change("UPDATE restores SET until = 1"))
    with contextlib.closing(Record(folder)) as again:
        assert not again.database.connection().execute("SELECT 1 FROM restores").fetchone()
        assert contents(again, gallery) == before
        assert not again.database.vectors.open(gallery, 0, 4).read([4]).any()


def killed():
    for number in range(replacing.CROPS_PER_PART):
        yield new_crop(number + 10)
    raise RuntimeError


@pytest.mark.parametrize("kind", ["backup", "snapshot"])
@pytest.mark.parametrize("when", ["before its vector", "after its row"])
def test_a_crop_removed_while_an_archive_is_written_is_no_part_of_it(
    record, gallery, tmp_path, monkeypatch, kind, when
):
    first, second, _third = enroll(record, gallery, 1, 2, 3)
    reads_vectors = "read_contents" if kind == "snapshot" else "open_vectors"
    name = reads_vectors if when == "before its vector" else "_remove_deleted"
    goes_on = getattr(archive, name)

    def meanwhile(*arguments):
        record.crops.remove(gallery, [second])
        enroll(record, gallery, 4)
        return goes_on(*arguments)

    monkeypatch.setattr(archive, name, meanwhile)
    number = gallery if kind == "snapshot" else None
    description = write_archive(record.database, tmp_path / "archive", number)
    assert second not in archived_ids(tmp_path / "archive")
    assert first in archived_ids(tmp_path / "archive")
    assert [described.crops for described in description.galleries] == [2]
    assert description.files == read_description(tmp_path / "archive").files
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
    assert len(list(read_archive(folder))) == 2


def test_forgetting_that_was_cut_off_leaves_a_snapshot_that_can_be_read(
    record, gallery, snapshot, monkeypatch
):
    first, *others = ids(record, gallery)
    monkeypatch.setattr(
        archive, "describe_archive", lambda *_: (_ for _ in ()).throw(OSError("killed"))
    )
    with pytest.raises(OSError, match="killed"):
        remove_from_archive(snapshot, gallery, [first])
    monkeypatch.undo()
    assert archived_ids(snapshot) == others
    assert read_description(snapshot).files == {}
    assert [crop.record.crop_id for crop in read_archive(snapshot)] == others
    assert len(remove_from_archive(snapshot, gallery, []).files) == 2
    assert [crop.record.crop_id for crop in read_archive(snapshot)] == others


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
    assert check_archive(tmp_path / "s2.gmn").files == read_description(snapshot).files


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

    monkeypatch.setattr(archive, "open_vectors", full)
    with pytest.raises(StorageFailed, match="nothing is left"):
        write_archive(record.database, tmp_path / "backups" / "b1", None)
    assert list((tmp_path / "backups").iterdir()) == []


def test_a_damaged_record_gives_no_archive(record, gallery, tmp_path):
    enroll(record, gallery, 1, 2)
    record.database.vectors.open(gallery, 0, 4).clear([2])
    with pytest.raises(InputProblem, match="vector of crop"):
        write_archive(record.database, tmp_path / "b1")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
