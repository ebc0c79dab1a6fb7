"""Collections that are filled while the record changes, and fillings that end otherwise."""

import threading

import pytest

from service.milvus import indexer, writing
from tests.service.milvus.fake_server import FakeServer
from tests.service.milvus.lab import drawn, drawn_crop, lab, slowed
from tests.waiting import eventually


@pytest.fixture
def milvus():
    return FakeServer()


@pytest.fixture
def filling(one, monkeypatch):
    monkeypatch.setattr(writing, "ROWS_PER_WRITE", 2)
    gallery, rows = one.indexed(*range(20))
    before = one.state(gallery)
    one.server.upsert = slowed(one.server.upsert, 0.3, writes := [])
    one.want_rebuild(gallery)
    eventually(lambda: writes)
    return gallery, rows, before, writes


def test_changes_during_a_rebuild_are_in_the_new_collection(one, filling):
    gallery, rows, before, _ = filling
    rows += one.enroll(gallery, drawn_crop(20))
    one.remove(gallery, rows[0])
    one.caught_up(gallery)
    eventually(lambda: not one.state(gallery).building)
    after = one.state(gallery)
    assert (after.builds, after.collection != before.collection) == (before.builds + 1, True)
    assert after.version == one.gallery().version
    assert sorted(one.found(gallery, drawn(1))) == rows[1:]


def test_another_rebuild_that_is_asked_for_meanwhile_is_done_too(one, filling):
    gallery, _, before, _ = filling
    one.want_rebuild(gallery)
    eventually(lambda: one.state(gallery).builds == before.builds + 2)
    eventually(lambda: not one.state(gallery).building)


def test_a_collection_that_an_ended_process_fills_is_dropped(one):
    gallery, _ = one.indexed(1)
    one.server.create = slowed(one.server.create, 2.0, created := [])
    one.want_rebuild(gallery)
    eventually(lambda: one.state(gallery).building)
    left = one.state(gallery).building
    # Its process ends, and Milvus builds the index much later.
    one.indexer._closing.set()
    with lab(one.folder, one.milvus) as other:
        eventually(
            lambda: other.state(gallery).building != left and not other.state(gallery).unfinished
        )
        eventually(lambda: left in [collection for collection, _ in created])
        eventually(lambda: left not in other.server.collections())


def test_a_filling_that_fails_is_begun_again(one, monkeypatch):
    monkeypatch.setattr(indexer, "PAUSE_SECONDS", 0.2)
    gallery, rows = one.indexed(1)
    before = one.state(gallery)
    create = one.server.create

    def fail_once(*_):
        one.server.create = create
        raise indexer.IndexUnavailable("it does not answer")

    one.server.create = fail_once
    one.want_rebuild(gallery)
    eventually(lambda: one.state(gallery).builds == before.builds + 2)
    eventually(lambda: not one.state(gallery).building)
    assert one.found(gallery, drawn(1)) == rows


def test_other_galleries_are_followed_while_a_lost_collection_is_filled(one):
    lost, _ = one.indexed(1)
    other, _ = one.indexed(1, name="other")
    create = one.server.create
    goes_on = threading.Event()

    def create_later(*args):
        goes_on.wait(30.0)
        return create(*args)

    one.server.create = create_later
    one.server.drop(one.state(lost).collection)
    eventually(lambda: one.state(lost).building)
    one.enroll(lost, drawn_crop(2))
    _, rows = one.indexed(2, name="other")
    assert one.state(lost).building
    assert one.found(other, drawn(2), 1) == rows
    goes_on.set()


def test_a_change_of_many_crops_is_work_and_no_silence(one, monkeypatch):
    beats = []
    one.indexed()
    monkeypatch.setattr(writing, "ROWS_PER_WRITE", 2)
    monkeypatch.setattr(writing, "heartbeat", lambda: beats.append(1))
    one.indexed(*range(20))
    assert len(beats) >= 10
