"""Tracklets are joined into people by what their pairs say, and never against the clock."""

import numpy as np
import pytest

from model.calibration import ScoringCalibration
from service.visits import linkage
from service.visits.linkage import (
    IMPOSSIBLE,
    compare_in_order,
    join_tracklets,
    measure_scenes,
)
from service.visits.reading import SeenCrop, SeenCrops
from service.visits.tracklets import find_tracklets, mean_vectors

# A quarter of the pairs of two people have a cosine of at most 0, and the ratio is 1 at 0.3.
CALIBRATION = ScoringCalibration(
    slope=25.0,
    intercept=-7.5,
    impostor_tail=[
        {"share": 1.0, "score": -0.2},
        {"share": 0.75, "score": 0.0},
        {"share": 0.01, "score": 0.3},
        {"share": 0.0001, "score": 0.5},
    ],
)
DIMENSION = 256


def drawn(people, tracks, *, cameras=3, likeness=0.0, noise=0.55, seed=0):
    """Draw tracks of three crops of each person, minutes apart.

    Args:
        likeness: cosine that all crops have with each other, as in a poor scene.

    Returns:
        The crops, and the person of each tracklet.
    """
    rng = np.random.default_rng(seed)
    scene = np.zeros(DIMENSION)
    scene[0] = 1.0
    labels = []
    vectors = []
    shown = []
    for person in range(people):
        own = rng.normal(size=DIMENSION)
        own[0] = 0.0
        own /= np.linalg.norm(own)
        for track in range(tracks):
            camera = f"camera {track % cameras}"
            begin = 600.0 * len(shown)
            shown.append(person)
            for crop in range(3):
                slot = len(labels) + 1
                labels.append(
                    SeenCrop(slot, f"{slot}", None, camera, f"{len(shown)}", begin + crop)
                )
                look = own + noise * rng.normal(size=DIMENSION) / np.sqrt(DIMENSION)
                look *= np.sqrt(1.0 - likeness) / np.linalg.norm(look)
                vectors.append(look + np.sqrt(likeness) * scene)
    units = np.array(vectors, np.float32)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    return SeenCrops(1, labels, units), np.array(shown)


def joined(crops):
    tracklets = find_tracklets(crops, 0.4)
    return tracklets, join_tracklets(crops, tracklets, CALIBRATION)


def same(labels):
    labels = np.asarray(labels)
    return (labels[:, None] == labels).tolist()


@pytest.mark.parametrize("people", [1, 4, 30])
def test_the_tracks_of_each_person_come_together(people):
    crops, shown = drawn(people, tracks=3)
    _, found = joined(crops)
    assert same(found.labels) == same(shown)
    assert found.counted.max() + 1 == people
    assert (found.weakest > 0.0).all()


def test_people_who_all_look_alike_in_a_poor_scene_stay_apart():
    crops, shown = drawn(12, tracks=1, likeness=0.35)
    tracklets, found = joined(crops)
    ratios = CALIBRATION.log_likelihood_ratios(np.array([0.35]))
    assert ratios[0] > 0.0, "without the scene's shift each pair would be one person"
    assert same(found.labels) == same(shown)
    assert len(tracklets) == 12


def test_a_scene_shifts_only_the_pairs_of_its_own_cameras():
    poor, _ = drawn(12, tracks=1, cameras=1, likeness=0.35)
    clear, _ = drawn(3, tracks=2, seed=1)
    labels = [
        *poor.labels,
        *(
            crop._replace(camera=f"clear {crop.camera}", track=f"clear {crop.track}")
            for crop in clear.labels
        ),
    ]
    crops = SeenCrops(1, labels, np.concatenate([poor.units, clear.units]))
    _, found = joined(crops)
    assert same(found.labels[12:]) == same([0, 0, 1, 1, 2, 2])


def test_cameras_beyond_those_with_shifts_of_their_own_count_as_one(monkeypatch):
    crops, shown = drawn(12, tracks=2, cameras=24, likeness=0.2)
    monkeypatch.setattr(linkage, "MOST_SHIFTED", 3)
    tracklets = find_tracklets(crops, 0.4)
    scenes = measure_scenes(mean_vectors(crops, tracklets), tracklets, CALIBRATION)
    assert (len(scenes.cameras), scenes.shifts.shape) == (2, (2, 2))
    labels = [crop._replace(camera=f"camera {crop.track}") for crop in crops.labels]
    crops = SeenCrops(1, labels, crops.units)
    tracklets, found = joined(crops)
    scenes = measure_scenes(mean_vectors(crops, tracklets), tracklets, CALIBRATION)
    assert (len(scenes.cameras), scenes.shifts.shape) == (24, (3, 3))
    assert scenes.shifts[2, 2] > 0.1
    assert same(found.labels) == same(shown)


def test_tracks_that_overlap_in_time_at_one_camera_are_two_people():
    rng = np.random.default_rng(2)
    own = rng.normal(size=DIMENSION)
    look = np.array([own + 0.4 * rng.normal(size=DIMENSION) for _ in range(4)], np.float32)
    units = look / np.linalg.norm(look, axis=1, keepdims=True)

    def ratio(camera, start):
        labels = [
            SeenCrop(1, "1", None, "east", "1", 0.0),
            SeenCrop(2, "2", None, "east", "1", 10.0),
            SeenCrop(3, "3", None, camera, "2", start),
            SeenCrop(4, "4", None, camera, "2", start + 10.0),
        ]
        crops = SeenCrops(1, labels, units)
        tracklets = find_tracklets(crops, 0.4)
        assert len(tracklets) == 2
        people = join_tracklets(crops, tracklets, CALIBRATION).labels.tolist()
        means = mean_vectors(crops, tracklets)
        scenes = measure_scenes(means, tracklets, CALIBRATION)
        (first_ratio,), _ = compare_in_order(means, tracklets, scenes, CALIBRATION)
        return people, first_ratio

    assert ratio("east", 5.0) == ([0, 1], -IMPOSSIBLE)
    for camera, start in [("west", 5.0), ("east", 9.5), ("east", 60.0), (None, 5.0)]:
        people, seen = ratio(camera, start)
        assert (people, seen > 0.0) == ([0, 0], True), (camera, start)


def test_two_boxes_on_one_person_do_not_make_two_people():
    rng = np.random.default_rng(3)
    own = rng.normal(size=DIMENSION).astype(np.float32)
    units = np.stack([own, own + 1e-3, own + 2e-3, own + 3e-3])
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    labels = [
        SeenCrop(slot, f"{slot}", None, "east", str(slot % 2), 5.0 * (slot > 2))
        for slot in range(1, 5)
    ]
    _, found = joined(SeenCrops(1, labels, units))
    assert found.labels.tolist() == [0, 0]


def test_an_interval_has_the_number_of_people_also_where_some_are_hard_to_tell():
    inside = 0
    for seed in range(10):
        crops, _ = drawn(40, tracks=3, noise=1.05, seed=seed)
        _, found = joined(crops)
        fewest, counted, most = (
            int(labels.max()) + 1 for labels in (found.fewest, found.counted, found.most)
        )
        assert fewest <= counted <= most
        inside += fewest <= 40 <= most
    assert inside >= 8
