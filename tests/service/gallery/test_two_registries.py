"""The galleries of two processes on one record: each shows the commits of the other."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import numpy as np
import pytest

from tests.service.gallery.new_crops import new_crop
from tests.service.gallery.served_process import ServedProcess
from tests.waiting import eventually

WAITED_SECONDS = 20


class Process(ServedProcess):
    """The galleries of one process."""

    def found(self):
        """Return the stored crop of each row of a search, by crop id, or by row if it has none."""

        def search():
            found = self.gallery.index.search(np.ones((1, 4), np.float32), 100)
            return found.row_ids.tolist()

        rows = self.device.submit(search).result()
        there = self.there(rows)
        return {there[row].crop_id if row in there else row: there.get(row) for row in rows}

    def there(self, rows):
        return asyncio.run(self.galleries.find_crops(self.gallery, rows))


@pytest.fixture
def processes(tmp_path):
    with contextlib.ExitStack() as opened:
        yield tuple(opened.enter_context(contextlib.closing(Process(tmp_path))) for _ in range(2))


def test_what_another_process_does_is_shown(processes):
    one, other = processes
    first, second = one.enroll(new_crop(1), new_crop(2))
    eventually(lambda: other.found().keys() == {first, second})
    one.change(one.record.people.rename, "a", "b")
    eventually(lambda: {label.identity for label in other.found().values()} == {"b"})
    other.remove(first)
    eventually(lambda: one.found().keys() == {second})
    assert one.gallery.version == other.gallery.version == 3


def test_a_search_behind_the_record_finds_no_crop_that_was_deleted(processes):
    one, other = processes
    first, second = one.enroll(new_crop(1), new_crop(2))
    eventually(lambda: other.found().keys() == {first, second})
    rows = [crop.row_id for crop in other.found().values()]
    shown = threading.Event()
    other.device.submit(lambda: shown.wait(WAITED_SECONDS))
    try:
        one.remove(first)
        assert [crop.crop_id for crop in other.there(rows).values()] == [second]
    finally:
        shown.set()
