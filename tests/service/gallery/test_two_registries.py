"""The galleries of two processes on one record: each shows what the other has committed."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import numpy as np
import pytest

from service.engine.device import DeviceThread
from service.gallery.registry import DEFAULT_GALLERY, GalleryRegistry
from service.record.record import Record
from tests.service.gallery.new_crops import EMBEDDER, new_crop
from tests.waiting import eventually

WAITED_SECONDS = 20


class Process:
    """The galleries of one process."""

    def __init__(self, folder, opened):
        self.record = opened.enter_context(contextlib.closing(Record(folder)))
        self.device = opened.enter_context(DeviceThread())
        held = GalleryRegistry(self.record, self.device, {EMBEDDER: 4}, lambda _: None)
        held.load()
        self.galleries = opened.enter_context(contextlib.closing(held))

    @property
    def gallery(self):
        return self.galleries.get(DEFAULT_GALLERY)

    def change(self, write, *args):
        return asyncio.run(self.galleries.change("any", self.gallery, write, *args))

    def enroll(self, *numbers):
        crops = [new_crop(number) for number in numbers]
        landed = self.change(self.record.crops.enroll, EMBEDDER, crops).landed
        return [image.crop_id for image in landed]

    def remove(self, crop_id):
        self.change(self.record.crops.remove, [crop_id])

    def found(self):
        """What the record has of all that a search finds, by crop id, or else by row."""

        def search():
            found = self.gallery.index.search(np.ones((1, 4), np.float32), 100)
            return found.row_ids.tolist()

        rows = self.device.submit(search).result()
        there = self.there(rows)
        return {there[row].crop_id if row in there else row: there.get(row) for row in rows}

    def there(self, rows):
        """What the record has of crops that were found."""
        return asyncio.run(self.galleries.find_crops(self.gallery, rows))


@pytest.fixture
def processes(tmp_path):
    with contextlib.ExitStack() as opened:
        yield Process(tmp_path, opened), Process(tmp_path, opened)


def test_what_another_process_does_is_shown(processes):
    one, other = processes
    first, second = one.enroll(1, 2)
    eventually(lambda: other.found().keys() == {first, second})
    one.change(one.record.identities.rename, "a", "b")
    eventually(lambda: {label.identity for label in other.found().values()} == {"b"})
    other.remove(first)
    eventually(lambda: one.found().keys() == {second})
    assert one.gallery.version == other.gallery.version == 3


def test_a_search_behind_the_record_finds_no_crop_that_was_deleted(processes):
    one, other = processes
    first, second = one.enroll(1, 2)
    eventually(lambda: other.found().keys() == {first, second})
    rows = [crop.row_id for crop in other.found().values()]
    shown = threading.Event()
    other.device.submit(lambda: shown.wait(WAITED_SECONDS))
    try:
        one.remove(first)
        assert [crop.crop_id for crop in other.there(rows).values()] == [second]
    finally:
        shown.set()
