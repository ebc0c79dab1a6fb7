"""Two processes on one record: each shows the writes of both, once and in order."""

import errno
import threading
import time
from collections import defaultdict

import pytest

from service.errors import RecordUnavailable, ServiceStopping
from service.gallery.follow import Follower
from service.record import database, sqlite
from service.record.galleries import next_version
from service.record.transaction import Reader
from service.watch.tables.alerts import ChangedAlerts, note_change
from tests.service.gallery.new_crops import new_gallery, open_record
from tests.waiting import LONGEST_SECONDS, eventually


class Seen:
    def __init__(self, record):
        self.record = record
        self.versions = defaultdict(list)
        self.read = []
        self.alerts = []
        self.shows = threading.Event()
        self.may_show = threading.Event()
        self.may_show.set()
        self.follower = Follower(
            record.database, self.apply, self.read.append, ChangedAlerts(self.announce).look
        )

    def announce(self):
        self.alerts.append(1)

    def apply(self, gallery_id):
        version = self.record.galleries.get(gallery_id).version
        self.shows.set()
        assert self.may_show.wait(LONGEST_SECONDS)
        self.versions[gallery_id].append(version)


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
    record.database.write(next_version, gallery)
    return Reader(record.database).newest_commit()


def test_changes_of_another_process_are_shown_in_order_with_the_next_look(seen, other, gallery):
    # The promise is 100 ms on a quiet machine.
    assert database.POLL_SECONDS < 0.1
    assert seen.read == [gallery]
    for _ in range(3):
        last = change(other, gallery)
        seen.follower.wait_for(gallery, last).result(timeout=LONGEST_SECONDS)
    assert seen.versions[gallery] == [1, 2, 3]


def no_notices(_path):
    raise OSError(errno.EMFILE, "too many")


@pytest.mark.parametrize("has_notices", [True, False])
def test_a_commit_after_a_pause_is_shown_without_being_waited_for(
    record, other, gallery, monkeypatch, has_notices
):
    monkeypatch.setattr(sqlite, "LOOK_SECONDS", 10 * LONGEST_SECONDS)
    if not has_notices:
        monkeypatch.setattr(sqlite, "FileWrites", no_notices)
    seen = Seen(record)
    seen.follower.start()
    for version in (1, 2):
        if has_notices:
            # The follower rests by then.
            time.sleep(1.5 * sqlite.SETTLED_SECONDS)
        change(other, gallery)
        eventually(lambda: seen.versions[gallery][-1:] == [version])  # noqa: B023
    seen.follower.close()


def test_a_follower_without_commits_rests_until_it_is_woken(record, monkeypatch):
    monkeypatch.setattr(sqlite, "SETTLED_SECONDS", 0.0)
    waits = []

    class Woken:
        def wait(self, seconds, descriptor=None):
            waits.append((seconds, descriptor is not None))
            return descriptor is not None

    if not isinstance(record.database, sqlite.SQLiteDatabase):
        pytest.skip("PostgreSQL announces commits by itself")
    assert record.database.wait_for_commits(Woken())
    assert waits == [(sqlite.LOOK_SECONDS, True)]


def test_what_this_process_commits_is_shown_once_and_before_it_goes_on(seen, record, gallery):
    for version in (1, 2, 3):
        last = change(record, gallery)
        seen.follower.show(gallery).result(timeout=LONGEST_SECONDS)
        assert seen.versions[gallery][-1] == version
    seen.follower.wait_for_all(last).result(timeout=LONGEST_SECONDS)
    assert seen.versions[gallery] == [1, 2, 3]


def test_a_thread_never_waits_for_another_one_that_shows_a_gallery(seen, record, gallery):
    seen.may_show.clear()
    change(record, gallery)
    showing = threading.Thread(target=seen.follower.show, args=(gallery,))
    showing.start()
    assert seen.shows.wait(LONGEST_SECONDS)
    change(record, gallery)
    shown = seen.follower.show(gallery)
    assert not shown.done()
    seen.may_show.set()
    shown.result(timeout=LONGEST_SECONDS)
    showing.join()
    assert seen.versions[gallery][-1] == 2


def test_alerts_of_another_process_are_announced(seen, other, gallery):
    other.database.write(note_change)
    last = Reader(other.database).newest_commit()
    seen.follower.wait_for_all(last).result(timeout=LONGEST_SECONDS)
    assert seen.alerts == [1]
    assert seen.versions == {}


def test_who_waits_while_the_service_stops_is_told_so(seen, gallery):
    waits = seen.follower.wait_for(gallery, 1000)
    seen.follower.close()
    with pytest.raises(ServiceStopping):
        waits.result(timeout=1)


def test_who_waits_for_a_record_that_goes_away_is_told_so_until_it_is_back(
    seen, record, gallery, monkeypatch
):
    def unreachable():
        raise RecordUnavailable("it stands still")

    with monkeypatch.context() as away:
        away.setattr(record.database, "data_version", unreachable)
        for waits in (seen.follower.wait_for(gallery, 1000), seen.follower.wait_for_all(1000)):
            with pytest.raises(RecordUnavailable, match="it stands still"):
                waits.result(timeout=LONGEST_SECONDS)
    last = change(record, gallery)
    seen.follower.wait_for(gallery, last).result(timeout=LONGEST_SECONDS)
    assert seen.versions[gallery] == [1]


def test_who_waits_for_a_gallery_that_another_process_deleted_meanwhile_goes_on(seen, other):
    yard = new_gallery(other, "yard")
    created = Reader(other.database).newest_change_of(yard)
    other.galleries.delete(yard)
    seen.follower.wait_for(yard, created).result(timeout=LONGEST_SECONDS)


def test_who_waits_for_all_galleries_waits_for_those_that_another_process_makes(seen, other):
    yard = new_gallery(other, "yard")
    created = Reader(other.database).newest_commit()
    seen.follower.wait_for_all(created).result(timeout=LONGEST_SECONDS)
    assert yard in seen.read
