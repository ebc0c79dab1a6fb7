"""Following the record: changes come in order, and one who missed any is told."""

from __future__ import annotations

import contextlib
import threading
import time

import pytest

from model.problems import InputProblem
from service.errors import RecordUnavailable
from service.ops.commit_mark import LastCommitMark
from service.record.feeds import ChangesLost
from service.record.keys import ApiKey
from service.record.record import open_redis
from service.record.values import GallerySettings
from tests.service.gallery.new_crops import EMBEDDER, NOON, new_crop
from tests.service.redis_server import redis_server


@pytest.fixture
def store(redis_record):
    redis_record.ask("FLUSHALL")
    with contextlib.closing(open_redis(redis_record.url, kept_changes=100)) as opened:
        yield opened


@pytest.fixture
def gallery(store):
    return store.galleries.create("lobby", EMBEDDER, GallerySettings()).gallery_id


def test_every_kind_of_change_is_told_in_order(store, gallery):
    enrolment = store.crops.enroll(gallery, EMBEDDER, [new_crop(1), new_crop(2)])
    rows = tuple(one.label.row_id for one in enrolment.added)
    store.identities.rename(gallery, "a", "b")
    store.crops.remove(gallery, [enrolment.landed[0].crop_id])
    store.galleries.change(gallery, {"retention_days": 3})
    store.calibrations.add_searches(gallery, "mnet", [("a", b"1")])
    store.calibrations.publish(gallery, "mnet", "{}", 0)
    store.galleries.change(gallery, {}, reset_calibration=True)
    store.crops.replace(gallery, EMBEDDER, [])
    store.keys.add(ApiKey("k1", "0" * 64, ("query",), None, "", NOON))
    store.galleries.delete(gallery)
    assert store.changes.after(0, 99, 0) == [
        Change(1, "gallery_created", gallery, 0),
        Change(2, "added", gallery, 1, rows),
        Change(3, "relabelled", gallery, 2, rows),
        Change(4, "removed", gallery, 3, rows[:1]),
        Change(5, "gallery_changed", gallery, 3),
        Change(6, "calibration", gallery, 3),
        Change(7, "calibration", gallery, 3),
        Change(8, "replaced", gallery, 4),
        Change(9, "keys", 0, 0),
        Change(10, "gallery_deleted", gallery, 4),
    ]
    assert [one.sequence for one in store.changes.after(3, 2, 0)] == [4, 5]
    assert store.changes.last() == 10


def test_a_write_that_changes_nothing_is_not_told(store, gallery):
    store.crops.enroll(gallery, EMBEDDER, [new_crop(1)])
    told = store.changes.last()
    store.crops.enroll(gallery, EMBEDDER, [new_crop(1)])
    store.crops.remove(gallery, ["nothing"])
    assert store.changes.last() == told


def test_a_reader_waits_for_the_next_change(store, gallery):
    begun = time.monotonic()
    assert store.changes.after(1, 9, 0.2) == []
    assert time.monotonic() - begun >= 0.2
    later = threading.Timer(0.2, lambda: store.crops.enroll(gallery, EMBEDDER, [new_crop(1)]))
    later.start()
    assert [one.kind for one in store.changes.after(1, 9, 20.0)] == ["added"]
    assert time.monotonic() - begun < 10
    later.join()


def test_who_fell_behind_what_is_kept_is_told(store, gallery):
    # Redis drops changes a hundred at a time.
    for days in range(1, 320):
        store.galleries.change(gallery, {"retention_days": days})
    with pytest.raises(ChangesLost, match="not kept any more"):
        store.changes.after(1, 9, 0)
    assert [one.sequence for one in store.changes.after(310, 3, 0)] == [311, 312, 313]


def test_a_record_that_was_emptied_is_another_one(redis_record, store, gallery):
    before = store.changes.epoch()
    redis_record.ask("FLUSHALL")
    with pytest.raises(ChangesLost, match="emptied"):
        store.changes.after(1, 9, 0)
    with pytest.raises(RecordUnavailable, match="another record"):
        store.crops.enroll(gallery, EMBEDDER, [new_crop(1)])
    assert store.changes.epoch() != before
    assert store.changes.after(0, 9, 0) == []


def test_an_older_copy_of_the_record_is_noticed(store, gallery):
    with pytest.raises(ChangesLost, match="older copy"):
        store.changes.after(store.changes.last() + 1, 9, 0)


def test_another_process_of_the_server_has_another_name_and_the_same_record():
    with redis_server() as server, contextlib.closing(open_redis(server.url)) as store:
        before = store.changes.server()
        epoch = store.changes.epoch()
        server.kill()
        server.start()
        assert store.changes.server() != before
        assert store.changes.epoch() == epoch


def test_a_record_that_has_lost_what_it_acknowledged_is_refused(tmp_path):
    """Redis drops the end of its file without a word, whoever cut it off."""
    mark = LastCommitMark(tmp_path / "redis.acknowledged")
    with redis_server() as server:
        with contextlib.closing(open_redis(server.url, mark=mark)) as store:
            gallery = store.galleries.create("lobby", EMBEDDER, GallerySettings()).gallery_id
            for number in range(3):
                store.crops.enroll(gallery, EMBEDDER, [new_crop(number)])
            newest = store.changes.after(0, 99, 0.0)[-1].sequence
        server.kill()
        (file,) = server.folder.glob("appendonlydir/*.incr.aof")
        file.write_bytes(file.read_bytes()[:-400])
        server.start()
        with pytest.raises(InputProblem, match=f"{newest} were acknowledged"):
            open_redis(server.url, mark=mark)
        mark.path.unlink()
        with contextlib.closing(open_redis(server.url, mark=mark)) as store:
            assert store.changes.last() < newest
        open_redis(server.url, mark=mark).close()


def test_a_late_note_leaves_a_later_commit_noted(tmp_path):
    one, other = (LastCommitMark(tmp_path / "redis.acknowledged") for _ in range(2))
    other.note(1001)
    one.note(1000)
    one.note(5000, "another")
    assert one.read() == other.read() == ("record", 1001)


def test_another_record_than_the_acknowledged_one_is_refused_and_untouched(tmp_path):
    mark = LastCommitMark(tmp_path / "redis.acknowledged")
    with redis_server() as server:
        mark.note(99, "another")
        with pytest.raises(InputProblem, match=r"no record.*remove .*redis\.acknowledged"):
            open_redis(server.url, mark=mark)
        assert server.ask("DBSIZE") == 0
        mark.path.unlink()
        with contextlib.closing(open_redis(server.url, mark=mark)) as store:
            store.galleries.create("lobby", EMBEDDER, GallerySettings())
            assert store.changes.last() == 1
        own, _ = mark.read()
        mark.path.unlink()
        mark.note(1, "another")
        with pytest.raises(InputProblem, match="another record"):
            open_redis(server.url, mark=mark)
        mark.path.unlink()
        mark.note(1, own)
        open_redis(server.url, mark=mark).close()
