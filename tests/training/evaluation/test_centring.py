"""Searches by vectors that are centred by the cameras of the gallery."""

import numpy as np
import pytest

from training.datasets.record import CropRecord, Dataset
from training.evaluation.centring import centre_search
from training.evaluation.embedding import SearchFeatures
from training.evaluation.searches import whole_set

DIMENSION = 16
PEOPLE = 60


def crop(person, camera, split, shot=0):
    source = f"{person}-{camera}-{split}-{shot}.png"
    return CropRecord(source, "drawn", str(person), camera, "drawn", split=split)


def drawn_set(people_of_a=PEOPLE, people_of_b=49):
    """Return queries of cameras a, b and c, and two gallery crops of each person under a and b."""
    records = [crop(person, camera, "query") for camera in "abc" for person in range(PEOPLE)]
    records += [
        crop(person, camera, "gallery", shot)
        for camera, people in (("a", people_of_a), ("b", people_of_b))
        for person in range(people)
        for shot in (0, 1)
    ]
    # A distractor shows nobody.
    records.append(crop("-1", "a", "gallery"))
    return Dataset("drawn", "market1501:drawn", "", tuple(records))


def drawn_features(search):
    random = np.random.default_rng(0)
    people = {person: random.standard_normal(DIMENSION) for person in range(-1, PEOPLE)}
    cameras = {camera: 3.0 * random.standard_normal(DIMENSION) for camera in "abc"}

    def features_of(records):
        return np.array(
            [
                people[int(record.identity)]
                + cameras[record.camera]
                + 0.3 * random.standard_normal(DIMENSION)
                for record in records
            ],
            np.float32,
        )

    return SearchFeatures(features_of(search.queries), features_of(search.gallery))


def unit(vectors):
    vectors = vectors.astype(np.float64)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_queries_and_gallery_lose_the_mean_of_their_camera_in_the_gallery():
    dataset = drawn_set()
    search = whole_set(dataset)
    features = drawn_features(search)
    centred = centre_search(dataset, search, features)

    gallery = unit(features.gallery)
    cameras = np.array([record.camera for record in search.gallery])
    # Every second crop is a person's first one; the last crop is the distractor's.
    mean_of_a = gallery[: 2 * PEOPLE : 2].mean(axis=0)
    np.testing.assert_allclose(
        centred.features.gallery[cameras == "a"],
        unit(gallery[cameras == "a"] - mean_of_a),
        atol=1e-6,
    )
    # 49 people are too few for a mean of b, and c has no crop in the gallery. They lose the mean of
    # the gallery, where the first crop of each person is one of a.
    queries = unit(features.queries)
    np.testing.assert_allclose(centred.features.queries, unit(queries - mean_of_a), atol=1e-6)
    assert (centred.result.cameras, centred.result.cameras_with_mean) == (3, 1)


def test_a_camera_with_enough_people_has_a_mean_of_its_own():
    dataset = drawn_set(people_of_b=50)
    search = whole_set(dataset)
    features = drawn_features(search)
    centred = centre_search(dataset, search, features)
    first_of_b = unit(features.gallery)[2 * PEOPLE : 2 * PEOPLE + 100 : 2]
    of_b = np.array([record.camera == "b" for record in search.queries])
    expected = unit(unit(features.queries[of_b]) - first_of_b.mean(axis=0))
    np.testing.assert_allclose(centred.features.queries[of_b], expected, atol=1e-6)
    assert centred.result.cameras_with_mean == 2


def test_queries_and_who_is_on_them_change_no_mean():
    dataset = drawn_set()
    search = whole_set(dataset)
    features = drawn_features(search)
    others = features._replace(queries=features.queries[::-1] + 1.0)
    first = centre_search(dataset, search, features)
    second = centre_search(dataset, search, others)
    np.testing.assert_array_equal(first.features.gallery, second.features.gallery)
    assert first.result == second.result


def test_the_gain_is_that_of_people_of_the_gallery_who_are_left_out_of_the_means():
    dataset = drawn_set()
    search = whole_set(dataset)
    result = centre_search(dataset, search, drawn_features(search)).result
    assert result.gain_is_clear
    assert result.gain > result.gain_error > 0.0
    assert result.sentence == (
        f"1 of 3 cameras had a mean; people left out of the means gained "
        f"{100 * result.gain:+.1f} ± {100 * result.gain_error:.1f} points of mAP, which is clear."
    )


def test_a_gallery_of_one_camera_shows_no_gain():
    dataset = drawn_set(people_of_b=0)
    search = whole_set(dataset)
    result = centre_search(dataset, search, drawn_features(search)).result
    assert result.gain is None
    assert not result.gain_is_clear
    assert "too few people of the gallery are under two cameras" in result.sentence


@pytest.mark.parametrize("people", [1, 49])
def test_a_gallery_of_few_people_is_not_centred(people):
    dataset = drawn_set(people, people_of_b=0)
    search = whole_set(dataset)
    features = drawn_features(search)
    centred = centre_search(dataset, search, features)
    assert centred.features is features
    assert centred.result.sentence.startswith("Nothing is centred")
