"""Searches by centred vectors against the same in float64, crop by crop."""

import itertools
import math
import threading
from dataclasses import replace

import numpy as np
import pytest

from model.arrays import unit_rows
from service.index import columns as columns
from service.index import gallery_index as indexes
from service.index import gpu as gpu
from service.index import product_codes as product_codes
from service.index.centring import NamedMeans
from service.index.filters import EVERY_CROP, SearchFilter
from service.record.values import ArchivedCrop, LabelledCrop
from service.search.leave_one_out import NamedCrops
from tests.service.filled_index import FilledIndex

DIMENSION = 16
CAMERAS = ("east", "west", "north", None)
EVERYWHERE = SearchFilter(exclude_cameras=("nowhere",))


@pytest.fixture(autouse=True)
def _as_of_many_crops(monkeypatch):
    monkeypatch.setattr(product_codes, "MOST_TIME", math.inf)
    monkeypatch.setattr(columns, "SLOTS_AT_ONCE", 16)
    monkeypatch.setattr(indexes, "DELTA_ROWS", 16)
    monkeypatch.setattr(gpu, "find_faiss_search", lambda _: None)


def _crop(slot, camera=None, seed=None):
    random = np.random.default_rng(slot if seed is None else seed)
    vector = (3.0 * random.normal(size=DIMENSION)).astype(np.float32)
    label = LabelledCrop(
        slot=slot, crop_id=f"crop-{slot}", identity=f"person {slot % 40}", camera=camera
    )
    return ArchivedCrop(label, vector)


def _means(seed=0, length=0.15, cameras=("east", "west")):
    random = np.random.default_rng(seed)
    of_cameras = {camera: length * random.normal(size=DIMENSION) for camera in cameras}
    return NamedMeans(f"{seed}", length * random.normal(size=DIMENSION), of_cameras)


def _unit(vector, camera, means):
    unit = vector.astype(np.float64) / np.linalg.norm(vector.astype(np.float64))
    centred = unit - means.cameras.get(camera, means.gallery)
    return centred / np.linalg.norm(centred)


class _Gallery:
    """An index and the same crops in a dictionary."""

    def __init__(self, crops=(), means=None):
        self.index = FilledIndex(DIMENSION)
        self.crops = {}
        self.add(*crops)
        self.means = means
        if means:
            self.centre(means)

    def centre(self, means):
        self.means = means
        self.index.centre_by(self.index.prepare_centring(means))

    def add(self, *crops):
        self.index.fill(crops)
        self.crops.update({crop.record.slot: crop for crop in crops})

    def move(self, slots, camera):
        for slot in slots:
            label = replace(self.crops[slot].record, camera=camera)
            self.crops[slot] = replace(self.crops[slot], record=label)
        self.index.relabel([self.crops[slot].record for slot in slots])

    def remove(self, slots):
        self.index.remove(slots)
        for slot in slots:
            del self.crops[slot]

    def expected(self, queries, cameras, wanted=EVERY_CROP):
        """Return the slots of the crops that pass, nearest first, and their cosines."""
        asked = zip(queries, cameras, strict=True)
        direction = np.mean([_unit(*query, self.means) for query in asked], axis=0)
        scored = [
            (-(_unit(crop.vector, crop.record.camera, self.means) @ direction), slot)
            for slot, crop in self.crops.items()
            if wanted.passes(crop.record)
        ]
        scored.sort()
        return [slot for _, slot in scored], [-cosine for cosine, _ in scored]

    def check(self, seed, limit=20, wanted=EVERY_CROP, cameras=("west",)):
        queries = np.stack([_crop(0, seed=seed + turn).vector for turn in range(len(cameras))])
        slots, cosines = self.expected(queries, cameras, wanted)
        found = self.index.search(queries, cameras, limit, wanted)
        assert found.slots.tolist() == slots[:limit]
        np.testing.assert_allclose(found.cosines, cosines[:limit], rtol=0, atol=1e-7)
        for slot, vector in zip(found.slots.tolist(), found.vectors, strict=True):
            np.testing.assert_array_equal(vector, self.crops[slot].vector)


def _mixed(count, first=1):
    return [_crop(slot, CAMERAS[slot % 4]) for slot in range(first, first + count)]


def _segmented(path, monkeypatch, crops, means):
    """Return a centred gallery, most crops of which a segment covers."""
    monkeypatch.setattr(indexes, "CODED_ROWS", 40 if path == "coded" else math.inf)
    gallery = _Gallery(crops, means)
    gallery.index.renew_segment("cpu" if path == "device" else None)
    assert gallery.index._segment is not None
    assert path == "device" or gallery.index.recall is not None
    return gallery


@pytest.mark.parametrize("cameras", [("east",), ("north",), (None,), ("east", "west", "nowhere")])
@pytest.mark.parametrize("wanted", [EVERY_CROP, SearchFilter(cameras=("west", "north"))])
def test_queries_and_crops_lose_the_mean_of_their_camera_or_else_of_the_gallery(cameras, wanted):
    gallery = _Gallery(_mixed(150), _means())
    for seed in range(1000, 1010):
        gallery.check(seed, wanted=wanted, cameras=cameras)


def test_a_grouped_search_returns_the_nearest_crop_of_each_person():
    gallery = _Gallery(_mixed(150), _means())
    query = _crop(0, seed=7).vector[None]
    nearest, _ = gallery.expected(query, ["east"])
    found = gallery.index.search(query, ["east"], 12, grouped=True)
    people = [gallery.crops[slot].record.identity for slot in nearest]
    leaders = [slot for place, slot in enumerate(nearest) if people[place] not in people[:place]]
    assert found.slots.tolist() == leaders[:12]


def test_a_crop_near_its_mean_is_found_at_its_place():
    """Float32 has few digits left of a small difference."""
    random = np.random.default_rng(5)
    mean = random.normal(size=DIMENSION)
    mean *= 0.999999 / np.linalg.norm(mean)
    near = [
        replace(_crop(slot), vector=(mean + 3e-5 * random.normal(size=DIMENSION)).astype("f4"))
        for slot in range(1, 1000)
    ]
    gallery = _Gallery([*near, *_mixed(100, first=1000)], NamedMeans("near", mean, {}))
    for seed in range(1000, 1020):
        query = _crop(0, seed=seed).vector[None]
        nearest, _ = gallery.expected(query, [None])
        assert gallery.index.search(query, [None], 50).slots.tolist() == nearest[:50]


def test_means_take_effect_for_crops_that_were_added_moved_or_deleted_since_they_were_prepared():
    gallery = _Gallery(_mixed(100))
    means = _means()
    prepared = gallery.index.prepare_centring(means)
    gallery.move(range(1, 40, 3), "west")
    gallery.move([60, 64], "south")
    gallery.remove(range(80, 90))
    gallery.add(*_mixed(50, first=101))
    gallery.index.centre_by(prepared)
    gallery.means = means
    for seed in range(1000, 1010):
        gallery.check(seed, limit=140)


def test_crops_that_are_added_or_moved_lose_the_means_in_use():
    gallery = _Gallery(_mixed(10), _means(cameras=("east", "west", "later")))
    capacity = len(gallery.index.columns.vectors)
    # The columns grow with the file of the vectors.
    gallery.add(*_mixed(capacity, first=11))
    assert len(gallery.index.columns.vectors) > capacity
    gallery.add(_crop(capacity + 50, "later"), _crop(capacity + 51, "never seen"))
    gallery.move([3, 4, 5], "later")
    for seed in range(1000, 1005):
        gallery.check(seed, limit=60)


def test_without_means_searches_are_as_they_were():
    plain = _Gallery(_mixed(120))
    centred = _Gallery(_mixed(120), _means())
    centred.index.centre_by(None)
    query = _crop(0, seed=3).vector[None]
    for grouped in (False, True):
        expected = plain.index.search(query, [None], 30, grouped=grouped)
        found = centred.index.search(query, ["east"], 30, grouped=grouped)
        assert found.slots.tolist() == expected.slots.tolist()
        assert found.cosines.tobytes() == expected.cosines.tobytes()
    every = np.arange(1, 121)
    units = [
        index.columns.units(index.columns.compared(every, index.columns.means))
        for index in (plain.index, centred.index)
    ]
    assert units[0].tobytes() == units[1].tobytes()


@pytest.mark.parametrize("path", ["device", "coded"])
def test_a_segment_proposes_by_centred_vectors(path, monkeypatch):
    gallery = _segmented(path, monkeypatch, _mixed(150), _means(length=0.25))
    gallery.add(*_mixed(10, first=151))
    for seed in range(1000, 1010):
        gallery.check(seed, limit=10)


@pytest.mark.parametrize("path", ["device", "coded"])
@pytest.mark.parametrize("wanted", [EVERY_CROP, EVERYWHERE])
def test_a_crop_that_gets_another_camera_leaves_the_segment_and_is_found(path, wanted, monkeypatch):
    monkeypatch.setattr(product_codes, "PROPOSED_MORE", 0)
    gallery = _segmented(path, monkeypatch, _mixed(400), _means(length=0.5))
    gallery.move(range(1, 30, 2), "north")
    gallery.move(range(4, 8), "east")
    # A crop that went and came back is not in the segment again.
    gallery.move([1, 5], "east")
    gallery.remove([9, 100])
    for slot in (1, 3, 5, 6, 27, 200):
        query = gallery.crops[slot].vector[None]
        camera = gallery.crops[slot].record.camera
        found = gallery.index.search(query, [camera], 10, wanted).slots.tolist()
        assert found[0] == slot
        assert len(set(found)) == 10
        if path == "device":
            assert found == gallery.expected(query, [camera], wanted)[0][:10]


@pytest.mark.parametrize("path", ["device", "coded"])
def test_a_label_of_a_deleted_crop_changes_no_crop_of_the_segment(path, monkeypatch):
    monkeypatch.setattr(product_codes, "PROPOSED_MORE", 0)
    monkeypatch.setattr(indexes, "CODED_ROWS", 40 if path == "coded" else math.inf)
    gallery = _Gallery(_mixed(200), _means(length=0.5))
    deleted = gallery.crops[101].record
    gallery.remove([101])
    gallery.index.renew_segment("cpu" if path == "device" else None)
    gallery.index.relabel([replace(deleted, camera="north")])
    for slot in (100, 102):
        query = gallery.crops[slot].vector[None]
        camera = gallery.crops[slot].record.camera
        assert gallery.index.search(query, [camera], 10).slots[0] == slot


@pytest.mark.parametrize("path", ["device", "coded"])
def test_crops_moved_while_a_segment_is_built_are_not_in_it(path, monkeypatch):
    monkeypatch.setattr(indexes, "CODED_ROWS", 40 if path == "coded" else math.inf)
    gallery = _Gallery(_mixed(200), _means(length=0.5))
    moved = []

    def between():
        if not moved:
            moved.extend(range(1, 40))
            gallery.move(moved, "north")

    plan = gallery.index.next_segment("cpu" if path == "device" else None)
    gallery.index.adopt(plan(between))
    assert gallery.index._segment is not None
    for slot in (1, 2, 39, 100):
        query = gallery.crops[slot].vector[None]
        camera = gallery.crops[slot].record.camera
        found = gallery.index.search(query, [camera], 10).slots.tolist()
        assert found == gallery.expected(query, [camera])[0][:10]
    # So many crops beside it are a reason for the next segment.
    assert gallery.index.next_segment("cpu" if path == "device" else None) is not None


@pytest.mark.parametrize("path", ["device", "coded"])
def test_other_means_end_a_segment_and_one_of_other_means_is_not_adopted(path, monkeypatch):
    gallery = _segmented(path, monkeypatch, _mixed(150), _means(length=0.5))
    device = "cpu" if path == "device" else None
    for means in (_means(seed=1, length=0.5), _means(seed=2, length=0.5)):
        gallery.add(*_mixed(100, first=max(gallery.crops) + 1))
        built = gallery.index.next_segment(device)(lambda: None)
        gallery.centre(means)
        assert gallery.index._segment is None
        gallery.index.adopt(built)
        assert gallery.index._segment is None
        gallery.check(1000, limit=10)
        gallery.index.renew_segment(device)
        assert gallery.index._segment is not None
        gallery.check(1000, limit=10)


def test_the_owner_goes_on_while_another_thread_prepares_means():
    gallery = _Gallery(_mixed(400), _means(seed=0))
    outcomes = []

    def prepare(means, codes):
        prepare_centring = gallery.index.columns.prepare_centring
        # Every part lets the owner work.
        outcomes.append(prepare_centring(means.version, codes, lambda: owner_worked.wait(5)))

    for turn in range(3):
        means = _means(seed=turn + 1)
        owner_worked = threading.Event()
        codes = gallery.index.columns.code_means(means)
        refit = threading.Thread(target=prepare, args=(means, codes))
        refit.start()
        first = max(gallery.crops) + 1
        for slot in range(first, first + 50):
            gallery.add(_crop(slot, CAMERAS[slot % 3]))
            gallery.move([slot - 60], CAMERAS[slot % 4])
            if slot == first + 25:
                gallery.check(slot)
                owner_worked.set()
        gallery.remove([min(gallery.crops)])
        refit.join()
        gallery.check(1000)
        gallery.index.centre_by(outcomes.pop())
        gallery.means = means
        assert gallery.index.columns.centring.version == means.version
        gallery.check(1001)
        gallery.check(1002, wanted=SearchFilter(cameras=("west",)))


def test_other_work_can_end_the_preparation_of_means():
    gallery = _Gallery(_mixed(100))
    columns = gallery.index.columns
    means = _means()

    def between():
        raise InterruptedError

    with pytest.raises(InterruptedError):
        columns.prepare_centring(means.version, columns.code_means(means), between)
    assert columns.centring is None


def test_crops_of_a_gallery_are_compared_after_centring_only_where_means_are_given():
    gallery = _Gallery(_mixed(60), _means())
    columns = gallery.index.columns
    plain = NamedCrops.of(columns)
    vectors = np.stack([gallery.crops[slot].vector for slot in plain.slots.tolist()])
    np.testing.assert_allclose(plain.units(plain.slots), unit_rows(vectors), rtol=0, atol=1e-7)
    crops = plain.compared_by(columns.means, {plain.camera_codes()["east"]: 2.0})
    spread = {True: 2.0, False: 1.0}
    cameras = [gallery.crops[slot].record.camera for slot in crops.slots.tolist()]
    assert crops.spreads.tolist() == [spread[camera == "east"] for camera in cameras]
    np.testing.assert_array_equal(crops.at(np.arange(3, 9)).spreads, crops.spreads[3:9])
    expected = np.array(
        [
            _unit(gallery.crops[slot].vector, gallery.crops[slot].record.camera, gallery.means)
            for slot in crops.slots.tolist()
        ]
    )
    parts = np.concatenate([units for _, units in crops.unit_parts()])
    np.testing.assert_allclose(parts, expected, rtol=0, atol=1e-7)
    groups = crops.slots.reshape(-1, 2)
    np.testing.assert_allclose(
        crops.units(groups), expected.reshape(-1, 2, DIMENSION), rtol=0, atol=1e-7
    )
    # What began with some means goes on with them.
    gallery.index.centre_by(None)
    assert np.concatenate([units for _, units in crops.unit_parts()]).tobytes() == parts.tobytes()


def test_an_erased_vector_is_near_to_no_other():
    gallery = _Gallery(_mixed(60), _means(length=0.5))
    columns = gallery.index.columns
    # Another process erases a vector before this one learns that the crop is deleted.
    gallery.index.file.clear([7])
    assert not columns.units(columns.compared(np.array([7]), columns.means)).any()
    query = _crop(0, seed=1).vector[None]
    found = gallery.index.search(query, ["east"], 60)
    assert found.cosines[found.slots == 7] == [0.0]


@pytest.mark.parametrize("step", [0, 12, 30])
def test_the_recall_of_codes_is_measured_on_crops_that_are_left(step, monkeypatch):
    monkeypatch.setattr(indexes, "CODED_ROWS", 40)
    monkeypatch.setattr(columns, "SLOTS_AT_ONCE", 1000)
    gallery = _Gallery(_mixed(2000), _means(length=0.5))
    steps = itertools.count()

    def between():
        if next(steps) == step:
            gallery.index.remove(range(1, 2001, 2))

    gallery.index.adopt(gallery.index.next_segment()(between))
    assert gallery.index.recall == pytest.approx(1.0, abs=0.005)
