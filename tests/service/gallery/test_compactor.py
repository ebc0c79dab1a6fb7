"""Indexes are kept in shape while they serve, and nothing waits for that."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch

from service.engine.device import DeviceThread
from service.record.records import CropLabel, IndexedCrop
from service.search.compaction import Compaction, Compactor
from service.search.gpu import DeviceVectors, device_vectors
from service.search.index import GalleryIndex, IndexLimits

DIMENSION = 4


@pytest.fixture
def device():
    thread = DeviceThread()
    yield thread
    thread.shutdown()


def _index() -> GalleryIndex:
    index = GalleryIndex(DIMENSION, IndexLimits(deleted_rows=8))
    vectors = np.random.default_rng(0).normal(size=(50, DIMENSION)).astype(np.float32)
    index.add(
        IndexedCrop(CropLabel(row_id, f"crop-{row_id}", None, None, None), vector)
        for row_id, vector in enumerate(vectors, 1)
    )
    return index


def _remove_and_schedule(device, compactor, index, row_ids):
    def change():
        index.remove(row_ids)
        compactor.schedule_if_needed(index)

    device.submit(change).result()


def _wait(condition):
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until, "it never happened"
        time.sleep(0.01)


def test_an_index_with_many_deleted_crops_is_rewritten_after_the_write(device):
    compactor, index = Compactor(device), _index()
    _remove_and_schedule(device, compactor, index, range(1, 31))
    _wait(lambda: index.table.size == 20)
    _remove_and_schedule(device, compactor, index, range(31, 46))
    _wait(lambda: index.table.size == 5)
    compactor.close()


def test_several_galleries_are_rewritten_one_after_another(device):
    compactor, indexes = Compactor(device), [_index() for _ in range(3)]
    for index in indexes:
        _remove_and_schedule(device, compactor, index, range(1, 31))
    _wait(lambda: all(index.table.size == 20 for index in indexes))
    compactor.close()


def test_work_goes_on_and_the_service_closes_while_an_index_is_being_rewritten(device, monkeypatch):
    begun, release = threading.Event(), threading.Event()
    build = Compaction.build

    def slow(plan, between):
        begun.set()
        release.wait(20)
        return build(plan, between)

    # A gallery that takes seconds to rewrite would make this test as slow.
    monkeypatch.setattr(Compaction, "build", slow)
    monkeypatch.setattr("service.search.compaction.CLOSING_SECONDS", 0.05)
    compactor, index = Compactor(device), _index()
    _remove_and_schedule(device, compactor, index, range(1, 31))
    assert begun.wait(20)
    query = np.ones((1, DIMENSION), np.float32)
    assert len(device.submit(lambda: index.search(query, 50)).result().rows) == 20
    compactor.close()
    release.set()
    device.shutdown()
    assert index.table.size == 50


def test_an_index_that_cannot_be_rewritten_goes_on_as_it_is(device, monkeypatch, caplog):
    def full(plan, between):
        raise MemoryError

    # Running out of memory for real would take the machine along.
    monkeypatch.setattr(Compaction, "build", full)
    compactor, index = Compactor(device), _index()
    _remove_and_schedule(device, compactor, index, range(1, 31))
    _wait(lambda: "too little memory" in caplog.text)
    query = np.ones((1, DIMENSION), np.float32)
    found = device.submit(lambda: index.search(query, 50)).result()
    assert sorted(index.table.row_ids[found.rows]) == list(range(31, 51))
    compactor.close()


def test_vectors_go_to_the_device_with_the_first_write(device):
    compactor = Compactor(device, lambda size: DeviceVectors(size, torch.device("cpu")))
    index = _index()
    _remove_and_schedule(device, compactor, index, [1])
    assert index.on_device
    query = np.ones((1, DIMENSION), np.float32)
    assert len(device.submit(lambda: index.search(query, 10)).result().rows) == 10
    compactor.close()


def test_on_a_processor_vectors_stay_in_the_one_memory_there_is():
    assert device_vectors(torch.device("cpu")) is None
    assert device_vectors(torch.device("cuda")) is not None
