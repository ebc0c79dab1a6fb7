"""A record of one process: who commits applies, and can wait until it is applied."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import pytest

from service.engine.device import DeviceThread
from service.gallery.galleries import DEFAULT_GALLERY, Galleries
from service.record.record import open_sqlite
from tests.service.gallery.new_crops import EMBEDDER, OTHER_EMBEDDER, new_crop
from tests.service.gallery.replicas import Learned

WAITED = 20


@pytest.fixture
def device():
    with contextlib.closing(DeviceThread()) as running:
        yield running


@pytest.fixture
def galleries(device, tmp_path):
    store = open_sqlite(tmp_path / "record")
    # A new gallery is bound to the first.
    held = Galleries(store, device, {EMBEDDER: 4, OTHER_EMBEDDER: 4})
    held.load(Learned())
    with contextlib.closing(held):
        yield held


def test_who_has_caught_up_sees_what_was_committed_before_and_not_shown_yet(galleries, device):
    async def race() -> str:
        busy = threading.Event()
        device.submit(lambda: busy.wait(WAITED))
        enrolling = asyncio.ensure_future(
            galleries.enroll(DEFAULT_GALLERY, OTHER_EMBEDDER, [new_crop(1)])
        )
        number = galleries.get(DEFAULT_GALLERY).gallery_id
        async with asyncio.timeout(WAITED):
            while (await galleries.read(lambda: galleries.store.galleries.get(number))).crops == 0:
                await asyncio.sleep(0.01)
            catching_up = asyncio.ensure_future(galleries.catch_up())
            await asyncio.sleep(0.1)
            assert galleries.get(DEFAULT_GALLERY).embedder == EMBEDDER
            busy.set()
            await catching_up
            shown = galleries.get(DEFAULT_GALLERY).embedder
            await enrolling
        return shown

    assert asyncio.run(race()) == OTHER_EMBEDDER
