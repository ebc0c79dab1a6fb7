"""The index against the plainest thing that does the same: a dictionary and a sort."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.scale import ScaleCrops
from service.record.values import ArchivedCrop, CropLabel
from service.search import columns, gpu, product_codes
from service.search import index as indexes
from service.search.filters import EVERY_CROP, Filter, pairs_of
from tests.bench.people import write_people
from tests.service.filled_index import FilledIndex

DIMENSION = 8
CAMERAS = ("east", "west", None)
CAMERA_FILTERS = (
    EVERY_CROP,
    Filter(cameras=("west", "north")),
    Filter(exclude_cameras=("west",)),
    Filter(cameras=("east", "west"), exclude_cameras=("east",)),
)
LATE = datetime.fromtimestamp(1_000_030, UTC)


@pytest.fixture(autouse=True)
def _as_of_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """So few rows are scanned exactly as quickly, and all at once."""
    monkeypatch.setattr(product_codes, "MOST_TIME", math.inf)
    monkeypatch.setattr(columns, "SLOTS_AT_ONCE", 16)
    monkeypatch.setattr(gpu, "FLOAT16_ROWS", 60)
    monkeypatch.setattr(indexes, "CODED_ROWS", math.inf)
    monkeypatch.setattr(indexes, "DELTA_ROWS", 16)


def _crop(row_id: int, seed: int, camera: str | None = "east") -> ArchivedCrop:
    vector = np.random.default_rng(seed).normal(size=DIMENSION).astype(np.float32)
    moment = datetime.fromtimestamp(1_000_000 + row_id, UTC)
    return ArchivedCrop(CropLabel(row_id, f"crop-{row_id}", None, camera, moment), vector)


def _index(path: str) -> FilledIndex:
    """Run a test on the host, on a device (the processor), and with product codes."""
    indexes.CODED_ROWS = 40 if path == "coded" else math.inf
    return FilledIndex(DIMENSION)


def _plan(index: FilledIndex, path: str):
    return index.next_segment("cpu" if path == "device" else None)


def _build(plan):
    return plan(lambda: None) if plan else None


def _plain_search(crops, query, limit, wanted):
    unit = query[0].astype(np.float64) / np.linalg.norm(query[0].astype(np.float64))
    scored = []
    for crop in crops.values():
        label = crop.record
        if wanted.cameras and label.camera not in wanted.cameras:
            continue
        if label.camera in wanted.exclude_cameras:
            continue
        if wanted.identities and label.identity not in wanted.identities:
            continue
        if wanted.named is False and label.identity:
            continue
        if wanted.metadata and wanted != of_metadata(label.metadata["shift"]):
            continue
        vector = crop.vector.astype(np.float64)
        scored.append((-np.float32(vector @ unit / np.linalg.norm(vector)), label.row_id))
    return [row_id for _, row_id in sorted(scored)][:limit]


def of_metadata(shift):
    return Filter(metadata=pairs_of({"shift": shift}))


OF_LABELS = (
    Filter(identities=("1", "2", "renamed", "nothing")),
    Filter(named=False, cameras=("west",)),
    of_metadata("night"),
    of_metadata("renamed"),
    of_metadata("none"),
)


def _plain_identities(crops, wanted):
    passing = (crop.record for crop in crops.values() if wanted.passes(crop.record))
    return len({label.identity or label.row_id for label in passing})


def _found(index, query, limit, wanted=EVERY_CROP):
    found = index.search(query, limit, wanted)
    return found.row_ids.tolist()


def _scores(index, query):
    found = index.search(query, 400)
    return zip(found.row_ids.tolist(), found.cosines.tolist(), strict=True)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 30), st.sampled_from(CAMERAS)),
        st.tuples(st.just("remove"), st.integers(0, 200), st.integers(0, 100)),
        st.tuples(st.just("search"), st.integers(0, 30), st.integers(1, 40)),
        st.tuples(st.sampled_from(("plan", "build", "replace")), st.none(), st.none()),
    ),
    max_size=50,
)


@pytest.mark.parametrize("path", ["host", "device", "coded"])
@settings(max_examples=30)
@given(steps, st.integers(0, 120))
def test_whatever_is_added_removed_and_compacted_a_search_finds_the_nearest_living(
    path, steps, first
):
    index = _index(path)
    crops = {}
    next_id = 1
    plan = None
    built = None
    # Equal seeds are equal vectors, which tie.
    for seed in range(first):
        crops[next_id] = _crop(next_id, seed % 40)
        next_id += 1
    index.fill(crops.values())
    for what, number, detail in [*steps, ("search", 0, 10)]:
        if what == "add":
            crops[next_id] = _crop(next_id, number, detail)
            index.fill([crops[next_id]])
            next_id += 1
        elif what == "remove":
            doomed = sorted(crops)[detail : detail + number % 80]
            index.remove(doomed)
            for row_id in doomed:
                del crops[row_id]
        elif what == "plan":
            plan = _plan(index, path)
        elif what == "build":
            built = _build(plan)
        elif what == "replace":
            if built:
                index.adopt(built)
        else:
            query = _crop(0, number).vector[None] + np.float32(0.01)
            for wanted in (Filter(), Filter(cameras=("west",)), Filter(exclude_cameras=("west",))):
                found = _found(index, query, detail, wanted)
                nearest = _plain_search(crops, query, detail, wanted)
                if index.recall is not None and wanted == Filter():
                    # It may miss some, but never brings back the dead nor answers too few.
                    assert set(found) <= set(crops)
                    assert len(found) == len(nearest)
                else:
                    assert found == nearest
    assert index.count == len(crops)


@pytest.mark.parametrize("path", ["host", "device", "coded"])
@settings(max_examples=30)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=90), st.integers(1, 12), st.data())
def test_a_search_for_groups_finds_the_nearest_crop_of_each_identity_or_track(
    path, people, limit, data
):
    """Identity 0 stands for none; equal seeds are equal vectors, which tie."""
    index = _index(path)
    crops = {}
    for row_id, person in enumerate(people, start=1):
        crop = _crop(row_id, row_id % 40, CAMERAS[row_id % 3])
        known = {"shift": ("day", "night")[row_id % 2], "row": row_id}
        named = replace(crop.record, identity=str(person) if person else None, metadata=known)
        track = str(row_id % 5) if row_id % 5 else None
        crops[row_id] = replace(crop, record=replace(named, track=track))
    index.fill(crops.values())
    # The tracks are read at the first search that groups by them.
    index.search(_crop(0, 3).vector[None], limit, grouped=True, by="track")
    asked = [
        replace(cameras, captured_after=after)
        for cameras in CAMERA_FILTERS
        for after in (None, LATE)
    ]
    asked += OF_LABELS
    for wanted in asked:
        # A count that was made once is kept up to date with every change.
        assert index.identities(wanted) == _plain_identities(crops, wanted)
    built = _build(_plan(index, path))
    for row_id in data.draw(st.sets(st.sampled_from(sorted(crops)))):
        if row_id % 2:
            index.remove([row_id])
            del crops[row_id]
        else:
            known = {"shift": "renamed"}
            named = replace(crops[row_id].record, identity="renamed", metadata=known)
            named = replace(named, track="moved", camera="west")
            index.relabel([named])
            crops[row_id] = replace(crops[row_id], record=named)
    if built:
        index.adopt(built)
    query = _crop(0, 3).vector[None] + np.float32(0.01)
    cameras = (Filter(), Filter(cameras=("west",)), Filter(cameras=("nowhere",)))
    for wanted in (*cameras, *OF_LABELS):
        leaders = {}
        for row_id in _plain_search(crops, query, len(crops), wanted):
            leaders.setdefault(crops[row_id].record.identity or row_id, row_id)
        assert index.identities(wanted) == len(leaders)
        if wanted not in cameras:
            assert _found(index, query, limit, wanted) == _plain_search(crops, query, limit, wanted)
        found = index.search(query, limit, wanted, grouped=True)
        assert found.row_ids.tolist() == list(leaders.values())[:limit]
        of_tracks = {}
        for row_id in _plain_search(crops, query, len(crops), wanted):
            label = crops[row_id].record
            of_tracks.setdefault((label.track, label.camera) if label.track else row_id, row_id)
        found = index.search(query, limit, wanted, grouped=True, by="track")
        assert found.row_ids.tolist() == list(of_tracks.values())[:limit]
    for wanted in asked:
        assert index.identities(wanted) == _plain_identities(crops, wanted)


@pytest.mark.parametrize("path", ["host", "device"])
def test_many_equal_vectors_are_cut_by_age(path):
    index = _index(path)
    index.fill(_crop(row_id, seed=1, camera=CAMERAS[row_id % 2]) for row_id in range(1, 301))
    if path == "device":
        index.renew_segment("cpu")
    query = _crop(0, 1).vector[None]
    assert _found(index, query, 10) == list(range(1, 11))
    assert _found(index, query, 10, Filter(cameras=("west",))) == list(range(1, 20, 2))


def test_scores_stay_what_they_were_through_a_compaction():
    index = _index("device")
    index.fill(_crop(row_id, seed=row_id) for row_id in range(1, 401))
    query = _crop(0, 999).vector[None]
    before = dict(_scores(index, query))
    index.remove(range(1, 201))
    index.renew_segment("cpu")
    after = dict(_scores(index, query))
    assert after == {row_id: before[row_id] for row_id in range(201, 401)}


def test_host_and_device_give_the_same_rows_and_cosines_in_either_dtype():
    host = _index("host")
    device = _index("device")
    query = _crop(0, 999).vector[None]
    for rows in (range(1, 50), range(50, 120)):
        for index in (host, device):
            index.fill(_crop(row_id, seed=row_id) for row_id in rows)
        device.renew_segment("cpu")
        found = host.search(query, 20)
        same = device.search(query, 20)
        assert found.row_ids.tolist() == same.row_ids.tolist()
        assert found.cosines.tolist() == same.cosines.tolist()
    assert (host.dtype, device.dtype) == ("float32", "float16")


def test_an_index_that_needs_nothing_plans_nothing():
    index = _index("coded")
    assert index.next_segment() is None
    index.fill(_crop(row_id, seed=row_id) for row_id in range(1, 30))
    index.remove([1, 2])
    assert index.next_segment() is None


def test_a_large_gallery_is_searched_through_product_codes_whose_recall_was_measured():
    index = _index("coded")
    index.fill(_crop(row_id, seed=row_id) for row_id in range(1, 201))
    assert (index.kind, index.recall) == ("flat_ip", None)
    before = index.bytes
    index.renew_segment()
    assert (index.kind, index.dtype) == ("pq4", "pq4")
    assert 0.99 <= index.recall <= 1.0
    assert index.bytes > before
    # Later crops are found before the next compaction, and so are the crops that they bring nearer.
    index.fill([_crop(201, seed=500)])
    assert _found(index, _crop(0, 500).vector[None], 1) == [201]
    index.remove(range(20, 201))
    assert index.next_segment() is None
    assert (index.kind, index.recall) == ("flat_ip", None)


def test_the_owner_goes_on_while_another_thread_rewrites():
    index = _index("coded")
    crops = {}
    for row_id in range(1, 3001):
        crops[row_id] = _crop(row_id, row_id % 700, CAMERAS[row_id % 3])
    index.fill(crops.values())
    doomed = list(range(1, 2000, 2))
    next_id = 3001
    index.remove(doomed)
    for row_id in doomed:
        del crops[row_id]
    plan = index.next_segment()
    outcome = []
    builder = threading.Thread(target=lambda: outcome.append(_build(plan)))
    builder.start()
    while builder.is_alive() or next_id < 3020:
        row_id = min(crops)
        index.remove([row_id])
        del crops[row_id]
        crops[next_id] = _crop(next_id, next_id, "west")
        index.fill([crops[next_id]])
        next_id += 1
        # The recall is measured on crops that are there still.
        time.sleep(1e-3)
    builder.join()
    index.adopt(outcome[0])
    assert index.recall is not None
    assert index.count == len(crops)
    wanted = Filter(exclude_cameras=("east",))
    for seed in (5, 3001, 3010):
        query = _crop(0, seed).vector[None]
        assert _found(index, query, 30, wanted) == _plain_search(crops, query, 30, wanted)
        assert set(_found(index, query, 30)) <= set(crops)


def test_a_large_gallery_stays_exact_where_product_codes_save_no_time(monkeypatch):
    monkeypatch.setattr(product_codes, "MOST_TIME", 0.0)
    index = _index("coded")
    index.fill(_crop(row_id, seed=row_id) for row_id in range(1, 201))
    exact = _found(index, _crop(0, 7).vector[None], 50)
    before = index.bytes
    index.renew_segment()
    assert (index.kind, index.dtype, index.bytes) == ("flat_ip", "float32", before)
    assert _found(index, _crop(0, 7).vector[None], 50) == exact
    # Nor is it measured again before the gallery has grown.
    assert _plan(index, "coded") is None


def test_a_large_gallery_stays_exact_where_product_codes_miss_too_many(monkeypatch):
    monkeypatch.setattr(product_codes, "PROPOSED_SHARE", 1.0)
    monkeypatch.setattr(product_codes, "PROPOSED_MORE", 0)
    index = _index("coded")
    index.fill(_crop(row_id, row_id) for row_id in range(1, 1001))
    before = index.bytes
    index.renew_segment()
    assert (index.kind, index.recall, index.bytes) == ("flat_ip", None, before)
    index.remove([1])


def test_a_deleted_crop_leaves_the_product_codes():
    index = _index("coded")
    index.fill(_crop(row_id, seed=row_id) for row_id in range(1, 201))
    index.renew_segment()

    def codes():
        scanned = index._segment._index
        packer = scanned.get_CodePacker()
        there = scanned.codes
        blocks = faiss.rev_swig_ptr(there.get(), there.size()).reshape(-1, packer.block_size)
        return np.stack([packer.unpack_1(blocks, row) for row in range(200)])

    before = codes()
    index.remove([1, 2, 200])
    after = codes()
    (overwritten,) = np.nonzero((before != after).any(axis=1))
    assert overwritten.tolist() == [0, 1, 199]
    assert len(np.unique(after[overwritten], axis=0)) == 1


def test_any_row_can_be_deleted_from_product_codes():
    index = _index("coded")
    index.fill(_crop(row_id, row_id) for row_id in range(1, 2200))
    index.renew_segment()
    assert index.recall is not None
    query = index.columns.vectors[[2191]]
    assert index.search(query, 1).row_ids.tolist() == [2191]
    index.remove([2191])
    assert index.search(query, 1).row_ids.tolist() != [2191]


@pytest.mark.parametrize("kind", ["people", "clusters"])
def test_product_codes_find_the_nearest_of_people_and_of_isolated_clusters(kind, tmp_path):
    drawn = ScaleCrops(write_people(tmp_path, 64) if kind == "people" else None, 64)
    indexes.CODED_ROWS = 40
    index = FilledIndex(64)
    index.fill(
        ArchivedCrop(replace(crop.record, row_id=row), crop.vector)
        for row, crop in enumerate(drawn.crops(0, 4000), start=1)
    )
    index.renew_segment()
    assert index.recall == pytest.approx(1.0, abs=0.005)
    for query in drawn.queries(16, 4000):
        found, exact = (
            index.search(query[None], 100, wanted).row_ids
            for wanted in (Filter(), Filter(exclude_cameras=("nowhere",)))
        )
        assert len(np.intersect1d(found, exact)) >= 99
