"""An index in files: what a start goes on from, and what it does where it cannot."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest

from service.engine.device import DeviceThread
from service.errors import DamagedRecord, RecordUnavailable
from service.gallery.catch_up import read_changes
from service.gallery.gallery import IndexMismatch
from service.gallery.registry import DEFAULT_GALLERY, GalleryRegistry
from service.lifecycle.background import check_record
from service.ops.health import BlockingPools
from service.record.record import Record
from service.record.transaction import Change
from service.search import arrays
from service.search.index_files import FileSet, IndexFolder
from service.search.table import RowTable
from tests.service.gallery.new_crops import EMBEDDER, new_crop

SECTOR = 64


class Service:
    """One process on a record with index files: its galleries and what they show."""

    def __init__(self, folder):
        self.folder = folder / "indexes"
        self.record = Record(folder)
        self.device = DeviceThread()
        files = IndexFolder(self.folder, 1, 0)
        self.galleries = GalleryRegistry(
            self.record, self.device, {EMBEDDER: 4}, lambda _: None, folders=files
        )
        self.read = []
        read = self.record.crops.vectors
        self.record.crops.vectors = lambda number: self.read.append(number) or read(number)
        self.galleries.load()

    @property
    def gallery(self):
        return self.galleries.get(DEFAULT_GALLERY)

    def change(self, write, *args):
        return asyncio.run(self.galleries.change("enroll", self.gallery, write, *args))

    def enroll(self, *crops):
        landed = self.change(self.record.crops.enroll, EMBEDDER, crops).landed
        return [one.crop_id for one in landed]

    def remove(self, crop_id):
        self.change(self.record.crops.remove, [crop_id])

    def label(self, crop_id, **fields):
        self.change(self.record.crops.change, [crop_id], fields)

    def into_files(self):
        """As the compaction does it."""
        plan = self.device.submit(self.gallery.index.compaction).result()
        self.device.submit(self.gallery.index.replace, plan.build()).result()

    def save(self):
        self.galleries.save_index(self.gallery)

    def shown(self):
        """What a search shows of each crop: its label and its vector."""
        found = self.device.submit(
            self.gallery.index.search, np.ones((1, 4), np.float32), 1000
        ).result()
        vectors = found.vectors()
        return {
            label.crop_id: (label, tuple(vector.tolist()))
            for label, vector in zip(found.labels(), vectors, strict=True)
        }

    def die(self):
        """Ends without a checkpoint, as kill -9 does; what was written stays."""
        self.galleries._follower.close()
        self.galleries._writers.shutdown()
        self.galleries._readers.shutdown()
        self.device.shutdown()
        self.record.close()
        # The kernel would release the locks.
        for one in self.galleries.all():
            if one.index.table.files:
                one.index.table.files.close()
            one.index.clear()

    def close(self):
        with contextlib.suppress(Exception):
            self.galleries.close()
        self.die()


@pytest.fixture
def serve(tmp_path):
    running = []

    def start():
        running.append(Service(tmp_path))
        return running[-1]

    yield start
    for one in running:
        one.close()


@pytest.fixture
def filled(serve):
    """A service whose index lies in files, and has a checkpoint of 40 crops."""
    service = serve()
    service.enroll(*(new_crop(number, f"person {number % 7}") for number in range(40)))
    service.into_files()
    service.save()
    return service


def _again(serve, service, clean=False):
    """Another process, after a stop or a kill; and what was shown before."""
    before = service.shown()
    if clean:
        service.galleries.close()
    service.die()
    return serve(), before


def _same(service, before):
    assert service.shown() == before
    assert service.gallery.version == service.record.galleries.get(1).version
    rows = list(service.record.crops.vectors(1))
    assert {one.label.crop_id: one.label for one in rows} == {
        crop_id: label for crop_id, (label, _) in service.shown().items()
    }
    assert service.gallery.index.identities() == len({one.label.identity for one in rows})


@pytest.mark.parametrize("clean", [True, False])
def test_a_start_goes_on_from_the_files_and_from_what_the_record_has_since(serve, filled, clean):
    ids = filled.enroll(*(new_crop(number, "late") for number in range(50, 60)))
    old = next(iter(filled.shown()))
    filled.label(old, identity="renamed", camera="roof")
    filled.remove(ids[3])
    filled.remove(next(iter(set(filled.shown()) - {old, *ids})))
    service, before = _again(serve, filled, clean)
    assert service.read == []
    assert service.gallery.index.table.files
    _same(service, before)
    assert (old, "roof") in {(one, label.camera) for one, (label, _) in service.shown().items()}


@pytest.mark.parametrize("seed", range(4))
def test_after_a_power_cut_any_part_of_what_was_written_may_be_there(serve, filled, seed):
    """Of what was written since the checkpoint the disk has some sectors, and others not."""
    random = np.random.default_rng(seed)
    kept = filled.folder.with_name("kept")
    shutil.copytree(filled.folder, kept)
    there = list(filled.shown())
    for crop_id in random.choice(there, 12, replace=False):
        filled.remove(str(crop_id))
    for crop_id in random.choice(list(filled.shown()), 9, replace=False):
        filled.label(str(crop_id), identity=f"renamed {crop_id}")
    filled.enroll(*(new_crop(number, "late") for number in range(50, 58)))
    before = filled.shown()
    filled.die()
    for file in kept.rglob("[vt]e*"):
        place = filled.folder / file.relative_to(kept)
        old = bytearray(file.read_bytes())
        new = place.read_bytes()
        for start in range(0, min(len(old), 8192), SECTOR):
            if random.integers(2):
                old[start : start + SECTOR] = new[start : start + SECTOR]
        place.write_bytes(old)
    service = serve()
    assert service.read == []
    _same(service, before)


@pytest.mark.parametrize("name", ["vectors", "texts", "columns.npz"])
@pytest.mark.parametrize("place", [3, -20])
def test_damaged_files_are_moved_aside_and_the_record_is_read(serve, filled, name, place, caplog):
    (file,) = filled.folder.glob(f"1/*/{name}")
    before = filled.shown()
    filled.galleries.close()
    filled.die()
    content = bytearray(file.read_bytes())
    content[place if name == "columns.npz" else place % 500] ^= 4
    file.write_bytes(content)
    service = serve()
    assert service.read == [1]
    _same(service, before)
    assert "files that are damaged" in caplog.text
    assert (service.folder / "stray" / file.parent.name / name).exists()
    service.save()
    service, before = _again(serve, service)
    assert service.read == []
    _same(service, before)


def test_files_that_turn_out_to_be_damaged_leave_the_version_of_the_record(
    serve, filled, monkeypatch
):
    filled.enroll(new_crop(50, "late"))
    monkeypatch.setattr(RowTable, "relabel", Mock(side_effect=IndexMismatch("another crop")))
    service, before = _again(serve, filled)
    monkeypatch.undo()
    assert service.read == [1]
    _same(service, before)


def test_an_older_copy_of_the_record_is_not_mixed_with_newer_files(serve, filled, tmp_path):
    filled.galleries.close()
    filled.die()
    record = ("record.sqlite3", "vectors-1-0.f32")
    for name in record:
        shutil.copy(tmp_path / name, tmp_path / f"old-{name}")
    service = serve()
    service.enroll(new_crop(70, "of the newer one"))
    service.save()
    service.die()
    for file in tmp_path.glob("record*"):
        file.unlink()
    for name in record:
        shutil.copy(tmp_path / f"old-{name}", tmp_path / name)
    # The copy goes on, and comes to the version of the files, with other crops.
    indexes = tmp_path / "indexes"
    indexes.rename(tmp_path / "away")
    service = serve()
    service.enroll(new_crop(71, "of the older one"))
    service.enroll(new_crop(72, "of the older one"))
    before = service.shown()
    service.die()
    shutil.rmtree(indexes, ignore_errors=True)
    (tmp_path / "away").rename(indexes)
    service = serve()
    assert service.read == [1]
    _same(service, before)


def test_a_deleted_or_renamed_person_is_in_no_file(serve, filled):
    def on_disk(text):
        return any(text in file.read_bytes() for file in filled.folder.rglob("*") if file.is_file())

    ids = filled.enroll(new_crop(80, "Ann Forgotten"), new_crop(81, "Bob Renamed"))
    filled.save()
    vector = np.array(filled.shown()[ids[0]][1], np.float32).tobytes()
    texts = (b"Ann Forgotten", b"Bob Renamed", vector)
    assert all(map(on_disk, texts))
    filled.remove(ids[0])
    filled.label(ids[1], identity="Carl")
    assert not any(map(on_disk, texts))


def test_a_disk_that_is_full_leaves_the_index_in_memory(serve, filled, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        # Of the index alone; the record has room.
        patched.setattr(arrays, "os", SimpleNamespace(**{**vars(os), "pwrite": full}))
        (crop_id,) = filled.enroll(new_crop(90, "late"))
        filled.label(crop_id, camera="roof")
        filled.remove(next(iter(filled.shown())))
    assert "goes into memory: [Errno 28]" in caplog.text
    before = filled.shown()
    assert before[crop_id][0].camera == "roof"
    filled.save()
    assert not filled.gallery.index.table.files
    service, _ = _again(serve, filled)
    _same(service, before)


def test_a_checkpoint_that_could_not_be_written_is_due_still(filled, monkeypatch):
    filled.enroll(*(new_crop(number, "late") for number in range(50, 60)))
    index = filled.gallery.own_index
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", Mock(side_effect=OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        filled.save()
    assert index.outdated_files
    monkeypatch.setattr(Path, "replace", replace)
    filled.save()
    assert not index.outdated_files


def test_files_of_a_process_that_has_ended_are_removed(serve, filled):
    filled.galleries.close()
    filled.die()
    (left,) = filled.folder.glob("1/*")
    other = left.with_name("of-another-process")
    shutil.copytree(left, other)
    service = serve()
    (held,) = {left, other} - {one for one in (left, other) if not _locked(one)}
    service.galleries.remove_unheld_indexes()
    assert list(service.folder.glob("1/*")) == [held]


def _locked(folder):
    try:
        FileSet(folder).close()
    except BlockingIOError:
        return True
    return False


def test_without_a_checkpoint_the_record_is_read(serve, filled):
    (columns,) = filled.folder.glob("1/*/columns.npz")
    columns.unlink()
    service, before = _again(serve, filled)
    assert service.read == [1]
    _same(service, before)


def test_files_of_a_program_before_are_no_damage_and_are_removed(serve, filled):
    (columns,) = filled.folder.glob("1/*/columns.npz")
    # It began with the length of a JSON text, and ended with a checksum.
    columns.with_name("columns").write_bytes(b"\0\0\0\0\0\0\0\x02{}\x12\x34\x56\x78")
    columns.unlink()
    service, before = _again(serve, filled)
    assert service.read == [1]
    _same(service, before)
    assert not (service.folder / "stray").exists()
    service.galleries.remove_unheld_indexes()
    assert not columns.parent.exists()


def test_damage_of_the_record_that_a_start_has_not_read_ends_the_process(serve, filled, tmp_path):
    filled.galleries.close()
    filled.die()
    with (tmp_path / "vectors-1-0.f32").open("r+b") as vectors:
        vectors.seek(3 * 16)
        vectors.write(bytes(16))
    service = serve()
    assert service.read == []
    gave_up = []
    pools = BlockingPools()
    asyncio.run(
        check_record(
            SimpleNamespace(
                settings=SimpleNamespace(data_dir=tmp_path),
                pools=pools,
                record=service.record,
                watchdog=SimpleNamespace(give_up=lambda *said: gave_up.append(said)),
            )
        )
    )
    pools.shutdown()
    ((part, why),) = gave_up
    assert part == "record"
    assert "vector" in why
    service.die()
    with pytest.raises(DamagedRecord, match="vector"):
        serve()


def test_files_of_an_index_that_is_not_used_go_with_it(serve, filled, monkeypatch):
    def gone(*_):
        raise RecordUnavailable("it does not answer")
        yield

    sets = set(filled.folder.glob("1/*"))
    monkeypatch.setattr(filled.record.crops, "vectors", gone)
    with pytest.raises(RecordUnavailable):
        filled.galleries.read_gallery(1)
    gc.collect()
    assert set(filled.folder.glob("1/*")) == sets


@pytest.mark.parametrize("left", ["vectors", "texts", None])
def test_what_an_unfinished_removal_left_is_removed(filled, left):
    folder = filled.folder / "1" / "removed"
    folder.mkdir()
    if left:
        (folder / left).write_bytes(b"of a deleted person")
    filled.galleries.remove_unheld_indexes()
    assert not folder.exists()


def test_a_change_that_is_applied_in_part_is_not_shown_as_a_version(filled, monkeypatch):
    gallery = filled.gallery
    one = next(iter(filled.shown()))
    version = gallery.version
    row = filled.shown()[one][0].row_id
    filled.record.crops.remove(1, [one])
    change = Change(1, "removed", 1, version + 1, (row,))
    monkeypatch.setattr(gallery.own_index, "remove", Mock(side_effect=MemoryError))
    apply = read_changes(filled.record, gallery, [change])
    with pytest.raises(MemoryError):
        apply()
    assert gallery.version == version
    monkeypatch.undo()
    apply()
    assert gallery.version == version + 1
    assert one not in filled.shown()


def test_a_position_that_the_record_does_not_know_is_of_another_history(filled):
    history = filled.record.history
    version = filled.gallery.version
    position = history.begin(1)
    assert history.since(1, version, position) == []
    filled.enroll(new_crop(60, "late"))
    assert [one.kind for one in history.since(1, version, position)] == ["added"]
    seq, token = history.begin(1).split()
    assert history.since(1, version + 1, f"{seq} {token[::-1]}") is None
    assert history.since(1, version + 1, f"{int(seq) + 1} {token}") is None
    assert history.since(1, version + 2, position) is None
