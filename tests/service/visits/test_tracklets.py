"""Tracks are divided where a tracker went on with another person, or uses its ids again."""

import numpy as np
import pytest

from service.visits.reading import SeenCrop, SeenCrops
from service.visits.tracklets import find_tracklets, labels_of_cut, mean_vectors

ANN, BOB = np.eye(2, dtype=np.float32)


def seen(*crops):
    """Return crops given as vector, camera, track and time."""
    labels = [
        SeenCrop(slot, f"crop-{slot}", None, camera, track, time)
        for slot, (_, camera, track, time) in enumerate(crops, 1)
    ]
    units = np.stack([vector for vector, *_ in crops])
    return SeenCrops(1, labels, units / np.linalg.norm(units, axis=1, keepdims=True))


def tracklets_of(*crops):
    return [tracklet.positions.tolist() for tracklet in find_tracklets(seen(*crops), 0.5)]


def test_crops_of_one_track_and_camera_are_a_tracklet_in_the_order_of_time():
    crops = [
        (ANN, "east", "7", 2.0),
        (ANN, "east", "7", 1.0),
        (ANN, "west", "7", 1.0),
        (ANN, "east", "8", 1.0),
        (ANN, "east", None, 1.0),
        (ANN, "east", None, 1.0),
    ]
    assert tracklets_of(*crops) == [[1, 0], [2], [3], [4], [5]]
    first, *_ = find_tracklets(seen(*crops), 0.5)
    assert (first.camera, first.track, first.first, first.last) == ("east", "7", 1.0, 2.0)


def test_a_track_of_two_people_who_cross_is_two_tracklets():
    crops = [(ANN, "east", "7", 1.0), (ANN, "east", "7", 2.0), (BOB, "east", "7", 3.0)]
    assert tracklets_of(*crops) == [[0, 1], [2]]
    assert [tracklet.cohesion for tracklet in find_tracklets(seen(*crops), 0.5)] == [
        pytest.approx(1.0, abs=1e-6),
        1.0,
    ]


def test_an_id_that_a_tracker_uses_again_half_an_hour_later_is_another_tracklet():
    assert tracklets_of((ANN, "east", "7", 0.0), (ANN, "east", "7", 1800.0)) == [[0, 1]]
    assert tracklets_of((ANN, "east", "7", 0.0), (ANN, "east", "7", 1801.0)) == [[0], [1]]


def test_crops_of_unknown_time_stay_with_their_track():
    crops = [(ANN, "east", "7", None), (ANN, "east", "7", 1.0), (ANN, "east", "7", None)]
    assert tracklets_of(*crops) == [[1, 0, 2]]


def test_a_tracklet_has_the_name_that_most_of_its_named_crops_have():
    crops = seen(*[(ANN, "east", "7", float(second)) for second in range(4)])
    names = ["Ann", "Bob", "Ann", None]
    labels = [crop._replace(identity=name) for crop, name in zip(crops.labels, names, strict=True)]
    (tracklet,) = find_tracklets(SeenCrops(1, labels, crops.units), 0.5)
    assert tracklet.identity == "Ann"


def test_a_track_of_any_length_is_divided_by_time_before_its_crops_are_compared():
    crops = seen(*[(ANN + 0.01 * n * BOB, "east", "7", float(n)) for n in range(1100)])
    sizes = [len(tracklet.positions) for tracklet in find_tracklets(crops, 0.0)]
    assert sum(sizes) == 1100
    assert max(sizes) <= 512


def test_the_product_of_mean_vectors_is_the_mean_cosine_of_the_pairs_of_crops():
    crops = seen((ANN, "east", "1", 1.0), (ANN + BOB, "east", "1", 2.0), (BOB, "east", "2", 3.0))
    first, second = mean_vectors(crops, find_tracklets(crops, 0.0))
    assert first @ second == pytest.approx(0.5 * np.sqrt(0.5), abs=1e-6)


def test_clusters_are_numbered_in_the_order_of_their_first_items():
    merges = np.array([[1.0, 3.0, 0.1, 2.0], [0.0, 2.0, 0.2, 2.0], [4.0, 5.0, 0.9, 4.0]])
    assert labels_of_cut(merges, 0.05).tolist() == [0, 1, 2, 3]
    assert labels_of_cut(merges, 0.1).tolist() == [0, 1, 2, 1]
    assert labels_of_cut(merges, 0.5).tolist() == [0, 1, 0, 1]
    assert labels_of_cut(merges, 1.0).tolist() == [0, 0, 0, 0]
