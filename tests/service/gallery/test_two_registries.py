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
        """Labels of everything that a search finds, by crop id."""

        def search():
            found = self.gallery.index.search(np.ones((1, 4), np.float32), 100)
            return {label.crop_id: label for label in found.labels()}

        return self.device.submit(search).result()

    def confirm(self, labels, shown):
        """What the record says of labels that were found when `shown` was shown."""
        return asyncio.run(self.galleries.confirm(self.gallery, list(labels.values()), shown))


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


def test_a_search_behind_the_record_is_told_what_was_deleted(processes):
    one, other = processes
    first, second = one.enroll(1, 2)
    eventually(lambda: other.found().keys() == {first, second})
    labels = other.found()
    version = other.galleries.shown
    shown = threading.Event()
    other.device.submit(lambda: shown.wait(WAITED_SECONDS))
    try:
        one.remove(first)
        assert other.confirm(labels, version) == {labels[first].row_id}
    finally:
        shown.set()


def test_a_search_that_began_before_a_deletion_is_told_of_it_also_once_that_is_shown(processes):
    one, other = processes
    first, second = one.enroll(1, 2)
    eventually(lambda: other.found().keys() == {first, second})
    labels = other.found()
    version = other.galleries.shown
    one.remove(first)
    eventually(lambda: other.galleries.shown == other.record.database.data_version())
    assert other.found().keys() == {second}
    assert other.confirm(labels, version) == {labels[first].row_id}
