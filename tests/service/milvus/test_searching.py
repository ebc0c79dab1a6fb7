"""Searches of an index outside this process, whose server may show old, deleted or wrong rows."""

import asyncio
import gc
from collections import Counter
from dataclasses import replace
from threading import Event
from types import SimpleNamespace

import numpy as np
import pytest

from service.errors import CollectionUnavailable, IndexUnavailable, UnknownGallery
from service.index.filters import SearchFilter
from service.milvus import index as milvus_index
from service.search.find import InTurns, run_search
from service.search.options import QueryOptions
from service.search.ranking import Search
from tests.service.milvus.fake_server import FakeServer
from tests.service.milvus.lab import DIMENSION, drawn, drawn_crop, lab, mixed_crop

pytestmark = pytest.mark.promise("milvus")

QUERIES = np.stack([drawn(1000), drawn(1001)])
CAMERAS = [None, None]


@pytest.fixture
def one(tmp_path):
    """Return a record with 60 crops in a collection, which no later change reaches."""
    with lab(tmp_path, FakeServer(tmp_path / "rows")) as own:
        own.enroll(own.gallery(), *(mixed_crop(number) for number in range(60)))
        own.caught_up(own.gallery())
        own.indexer.close()
        yield own


@pytest.fixture
def gallery(one):
    return one.gallery()


def _nearest(one, gallery, count):
    return one.in_faiss(gallery).search(QUERIES, CAMERAS, count).slots.tolist()


def test_a_deleted_crop_takes_no_place_though_the_server_still_shows_it(one, gallery):
    # More than one search of ten proposes.
    one.remove(gallery, *_nearest(one, gallery, 35))
    for wanted in (SearchFilter(), SearchFilter(cameras=("west",))):
        one.assert_same(gallery, QUERIES, [10], wanted)


def test_labels_of_the_server_decide_nothing(one, gallery):
    first, second, third = _nearest(one, gallery, 3)
    one.change(gallery, first, identity="person 1", camera="north", captured_at=None)
    one.change(gallery, second, identity=None)
    one.change(gallery, third, identity="new", camera="west")
    one.assert_same(gallery, QUERIES, [3, 10, 60])
    # A row that passes by the label that the record has alone is found once the server has it.
    one.assert_same(gallery, QUERIES, [60], SearchFilter(exclude_cameras=("north",)))
    north = SearchFilter(cameras=("north",))
    assert one.index(gallery).search(QUERIES, CAMERAS, 60, north).slots.tolist() == []
    with lab(one.folder, one.milvus) as other:
        other.caught_up(gallery)
        assert other.index(gallery).search(QUERIES, CAMERAS, 60, north).slots.tolist() == [first]


def test_a_crop_that_is_set_aside_takes_no_place_though_the_server_still_shows_it(one, gallery):
    for row in _nearest(one, gallery, 5):
        one.change(gallery, row, set_aside=True)
    one.assert_same(gallery, QUERIES, [3, 10, 60])


def test_a_row_of_another_crop_is_no_hit(one, gallery):
    (first,) = _nearest(one, gallery, 1)
    (crop,) = one.record.crops.indexed(gallery.gallery_id, [first])
    other = replace(crop, record=replace(crop.record, crop_id="given out before"))
    one.server.upsert(one.state(gallery).collection, [one.codes.row(other)])
    everywhere = SearchFilter(exclude_cameras=("nowhere",))
    assert first not in one.index(gallery).search(QUERIES, CAMERAS, 60, everywhere).slots
    # One of the gallery's crops is missing then.
    with pytest.raises(CollectionUnavailable, match="has lost crops"):
        one.index(gallery).search(QUERIES, CAMERAS, 60)


def test_many_deletions_that_the_server_does_not_know_yet_end_in_a_refusal(
    one, gallery, monkeypatch
):
    monkeypatch.setattr(milvus_index, "SEARCH_SECONDS", -1.0)
    one.remove(gallery, *_nearest(one, gallery, 30))
    with pytest.raises(CollectionUnavailable, match="many crops that were deleted"):
        one.index(gallery).search(QUERIES, CAMERAS, 10)


def test_of_an_empty_gallery_the_server_is_not_asked(one, gallery, tmp_path):
    (tmp_path / "rows.dead").touch()
    one.remove(gallery, *range(1, 61))
    found = one.index(gallery).search(QUERIES, CAMERAS, 10)
    assert (len(found.slots), found.searched, found.vectors.shape) == (0, 0, (0, DIMENSION))
    assert found.version == one.gallery().version
    one.enroll(gallery, drawn_crop(99))
    with pytest.raises(IndexUnavailable):
        one.index(gallery).search(QUERIES, CAMERAS, 10)


async def test_a_deleted_gallery_is_named_as_the_client_named_it(one, gallery):
    index = one.index(gallery)
    held = SimpleNamespace(
        name="here", embedder=index.embedder, index=index, outside_index=index, own_index=None
    )
    model = SimpleNamespace(embedder=index.embedder)
    current = SimpleNamespace(
        model=model, scoring="cosine", joins_at=0.6, by_level=False, centred_by=None
    )
    search = Search(held, current, QueryOptions(), QUERIES)
    one.record.galleries.delete(gallery.gallery_id)
    in_turns = InTurns(None, None, one.record.tracks, one.indexes)
    with pytest.raises(UnknownGallery, match="'here'"):
        await run_search(in_turns, search, Counter())


async def test_a_call_that_was_given_up_and_fails_later_leaves_no_error_in_the_log(
    one, gallery, monkeypatch, caplog
):
    monkeypatch.setattr(milvus_index, "SEARCH_SECONDS", 0.1)
    goes_on = Event()

    def fail_late(*_):
        goes_on.wait(20)
        raise IndexUnavailable("it does not answer")

    one.server.search = fail_late
    with pytest.raises(IndexUnavailable, match="takes too long"):
        await one.indexes.run(one.index(gallery).search, QUERIES, CAMERAS, 3)
    goes_on.set()
    await asyncio.sleep(0.2)
    gc.collect()
    assert "never retrieved" not in caplog.text
