"""What is particular to the record in one SQLite file."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import stat
import time
from pathlib import Path

import pytest

from service.record import sqlite_engine
from service.record.record import open_sqlite
from service.record.values import GallerySettings
from tests.service.gallery.new_crops import EMBEDDER, new_crop

SECRET = b"this person's picture " * 40


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "record"


@pytest.fixture
def store(file):
    with contextlib.closing(open_sqlite(file)) as opened:
        yield opened


@pytest.fixture
def gallery(store) -> int:
    return store.galleries.create("lobby", EMBEDDER, GallerySettings()).gallery_id


def _with_picture(number: int):
    crop = new_crop(number)
    return type(crop)(**{**vars(crop), "picture": SECRET})


def _on_disk(file: Path) -> bool:
    return any(SECRET[:200] in part.read_bytes() for part in file.parent.glob(f"{file.name}*"))


def test_a_deletion_does_not_wait_for_a_copy_and_is_off_the_disk_once_that_ends(
    store, gallery, file
):
    crop_id = store.crops.enroll(gallery, EMBEDDER, [_with_picture(1)]).landed[0].crop_id
    with store.crops.archive(gallery) as archive:
        began = time.monotonic()
        store.crops.remove(gallery, [crop_id])
        # It used to wait for as long as a connection waits: 30 seconds.
        assert time.monotonic() - began < 10
        assert [one.picture for one in archive.crops] == [SECRET]
    assert not _on_disk(file)


def test_a_copy_is_of_one_moment(store, gallery):
    crops = [new_crop(number, "Ann") for number in range(3)]
    landed = store.crops.enroll(gallery, EMBEDDER, crops).landed
    with store.crops.archive(gallery) as archive:
        found = [next(archive.crops)]
        store.crops.remove(gallery, [landed[1].crop_id])
        store.identities.rename(gallery, "Ann", "Eve")
        store.staged.begin(gallery, "c" * 64)
        store.crops.enroll(gallery, EMBEDDER, [new_crop(4)])
        store.crops.replace(gallery, EMBEDDER, [])
        store.galleries.delete(gallery)
        found += archive.crops
    assert archive.version == 1
    assert [one.record.crop_id for one in found] == [one.crop_id for one in landed]
    assert {one.record.identity for one in found} == {"Ann"}
    assert [one.picture for one in found] == [one.picture for one in crops]


def test_a_deletion_under_another_process_that_reads_is_off_the_disk_with_the_next_commit(
    store, gallery, file, monkeypatch
):
    monkeypatch.setattr(sqlite_engine, "BUSY_SECONDS", 0.1)
    store = open_sqlite(file)
    crop_id = store.crops.enroll(gallery, EMBEDDER, [_with_picture(1)]).landed[0].crop_id
    with contextlib.closing(sqlite3.connect(file)) as other:
        other.execute("BEGIN")
        other.execute("SELECT count(*) FROM entries").fetchone()
        store.crops.remove(gallery, [crop_id])
        assert _on_disk(file)
    store.crops.enroll(gallery, EMBEDDER, [new_crop(2)])
    assert not _on_disk(file)
    store.close()


def test_what_was_deleted_before_a_kill_is_off_the_disk_after_the_next_start(
    store, gallery, file, tmp_path
):
    crop_id = store.crops.enroll(gallery, EMBEDDER, [_with_picture(1)]).landed[0].crop_id
    left = tmp_path / "left"
    left.mkdir()
    with store.crops.archive(gallery):
        store.crops.remove(gallery, [crop_id])
        # What a process leaves that is killed now.
        for part in tmp_path.glob("record*"):
            shutil.copy(part, left)
    assert _on_disk(left / "record")
    with contextlib.closing(open_sqlite(left / "record")):
        assert not _on_disk(left / "record")


def test_the_file_is_its_owners_alone_also_one_of_an_older_program(file, store, gallery):
    beside = [file, file.with_name(f"{file.name}-wal")]
    assert [stat.S_IMODE(one.stat().st_mode) for one in beside] == [0o600, 0o600]
    store.close()
    file.chmod(0o644)
    open_sqlite(file).close()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
