"""The index against the plainest thing that does the same: a dictionary and a sort."""

import ctypes
import itertools
import math
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.scale import ScaleCrops
from service.index import columns as columns
from service.index import gallery_index as indexes
from service.index import gpu as gpu
from service.index import product_codes as product_codes
from service.index.centring import NamedMeans
from service.index.filters import EVERY_CROP, SearchFilter, pairs_of
from service.record.values import ArchivedCrop, LabelledCrop
from tests.bench.people import write_people
from tests.service.filled_index import FilledIndex

FIND_FAISS_SEARCH = gpu.find_faiss_search
DIMENSION = 8
CAMERAS = ("east", "west", None)
LATE = datetime.fromtimestamp(1_000_030, UTC)
FILTERS = (
    *(
        replace(wanted, captured_after=after)
        for wanted in (
            EVERY_CROP,
            SearchFilter(cameras=("west", "north")),
            SearchFilter(exclude_cameras=("west",)),
            SearchFilter(cameras=("east", "west"), exclude_cameras=("east",)),
        )
        for after in (None, LATE)
    ),
    SearchFilter(cameras=("nowhere",)),
    SearchFilter(identities=("1", "2", "renamed", "nothing")),
    SearchFilter(named=False, cameras=("west",)),
    *(SearchFilter(metadata=pairs_of({"shift": shift})) for shift in ("night", "renamed", "none")),
)


@pytest.fixture(autouse=True)
def _as_of_many_rows(monkeypatch):
    """So few rows are scanned exactly as quickly, and all at once."""
    monkeypatch.setattr(product_codes, "MOST_TIME", math.inf)
    monkeypatch.setattr(columns, "SLOTS_AT_ONCE", 16)
    monkeypatch.setattr(gpu, "FLOAT16_ROWS", 60)
    monkeypatch.setattr(indexes, "CODED_ROWS", math.inf)
    monkeypatch.setattr(indexes, "DELTA_ROWS", 16)
    monkeypatch.setattr(gpu, "MORE_OF_FAISS", 2)
    monkeypatch.setattr(gpu, "find_faiss_search", lambda _: None)


def _crop(slot, seed, camera="east"):
    """Draw a crop whose other labels follow from its row; equal seeds are equal vectors."""
    vector = np.random.default_rng(seed).normal(size=DIMENSION).astype(np.float32)
    moment = datetime.fromtimestamp(1_000_000 + slot, UTC)
    identity = str(slot % 7) if slot % 7 else None
    label = LabelledCrop(
        slot=slot,
        crop_id=f"crop-{slot}",
        identity=identity,
        camera=camera,
        captured_at=moment,
    )
    metadata = {"shift": ("day", "night")[slot % 2], "row": slot}
    track = str(slot % 5) if slot % 5 else None
    return ArchivedCrop(replace(label, metadata=metadata, track=track), vector)


def _faiss_stand_in(vectors, query, count):
    """Search as FAISS does on a GPU: deleted vectors take places, and rows come by their scores."""
    scores = vectors.float().numpy() @ query
    rows = np.argsort(-scores, kind="stable")[:count]
    return scores[rows], rows


def _index(path, rows=0):
    indexes.CODED_ROWS = 40 if path == "coded" else math.inf
    gpu.find_faiss_search = lambda _: _faiss_stand_in if path == "device, FAISS" else None
    index = FilledIndex(DIMENSION)
    index.fill(_crop(slot, seed=slot) for slot in range(1, rows + 1))
    return index


def _build(plan):
    return plan(lambda: None) if plan else None


def _means(version):
    """Draw means of the gallery, and of one camera that crops have, and of one that none has."""
    random = np.random.default_rng(version)
    gallery, east, south = 0.4 * random.normal(size=(3, DIMENSION))
    return NamedMeans(str(version), gallery, {"east": east, "south": south})


def _plain_unit(vector, camera, means):
    unit = vector.astype(np.float64) / np.linalg.norm(vector.astype(np.float64))
    if means is None:
        return unit
    centred = unit - means.cameras.get(camera, means.gallery)
    return centred / np.linalg.norm(centred)


def _plain_search(crops, query, limit, wanted, means=None, camera=None):
    unit = _plain_unit(query[0], camera, means)
    scored = []
    for slot, crop in crops.items():
        if wanted.passes(crop.record):
            vector = _plain_unit(crop.vector, crop.record.camera, means)
            scored.append((-np.float32(vector @ unit), slot))
    return [slot for _, slot in sorted(scored)][:limit]


def _leaders(crops, rows, set_of):
    leaders = {}
    for slot in rows:
        leaders.setdefault(set_of(crops[slot].record), slot)
    return list(leaders.values())


def _person(label):
    return label.identity or label.slot


def _track(label):
    return (label.track, label.camera) if label.track else label.slot


def _plain_identities(crops, wanted):
    passing = (crop.record for crop in crops.values() if wanted.passes(crop.record))
    return len({_person(label) for label in passing})


def _found(index, query, limit, wanted=EVERY_CROP, camera=None):
    found = index.search(query, [camera], limit, wanted)
    return found.slots.tolist()


def _check(index, crops, seed, limit, filters, means):
    query = _crop(0, seed).vector[None] + np.float32(0.01)
    camera = ("east", "west", "nowhere", None)[seed % 4]
    for wanted in filters:
        # A count that was made once is kept up to date with every change.
        assert index.identities(wanted).total == _plain_identities(crops, wanted)
        nearest = _plain_search(crops, query, len(crops), wanted, means, camera)
        found = _found(index, query, limit, wanted, camera)
        if index.recall is not None and wanted == EVERY_CROP:
            # It may miss some, but never brings back what is deleted or set aside.
            assert set(found) <= set(nearest)
            assert len(found) == min(limit, len(nearest))
            continue
        assert found == nearest[:limit]
        for by, set_of in (("crop", _person), ("track", _track)):
            found = index.search(query, [camera], limit, wanted, grouped=True, by=by)
            assert found.slots.tolist() == _leaders(crops, nearest, set_of)[:limit]


def _renamed(label, camera):
    new = {"identity": "renamed", "metadata": {"shift": "renamed"}, "track": "moved"}
    return replace(label, camera=camera, **new)


def _set_aside(label, _):
    # The second time it comes back.
    return replace(label, set_aside=not label.set_aside)


LABEL_CHANGES = {"relabel": _renamed, "set aside": _set_aside}
steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 30), st.sampled_from(CAMERAS)),
        st.tuples(
            st.sampled_from(("remove", "relabel", "set aside")),
            st.integers(0, 80),
            st.integers(0, 100),
        ),
        st.tuples(st.just("search"), st.integers(0, 30), st.integers(1, 40)),
        st.tuples(st.sampled_from(("plan", "build", "replace")), st.none(), st.none()),
        st.tuples(st.just("prepare means"), st.integers(0, 3), st.none()),
        st.tuples(st.just("centre"), st.none(), st.none()),
    ),
    max_size=50,
)


@pytest.mark.parametrize("path", ["host", "device", "device, FAISS", "coded"])
@settings(max_examples=30)
@given(steps, st.integers(0, 120))
def test_whatever_is_added_removed_and_compacted_a_search_finds_the_nearest_living(
    path, steps, first
):
    index = _index(path)
    # Equal vectors tie.
    crops = {row: _crop(row, row % 40, CAMERAS[row % 3]) for row in range(1, first + 1)}
    index.fill(crops.values())
    rows = itertools.count(first + 1)
    plan = None
    built = None
    means = None
    prepared = None
    for what, number, detail in steps:
        if what == "add":
            slot = next(rows)
            crops[slot] = _crop(slot, number, detail)
            index.fill([crops[slot]])
        elif what == "remove":
            doomed = sorted(crops)[detail : detail + number]
            index.remove(doomed)
            for slot in doomed:
                del crops[slot]
        elif what in LABEL_CHANGES:
            for slot in sorted(crops)[detail : detail + number]:
                label = LABEL_CHANGES[what](crops[slot].record, CAMERAS[number % 3])
                crops[slot] = replace(crops[slot], record=label)
                index.relabel([label])
        elif what == "plan":
            plan = index.next_segment("cpu" if path.startswith("device") else None)
        elif what == "build":
            built = _build(plan)
            if built and path == "device, FAISS":
                built.uses_faiss = True
        elif what == "replace":
            if built:
                index.adopt(built)
                built = None
        elif what == "prepare means":
            prepared = (_means(number), index.prepare_centring(_means(number))) if number else None
        elif what == "centre":
            means, centring = prepared or (None, None)
            index.centre_by(centring)
        else:
            _check(index, crops, number, detail, [FILTERS[number % len(FILTERS)]], means)
    _check(index, crops, 0, 10, FILTERS, means)
    assert index.columns.count == len(crops)


@pytest.mark.parametrize("path", ["host", "device", "device, FAISS"])
def test_many_equal_vectors_are_cut_by_age(path):
    index = _index(path)
    index.fill(_crop(slot, seed=1, camera=CAMERAS[slot % 2]) for slot in range(1, 301))
    if path.startswith("device"):
        index.renew_segment("cpu")
        index._segment.uses_faiss = path == "device, FAISS"
    query = _crop(0, 1).vector[None]
    assert _found(index, query, 10) == list(range(1, 11))
    assert _found(index, query, 10, SearchFilter(cameras=("west",))) == list(range(1, 20, 2))


def test_host_and_device_give_the_same_rows_and_cosines_in_either_dtype():
    host = _index("host")
    device = _index("device")
    query = _crop(0, 999).vector[None]
    for rows in (range(1, 50), range(50, 120)):
        for index in (host, device):
            index.fill(_crop(slot, seed=slot) for slot in rows)
        device.renew_segment("cpu")
        found = host.search(query, [None], 20)
        same = device.search(query, [None], 20)
        assert found.slots.tolist() == same.slots.tolist()
        assert found.cosines.tolist() == same.cosines.tolist()
    assert (host.dtype, device.dtype) == ("float32", "float16")


def _searched_by_faiss(search):
    gpu.find_faiss_search = lambda _: search
    index = FilledIndex(DIMENSION)
    index.fill(_crop(slot, seed=slot) for slot in range(1, 201))
    index.renew_segment("cpu")
    return index._segment.uses_faiss


def test_the_faster_way_of_searching_on_the_device_serves(monkeypatch, caplog):
    now = [0.0]
    seconds = {"tensor": 0.002, "FAISS": 0.001}

    def waits(name, search):
        def called(*arguments):
            now[0] += seconds[name]
            return search(*arguments)

        return called

    monkeypatch.setattr(gpu.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(gpu.torch, "topk", waits("tensor", gpu.torch.topk))
    assert _searched_by_faiss(waits("FAISS", _faiss_stand_in))
    seconds["FAISS"] = 0.003
    assert not _searched_by_faiss(waits("FAISS", _faiss_stand_in))


def test_faiss_that_misses_crops_or_fails_on_the_device_does_not_serve(caplog):
    def misses(vectors, query, count):
        scores, rows = _faiss_stand_in(vectors, query, count + 1)
        return scores[1:], rows[1:]

    def fails(*_):
        raise RuntimeError("no kernel image is available")

    assert not _searched_by_faiss(misses)
    assert "FAISS misses vectors on the device" in caplog.text
    assert not _searched_by_faiss(fails)
    assert "no kernel image is available" in caplog.text


def test_where_faiss_would_end_the_process_another_one_tries_it_first(caplog):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert FIND_FAISS_SEARCH("cuda") is None
    assert "FAISS is not used on the device, where it fails" in caplog.text
    assert FIND_FAISS_SEARCH("cpu") is None


def test_faiss_that_passed_its_trial_is_used(monkeypatch):
    trials = []

    def run(command, **_):
        trials.append(command)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(gpu.subprocess, "run", run)
    find = FIND_FAISS_SEARCH.__wrapped__
    assert find("cuda").func is gpu.search_by_faiss
    assert find("cpu") is None
    assert len(trials) == 1


@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_faiss_is_given_the_tensor_where_it_lies(monkeypatch, kind):
    vectors = np.random.default_rng(0).normal(size=(30, DIMENSION)).astype(kind)
    query = vectors[7].astype(np.float32)

    def search(_, arguments):
        def read(pointer, kind, count):
            size = count * np.dtype(kind).itemsize
            return np.frombuffer((ctypes.c_char * size).from_address(int(pointer)), kind)

        stored = read(arguments.vectors, kind, arguments.numVectors * arguments.dims)
        asked = read(arguments.queries, kind, arguments.dims)
        scores = stored.reshape(-1, arguments.dims).astype(np.float32) @ asked.astype(np.float32)
        rows = np.argsort(-scores, kind="stable")[: arguments.k]
        ctypes.memmove(int(arguments.outIndices), rows.ctypes.data, rows.nbytes)
        best = scores[rows]
        ctypes.memmove(int(arguments.outDistances), best.ctypes.data, best.nbytes)

    monkeypatch.setattr(faiss, "bfKnn", search)
    scores, rows = gpu.search_by_faiss(None, torch.from_numpy(vectors), query, 5)
    expected, nearest = _faiss_stand_in(torch.from_numpy(vectors), query, 5)
    assert rows.tolist() == nearest.tolist()
    assert scores == pytest.approx(expected, rel=1e-2)


def test_a_search_without_a_filter_hides_no_crops_on_the_host(monkeypatch):
    index = _index("device", 200)
    index.renew_segment("cpu")
    index.remove([3, 50])
    query = _crop(0, 7).vector[None]
    expected = _found(index, query, 20)
    monkeypatch.setattr(gpu.DeviceVectors, "_hide", None)
    assert _found(index, query, 20) == expected


def test_a_large_gallery_is_searched_through_product_codes_whose_recall_was_measured():
    index = _index("coded", 200)
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
    crops = {row: _crop(row, row % 700, CAMERAS[row % 3]) for row in range(1, 3001)}
    index.fill(crops.values())

    def remove(*rows):
        index.remove(rows)
        for row in rows:
            del crops[row]

    remove(*range(1, 2000, 2))
    next_id = 3001
    plan = index.next_segment()
    outcome = []
    builder = threading.Thread(target=lambda: outcome.append(_build(plan)))
    builder.start()
    while builder.is_alive() or next_id < 3020:
        time.sleep(1e-3)
        # However slow the other thread is, most crops are left.
        if next_id < 3500:
            remove(min(crops))
            crops[next_id] = _crop(next_id, next_id, "west")
            index.fill([crops[next_id]])
            next_id += 1
    builder.join()
    index.adopt(outcome[0])
    assert index.recall == pytest.approx(1.0, abs=0.005)
    assert index.columns.count == len(crops)
    wanted = SearchFilter(exclude_cameras=("east",))
    for seed in (5, 3001, 3010):
        query = _crop(0, seed).vector[None]
        assert _found(index, query, 30, wanted) == _plain_search(crops, query, 30, wanted)
        assert set(_found(index, query, 30)) <= set(crops)


@pytest.mark.parametrize("step", [0, 3, 20])
def test_the_recall_is_measured_on_crops_that_were_not_deleted_meanwhile(step, monkeypatch):
    monkeypatch.setattr(columns, "SLOTS_AT_ONCE", 1000)
    index = _index("coded", 2000)
    steps = itertools.count()

    def between():
        # The codes are made in the first two steps, and each later one is a query.
        if next(steps) == step:
            index.remove(range(1, 2001, 2))

    index.adopt(index.next_segment()(between))
    assert index.recall == pytest.approx(1.0, abs=0.005)
    assert index.columns.count == 1000


def test_no_codes_are_kept_of_crops_that_were_all_deleted_meanwhile():
    index = _index("coded", 200)
    plan = index.next_segment()
    index.adopt(plan(lambda: index.remove(range(1, 201))))
    assert (index.kind, index.recall) == ("flat_ip", None)


@pytest.mark.parametrize(
    ("limits", "rows"),
    [({"MOST_TIME": 0.0}, 200), ({"PROPOSED_SHARE": 1.0, "PROPOSED_MORE": 0}, 1000)],
    ids=["they save no time", "they miss too many"],
)
def test_a_large_gallery_stays_exact_where_product_codes_do_not_serve_it(monkeypatch, limits, rows):
    for name, limit in limits.items():
        monkeypatch.setattr(product_codes, name, limit)
    index = _index("coded", rows)
    query = _crop(0, 7).vector[None]
    exact = _found(index, query, 50)
    before = index.bytes
    index.renew_segment()
    assert (index.kind, index.recall, index.dtype) == ("flat_ip", None, "float32")
    assert index.bytes == before
    assert _found(index, query, 50) == exact
    # Nor is it measured again before the gallery has grown.
    assert index.next_segment() is None


def test_a_deleted_crop_leaves_the_product_codes():
    index = _index("coded", 200)
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
    index = _index("coded", 2199)
    index.renew_segment()
    assert index.recall is not None
    query = index.columns.vectors[[2191]]
    assert _found(index, query, 1) == [2191]
    index.remove([2191])
    assert _found(index, query, 1) != [2191]


@pytest.mark.parametrize("kind", ["people", "clusters"])
def test_product_codes_find_the_nearest_of_people_and_of_isolated_clusters(kind, tmp_path):
    drawn = ScaleCrops(write_people(tmp_path, 64) if kind == "people" else None, 64)
    indexes.CODED_ROWS = 40
    index = FilledIndex(64)
    index.fill(
        ArchivedCrop(replace(crop.record, slot=row), crop.vector)
        for row, crop in enumerate(drawn.crops(0, 4000), start=1)
    )
    index.renew_segment()
    assert index.recall == pytest.approx(1.0, abs=0.005)
    for query in drawn.queries(16, 4000):
        found, exact = (
            index.search(query[None], [None], 100, wanted).slots
            for wanted in (SearchFilter(), SearchFilter(exclude_cameras=("nowhere",)))
        )
        assert len(np.intersect1d(found, exact)) >= 99


def test_metadata_are_read_in_steps_between_which_crops_may_change(monkeypatch):
    monkeypatch.setattr(columns, "CODES_PER_STEP", 8)
    index = _index("host", 40)
    wanted = SearchFilter(metadata=pairs_of({"shift": "night"}))
    night = list(range(1, 41, 2))

    assert index.columns.reads_on(wanted)
    changed = replace(_crop(1, 1).record, metadata={"shift": "day"})
    index.relabel([changed])
    index.remove([3])
    assert index.columns.reads_on(wanted)
    index.fill([_crop(41, 41)])
    assert _found(index, _crop(0, 1).vector[None], 50, wanted=wanted) == _plain_search(
        {slot: _crop(slot, slot) for slot in [*night[2:], 41]},
        _crop(0, 1).vector[None],
        50,
        EVERY_CROP,
    )
    assert not index.columns.reads_on(wanted)
