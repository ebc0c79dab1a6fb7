"""Crops as rows: reads during writes, damage, rows of people, requests, and searches."""

from __future__ import annotations

import contextlib
import shutil
import stat
from datetime import datetime, timedelta
from threading import Thread

import pytest

from service.errors import DamagedRecord
from service.record import crop_changes, crop_rows
from service.record import crops as crops_module
from service.record.record import Record
from service.record.values import CropFilter, RequestKey
from service.record.vectors import VectorFile
from tests.service.gallery.new_crops import EMBEDDER, NOON, new_crop, only

EVERYTHING = CropFilter()
# Nothing lies in them.
LOCKS = ("record.lock", "record.turn")


def _enroll(record, gallery, *crops, request=None):
    return record.crops.enroll(gallery, EMBEDDER, crops, request)


def _elsewhere(do) -> None:
    """Do something in another thread, as other requests do."""
    thread = Thread(target=do)
    thread.start()
    thread.join()


@pytest.mark.parametrize("read", ["indexed", "vectors", "vectors_of"])
def test_a_crop_removed_before_its_vector_is_read_is_left_out(record, gallery, monkeypatch, read):
    first, second = _enroll(record, gallery, new_crop(1), new_crop(2)).added
    stored = record.crops.page(gallery, EVERYTHING).crops
    read_file = VectorFile.read

    def read_after_removal(file, slots):
        monkeypatch.undo()
        _elsewhere(lambda: record.crops.remove(gallery, [first.crop_id]))
        return read_file(file, slots)

    monkeypatch.setattr(VectorFile, "read", read_after_removal)
    match read:
        case "indexed":
            found = record.crops.indexed(gallery, [crop.row_id for crop in stored])
        case "vectors":
            found = list(record.crops.vectors(gallery))
        case "vectors_of":
            slots = [crop.row_id for crop in stored]
            embedder, found = record.crops.vectors_of(gallery, slots)
            assert embedder == EMBEDDER
    assert [crop.record for crop in found] == [second]


def test_a_crop_removed_while_its_picture_is_read_is_no_damage(record, gallery, monkeypatch):
    crop_id = _enroll(record, gallery, new_crop(1)).landed[0].crop_id
    read_by_id = crops_module.read_by_id

    def read_and_remove(*asked):
        found = read_by_id(*asked)
        monkeypatch.undo()
        _elsewhere(lambda: record.crops.remove(gallery, [crop_id]))
        return found

    monkeypatch.setattr(crops_module, "read_by_id", read_and_remove)
    assert record.crops.picture(gallery, crop_id).content == b"image 1"
    assert record.crops.picture(gallery, crop_id) is None


def test_a_vector_that_is_not_what_was_written_is_named(record, gallery, tmp_path):
    landed = _enroll(record, gallery, new_crop(1), new_crop(2)).landed
    with (tmp_path / f"vectors-{gallery}-0.f32").open("r+b") as file:
        file.seek(2 * 4 * 4)
        file.write(b"\1")
    reads = (
        lambda: list(record.crops.vectors(gallery)),
        lambda: record.crops.indexed(gallery, [2]),
        lambda: record.crops.vectors_of(gallery, [1, 2]),
    )
    for read in reads:
        with pytest.raises(DamagedRecord, match=landed[1].crop_id):
            read()
    assert [crop.record.row_id for crop in record.crops.indexed(gallery, [1])] == [1]


def test_the_vector_of_another_crop_is_not_taken_for_ones_own(record, gallery, tmp_path):
    landed = _enroll(record, gallery, new_crop(1), new_crop(2)).landed
    path = tmp_path / f"vectors-{gallery}-0.f32"
    content = path.read_bytes()
    path.write_bytes(content[:16] + content[32:48] * 2)
    record.database.connection().execute(
        "UPDATE checksums SET checksum = (SELECT checksum FROM checksums WHERE slot = 2)"
    )
    with pytest.raises(DamagedRecord, match=landed[0].crop_id):
        record.crops.indexed(gallery, [1, 2])


def test_a_crop_whose_row_is_gone_without_a_trace_is_damage(record, gallery):
    _enroll(record, gallery, new_crop(1), new_crop(2))
    record.database.connection().execute("DELETE FROM crops WHERE slot = 1")
    with pytest.raises(DamagedRecord, match="has 1 crops, and 2 were written"):
        list(record.crops.vectors(gallery))


def test_a_picture_that_is_gone_is_damage(record, gallery):
    crop_id = _enroll(record, gallery, new_crop(1)).landed[0].crop_id
    record.database.connection().execute("DELETE FROM pictures")
    with pytest.raises(DamagedRecord, match=f"the picture of crop {crop_id} is gone"):
        record.crops.picture(gallery, crop_id)


def test_a_name_that_is_not_what_was_written_is_found_with_its_crops(record, gallery):
    crop_id = _enroll(record, gallery, new_crop(1, "Ann")).landed[0].crop_id
    connection = record.database.connection()
    connection.create_function("row_crc", -1, lambda *_: 0, deterministic=True)
    connection.execute("UPDATE people SET name = 'Anm'")
    with pytest.raises(DamagedRecord, match=crop_id):
        _elsewhere_raising(lambda: record.crops.get(gallery, crop_id))


def _elsewhere_raising(do) -> None:
    errors = []

    def run():
        try:
            do()
        except Exception as error:
            errors.append(error)

    _elsewhere(run)
    for error in errors:
        raise error


def test_the_name_of_a_person_without_crops_is_nowhere_on_the_disk(record, gallery, tmp_path):
    crop_id = _enroll(record, gallery, new_crop(1, "Ann Secret")).landed[0].crop_id
    record.crops.change(gallery, only(crop_id), {"identity": "Bob"})
    assert not any(b"Secret" in path.read_bytes() for path in tmp_path.iterdir())


def test_a_key_used_again_after_a_day_stands_for_the_newer_request(record, gallery, monkeypatch):
    clock = timedelta()

    class Later(datetime):
        @classmethod
        def now(cls, zone=None):
            return datetime.now(zone) + clock

    monkeypatch.setattr(crop_changes, "datetime", Later)

    def enroll(number: int, name: str) -> RequestKey:
        request = RequestKey(name, f"digest {number}")
        _enroll(record, gallery, new_crop(number), request=request)
        return request

    first = [enroll(number, f"key {number}") for number in range(9)]
    clock = timedelta(days=2)
    assert record.crops.enroll(gallery, EMBEDDER, [], first[8]).landed == ()
    again = enroll(100, "key 8")
    for number in range(200, 206):
        enroll(number, f"key {number}")
    assert record.crops.enroll(gallery, EMBEDDER, [], again).replayed
    # Each of the seven has removed up to three that are older.
    kept = record.database.connection().execute("SELECT key FROM requests").fetchall()
    assert {key for (key,) in kept} == {"key 8", *(f"key {number}" for number in range(200, 206))}


def test_of_a_large_gallery_only_the_rows_asked_for_are_read(record, gallery):
    crops = [
        new_crop(number, f"person {number // 4}", f"camera {number % 3}", external_id=f"e{number}")
        for number in range(3000)
    ]
    landed = _enroll(record, gallery, *crops).landed
    crop_ids = [landed[number].crop_id for number in range(0, 3000, 30)]
    connection = record.database.connection()
    steps = 0

    def count():
        nonlocal steps
        steps += 1

    def page(order="enrolled", **labels):
        return record.crops.page(gallery, CropFilter(**labels), "", 3, order)

    asked = {
        "by id": lambda: record.crops.by_id(gallery, crop_ids),
        "by slot": lambda: record.crops.by_row(gallery, range(1, 3000, 30)),
        "duplicates": lambda: _enroll(record, gallery, *crops[:100]),
        "a name": lambda: page(identity="person 7"),
        "a name by time": lambda: page("captured", identity="person 7"),
        "an external id by time": lambda: page("-captured", external_id="e7"),
        "without a name": lambda: page(unnamed=True),
        "a camera": lambda: page(camera="camera 1"),
        "the newest": lambda: page("-captured"),
        "of an age": lambda: record.crops.has_older(gallery, NOON, "enrolled"),
        "removal": lambda: record.crops.remove(gallery, crop_ids[:2]),
    }
    counted = {}
    for name, read in asked.items():
        steps = 0
        connection.set_progress_handler(count, 100)
        read()
        connection.set_progress_handler(None, 0)
        counted[name] = steps * 100
    # All 3,000 rows take more than 30,000 steps, and the largest of these reads 100 rows.
    assert max(counted.values()) < 15_000, counted


def test_a_gallery_is_read_without_holding_the_log(record, gallery, monkeypatch):
    monkeypatch.setattr(crop_rows, "CROPS_AT_ONCE", 2)
    landed = _enroll(record, gallery, *(new_crop(number) for number in range(6))).landed
    reading = record.crops.vectors(gallery)
    found = [next(reading)]
    record.crops.remove(gallery, [landed[4].crop_id])
    log = record.database.path.with_name("record.sqlite3-wal")
    assert log.stat().st_size == 0
    found += reading
    assert [crop.record.metadata["number"] for crop in found] == [0, 1, 2, 3, 5]


def test_the_files_of_the_record_are_their_owners_alone(record, gallery, tmp_path):
    _enroll(record, gallery, new_crop(1))
    rights = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    private = {name: mode for name, mode in rights.items() if name not in LOCKS}
    assert set(private.values()) == {0o600}, private
    path = record.database.path
    record.close()
    path.chmod(0o644)
    Record(tmp_path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_was_deleted_before_a_kill_is_off_the_disk_after_the_next_start(
    record, gallery, tmp_path
):
    crop_id = _enroll(record, gallery, new_crop(1, "Ann Secret")).landed[0].crop_id
    left = tmp_path / "left"
    left.mkdir()
    with record.database.read() as reader:
        reader.value("SELECT count(*) FROM crops")
        _elsewhere(lambda: record.crops.remove(gallery, [crop_id]))
        # Copy the files that a process leaves if it is killed now.
        for path in tmp_path.glob("*.*"):
            shutil.copy(path, left)

    def is_on_disk():
        return any(b"Secret" in path.read_bytes() for path in left.iterdir())

    assert is_on_disk()
    with contextlib.closing(Record(left)):
        assert not is_on_disk()
