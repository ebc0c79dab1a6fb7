"""Searches of an index outside this process, whose server may show old, deleted or wrong rows."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from service.errors import CollectionUnavailable, IndexUnavailable, InvalidField, UnknownGallery
from service.milvus import index as milvus_index
from service.milvus.index import MilvusIndexes
from service.milvus.rows import FORMAT, Codes
from service.record.record import Record
from service.record.values import GallerySettings
from service.search.filters import EVERY_CROP, Filter
from service.search.options import QueryOptions
from service.search.query import run_search
from service.search.ranking import Search
from tests.service.filled_index import FilledIndex
from tests.service.gallery.new_crops import (
    EMBEDDER,
    NOON,
    OTHER_EMBEDDER,
    new_crop,
    only,
    restore_crops,
)
from tests.service.milvus.fake_server import FakeServer

DIMENSION = 16
CAMERAS = ("east", "west", None)


def _vector(number):
    drawing = np.random.default_rng(number)
    return (drawing.normal(size=DIMENSION) * drawing.uniform(1, 9)).astype(np.float32)


def _crop(number, **known):
    return replace(new_crop(number, **known), vector=_vector(number), picture=None)


class Lab:
    """A gallery's record with some crops, and a server that has what `index` put there."""

    def __init__(self, folder, crops=60) -> None:
        self.record = Record(folder)
        self.server = FakeServer()
        self.gallery = self.record.galleries.create("here", EMBEDDER, GallerySettings())
        self.number = self.gallery.gallery_id
        self.codes = Codes(self.record.galleries.group_secret())
        self.indexes = MilvusIndexes(self.record, self.server, self.codes)
        self.index_outside = self.indexes.of(self.number, EMBEDDER)
        drawn = [
            _crop(
                number,
                identity=f"person {number % 7}" if number % 5 else None,
                camera=CAMERAS[number % 3],
                captured_at=NOON if number % 4 else None,
            )
            for number in range(crops)
        ]
        self.record.crops.enroll(self.number, EMBEDDER, drawn)
        self.index("one")

    def index(self, name="one"):
        """Put the record's crops into a collection, and move the watermark to it."""
        collection = f"{name}{FORMAT}"
        self.server.create(collection, DIMENSION)
        crops = self.record.crops.vectors(self.number)
        self.server.upsert(collection, [self.codes.row(crop) for crop in crops])
        entry = self.record.galleries.get(self.number)
        self.record.remote_indexes.change(
            self.number,
            collection=collection,
            at=entry.at,
            side=entry.side,
            embedder=entry.embedding_fingerprint,
            version=entry.version,
            timestamp=self.server.timestamp(),
        )

    def remove(self, *rows):
        crops = self.record.crops.by_row(self.number, rows)
        self.record.crops.remove(self.number, [crop.crop_id for crop in crops.values()])

    def change(self, row, **fields):
        (crop,) = self.record.crops.by_row(self.number, [row]).values()
        self.record.crops.change(self.number, only(crop.crop_id), fields)

    def inside(self):
        """Index the same crops in this process."""
        index = FilledIndex(DIMENSION, secret=self.codes.secret)
        index.fill(self.record.crops.vectors(self.number))
        return index

    def same(self, queries, limit, wanted=EVERY_CROP):
        """Assert that both indexes find the same crops, and return them."""
        for grouped in (False, True):
            expected = self.inside().search(queries, limit, wanted, grouped)
            found = self.index_outside.search(queries, limit, wanted, grouped)
            assert found.row_ids.tolist() == expected.row_ids.tolist(), grouped
            np.testing.assert_allclose(found.cosines, expected.cosines, atol=1e-6)
            assert found.groups.tolist() == expected.groups.tolist()
            units = expected.vectors / np.linalg.norm(expected.vectors, axis=1, keepdims=True)
            np.testing.assert_allclose(found.vectors, units, atol=1e-6)
        return found


@pytest.fixture
def lab(tmp_path):
    own = Lab(tmp_path)
    with contextlib.closing(own.record):
        yield own
        own.server.close()
        own.indexes.close()


QUERIES = np.stack([_vector(1000), _vector(1001)])
FILTERS = [
    EVERY_CROP,
    Filter(cameras=("east",)),
    Filter(exclude_cameras=("east", "west")),
    Filter(captured_after=NOON),
    Filter(captured_before=NOON, cameras=("west", "nowhere")),
    Filter(without=frozenset(range(0, 60, 2))),
    Filter(named=True),
    Filter(named=False, cameras=("west",)),
    Filter(identities=("person 1", "person 3", "unknown"), cameras=("east", "west")),
]


@pytest.mark.parametrize("wanted", FILTERS)
def test_it_finds_what_an_index_of_this_process_finds(lab, wanted):
    for limit in (1, 10, 1000):
        lab.same(QUERIES, limit, wanted)
    assert lab.index_outside.identities() == lab.inside().identities()


def test_a_grouping_by_track_is_refused_with_the_remedy(lab):
    with pytest.raises(InvalidField, match=r"group_by: .* group by identity"):
        lab.index_outside.search(QUERIES, 5, by="track")


def test_a_deleted_crop_takes_no_place_though_the_server_still_shows_it(lab):
    before = lab.inside().search(QUERIES, 40).row_ids.tolist()
    # More than one search of ten proposes.
    lab.remove(*before[:35])
    lab.same(QUERIES, 10)
    lab.same(QUERIES, 10, Filter(cameras=("west",)))


def test_labels_of_the_server_decide_nothing(lab):
    nearest = lab.inside().search(QUERIES, 4).row_ids.tolist()
    lab.change(nearest[0], identity="person 1", camera="north", captured_at=None)
    lab.change(nearest[1], identity=None)
    lab.change(nearest[2], identity="new", camera="west")
    for limit in (3, 10, 60):
        lab.same(QUERIES, limit)
    # A row that passes by the label that the record has alone is found once the server has it.
    lab.same(QUERIES, 60, Filter(exclude_cameras=("north",)))
    found = lab.index_outside.search(QUERIES, 60, Filter(cameras=("north",)))
    assert found.row_ids.tolist() == []
    lab.index("two")
    assert lab.same(QUERIES, 60, Filter(cameras=("north",))).row_ids.tolist() == nearest[:1]


def test_a_row_of_another_crop_is_no_hit(lab):
    (first,) = lab.index_outside.search(QUERIES, 1).row_ids.tolist()
    (crop,) = lab.record.crops.indexed(lab.number, [first])
    other = replace(crop, record=replace(crop.record, crop_id="given out before"))
    lab.server.upsert(f"one{FORMAT}", [lab.codes.row(other)])
    everywhere = Filter(exclude_cameras=("nowhere",))
    assert first not in lab.index_outside.search(QUERIES, 60, everywhere).row_ids
    # One of the gallery's crops is missing then.
    with pytest.raises(CollectionUnavailable, match="has lost crops"):
        lab.index_outside.search(QUERIES, 20)


def test_many_deletions_that_the_server_does_not_know_yet_end_in_a_refusal(lab, monkeypatch):
    monkeypatch.setattr(milvus_index, "SEARCH_SECONDS", -1.0)
    lab.remove(*lab.inside().search(QUERIES, 30).row_ids.tolist())
    with pytest.raises(CollectionUnavailable, match="many crops that were deleted"):
        lab.index_outside.search(QUERIES, 10)


def test_candidates_of_two_searches_are_read_together(lab):
    first = lab.index_outside.search(QUERIES, 5)
    both = first.extended(lab.index_outside.search(QUERIES, 30, grouped=True))
    assert both[:5].row_ids.tolist() == first.row_ids.tolist()
    cosines = [float(np.mean(_units(QUERIES) @ vectors)) for vectors in both.vectors]
    np.testing.assert_allclose(both.cosines, cosines, atol=1e-6)
    inside = lab.inside()
    same = inside.search(QUERIES, 5).extended(inside.search(QUERIES, 30, grouped=True))
    assert both.row_ids.tolist() == same.row_ids.tolist()


def _units(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_other_vectors_than_the_server_has_are_not_searched(lab):
    restore_crops(lab.record, lab.number, [_crop(number) for number in range(60)])
    with pytest.raises(CollectionUnavailable, match="rebuilt"):
        lab.index_outside.search(QUERIES, 1)
    with pytest.raises(CollectionUnavailable):
        lab.indexes.of(lab.number, OTHER_EMBEDDER).search(QUERIES, 1)
    lab.index("two")
    lab.same(QUERIES, 10)


def test_of_an_empty_gallery_the_server_is_not_asked(lab):
    lab.server.dead = True
    lab.remove(*range(1, 61))
    found = lab.index_outside.search(QUERIES, 10)
    assert (len(found.row_ids), found.searched, found.vectors.shape) == (0, 0, (0, DIMENSION))
    assert found.version == lab.record.galleries.get(lab.number).version
    lab.record.crops.enroll(lab.number, EMBEDDER, [_crop(99)])
    with pytest.raises(IndexUnavailable):
        lab.index_outside.search(QUERIES, 10)


def test_a_deleted_gallery_is_named_as_the_client_named_it(lab):
    model = SimpleNamespace(embedder=EMBEDDER)
    gallery = SimpleNamespace(name="here", embedder=EMBEDDER, outside_index=lab.index_outside)
    gallery.index = lab.index_outside
    current = SimpleNamespace(model=model, scoring="cosine", joins_at=0.6, by_level=False)
    search = Search(gallery, current, QueryOptions(), QUERIES)
    lab.record.galleries.delete(lab.number)
    with pytest.raises(UnknownGallery, match="'here'"):
        asyncio.run(run_search(SimpleNamespace(outside=lab.indexes), search))


def test_a_gallery_that_is_being_built_keeps_no_other_from_being_searched(lab):
    other = lab.record.galleries.create("other", EMBEDDER, GallerySettings()).gallery_id
    lab.record.crops.enroll(other, EMBEDDER, [_crop(1)])
    with pytest.raises(CollectionUnavailable, match="being built"):
        asyncio.run(lab.indexes.run(lab.indexes.of(other, EMBEDDER).search, QUERIES, 3))
    assert not lab.indexes.why_down
    assert asyncio.run(lab.indexes.run(lab.index_outside.search, QUERIES, 3)).searched == 60


def test_what_a_call_that_was_given_up_ends_with_is_no_error_in_the_log(lab, monkeypatch, caplog):
    monkeypatch.setattr(milvus_index, "SEARCH_SECONDS", 0.1)

    async def given_up():
        lab.server.answers.clear()
        with pytest.raises(IndexUnavailable, match="takes too long"):
            await lab.indexes.run(lab.index_outside.search, QUERIES, 3)
        lab.server.dead = True
        lab.server.answers.set()
        await asyncio.sleep(0.2)
        gc.collect()

    asyncio.run(given_up())
    assert "never retrieved" not in caplog.text
