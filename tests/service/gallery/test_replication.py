"""Two processes on one record: what one writes the other shows, whatever becomes of the record."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from service.gallery.replication import ReplicatedGalleries

from service.errors import RecordUnavailable, UnknownGallery
from service.gallery import replication
from service.gallery.registry import DEFAULT_GALLERY
from service.jobs.runner import list_jobs
from service.ops.health import STOPPED
from service.record import crops
from service.record.transaction import ChangesLost
from service.record.values import CropLabel, GallerySettings
from service.search.index_files import IndexFolder
from tests.service.gallery.new_crops import EMBEDDER, OTHER_EMBEDDER, new_crop
from tests.service.gallery.replicas import Replica
from tests.service.redis_server import redis_server
from tests.waiting import eventually

HERE = DEFAULT_GALLERY


@pytest.fixture
def opened(redis_record):
    """Opens replicas on one emptied Redis."""
    redis_record.ask("FLUSHALL")
    with contextlib.ExitStack() as held:

        def open_replica(*embedders: str, **options) -> Replica:
            replica = Replica(redis_record.url, *embedders, **options)
            return held.enter_context(contextlib.closing(replica))

        yield open_replica


@pytest.fixture
def pair(opened):
    return opened(), opened()


def _replication_silent_seconds(replica):
    (check,) = (one for one in replica.galleries.health_checks if one.name == "replication")
    return check.silent_seconds()


def _settings(replica, name):
    return replica.galleries.get(name).settings


def test_what_one_process_does_the_other_shows(pair):
    one, other = pair
    first, second, third = one.enroll(HERE, 1, 2, 3)
    eventually(lambda: other.shown(HERE) == {first: "a", second: "a", third: "a"})
    version = other.remove(HERE, second)
    asyncio.run(
        other.galleries.change(
            "relabel", other.galleries.get(HERE), other.store.identities.rename, "a", "b"
        )
    )
    eventually(lambda: one.shown(HERE) == {first: "b", third: "b"})
    assert one.version(HERE) == version + 1


def test_what_a_process_has_acknowledged_it_shows_itself(opened):
    replica = opened()
    for number in range(5):
        crop_id = replica.enroll(HERE, number)[0]
        assert crop_id in replica.shown(HERE)
        replica.remove(HERE, crop_id)
        assert crop_id not in replica.shown(HERE)
        assert replica.version(HERE) == 2 * (number + 1)


def test_jobs_are_listed_of_a_gallery_that_was_just_created_elsewhere(pair):
    one, other = pair
    runtime = SimpleNamespace(galleries=other.galleries, record=other.store)
    for name in ("lobby", "yard", "gate", "stairs", "lift"):
        asyncio.run(one.galleries.create(name, GallerySettings()))
        assert asyncio.run(list_jobs(runtime, name, 10)) == []


def test_galleries_come_change_and_go_elsewhere(pair):
    one, other = pair
    asyncio.run(one.galleries.create("lobby", GallerySettings()))
    assert asyncio.run(other.galleries.find("lobby")).name == "lobby"
    changes = {"retention_days": 30, "calibration": "off"}
    lobby = other.galleries.get("lobby")
    write = other.store.galleries.change
    asyncio.run(other.galleries.change("change-gallery", lobby, write, changes))
    eventually(lambda: _settings(one, "lobby") == GallerySettings(30, "off"))
    own = one.galleries.get("lobby")
    asyncio.run(one.galleries.change("delete-gallery", own, one.store.galleries.delete))
    with pytest.raises(UnknownGallery, match="lobby"):
        asyncio.run(other.enrolling(lobby, [new_crop(1)]))
    eventually(lambda: all(gallery.name != "lobby" for gallery in other.galleries.all()))
    asyncio.run(other.galleries.create("lobby", GallerySettings(7)))
    eventually(lambda: "lobby" in [gallery.name for gallery in one.galleries.all()])
    assert _settings(one, "lobby").retention_days == 7


def test_a_restore_and_another_embedder_are_followed(opened):
    one = opened(EMBEDDER, OTHER_EMBEDDER)
    other = opened(OTHER_EMBEDDER)
    foreign = opened()
    kept, dropped = one.enroll(HERE, 1, 2)
    store = one.store
    gallery = one.galleries.get(HERE)
    eventually(lambda: other.galleries.get(HERE).needs_reindex)
    with store.crops.archive(gallery.gallery_id) as archive:
        crops = list(archive.crops)
    calibrated = foreign.calibrated.count(HERE)
    asyncio.run(one.galleries.change("restore", gallery, store.crops.replace, EMBEDDER, crops[:1]))
    assert one.shown(HERE) == {kept: "a"}
    eventually(lambda: foreign.shown(HERE) == {kept: "a"})
    assert foreign.calibrated.count(HERE) > calibrated
    store.staged.begin(gallery.gallery_id, OTHER_EMBEDDER)
    row = store.staged.missing(gallery.gallery_id, 0, 1)[0].row_id
    store.staged.add(gallery.gallery_id, [(row, np.ones(4, np.float32))])
    asyncio.run(one.galleries.change("reindex", gallery, store.staged.switch))
    eventually(lambda: not other.galleries.get(HERE).needs_reindex)
    assert other.shown(HERE) == {kept: "a"}
    eventually(lambda: foreign.galleries.get(HERE).needs_reindex)
    assert dropped not in other.shown(HERE)


def test_what_another_process_learnt_is_told(pair):
    one, other = pair
    number = one.galleries.get(HERE).gallery_id
    calibrated = len(other.calibrated)
    assert one.store.calibrations.publish(number, "mnet:a", "{}", 0)
    eventually(lambda: len(other.calibrated) > calibrated)


def test_a_process_that_begins_amid_writes_misses_none(opened):
    one = opened()
    stop = threading.Event()
    landed: list[str] = []
    numbers = itertools.count()

    def write() -> None:
        while not stop.is_set():
            landed.extend(one.enroll(HERE, *itertools.islice(numbers, 20)))
            one.remove(HERE, landed.pop(len(landed) // 2))

    writing = threading.Thread(target=write)
    writing.start()
    try:
        begun = [opened() for _ in range(3)]
    finally:
        stop.set()
        writing.join(30)
    for replica in begun:
        eventually(lambda replica=replica: replica.version(HERE) == one.version(HERE))
        assert replica.shown(HERE).keys() == set(landed)


def test_a_process_begins_although_the_record_fails_while_it_is_read(opened, monkeypatch):
    (crop_id,) = opened().enroll(HERE, 1)
    fails = iter([RecordUnavailable("it does not answer"), ChangesLost("it was restarted")])
    read = ReplicatedGalleries.read_gallery

    def read_at_last(self, gallery_id):
        for failure in fails:
            raise failure
        return read(self, gallery_id)

    monkeypatch.setattr(replication, "LONGEST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(ReplicatedGalleries, "read_gallery", read_at_last)
    assert opened().shown(HERE) == {crop_id: "a"}


def test_a_process_that_has_begun_shows_what_happened_while_it_was_read(opened, monkeypatch):
    one = opened()
    enrolled = one.enroll(HERE, 1)
    read = ReplicatedGalleries.read_gallery

    def read_slowly(self, gallery_id):
        show = read(self, gallery_id)
        for number in range(2, 42):
            enrolled.extend(one.enroll(HERE, number))
        return show

    monkeypatch.setattr(ReplicatedGalleries, "read_gallery", read_slowly)
    # What is applied after the beginning does not count.
    monkeypatch.setattr(ReplicatedGalleries, "_run", lambda _: None)
    assert set(opened().shown(HERE)) == set(enrolled)


def test_a_crop_that_is_renamed_while_another_process_reads_it_is_shown_there(pair, monkeypatch):
    one, other = pair
    read = crops.read_contents
    renamed = []

    def rename_first(reader, at, found, **options):
        # The first process reads what it wrote in the same way, and must not wait for itself.
        if reader.engine is other.store.engine and found and not renamed:
            renamed.append(found[0].crop_id)
            gallery = one.galleries.get(HERE)
            write = one.store.crops.change
            change = one.galleries.change("relabel", gallery, write, renamed, {"identity": "b"})
            asyncio.run(change)
        return read(reader, at, found, **options)

    monkeypatch.setattr(crops, "read_contents", rename_first)
    landed = one.enroll(HERE, 1, 2)
    eventually(lambda: renamed and other.version(HERE) == one.version(HERE))
    assert other.shown(HERE) == one.shown(HERE)
    assert other.shown(HERE) == {crop: "b" if crop in renamed else "a" for crop in landed}


def _reading_slowly(replica, monkeypatch):
    """Changes from now on reach this replica only once the returned event is set."""
    waits = threading.Event()
    go = threading.Event()
    after = replica.store.changes.after

    def held(*arguments):
        found = after(*arguments)
        waits.set()
        go.wait(20)
        return found

    monkeypatch.setattr(replica.store.changes, "after", held)
    assert waits.wait(10)
    return go


def _label(replica, crop_id) -> CropLabel:
    label, _ = replica.galleries.get(HERE).index.find(crop_id)
    return label


def test_a_search_behind_the_record_is_told_what_was_deleted(pair, monkeypatch):
    one, other = pair
    first, second = one.enroll(HERE, 1, 2)
    eventually(lambda: len(other.shown(HERE)) == 2)
    go = _reading_slowly(other, monkeypatch)
    one.remove(HERE, first)
    assert first in other.shown(HERE)
    labels = [_label(other, crop_id) for crop_id in (first, second)]
    said = asyncio.run(other.galleries.confirm(other.galleries.get(HERE), labels))
    assert (said.gone, said.stale) == ({labels[0].row_id}, False)
    assert asyncio.run(other.query(HERE)) == ({second}, False)
    go.set()
    eventually(lambda: first not in other.shown(HERE))


def test_a_search_behind_a_restore_goes_on_and_says_so(pair, monkeypatch):
    one, other = pair
    first, second = one.enroll(HERE, 1, 2)
    eventually(lambda: len(other.shown(HERE)) == 2)
    go = _reading_slowly(other, monkeypatch)
    one.remove(HERE, first)
    number = one.galleries.get(HERE).gallery_id
    with one.store.crops.archive(number) as archive:
        crops = list(archive.crops)
    one.store.crops.replace(number, EMBEDDER, crops)
    labels = [_label(other, crop_id) for crop_id in (first, second)]
    said = asyncio.run(other.galleries.confirm(other.galleries.get(HERE), labels))
    assert (said.gone, said.stale) == ({labels[0].row_id}, True)
    go.set()
    eventually(lambda: other.shown(HERE).keys() == {second})


def test_who_missed_more_than_is_kept_reads_everything_again(pair, monkeypatch):
    one, other = pair
    first, second = one.enroll(HERE, 1, 2)
    eventually(lambda: len(other.shown(HERE)) == 2)
    go = _reading_slowly(other, monkeypatch)
    one.remove(HERE, first)
    asyncio.run(one.galleries.create("lobby", GallerySettings()))
    one.store.changes.command("XTRIM", "gmn:changes", "MAXLEN", 0)
    go.set()
    eventually(lambda: other.shown(HERE).keys() == {second})
    eventually(lambda: other.galleries.record_state.state == "in_step")
    assert other.galleries.get("lobby").version == 0
    assert one.enroll(HERE, 3)[0] in one.shown(HERE)
    eventually(lambda: len(other.shown(HERE)) == 2)


def test_while_everything_is_read_again_searches_are_stale_and_writes_go_on(pair, monkeypatch):
    one, other = pair
    first = one.enroll(HERE, 1)[0]
    eventually(lambda: first in other.shown(HERE))
    gallery = other.galleries.get(HERE)
    label = _label(other, first)
    monkeypatch.setattr(replication, "LONGEST_SILENCE_SECONDS", 0.2)
    read = other.store.crops.vectors
    go = threading.Event()

    def read_slowly(number):
        go.wait(10)
        return read(number)

    monkeypatch.setattr(other.store.crops, "vectors", read_slowly)
    waiting = _reading_slowly(other, monkeypatch)
    assert one.store.calibrations.publish(gallery.gallery_id, "mnet:a", "{}", 0)
    one.store.changes.command("XTRIM", "gmn:changes", "MAXLEN", 0)
    waiting.set()
    eventually(lambda: other.galleries.record_state.state == "reading_again")
    # Longer than a silent record is waited for.
    time.sleep(1.0)
    assert other.galleries.record_state.state == "reading_again"
    assert asyncio.run(other.galleries.confirm(gallery, [label])).stale
    threading.Timer(0.2, go.set).start()
    assert other.enroll(HERE, 2)[0] in other.shown(HERE)
    eventually(lambda: other.galleries.record_state.state == "in_step")


@pytest.mark.parametrize("lost", [False, True])
def test_a_replica_goes_on_from_its_own_files_while_the_changes_since_are_kept(
    opened, tmp_path, monkeypatch, lost
):
    files = IndexFolder(tmp_path, 1, 0)
    one = opened(files=files)
    first, second = one.enroll(HERE, 1, 2)
    other = opened(files=files)
    for replica in (one, other):
        index = replica.galleries.get(HERE).index
        if plan := replica.device.submit(index.compaction).result():
            replica.device.submit(index.replace, plan.build()).result()
        replica.galleries.save_index(replica.galleries.get(HERE))
    assert len(list(tmp_path.glob("1/*/columns.npz"))) == 2
    other.galleries.close()
    other.galleries.get(HERE).index.table.files.close()
    other.galleries.get(HERE).index.clear()
    one.remove(HERE, first)
    (third,) = one.enroll(HERE, 3)
    if lost:
        one.store.changes.command("XTRIM", "gmn:changes", "MAXLEN", 0)
    read = crops.Crops.vectors
    filled = []
    monkeypatch.setattr(
        crops.Crops, "vectors", lambda self, number: filled.append(number) or read(self, number)
    )
    again = opened(files=files)
    assert again.shown(HERE).keys() == {second, third}
    assert bool(filled) == lost
    assert again.galleries.get(HERE).index.table.files
    (fourth,) = one.enroll(HERE, 4)
    eventually(lambda: again.shown(HERE).keys() == {second, third, fourth})


def test_a_record_that_was_emptied_is_not_taken_for_what_is_there(redis_record, pair):
    one, other = pair
    first = one.enroll(HERE, 1)[0]
    eventually(lambda: first in other.shown(HERE))
    redis_record.ask("FLUSHALL")
    eventually(lambda: not other.galleries.record_state.up)
    with pytest.raises(RecordUnavailable):
        other.enroll(HERE, 2)
    assert first in other.shown(HERE)


def test_another_record_in_the_place_of_the_first_is_read(redis_record, pair, opened):
    one, other = pair
    first = one.enroll(HERE, 1)[0]
    eventually(lambda: first in other.shown(HERE))
    redis_record.ask("FLUSHALL")
    begun = opened()
    new = begun.enroll(HERE, 7)[0]
    for replica in (one, other):
        eventually(lambda replica=replica: replica.shown(HERE).keys() == {new})
        eventually(lambda replica=replica: replica.galleries.record_state.state == "in_step")
    assert one.enroll(HERE, 8)[0] in one.shown(HERE)


def test_an_index_that_cannot_be_what_the_record_was_is_read_again(pair):
    one, other = pair
    first, second, third = one.enroll(HERE, 1, 2, 3)
    eventually(lambda: len(other.shown(HERE)) == 3)
    gallery = other.galleries.get(HERE)
    row_id = _label(other, second).row_id
    other.device.submit(lambda: gallery.index.remove([row_id])).result()
    number = gallery.gallery_id
    rows = str(row_id)
    # The change that once added it is told again.
    database = one.store.changes
    sequence = database.command("INCR", "gmn:seq")
    fields = ("kind", "added", "gallery", number, "version", 1, "rows", rows)
    database.command("XADD", "gmn:changes", f"{sequence}-0", *fields)
    eventually(lambda: other.shown(HERE).keys() == {first, second, third})


def test_a_change_that_comes_while_a_process_stops_reads_no_gallery_again(pair, monkeypatch):
    one, other = pair
    asked = threading.Event()
    stopping = threading.Event()
    read = []
    after = other.store.changes.after

    def answers_late(*what):
        asked.set()
        stopping.wait(20)
        return after(*what)

    monkeypatch.setattr(other.store.changes, "after", answers_late)
    assert asked.wait(20)
    one.enroll(HERE, 1)
    monkeypatch.setattr(other.galleries, "read_gallery", read.append)
    monkeypatch.setattr(other.galleries._confirmers, "shutdown", stopping.set)
    other.galleries.close()
    assert read == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_process_that_follows_no_more_is_not_alive(opened, monkeypatch):
    replica = opened()
    assert _replication_silent_seconds(replica) < 5.0

    def end(*_):
        raise SystemExit

    monkeypatch.setattr(replica.store.changes, "after", end)
    eventually(lambda: _replication_silent_seconds(replica) == STOPPED)


def test_a_redis_that_stops_and_is_killed_is_followed_again_when_it_is_back():
    with redis_server() as server, contextlib.ExitStack() as held:
        one, other = (held.enter_context(contextlib.closing(Replica(server.url))) for _ in range(2))
        first = one.enroll(HERE, 1)[0]
        eventually(lambda: first in other.shown(HERE))
        gallery = other.galleries.get(HERE)
        label = _label(other, first)
        server.process.send_signal(signal.SIGSTOP)
        begun = time.monotonic()
        assert asyncio.run(other.galleries.confirm(gallery, [label])).stale
        with pytest.raises(RecordUnavailable):
            other.enroll(HERE, 2)
        assert time.monotonic() - begun < 5.0
        eventually(lambda: other.galleries.record_state.lag_seconds > 1.0)
        server.process.send_signal(signal.SIGCONT)
        eventually(lambda: other.galleries.record_state.state == "in_step")
        assert not asyncio.run(other.galleries.confirm(gallery, [label])).stale
        server.kill()
        eventually(lambda: not one.galleries.record_state.up)
        server.start()
        eventually(lambda: one.galleries.record_state.state == "in_step")
        second = one.enroll(HERE, 3)[0]
        eventually(lambda: other.shown(HERE).keys() == {first, second})
        assert max(map(_replication_silent_seconds, (one, other))) < 45.0
