"""Two processes on one record: each sees the other's writes, once and in order."""

from __future__ import annotations

import threading
import time
from collections import defaultdict

import pytest

from service.errors import ServiceStopping
from service.gallery import follow
from service.gallery.follow import Follower
from service.record.galleries import next_version
from service.record.record import Record
from service.record.transaction import Reader
from service.record.values import GallerySettings

EMBEDDER = "a" * 64


class Seen:
    """A follower's news, by gallery."""

    def __init__(self, record):
        self.versions = defaultdict(list)
        self.read = []
        self.fails = 0
        self.follower = Follower(record.database, self.apply, self.reread)

    def apply(self, gallery_id, changes):
        if self.fails:
            self.fails -= 1
            raise ValueError("cannot be applied")
        self.versions[gallery_id] += [change.version for change in changes]

    def reread(self, gallery_id):
        self.read.append(gallery_id)


@pytest.fixture
def other(record, tmp_path):
    """Return the record as another process has it open."""
    opened = Record(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def seen(record, gallery):
    watching = Seen(record)
    watching.follower.start()
    yield watching
    watching.follower.close()


def change(record, gallery):
    """Commit a change of a gallery; answer its number in the feed."""
    record.database.write(next_version, gallery, "added", [1])
    return Reader(record.database).feeds()[gallery].seq


def test_every_gallery_is_read_at_the_start(seen, gallery):
    assert sorted(seen.read) == [0, gallery]


def test_changes_of_another_process_are_shown_in_order_within_100_ms(seen, other, gallery):
    for _ in range(3):
        began = time.monotonic()
        last = change(other, gallery)
        seen.follower.wait_for(gallery, last).result(timeout=5)
        # The promise is 100 ms on a quiet machine.
        assert time.monotonic() - began < 1.0
    assert seen.versions[gallery] == [1, 2, 3]


def test_writers_of_two_processes_leave_no_gap(seen, record, other, gallery):
    def write(through):
        for _ in range(20):
            change(through, gallery)
            seen.follower.wait_for(gallery, 0)

    writers = [threading.Thread(target=write, args=(through,)) for through in (record, other)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    seen.follower.wait_for(gallery, 40).result(timeout=10)
    assert seen.versions[gallery] == list(range(1, 41))


def test_a_gallery_that_another_process_creates_and_deletes_comes_and_goes(seen, other):
    created = other.galleries.create("door", EMBEDDER, GallerySettings()).gallery_id
    seen.follower.wait_for(created, 0).result(timeout=5)
    assert seen.read.count(created) == 1
    waits = seen.follower.wait_for(created, 10)
    other.galleries.delete(created)
    assert waits.result(timeout=5) is None
    assert seen.read.count(created) == 2


def test_a_change_that_cannot_be_applied_is_made_up_by_reading_the_gallery(seen, other, gallery):
    seen.fails = 1
    seen.follower.wait_for(gallery, change(other, gallery)).result(timeout=5)
    assert seen.read.count(gallery) == 2
    seen.follower.wait_for(gallery, change(other, gallery)).result(timeout=5)
    assert seen.versions[gallery] == [2]


def test_changes_that_are_kept_no_more_are_made_up_by_reading_the_gallery(
    record, gallery, monkeypatch
):
    monkeypatch.setattr("service.record.transaction.KEPT_CHANGES", 5)
    monkeypatch.setattr("service.record.transaction.TRIM_EVERY", 10)
    watching = Seen(record)
    monkeypatch.setattr(follow, "POLL_SECONDS", 60.0)
    watching.follower.start()
    for _ in range(20):
        last = change(record, gallery)
    watching.follower.wait_for(gallery, last).result(timeout=5)
    watching.follower.close()
    assert watching.versions[gallery] == []
    assert watching.read.count(gallery) == 2


def test_who_waits_while_the_service_stops_is_told_so(seen, gallery):
    waits = seen.follower.wait_for(gallery, 1000)
    seen.follower.close()
    with pytest.raises(ServiceStopping):
        waits.result(timeout=1)
