"""An index on the vectors of the record: its start, and the handling of damage."""

from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from service.errors import ServiceStopping
from service.index.filters import SearchFilter
from service.maintenance import check_record
from service.ops.threads import BlockingPools
from service.record.transaction import Reader
from tests.service.gallery.new_crops import new_crop, only
from tests.waiting import LONGEST_SECONDS

pytestmark = pytest.mark.promise("start-sees-all")

VECTOR_BYTES = 16


def _shown(process, **wanted):
    found = process.search(SearchFilter(**wanted))
    rows = found.slots.tolist()
    crops = process.record.crops.by_slot(process.gallery.gallery_id, rows)
    columns = zip(rows, found.groups.tolist(), found.vectors.tolist(), strict=True)
    return {crops[row].crop_id: (group, tuple(vector)) for row, group, vector in columns}


@pytest.fixture
def filled(process):
    process.enroll(*(new_crop(number, f"person {number % 7}") for number in range(40)))
    return process


def _row(process, crop_id):
    return process.record.crops.get(process.gallery.gallery_id, crop_id).slot


def _damage(folder, row):
    with (folder / "vectors-1-0.f32").open("r+b") as vectors:
        vectors.seek(row * VECTOR_BYTES)
        vectors.write(bytes(VECTOR_BYTES))


def test_a_start_shows_what_was_shown_before(serve, filled):
    late = filled.enroll(*(new_crop(number, "late") for number in range(50, 60)))
    old = next(iter(_shown(filled)))
    labels = {"identity": "renamed", "camera": "roof", "metadata": {"shift": "night"}}
    filled.change(filled.record.crops.change, only(old), labels)
    filled.remove(*late[3:5])
    before = _shown(filled)
    people = filled.gallery.index.identities().total
    filled.close()
    again = serve()
    assert _shown(again) == before
    assert len(before) == 48
    assert again.gallery.version == 4
    assert again.gallery.index.identities().total == people == 9
    for wanted in ({"cameras": ("roof",)}, {"metadata": frozenset(['["shift", "night"]'])}):
        assert _shown(again, **wanted).keys() == {old}
    assert _shown(again, identities=("late",)).keys() == {*late[:3], *late[5:]}


@pytest.fixture
def in_parts(filled, monkeypatch):
    """Return a filled registry that reads its gallery ahead, as one of very many crops."""
    monkeypatch.setattr("service.gallery.registry.COLUMNS_AT_ONCE", 4)
    monkeypatch.setattr("service.record.crop_rows.COLUMNS_AT_ONCE", 4)
    return filled


def test_a_large_gallery_is_read_ahead_by_one_connection(in_parts):
    before = _shown(in_parts)
    # The follower opens its connection when it first follows a commit.
    newest = Reader(in_parts.record.database).newest_commit()
    in_parts.galleries._follower.wait_for_all(newest).result(LONGEST_SECONDS)
    opened = in_parts.record.database._connections
    count = len(opened)
    for _ in range(3):
        in_parts.galleries._read(in_parts.gallery.gallery_id)
    assert len(opened) == count + 1
    assert _shown(in_parts) == before


def test_a_stop_cuts_off_the_reading_of_a_large_gallery(in_parts):
    before = _shown(in_parts)
    in_parts.galleries.cut_off()
    with pytest.raises(ServiceStopping):
        in_parts.galleries._read(in_parts.gallery.gallery_id)
    assert _shown(in_parts) == before


def test_a_removed_crop_has_no_vector_in_memory(filled):
    crop_id = next(iter(_shown(filled)))
    row = _row(filled, crop_id)
    vectors = filled.gallery.own_index.columns.vectors
    assert vectors[row].any()
    filled.remove(crop_id)
    assert not vectors[row].any()


def test_a_crop_that_is_gone_without_a_trace_is_reported(serve, filled):
    forget = "DELETE FROM crops WHERE slot = 7"
    filled.record.database.write(lambda transaction: transaction.change(forget))
    filled.record.check()
    assert "has 39 crops, and 40 were written" in str(filled.record.database.problems)
    filled.close()
    assert len(_shown(serve())) == 39


async def test_damage_that_is_found_beside_the_requests_costs_the_crop(filled, tmp_path):
    before = _shown(filled)
    _damage(tmp_path, 3)
    pools = BlockingPools()
    runtime = SimpleNamespace(
        pools=pools, record=filled.record, galleries=filled.galleries, checked=False
    )
    await check_record(runtime)
    pools.shutdown()
    ((damaged,),) = filled.record.damaged_crops().values()
    del before[damaged]
    assert _shown(filled) == before
    assert filled.gallery.crops == 39


def test_a_result_that_is_damaged_meanwhile_is_left_out(filled, tmp_path):
    _damage(tmp_path, 3)
    slots = [2, 3, 4]
    found = filled.galleries.read_crops(filled.gallery, slots)
    assert found.keys() == {2, 4}


def test_a_check_of_the_record_pauses_and_can_be_ended(filled, tmp_path, monkeypatch):
    monkeypatch.setattr("service.record.record.CROPS_PER_CHECK", 10)
    pauses = []
    filled.record.check(lambda: pauses.append(True))
    assert len(pauses) == 4
    monkeypatch.setattr("service.record.crop_rows.CROPS_AT_ONCE", 10)
    _damage(tmp_path, 40)
    filled.record.check(lambda: True)
    assert filled.record.damaged_crops() == {}
    filled.record.check()
    assert len(filled.record.damaged_crops()) == 1


def test_a_change_that_is_applied_in_part_is_not_shown_as_a_version(filled, monkeypatch):
    gallery = filled.gallery
    crop_id = next(iter(_shown(filled)))
    version = gallery.version
    # It would read the gallery again.
    filled.galleries._follower.close()
    filled.record.crops.remove(gallery.gallery_id, [crop_id])
    with monkeypatch.context() as patched:
        patched.setattr(gallery.own_index, "remove", Mock(side_effect=MemoryError))
        with pytest.raises(MemoryError):
            filled.galleries._apply(gallery.gallery_id)
    assert gallery.version == version
    filled.galleries._apply(gallery.gallery_id)
    assert gallery.version == version + 1
    assert crop_id not in _shown(filled)
