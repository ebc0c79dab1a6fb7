"""Indexes get new segments while they serve, and nothing waits for that."""

import asyncio
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from service import maintenance
from service.checks import _describe_placement
from service.engine.device import DeviceThread
from service.index.gpu import DeviceVectors
from service.index.placement import RANKED_FOR_SECONDS, DevicePlacement
from service.maintenance import compact_indexes
from service.ops.threads import BlockingPools
from service.record.values import ArchivedCrop, LabelledCrop
from tests.service.filled_index import FilledIndex

DIMENSION = 4
VECTOR_BYTES = 4 * DIMENSION
COPY = DeviceVectors.__init__


@pytest.fixture
def service(monkeypatch):
    monkeypatch.setattr(maintenance, "COMPACTION_POLL_SECONDS", 0.01)
    monkeypatch.setattr("service.index.gallery_index.DELTA_ROWS", 8)
    monkeypatch.setattr("service.index.placement.DELTA_ROWS", 8)
    # No test machine has a device.
    _copy_by(monkeypatch, COPY)
    indexes = [_index(), _index()]
    galleries = [
        SimpleNamespace(gallery_id=number, name=str(number), own_index=index)
        for number, index in enumerate(indexes)
    ]
    pools = BlockingPools()
    with DeviceThread() as device:
        yield SimpleNamespace(
            indexes=indexes,
            galleries=SimpleNamespace(all=lambda: galleries),
            device=device,
            pools=pools,
            model=SimpleNamespace(networks=SimpleNamespace(device="meta")),
            placement=DevicePlacement(10**6),
        )
    pools.shutdown()


def _search(service, index, limit=50):
    query = np.ones((1, DIMENSION), np.float32)
    found = service.device.submit(index.search, query, [None], limit).result(5)
    return sorted(found.slots.tolist())


async def _compact_until(service, condition):
    working = asyncio.create_task(compact_indexes(service))
    try:
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.01)
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


def _copy_by(monkeypatch, copy):
    monkeypatch.setattr(
        DeviceVectors, "__init__", lambda segment, _, *args: copy(segment, "cpu", *args)
    )


def _copied(index):
    return index.bytes // VECTOR_BYTES - index.columns.count


def _index(crops=50):
    index = FilledIndex(DIMENSION)
    vectors = np.random.default_rng(0).normal(size=(crops, DIMENSION)).astype(np.float32)
    index.fill(
        ArchivedCrop(LabelledCrop(slot=slot, crop_id=f"crop-{slot}"), vector)
        for slot, vector in enumerate(vectors, 1)
    )
    return index


async def test_segments_with_many_deleted_crops_are_made_anew(service):
    for removed, left in (((), 50), (range(1, 31), 20), (range(31, 46), 5)):
        for index in service.indexes:
            await service.device.run(index.remove, removed)
        await _compact_until(
            service, lambda left=left: all(_copied(index) == left for index in service.indexes)
        )


async def test_work_goes_on_and_the_service_closes_while_a_segment_is_made(service, monkeypatch):
    index = service.indexes[0]
    begun = threading.Event()
    release = threading.Event()

    def slow(*args):
        begun.set()
        release.wait(20)
        COPY(*args)

    # A gallery that takes seconds to copy would make this test as slow.
    _copy_by(monkeypatch, slow)
    await _compact_until(service, begun.is_set)
    index.remove(range(1, 31))
    assert len(_search(service, index)) == 20
    release.set()
    service.pools.shutdown()
    service.device.shutdown()
    assert _copied(index) == 0


async def test_an_index_without_room_on_the_device_is_searched_on_the_host_and_holds_up_no_other(
    service, monkeypatch, caplog
):
    first, second = service.indexes
    before = _search(service, first, 10)
    room = []

    def copy(segment, device, columns, *args):
        if columns is first.columns and not room:
            raise torch.OutOfMemoryError
        COPY(segment, device, columns, *args)

    _copy_by(monkeypatch, copy)
    await _compact_until(service, lambda: _copied(second) == 50)
    assert "gallery 0: its index stays as it is" in caplog.text
    assert _search(service, first, 10) == before
    room.append(True)
    await _compact_until(service, lambda: _copied(first) == 50)
    assert _search(service, first, 10) == before


async def test_on_a_processor_vectors_stay_in_the_one_memory_there_is(service, monkeypatch):
    service.placement = None
    looked = []
    look = FilledIndex.next_segment
    monkeypatch.setattr(FilledIndex, "next_segment", lambda *args: looked.append(1) or look(*args))
    await _compact_until(service, lambda: len(looked) > 4)
    assert [_copied(index) for index in service.indexes] == [0, 0]


def _copied_one(service):
    return [index.device_bytes // VECTOR_BYTES for index in service.indexes]


async def test_galleries_beyond_the_share_of_the_device_are_searched_on_the_host(service):
    now = [0.0]
    service.placement = DevicePlacement(60 * VECTOR_BYTES, lambda: now[0])
    await _compact_until(service, lambda: _copied_one(service) == [50, 0])
    before = _search(service, service.indexes[1], 10)
    # The second one is searched more often, and takes the place of the first one.
    for _ in range(5):
        _search(service, service.indexes[1])
    now[0] += RANKED_FOR_SECONDS
    await _compact_until(service, lambda: _copied_one(service) == [0, 50])
    assert _search(service, service.indexes[1], 10) == before
    assert len(_search(service, service.indexes[0])) == 50
    said = _describe_placement(service.galleries, service.placement)
    assert said.startswith("1 of 2 galleries searched on the GPU, taking 800 bytes of 960 bytes")


def test_a_gallery_keeps_its_place_for_a_while_and_one_that_is_searched_less_loses_it(monkeypatch):
    monkeypatch.setattr("service.index.placement.DELTA_ROWS", 8)
    now = [0.0]
    first, second = indexes = [_index(), _index()]
    placement = DevicePlacement(60 * VECTOR_BYTES, lambda: now[0])
    query = np.ones((1, DIMENSION), np.float32)
    chosen = []
    for searched in (first, first, first, second, second, second):
        for _ in range(2):
            searched.search(query, [None], 5)
        now[0] += RANKED_FOR_SECONDS
        chosen.append(placement.choose(dict(enumerate(indexes))))
        second.search(query, [None], 5)
        assert placement.choose(dict(enumerate(indexes))) == chosen[-1]
    assert chosen == [{0}] * 3 + [{1}] * 3


def test_a_gallery_has_the_room_that_a_larger_one_leaves_and_a_small_one_needs_none(monkeypatch):
    monkeypatch.setattr("service.index.placement.DELTA_ROWS", 8)
    smaller = _index(30)
    placement = DevicePlacement(40 * VECTOR_BYTES)
    assert placement.choose({1: _index(50), 2: _index(8), 3: smaller}) == {2, 3}
