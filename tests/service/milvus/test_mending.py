"""Collections that fail, lack rows, are in another format or belong to no gallery."""

from __future__ import annotations

import threading

import pytest

from service.errors import CollectionUnavailable, IndexUnavailable
from service.milvus import indexer, rows
from tests.service.milvus.fake_server import FakeServer
from tests.service.milvus.lab import drawn, drawn_crop, lab
from tests.waiting import eventually


@pytest.fixture
def milvus():
    return FakeServer()


def _indexed(one, name, *numbers):
    """Return a gallery of some crops that its collection shows."""
    gallery = one.gallery(name)
    added = one.enroll(gallery, *map(drawn_crop, numbers))
    one.caught_up(gallery)
    return gallery, added


def test_a_gallery_whose_writes_fail_stops_no_other_and_is_caught_up_later(one, monkeypatch):
    monkeypatch.setattr(indexer, "PAUSE_SECONDS", 0.1)
    failing, before = _indexed(one, "failing", 1)
    other, _ = _indexed(one, "other", 1)
    collection = one.state(failing).collection
    upsert = one.server.upsert

    def refuse(to, rows):
        if to == collection:
            raise IndexUnavailable("it refuses to write")
        upsert(to, rows)

    one.server.upsert = refuse
    added = one.enroll(failing, drawn_crop(2))
    for number in range(2, 5):
        (row,) = one.enroll(other, drawn_crop(number))
        one.caught_up(other)
        assert one.found(other, drawn(number), 1) == [row]
    assert one.found(failing, drawn(1)) == before
    assert one.indexer.why_down == "it refuses to write"
    one.server.upsert = upsert
    one.caught_up(failing)
    assert sorted(one.found(failing, drawn(1))) == before + added
    eventually(lambda: not one.indexer.why_down)


def test_a_gallery_whose_state_cannot_be_read_keeps_no_other_from_being_indexed(one):
    failing = one.gallery("failing").gallery_id
    state = one.record.remote_indexes.state

    def refuse(gallery_id):
        if gallery_id == failing:
            raise ValueError("it cannot be read")
        return state(gallery_id)

    one.record.remote_indexes.state = refuse
    # It comes after the failing one.
    other, added = _indexed(one, "other", 1)
    assert one.found(other, drawn(1)) == added


def test_rows_that_milvus_has_lost_are_counted_refused_and_written_anew(one, monkeypatch):
    monkeypatch.setattr(indexer, "COUNT_SECONDS", 0.1)
    gallery, added = _indexed(one, "counted", *range(20))
    differing = one.writer.differing
    goes_on = threading.Event()
    object.__setattr__(one.writer, "differing", lambda *args: goes_on.wait(20) and differing(*args))
    one.server.delete(one.state(gallery).collection, added[3:7])
    eventually(lambda: one.state(gallery).lacks_rows)
    # Also a search that would find enough.
    with pytest.raises(CollectionUnavailable, match="has lost crops"):
        one.index(gallery).search(drawn(1)[None], 2)
    goes_on.set()
    eventually(lambda: not one.state(gallery).lacks_rows)
    found = one.index(gallery).search(drawn(1)[None], 100)
    assert sorted(found.row_ids.tolist()) == added


def test_a_collection_in_another_format_is_not_searched_but_built_anew(one, monkeypatch):
    gallery, added = _indexed(one, "default", 1, 2)
    before = one.state(gallery).collection
    one.indexer.close()
    for module in (rows, "service.milvus.writing"):
        name = module if isinstance(module, str) else module.__name__
        monkeypatch.setattr(f"{name}.FORMAT", "_f2")
    with pytest.raises(CollectionUnavailable, match="being rebuilt"):
        one.index(gallery).search(drawn(1)[None], 2)
    with lab(one.folder, one.milvus) as other:
        eventually(lambda: other.state(gallery).collection.endswith("_f2"))
        found = other.index(gallery).search(drawn(1)[None], 2)
        assert sorted(found.row_ids.tolist()) == added
        eventually(lambda: before not in other.server.collections())


def test_a_collection_of_no_gallery_is_dropped_and_another_record_s_stays(one):
    gallery, _ = _indexed(one, "default", 1)
    unknown = one.codes.collection(gallery.gallery_id, 1000)
    one.server.create("gmn_1234_1_1_f1")
    one.server.create(unknown)
    eventually(lambda: unknown not in one.server.collections())
    assert sorted(one.server.collections()) == sorted(
        ["gmn_1234_1_1_f1", one.state(gallery).collection]
    )
