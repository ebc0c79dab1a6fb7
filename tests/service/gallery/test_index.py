"""The index against the plainest thing that does the same: a dictionary and a sort."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from service.gallery.index import GalleryIndex
from service.gallery.records import CropLabel, IndexedCrop
from service.gallery.rows import Filter

DIMENSION = 8
CAMERAS = ("east", "west", None)


def _crop(row_id: int, seed: int, camera: str | None = "east") -> IndexedCrop:
    vector = np.random.default_rng(seed).normal(size=DIMENSION).astype(np.float32)
    moment = datetime.fromtimestamp(1_000_000 + row_id, UTC)
    return IndexedCrop(CropLabel(row_id, f"crop-{row_id}", None, camera, moment), vector)


def _plain_search(crops, query, limit, wanted):
    unit = query[0].astype(np.float64) / np.linalg.norm(query[0].astype(np.float64))
    scored = []
    for crop in crops.values():
        label = crop.label
        if wanted.cameras and label.camera not in wanted.cameras:
            continue
        if label.camera in wanted.exclude_cameras:
            continue
        vector = crop.vector.astype(np.float64)
        scored.append((-np.float32(vector @ unit / np.linalg.norm(vector)), label.row_id))
    return [row_id for _, row_id in sorted(scored)][:limit]


steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 30), st.sampled_from(CAMERAS)),
        st.tuples(st.just("remove"), st.integers(0, 200), st.none()),
        st.tuples(st.just("search"), st.integers(0, 30), st.integers(1, 40)),
    ),
    max_size=60,
)


@settings(max_examples=60, deadline=None)
@given(steps, st.integers(0, 120))
def test_whatever_is_added_and_removed_a_search_finds_the_nearest_living(steps, first):
    index, crops = GalleryIndex(DIMENSION), {}
    next_id = 1
    # Removals of a well-filled index compact it; equal seeds are equal vectors, which tie.
    for seed in range(first):
        crops[next_id] = _crop(next_id, seed % 40)
        index.add([crops[next_id]])
        next_id += 1
    for what, number, detail in steps:
        if what == "add":
            crops[next_id] = _crop(next_id, number, detail)
            index.add([crops[next_id]])
            next_id += 1
        elif what == "remove":
            doomed = sorted(crops)[: number % 80]
            index.remove(doomed)
            for row_id in doomed:
                del crops[row_id]
        else:
            query = _crop(0, number).vector[None] + np.float32(0.01)
            for wanted in (Filter(), Filter(cameras=("west",)), Filter(exclude_cameras=("west",))):
                found = index.search(query, detail, wanted)
                row_ids = [int(index.table.row_ids[row]) for row in found.rows]
                assert row_ids == _plain_search(crops, query, detail, wanted)
    assert index.table.live == len(crops)


def test_many_equal_vectors_are_cut_by_age():
    index = GalleryIndex(DIMENSION)
    index.add(_crop(row_id, seed=1, camera=CAMERAS[row_id % 2]) for row_id in range(1, 301))
    query = _crop(0, 1).vector[None]
    everything = index.search(query, 10)
    filtered = index.search(query, 10, Filter(cameras=("west",)))
    assert list(index.table.row_ids[everything.rows]) == list(range(1, 11))
    assert list(index.table.row_ids[filtered.rows]) == list(range(1, 20, 2))


def test_scores_stay_what_they_were_through_a_compaction():
    index = GalleryIndex(DIMENSION)
    index.add(_crop(row_id, seed=row_id) for row_id in range(1, 401))
    query = _crop(0, 999).vector[None]
    before = dict(_scores(index, query))
    size = index.table.size
    index.remove(range(1, 201))
    assert index.table.size < size
    for row_id, cosine in _scores(index, query):
        assert cosine == before[row_id]


def _scores(index, query):
    found = index.search(query, 400)
    return zip(index.table.row_ids[found.rows].tolist(), found.cosines.tolist(), strict=True)
