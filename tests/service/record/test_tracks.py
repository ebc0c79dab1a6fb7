"""Tracks in the record: listed with their cohesion, kept by archives, added to format 8."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from service.errors import DamagedRecord
from service.record.archive import archived_ids, check_archive, write_archive
from service.record.record import Record
from service.record.replacing import replace_crops
from service.record.restoring import restore_backup, write_backup
from service.record.tracks import cohesion
from service.record.transaction import FILE
from service.record.values import CropFilter, GallerySettings
from service.record.verify import verify
from tests.service.gallery.new_crops import EMBEDDER, NOON, new_crop, only

DIRECTIONS = np.eye(4, dtype=np.float32)


def tracked(number: int, track: str | None, direction: int = 0, **labels: object):
    crop = new_crop(number, track=track, captured_at=NOON + timedelta(seconds=number), **labels)
    return replace(crop, vector=DIRECTIONS[direction] * (number + 1))


def enroll(record: Record, gallery: int, *crops) -> list[str]:
    return [crop.crop_id for crop in record.crops.enroll(gallery, EMBEDDER, crops).landed]


def tracks_of(record: Record, gallery: int) -> dict[str, str | None]:
    crops = record.crops.page(gallery, CropFilter()).crops
    return {crop.crop_id: crop.track for crop in crops}


def without_tracks(folder) -> None:
    """Make a record one of format 8, which had no tracks and a table for restores."""
    with contextlib.closing(sqlite3.connect(folder / FILE)) as connection:
        connection.execute("DROP TABLE tracks")
        connection.execute("DELETE FROM sqlite_stat1 WHERE tbl = 'tracks'")
        connection.execute("CREATE TABLE restores (gallery_id INTEGER)")
        connection.execute("PRAGMA user_version = 8")
        connection.commit()


def test_tracks_are_listed_by_id_and_camera_with_their_people_times_and_cohesion(record, gallery):
    crops = [
        tracked(0, "7", identity="Ann"),
        tracked(1, "7", identity=None),
        tracked(2, "7", direction=1, identity="Bob"),
        tracked(3, "7", camera="west"),
        tracked(4, "8"),
        tracked(5, None),
    ]
    enroll(record, gallery, *crops)
    page = record.tracks.page(gallery, None, 2)
    found = page.results
    assert [(track.track, track.camera, track.crops) for track in found] == [
        ("7", "east", 3),
        ("7", "west", 1),
    ]
    first = found[0]
    assert first.identities == ["Ann", "Bob"]
    assert (first.first_seen, first.last_seen) == (NOON, NOON + timedelta(seconds=2))
    # The third crop is perpendicular to the mean of the other two.
    assert first.cohesion == pytest.approx(0.0, abs=1e-6)
    assert found[1].cohesion is None
    last = record.tracks.page(gallery, page.next_cursor, 2)
    assert [track.track for track in last.results] == ["8"]
    assert last.next_cursor is None
    assert record.tracks.page(gallery, None, 9, camera="west").results == [found[1]]


def test_an_id_of_many_cameras_is_listed_page_by_page_and_soon(record, gallery):
    cameras = [f"camera {number:04}" for number in range(3000)]
    crops = [tracked(place, "1", camera=camera) for place, camera in enumerate(cameras)]
    enroll(record, gallery, *crops, tracked(5000, "1", camera=None), tracked(5001, "2"))
    began = time.thread_time()
    page = record.tracks.page(gallery, None, 100)
    found = [*page.results]
    assert time.thread_time() - began < 1.0
    while page.next_cursor is not None:
        assert len(found) % 100 == 0
        page = record.tracks.page(gallery, page.next_cursor, 100)
        found += page.results
    places = [(track.track, track.camera) for track in found]
    assert places == [("1", camera) for camera in (None, *cameras)] + [("2", "east")]


def test_cohesion_is_the_least_cosine_to_the_mean_of_the_others():
    vectors = np.array([[2, 0], [0, 3], [1, 1]], np.float32)
    # The others of the first vector are (0, 1) and (1, 1) / √2.
    others = np.array([0, 1]) + np.array([1, 1]) / np.sqrt(2)
    assert cohesion(vectors) == pytest.approx(others[0] / np.linalg.norm(others), rel=1e-6)


@pytest.mark.parametrize("order", ["enrolled", "captured", "-captured"])
def test_crops_of_a_track_are_listed_page_by_page(record, gallery, order):
    ids = enroll(record, gallery, *(tracked(n, str(n % 2)) for n in range(7)))
    found: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = record.crops.page(gallery, CropFilter(track="1"), cursor, 2, order)
        found += [crop.crop_id for crop in page.crops]
        cursor = page.cursor
    assert found == (ids[1::2][::-1] if order == "-captured" else ids[1::2])


def test_a_snapshot_keeps_tracks_and_its_restore_brings_them_back(record, gallery, tmp_path):
    first, second = enroll(record, gallery, tracked(0, "7"), tracked(1, None))
    path = tmp_path / "snapshot.gmn"
    write_archive(record.database, path, gallery)
    record.crops.change(gallery, only(first), {"track": "moved"})
    record.crops.change(gallery, only(second), {"track": "new"})
    replace_crops(record.database, gallery, path)
    assert tracks_of(record, gallery) == {first: "7", second: None}


def test_a_record_of_the_former_format_is_opened_and_gains_tracks(tmp_path):
    with contextlib.closing(Record(tmp_path)) as record:
        gallery = record.galleries.create("lobby", EMBEDDER, GallerySettings()).gallery_id
        ids = enroll(record, gallery, tracked(0, None))
    without_tracks(tmp_path)
    assert not verify(tmp_path).damage
    with contextlib.closing(Record(tmp_path)) as record:
        assert tracks_of(record, gallery) == {ids[0]: None}
        new = enroll(record, gallery, tracked(1, "7"))
    with contextlib.closing(Record(tmp_path)) as record:
        assert tracks_of(record, gallery) == {ids[0]: None, new[0]: "7"}


def test_archives_of_the_former_format_are_read_and_restored(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    with contextlib.closing(Record(data)) as record:
        gallery = record.galleries.create("lobby", EMBEDDER, GallerySettings()).gallery_id
        ids = enroll(record, gallery, tracked(0, None), tracked(1, None))
        backup = write_backup(record.database, tmp_path / "backups")
        snapshot = tmp_path / "snapshot.gmn"
        write_archive(record.database, snapshot, gallery)
    for folder in (backup.path, snapshot):
        without_tracks(folder)
    check_archive(snapshot)
    assert archived_ids(snapshot) == ids
    restore_backup(backup, tmp_path / "restored", data)
    with contextlib.closing(Record(tmp_path / "restored")) as record:
        assert tracks_of(record, gallery) == dict.fromkeys(ids)
        record.crops.change(gallery, only(ids[0]), {"track": "new"})
        replace_crops(record.database, gallery, snapshot)
        assert tracks_of(record, gallery) == dict.fromkeys(ids)


def test_a_damaged_track_is_named(tmp_path):
    with contextlib.closing(Record(tmp_path)) as record:
        gallery = record.galleries.create("lobby", EMBEDDER, GallerySettings()).gallery_id
        (crop_id,) = enroll(record, gallery, tracked(0, "one and only"))
    file = tmp_path / FILE
    content = file.read_bytes()
    assert content.count(b"one and only") >= 1
    file.write_bytes(content.replace(b"one and only", b"one and 0nly"))
    with (
        contextlib.closing(Record(tmp_path)) as record,
        pytest.raises(DamagedRecord, match=crop_id),
    ):
        record.crops.get(gallery, crop_id)


def test_the_crops_that_ask_for_a_long_track_are_the_best_of_equal_parts_of_it(record, gallery):
    sharp = (number % 10 == 7 for number in range(100))
    crops = [tracked(number, "17", quality=float(best)) for number, best in enumerate(sharp)]
    enroll(record, gallery, *crops)
    # Slots begin at 1.
    assert record.tracks.spread(gallery, "17", "east", 10) == [8 + 10 * part for part in range(10)]
    assert len(record.tracks.spread(gallery, "17", "east", 32)) == 32
    assert record.tracks.spread(gallery, "17", "west", 10) == []
