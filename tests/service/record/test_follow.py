"""Two processes on one record: each sees the other's writes, once and in order."""

from collections import defaultdict

import pytest

from service.errors import ServiceStopping
from service.gallery import follow
from service.gallery.follow import Follower
from service.record.galleries import next_version
from service.record.transaction import Reader
from tests.service.gallery.new_crops import new_gallery, open_record
from tests.waiting import LONGEST_SECONDS


class Seen:
    def __init__(self, record):
        self.versions = defaultdict(list)
        self.read = []
        self.follower = Follower(record.database, self.apply, self.read.append)

    def apply(self, gallery_id, changes):
        self.versions[gallery_id] += [change.version for change in changes]


@pytest.fixture
def other(record, tmp_path):
    with open_record(tmp_path) as opened:
        yield opened


@pytest.fixture
def seen(record, gallery):
    watching = Seen(record)
    watching.follower.start()
    yield watching
    watching.follower.close()


def change(record, gallery):
    record.database.write(next_version, gallery, "added", [1])
    return Reader(record.database).feeds()[gallery].seq


def test_changes_of_another_process_are_shown_in_order_with_the_next_look(seen, other, gallery):
    # The promise is 100 ms on a quiet machine.
    assert follow.POLL_SECONDS < 0.1
    assert sorted(seen.read) == [0, gallery]
    for _ in range(3):
        last = change(other, gallery)
        seen.follower.wait_for(gallery, last).result(timeout=LONGEST_SECONDS)
    assert seen.versions[gallery] == [1, 2, 3]


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
    watching.follower.wait_for(gallery, last).result(timeout=LONGEST_SECONDS)
    watching.follower.close()
    assert watching.versions[gallery] == []
    assert watching.read.count(gallery) == 2


def test_who_waits_while_the_service_stops_is_told_so(seen, gallery):
    waits = seen.follower.wait_for(gallery, 1000)
    seen.follower.close()
    with pytest.raises(ServiceStopping):
        waits.result(timeout=1)


def test_who_waits_for_a_gallery_that_another_process_deleted_meanwhile_goes_on(seen, other):
    yard = new_gallery(other, "yard")
    created = Reader(other.database).feeds()[yard].seq
    other.galleries.delete(yard)
    seen.follower.wait_for(yard, created).result(timeout=LONGEST_SECONDS)
