"""A record of one process: a change is applied by the process that commits it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time

import numpy as np
import pytest

from service.engine.device import DeviceThread
from service.gallery import registry
from service.gallery.gallery import Gallery
from service.gallery.registry import DEFAULT_GALLERY, GalleryRegistry
from service.ops.threads import CALLER
from service.record.record import Record
from service.record.values import CropLabel, GallerySettings, group_code
from tests.service.gallery.new_crops import EMBEDDER, OTHER_EMBEDDER, new_crop
from tests.waiting import eventually

WAITED = 20


@pytest.fixture
def device():
    with DeviceThread() as running:
        yield running


@pytest.fixture
def record(tmp_path):
    with contextlib.closing(Record(tmp_path)) as opened:
        yield opened


@pytest.fixture
def galleries(device, record):
    # A new gallery is bound to the first.
    embedders = {EMBEDDER: 4, OTHER_EMBEDDER: 4}
    held = GalleryRegistry(record, device, embedders, lambda _: None)
    held.load()
    with contextlib.closing(held):
        yield held


def _enrolling(galleries, record, gallery, crop, embedder=EMBEDDER):
    return galleries.change("enroll", gallery, record.crops.enroll, embedder, [crop])


def _found(galleries, device):
    def look():
        index = galleries.get(DEFAULT_GALLERY).index
        found = index.search(np.ones((1, 4), np.float32), 100)
        return found.row_ids.tolist()

    rows = device.submit(look).result()
    gallery_id = galleries.get(DEFAULT_GALLERY).gallery_id
    return {crop.crop_id for crop in galleries.record.crops.by_row(gallery_id, rows).values()}


def test_reads_of_one_caller_do_not_delay_those_of_another(galleries):
    order: list[str] = []

    def read() -> None:
        order.append(CALLER.get())
        time.sleep(0.01)

    async def ask() -> None:
        asked = []
        for caller, count in (("eve", 40), ("bob", 1)):
            CALLER.set(caller)
            asked += [asyncio.create_task(galleries.read(read)) for _ in range(count)]
        await asyncio.gather(*asked)

    asyncio.run(ask())
    assert order.index("bob") < 10


def test_who_has_caught_up_sees_what_was_committed_before_and_not_shown_yet(
    galleries, record, device
):
    gallery = galleries.get(DEFAULT_GALLERY)

    async def race() -> str:
        busy = threading.Event()
        device.submit(lambda: busy.wait(WAITED))
        enrolling = asyncio.ensure_future(
            _enrolling(galleries, record, gallery, new_crop(1), OTHER_EMBEDDER)
        )
        async with asyncio.timeout(WAITED):
            while (await galleries.read(record.galleries.get, gallery.gallery_id)).crops == 0:
                await asyncio.sleep(0.01)
            catching_up = asyncio.ensure_future(galleries.catch_up())
            await asyncio.sleep(0.1)
            assert gallery.embedder == EMBEDDER
            busy.set()
            await catching_up
            shown = gallery.embedder
            await enrolling
        return shown

    assert asyncio.run(race()) == OTHER_EMBEDDER


def test_a_change_that_cannot_be_applied_is_read_from_the_record(
    galleries, record, device, monkeypatch
):
    gallery = galleries.get(DEFAULT_GALLERY)

    def fail(*_):
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(Gallery, "apply", fail)
        landed = asyncio.run(_enrolling(galleries, record, gallery, new_crop(1))).landed
    assert _found(galleries, device) == {landed[0].crop_id}
    assert gallery.version == 1
    second = asyncio.run(_enrolling(galleries, record, gallery, new_crop(2))).landed
    assert _found(galleries, device) == {landed[0].crop_id, second[0].crop_id}


class FailsTwice:
    """Reads as `read` does from the third call on."""

    def __init__(self, read):
        self.calls = 0
        self.read = read

    def __call__(self, *args):
        self.calls += 1
        if self.calls < 3:
            raise MemoryError
        return self.read(*args)


def test_a_gallery_that_cannot_be_read_again_is_tried_until_it_can(
    galleries, record, device, monkeypatch
):
    gallery = galleries.get(DEFAULT_GALLERY)

    def fail(*_):
        raise MemoryError

    crop_id = asyncio.run(_enrolling(galleries, record, gallery, new_crop(1))).landed[0].crop_id
    columns = FailsTwice(registry.read_columns)
    with monkeypatch.context() as patched:
        patched.setattr(Gallery, "apply", fail)
        patched.setattr(registry, "read_columns", columns)
        asyncio.run(galleries.change("delete-crop", gallery, record.crops.remove, [crop_id]))
    assert columns.calls == 3
    assert _found(galleries, device) == set()


def test_a_new_gallery_that_cannot_be_read_is_tried_until_it_can(galleries, record, monkeypatch):
    columns = FailsTwice(registry.read_columns)
    monkeypatch.setattr(registry, "read_columns", columns)
    asyncio.run(galleries.create("lobby", GallerySettings()))
    assert columns.calls == 3
    assert "lobby" in [listed.name for listed in galleries.all()]


def test_a_cancelled_enrolment_that_is_committed_is_shown(galleries, record, device):
    gallery = galleries.get(DEFAULT_GALLERY)

    async def cancel() -> None:
        busy = threading.Event()
        device.submit(lambda: busy.wait(WAITED))
        enrolling = asyncio.ensure_future(_enrolling(galleries, record, gallery, new_crop(1)))
        while (await galleries.read(record.galleries.get, gallery.gallery_id)).crops == 0:
            await asyncio.sleep(0.01)
        enrolling.cancel()
        await asyncio.gather(enrolling, return_exceptions=True)
        busy.set()

    asyncio.run(cancel())
    eventually(lambda: len(_found(galleries, device)) == 1)


def test_group_codes_are_those_of_the_record_and_of_no_other(galleries, record, device, tmp_path):
    def code(of):
        label = CropLabel(1, "crop", identity="Ann")
        return group_code(label, of.galleries.group_secret())

    asyncio.run(_enrolling(galleries, record, galleries.get(DEFAULT_GALLERY), new_crop(1, "Ann")))
    with contextlib.closing(
        GalleryRegistry(record, device, {EMBEDDER: 4}, lambda _: None)
    ) as again:
        again.load()
        for held in (galleries, again):
            columns = held.get(DEFAULT_GALLERY).index.columns
            assert columns.groups[columns.size - 1] == code(record) >= 0
    (tmp_path / "other").mkdir()
    with contextlib.closing(Record(tmp_path / "other")) as other:
        assert code(other) != code(record)
    assert group_code(CropLabel(7, "crop"), b"") == -8
