"""Crops as rows: reads during writes, damage, requests, retention, and what stays on the disk."""

import dataclasses
import shutil
import stat
from datetime import UTC, datetime, timedelta
from threading import Thread

import numpy as np
import pytest

from service.errors import DamagedRecord, NeedsReindex
from service.opening import open_folder
from service.record import crop_changes, crop_rows
from service.record import crops as crops_module
from service.record.keys import ApiKey
from service.record.values import ListFilter, RequestKey
from service.record.vectors import VectorFile
from tests.service.gallery.new_crops import (
    EMBEDDER,
    NOON,
    OTHER_EMBEDDER,
    enroll,
    is_on_disk,
    listed,
    new_crop,
    only,
    open_record,
)

# Nothing lies in them.
LOCKS = ("record.lock", "record.turn")


def _elsewhere(do):
    thread = Thread(target=do)
    thread.start()
    thread.join()


READS = {
    "indexed": lambda crops, gallery: crops.indexed(gallery, [1, 2]),
    "vectors": lambda crops, gallery: list(crops.vectors(gallery)),
    "vectors_of": lambda crops, gallery: crops.vectors_of(gallery, [1, 2])[1],
}


@pytest.mark.sqlite_alone
@pytest.mark.parametrize("read", READS)
def test_a_crop_removed_before_its_vector_is_read_is_left_out(record, gallery, monkeypatch, read):
    first, second = enroll(record, gallery, new_crop(1), new_crop(2))
    read_file = VectorFile.read

    def read_after_removal(file, slots):
        monkeypatch.undo()
        _elsewhere(lambda: record.crops.remove(gallery, [first]))
        return read_file(file, slots)

    monkeypatch.setattr(VectorFile, "read", read_after_removal)
    found = READS[read](record.crops, gallery)
    assert [crop.record.crop_id for crop in found] == [second]


def test_a_crop_removed_while_its_picture_is_read_is_no_damage(record, gallery, monkeypatch):
    (crop_id,) = enroll(record, gallery, new_crop(1))
    read_by_id = crops_module.read_by_id

    def read_and_remove(*asked):
        found = read_by_id(*asked)
        monkeypatch.undo()
        _elsewhere(lambda: record.crops.remove(gallery, [crop_id]))
        return found

    monkeypatch.setattr(crops_module, "read_by_id", read_and_remove)
    assert record.crops.picture(gallery, crop_id).content == b"image 1"
    assert record.crops.picture(gallery, crop_id) is None


@pytest.mark.promise("damage")
def test_a_vector_that_is_not_what_was_written_is_left_out(record, gallery):
    _, damaged = enroll(record, gallery, new_crop(1), new_crop(2))
    file = record.crops.vector_file(record.galleries.get(gallery))
    (vector,) = file.read([2])
    vector.view("<u4")[0] ^= 1
    if file.is_copy:
        statement = "UPDATE checksums SET content = ? WHERE slot = 2"
        record.database.connection().execute(statement, (vector.tobytes(),))
    else:
        file.write({2: vector})
    for read in READS.values():
        assert [crop.record.slot for crop in read(record.crops, gallery)] == [1]
    assert record.damaged_crops() == {gallery: [damaged]}
    assert [crop.record.slot for crop in record.crops.indexed(gallery, [1])] == [1]


@pytest.mark.promise("damage")
@pytest.mark.parametrize(
    "damage", ["DELETE FROM pictures", "UPDATE pictures SET content = CAST('imagd 1' AS {bytes})"]
)
def test_a_picture_that_is_not_what_was_written_is_left_out_with_its_crop(
    record, gallery, chosen_engine, damage
):
    (crop_id,) = enroll(record, gallery, new_crop(1))
    kind = "BYTEA" if chosen_engine == "postgres" else "BLOB"
    record.database.connection().execute(damage.format(bytes=kind))
    with pytest.raises(DamagedRecord, match=f"picture of crop {crop_id} is missing or corrupt"):
        record.crops.picture(gallery, crop_id)
    assert record.damaged_crops() == {gallery: [crop_id]}
    assert listed(record, gallery) == []


@pytest.mark.promise("damage")
@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE api_keys SET body = replace(body, 'query', 'admin')",
        "UPDATE api_keys SET gallery = 'yard'",
        "UPDATE api_keys SET checksum = checksum + 1",
    ],
)
def test_a_damaged_key_opens_nothing_and_is_asked_for_all_the_same(record, damage):
    record.keys.add(ApiKey("door", "0" * 64, ("query",), "lobby", "", NOON))
    record.database.connection().execute(damage)
    # Its use must not make it look whole.
    record.keys.note_used({"door": NOON})
    assert record.keys.all() == []
    assert record.database.problems == ["API key door is not what was written"]
    record.keys.add(ApiKey("gate", "1" * 64, ("admin",), None, "", NOON))
    assert [key.key_id for key in record.keys.all()] == ["gate"]
    record.keys.revoke("gate")
    assert record.keys.asked_for
    record.keys.revoke("door")
    assert not record.keys.asked_for


def test_the_vector_of_another_crop_is_not_taken_for_ones_own(record, gallery, tmp_path):
    first, _ = enroll(record, gallery, new_crop(1), new_crop(2))
    path = tmp_path / f"vectors-{gallery}-0.f32"
    content = path.read_bytes()
    path.write_bytes(content[:16] + content[32:48] * 2)
    record.database.connection().execute(
        "UPDATE checksums SET checksum = (SELECT checksum FROM checksums WHERE slot = 2)"
    )
    assert [crop.record.slot for crop in record.crops.indexed(gallery, [1, 2])] == [2]
    assert record.damaged_crops() == {gallery: [first]}


def test_the_name_of_a_person_without_crops_is_nowhere_on_the_disk(record, gallery, tmp_path):
    (crop_id,) = enroll(record, gallery, new_crop(1, "Ann Secret"))
    record.crops.change(gallery, only(crop_id), {"identity": "Bob"})
    assert not is_on_disk(tmp_path, b"Secret")


@pytest.mark.sqlite_alone
def test_what_was_deleted_before_a_kill_is_off_the_disk_after_the_next_start(
    record, gallery, tmp_path
):
    (crop_id,) = enroll(record, gallery, new_crop(1, "Ann Secret"))
    left = tmp_path / "left"
    left.mkdir()
    with record.database.read() as reader:
        reader.value("SELECT count(*) FROM crops")
        _elsewhere(lambda: record.crops.remove(gallery, [crop_id]))
        # Copy the files that a process leaves if it is killed now.
        for path in tmp_path.glob("*.*"):
            shutil.copy(path, left)
    assert is_on_disk(left, b"Secret")
    with open_record(left):
        assert not is_on_disk(left, b"Secret")


@pytest.mark.sqlite_alone
def test_the_files_of_the_record_are_their_owners_alone(record, gallery, tmp_path):
    enroll(record, gallery, new_crop(1))
    rights = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    private = {name: mode for name, mode in rights.items() if name not in LOCKS}
    assert set(private.values()) == {0o600}, private
    path = record.database.path
    record.close()
    path.chmod(0o644)
    open_folder(tmp_path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_key_used_again_after_a_day_stands_for_the_newer_request(record, gallery, monkeypatch):
    clock = timedelta()

    class Later(datetime):
        @classmethod
        def now(cls, zone=None):
            return datetime.now(zone) + clock

    monkeypatch.setattr(crop_changes, "datetime", Later)

    def send(number, name):
        request = RequestKey(name, f"digest {number}")
        record.crops.enroll(gallery, EMBEDDER, [new_crop(number)], request)
        return request

    first = [send(number, f"key {number}") for number in range(9)]
    clock = timedelta(days=2)
    assert record.crops.enroll(gallery, EMBEDDER, [], first[8]).landed == ()
    again = send(100, "key 8")
    for number in range(200, 206):
        send(number, f"key {number}")
    assert record.crops.enroll(gallery, EMBEDDER, [], again).replayed
    # Each of the seven has removed up to three that are older.
    kept = record.database.connection().execute("SELECT key FROM requests").fetchall()
    assert {key for (key,) in kept} == {"key 8", *(f"key {number}" for number in range(200, 206))}


def test_a_filled_gallery_refuses_another_embedder_and_an_empty_one_takes_it(record, gallery):
    ids = enroll(record, gallery, new_crop(1))
    longer = dataclasses.replace(new_crop(2), vector=np.arange(7, dtype=np.float32))
    with pytest.raises(NeedsReindex):
        record.crops.enroll(gallery, OTHER_EMBEDDER, [longer])
    record.crops.remove(gallery, ids)
    record.crops.enroll(gallery, OTHER_EMBEDDER, [longer])
    assert record.galleries.get(gallery).embedding_fingerprint == OTHER_EMBEDDER
    assert [crop.vector.tolist() for crop in record.crops.vectors(gallery)] == [list(range(7))]
    assert record.unneeded_files.all() == [f"vectors-{gallery}-0.f32"]


@pytest.mark.parametrize("retention", [{"retention_days": 1}, {"retention_hours": 24}])
@pytest.mark.parametrize(("since", "left"), [("captured", [3, 4]), ("enrolled", [1, 4])])
def test_crops_past_their_time_are_removed_oldest_first(record, gallery, since, left, retention):
    record.galleries.change(gallery, {**retention, "retention_from": since})
    now = datetime.now(UTC)
    long_ago = now - timedelta(days=9)
    crops = (
        new_crop(1, captured_at=long_ago),
        new_crop(2, captured_at=None, created_at=long_ago),
        new_crop(3, captured_at=now, created_at=long_ago),
        new_crop(4, captured_at=now),
        # A restore puts a crop back behind newer ones.
        new_crop(5, captured_at=long_ago, created_at=long_ago),
    )
    enroll(record, gallery, *crops)
    removed = [record.crops.remove_expired(gallery, most).count for most in (2, 9, 9)]
    assert removed == [2, 1, 0]
    assert [crop.metadata["number"] for crop in listed(record, gallery)] == left


def test_a_retention_in_hours_counts_hours(record, gallery):
    record.galleries.change(gallery, {"retention_hours": 6})
    now = datetime.now(UTC)
    hours = (1, 5, 7, 30)
    crops = [new_crop(age, captured_at=now - timedelta(hours=age)) for age in hours]
    enroll(record, gallery, *crops)
    assert record.crops.remove_expired(gallery, 9).count == 2
    assert [crop.metadata["number"] for crop in listed(record, gallery)] == [1, 5]


@pytest.mark.sqlite_alone
def test_of_a_large_gallery_only_the_rows_asked_for_are_read(record, gallery):
    crops = [
        new_crop(number, f"person {number // 4}", f"camera {number % 3}", external_id=f"e{number}")
        for number in range(3000)
    ]
    crop_ids = enroll(record, gallery, *crops)[::30]
    later = {
        sort: record.people.page(gallery, None, 9, sort=sort).next_cursor
        for sort in ("name", "last_seen", "crops")
    }
    record.galleries.change(gallery, {"retention_days": 1, "retention_from": "enrolled"})
    connection = record.database.connection()
    steps = 0

    def count():
        nonlocal steps
        steps += 1

    def page(order="enrolled", **labels):
        return record.crops.page(gallery, ListFilter(**labels), "", 3, order)

    asked = {
        "by id": lambda: record.crops.by_id(gallery, crop_ids),
        "by slot": lambda: record.crops.by_slot(gallery, range(1, 3000, 30)),
        **{
            f"people by {sort}": lambda sort=sort: record.people.page(
                gallery, later[sort], 9, sort=sort
            )
            for sort in later
        },
        "duplicates": lambda: enroll(record, gallery, *crops[:100]),
        "a name": lambda: page(identities={"person 7"}),
        "a name by time": lambda: page("captured", identities={"person 7"}),
        "an external id by time": lambda: page("-captured", external_id="e7"),
        "without a name": lambda: page(named=False),
        "a camera": lambda: page(cameras={"camera 1"}),
        "the newest": lambda: page("-captured"),
        "of an age": lambda: record.crops.has_expired(gallery),
        "removal": lambda: record.crops.remove(gallery, crop_ids[:2]),
    }
    # The first look-up of an external id reads the forms of all of them, once for a process.
    page(external_id="e7")
    counted = {}
    for name, read in asked.items():
        steps = 0
        connection.set_progress_handler(count, 100)
        read()
        connection.set_progress_handler(None, 0)
        counted[name] = steps * 100
    # All 3,000 rows take more than 30,000 steps, and the largest of these reads 100 rows.
    assert max(counted.values()) < 15_000, counted


@pytest.mark.sqlite_alone
def test_a_gallery_is_read_without_holding_the_log(record, gallery, monkeypatch):
    monkeypatch.setattr(crop_rows, "CROPS_AT_ONCE", 2)
    ids = enroll(record, gallery, *(new_crop(number) for number in range(6)))
    reading = record.crops.vectors(gallery)
    found = [next(reading)]
    record.crops.remove(gallery, [ids[4]])
    log = record.database.path.with_name("record.sqlite3-wal")
    assert log.stat().st_size == 0
    found += reading
    assert [crop.record.metadata["number"] for crop in found] == [0, 1, 2, 3, 5]


def test_of_many_crops_of_one_image_only_the_one_that_is_sent_again_is_read(
    record, gallery, monkeypatch
):
    cameras = ("north", "east", "south", "west")
    enrolled = enroll(record, gallery, *(new_crop(1, camera=camera) for camera in cameras))
    read = []
    make = crop_rows.StoredCrop
    monkeypatch.setattr(crop_rows, "StoredCrop", lambda **row: read.append(row) or make(**row))
    again = record.crops.enroll(gallery, EMBEDDER, [new_crop(1, "a", "south"), new_crop(1, "b")])
    assert [row["crop_id"] for row in read] == [enrolled[2]]
    first, second = again.landed
    assert (first.crop_id, first.duplicate) == (enrolled[2], True)
    assert (second.duplicate, second.warnings) == (False, [crops_module.SAME_IMAGE])
