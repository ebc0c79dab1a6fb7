"""An index on the vectors of the record: its start, and the handling of damage."""

from __future__ import annotations

import asyncio
import contextlib
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest

from service.errors import DamagedRecord
from service.maintenance import check_record
from service.ops.threads import BlockingPools
from service.record.record import Record
from service.record.transaction import Change
from service.record.vectors import SLOTS_AHEAD, VectorFile
from service.runtime import DAMAGED
from service.search.columns import Columns
from service.search.filters import Filter
from service.search.leave_one_out import NamedCrops
from tests.service.gallery.new_crops import new_crop, only
from tests.service.gallery.served_process import ServedProcess

VECTOR_BYTES = 16
EVERYTHING = np.ones((1, 4), np.float32)


class Service(ServedProcess):
    """Serve the galleries of a record, as one process does."""

    def label(self, crop_id, **fields):
        self.change(self.record.crops.change, only(crop_id), fields)

    def search(self, wanted):
        found = self.device.submit(self.gallery.index.search, EVERYTHING, 1000, wanted).result()
        return found, found.vectors

    def shown(self, **wanted):
        """Return the group and the vector of each crop that a search finds, by its id."""
        found, vectors = self.search(Filter(**wanted))
        crops = self.record.crops.by_row(self.gallery.gallery_id, found.row_ids.tolist())
        columns = zip(found.row_ids.tolist(), found.groups.tolist(), vectors.tolist(), strict=True)
        return {crops[row].crop_id: (group, tuple(vector)) for row, group, vector in columns}


@pytest.fixture
def serve(tmp_path):
    with contextlib.ExitStack() as running:

        def start():
            service = Service(tmp_path)
            running.callback(service.close)
            return service

        yield start


@pytest.fixture
def filled(serve):
    """Serve 40 crops of seven people."""
    service = serve()
    service.enroll(*(new_crop(number, f"person {number % 7}") for number in range(40)))
    return service


def _row(service, crop_id):
    return service.record.crops.get(service.gallery.gallery_id, crop_id).row_id


def _damage(folder, row):
    with (folder / "vectors-1-0.f32").open("r+b") as vectors:
        vectors.seek(row * VECTOR_BYTES)
        vectors.write(bytes(VECTOR_BYTES))


def test_a_start_shows_what_was_shown_before(serve, filled):
    late = filled.enroll(*(new_crop(number, "late") for number in range(50, 60)))
    old = next(iter(filled.shown()))
    filled.label(old, identity="renamed", camera="roof", metadata={"shift": "night"})
    filled.remove(*late[3:5])
    before = filled.shown()
    people = filled.gallery.index.identities()
    filled.close()
    service = serve()
    assert service.shown() == before
    assert len(before) == 48
    assert service.gallery.version == 4
    assert service.gallery.index.identities() == people == 9
    for wanted in ({"cameras": ("roof",)}, {"metadata": frozenset(['["shift", "night"]'])}):
        assert service.shown(**wanted).keys() == {old}
    assert service.shown(identities=("late",)).keys() == {*late[:3], *late[5:]}


def test_a_large_gallery_is_read_ahead_and_leaves_no_connection(serve, filled, monkeypatch):
    before = filled.shown()
    monkeypatch.setattr("service.gallery.registry.COLUMNS_AT_ONCE", 4)
    monkeypatch.setattr("service.record.crop_rows.COLUMNS_AT_ONCE", 4)
    opened = filled.record.database._connections
    count = len(opened)
    for _ in range(3):
        filled.galleries._read(filled.gallery.gallery_id)
    assert len(opened) == count
    assert filled.shown() == before


def test_a_removed_crop_has_no_vector_in_memory(filled):
    one = next(iter(filled.shown()))
    row = _row(filled, one)
    vectors = filled.gallery.own_index.columns.vectors
    assert vectors[row].any()
    filled.remove(one)
    assert not vectors[row].any()


def test_a_file_that_grows_ahead_is_rarely_mapped_anew(tmp_path):
    file = VectorFile(tmp_path / "vectors.f32", 4, only_read=False)
    file.write({0: np.ones(4)})
    for slot in range(1, 1000):
        if slot >= len(file.mapped()):
            before = len(file.mapped())
            file.write({slot: np.ones(4)})
            assert len(file.mapped()) == 2 * (slot + 1)
            assert before <= slot
    file.write({10 * SLOTS_AHEAD: np.ones(4)})
    assert len(file.mapped()) == 11 * SLOTS_AHEAD + 1
    # Room ahead takes no space.
    assert (tmp_path / "vectors.f32").stat().st_blocks * 512 < 100_000


def test_a_mapped_file_shows_later_writes_and_outlives_its_removal(tmp_path):
    path = tmp_path / "vectors.f32"
    file = VectorFile(path, 4, only_read=False)
    file.write({0: np.ones(4), 1: np.ones(4)})
    mapped = file.mapped()
    file.write({2: np.full(4, 3.0)})
    file.clear([1])
    path.unlink()
    file.close()
    assert mapped[:3, 0].tolist() == [1.0, 0.0, 3.0]


def test_a_start_is_refused_where_a_crop_is_gone_without_a_trace(serve, filled):
    filled.close()
    with contextlib.closing(Record(filled.record.database.folder)) as record:
        record.database.write(
            lambda transaction: transaction.change("DELETE FROM crops WHERE slot = 7")
        )
    with pytest.raises(DamagedRecord, match="has 39 crops, and 40 were written"):
        serve()


def test_damage_that_is_found_beside_the_requests_ends_the_process(filled, tmp_path):
    _damage(tmp_path, 3)
    gave_up = []
    pools = BlockingPools()
    asyncio.run(
        check_record(
            SimpleNamespace(
                settings=SimpleNamespace(data_dir=tmp_path),
                pools=pools,
                record=filled.record,
                watchdog=SimpleNamespace(give_up=lambda *said: gave_up.append(said)),
            )
        )
    )
    pools.shutdown()
    ((part, why),) = gave_up
    assert part == "record"
    assert "vector" in why
    assert (tmp_path / DAMAGED).exists()


def test_a_check_of_the_record_pauses_and_can_be_ended(filled, tmp_path, monkeypatch):
    monkeypatch.setattr("service.record.record.CROPS_PER_CHECK", 10)
    pauses = []
    filled.record.check(lambda: pauses.append(True))
    assert len(pauses) == 4
    monkeypatch.setattr("service.record.crop_rows.CROPS_AT_ONCE", 10)
    _damage(tmp_path, 40)
    filled.record.check(lambda: True)
    with pytest.raises(DamagedRecord, match="vector"):
        filled.record.check()


def test_a_change_that_is_applied_in_part_is_not_shown_as_a_version(filled, monkeypatch):
    gallery = filled.gallery
    one = next(iter(filled.shown()))
    row = _row(filled, one)
    version = gallery.version
    apply = filled.galleries._read_changes(gallery, [Change(1, "removed", 1, version + 1, (row,))])
    with monkeypatch.context() as patched:
        patched.setattr(gallery.own_index, "remove", Mock(side_effect=MemoryError))
        with pytest.raises(MemoryError):
            apply()
    assert gallery.version == version
    apply()
    assert gallery.version == version + 1
    assert one not in filled.shown()


def test_a_fit_without_an_index_of_its_own_reads_the_named_crops_that_are_searched(filled):
    filled.remove(*list(filled.shown())[3:9])
    columns = filled.gallery.own_index.columns
    again = Columns(4, columns.secret)
    filled.galleries.fill(again, filled.gallery.gallery_id, 34)
    searched = NamedCrops.of(columns)
    read = NamedCrops.of(again)
    assert len(read.slots) == 34
    for name in ("slots", "names", "cameras"):
        assert getattr(read, name).tolist() == getattr(searched, name).tolist()
    assert again.units(read.slots).tolist() == columns.units(searched.slots).tolist()
