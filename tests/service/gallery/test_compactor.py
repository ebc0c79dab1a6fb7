"""Indexes are kept in shape while they serve, and nothing waits for that."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from service.engine.device import DeviceThread
from service.ops.health import BlockingPools
from service.record.values import CropLabel, IndexedCrop
from service.search import compaction
from service.search.compaction import compact_indexes
from service.search.gpu import DeviceVectors
from service.search.index import Compaction
from tests.service.filled_index import FilledIndex

DIMENSION = 4


class Service:
    """Some galleries and the threads that compaction uses."""

    def __init__(self, galleries, device="cpu"):
        indexes = [_index() for _ in range(galleries)]
        held = [
            SimpleNamespace(gallery_id=number, name=str(number), own_index=index)
            for number, index in enumerate(indexes)
        ]
        self.indexes = indexes
        self.galleries = SimpleNamespace(all=lambda: held)
        self.device = DeviceThread()
        self.pools = BlockingPools()
        networks = SimpleNamespace(device=device)
        self.model = SimpleNamespace(networks=networks)

    def search(self, index, limit=50):
        query = np.ones((1, DIMENSION), np.float32)
        found = self.device.submit(index.search, query, limit).result(5)
        return sorted(found.row_ids.tolist())

    async def compact_until(self, condition):
        working = asyncio.create_task(compact_indexes(self))
        try:
            async with asyncio.timeout(20):
                while not condition():
                    await asyncio.sleep(0.01)
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)

    def close(self):
        self.pools.shutdown()
        self.device.shutdown()


@pytest.fixture
def open_service(monkeypatch):
    monkeypatch.setattr(compaction, "LOOK_EVERY_SECONDS", 0.01)
    for name in ("DELETED_ROWS", "DELTA_ROWS"):
        monkeypatch.setattr(f"service.search.index.{name}", 8)
    opened = []

    def open_one(*args):
        opened.append(Service(*args))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


def _index() -> FilledIndex:
    index = FilledIndex(DIMENSION)
    vectors = np.random.default_rng(0).normal(size=(50, DIMENSION)).astype(np.float32)
    index.fill(
        IndexedCrop(CropLabel(row_id, f"crop-{row_id}", None, None, None), vector)
        for row_id, vector in enumerate(vectors, 1)
    )
    return index


def test_indexes_with_many_deleted_crops_are_rewritten(open_service):
    service = open_service(3)

    async def remove_twice():
        for removed, left in ((range(1, 31), 20), (range(31, 46), 5)):
            for index in service.indexes:
                await service.device.run(index.remove, removed)
            await service.compact_until(
                lambda left=left: all(index.table.size == left for index in service.indexes)
            )

    asyncio.run(remove_twice())


def test_work_goes_on_and_the_service_closes_while_an_index_is_being_rewritten(
    open_service, monkeypatch
):
    service = open_service(1)
    (index,) = service.indexes
    begun = threading.Event()
    release = threading.Event()
    build = Compaction.build

    def slow(plan):
        begun.set()
        release.wait(20)
        return build(plan)

    # A gallery that takes seconds to rewrite would make this test as slow.
    monkeypatch.setattr(Compaction, "build", slow)
    index.remove(range(1, 31))
    asyncio.run(service.compact_until(begun.is_set))
    assert len(service.search(index)) == 20
    release.set()
    service.close()
    assert index.table.size == 50


def test_an_index_that_cannot_be_rewritten_goes_on_as_it_is_and_holds_up_no_other(
    open_service, monkeypatch, caplog
):
    service = open_service(2)
    one, other = service.indexes
    build = Compaction.build

    def full(plan):
        if plan.table is one.table:
            raise MemoryError
        return build(plan)

    # Running out of memory for real would take the machine along.
    monkeypatch.setattr(Compaction, "build", full)
    for index in service.indexes:
        index.remove(range(1, 31))
    again = []

    def rewritten_twice():
        if other.table.size == 20 and not again:
            again.append(service.device.submit(other.remove, range(31, 46)).result(5))
        return other.table.size == 5

    asyncio.run(service.compact_until(rewritten_twice))
    assert "gallery 0: its index stays as it is" in caplog.text
    assert service.search(one) == list(range(31, 51))


def test_vectors_are_copied_to_the_device_and_without_room_are_searched_on_the_host(
    open_service, monkeypatch, caplog
):
    service = open_service(1, "meta")
    (index,) = service.indexes
    before = service.search(index, 10)
    room = []

    def copy(self, _, *args):
        if not room:
            raise torch.OutOfMemoryError
        whole(self, "cpu", *args)

    whole = DeviceVectors.__init__
    # No test machine has a device.
    monkeypatch.setattr(DeviceVectors, "__init__", copy)
    asyncio.run(service.compact_until(lambda: "its index stays as it is" in caplog.text))
    assert service.search(index, 10) == before
    room.append(True)
    copied = index.bytes + 50 * DIMENSION * 4
    asyncio.run(service.compact_until(lambda: index.bytes == copied))
    assert service.search(index, 10) == before


def test_on_a_processor_vectors_stay_in_the_one_memory_there_is(open_service):
    service = open_service(2)
    before = service.indexes[0].bytes
    service.indexes[1].remove(range(1, 31))
    asyncio.run(service.compact_until(lambda: service.indexes[1].table.size == 20))
    assert service.indexes[0].bytes == before
