"""Centring by camera: means of what cameras show, and whether people left out rank better."""

import numpy as np
import pytest

from model import centring
from model.arrays import unit_rows
from model.centring import (
    LEAST_SHOWN,
    UNKNOWN,
    CameraMeans,
    Gain,
    ShownCrops,
    average_precisions,
    fit_means,
    measure_gain,
    measure_spreads,
)

DIMENSION = 32


def drawn(people, cameras=2, crops=2, shift=1.0, seed=0, own_people=False):
    """Draw crops of people under cameras, each of which shifts all vectors its own way.

    Args:
        own_people: each camera shows people whom no other one shows.
    """
    random = np.random.default_rng(seed)
    shifts = shift * unit_rows(random.normal(size=(cameras, DIMENSION)))
    looks = unit_rows(random.normal(size=(people * cameras, DIMENSION)))
    units = []
    codes = []
    for camera in range(cameras):
        for person in range(people):
            code = person + people * camera * own_people
            for _ in range(crops):
                noise = 0.12 * random.normal(size=DIMENSION)
                units.append(looks[code] + shifts[camera] + noise)
                codes.append((camera, code))
    order = random.permutation(len(codes))
    camera_codes, shown = np.array(codes)[order].T
    return ShownCrops(unit_rows(np.array(units))[order], camera_codes, shown)


def everybody(crops):
    return np.ones(len(crops.shown), np.bool_)


def test_a_mean_is_that_of_the_first_crop_of_each_person_of_the_camera():
    crops = drawn(people=LEAST_SHOWN, crops=3)
    means = fit_means(crops)
    for camera in (0, 1):
        own = crops.at(crops.cameras == camera)
        first = [own.units[own.shown == person][0] for person in range(LEAST_SHOWN)]
        expected = np.mean(first, axis=0, dtype=np.float64)
        np.testing.assert_allclose(means.cameras[camera], expected, rtol=0, atol=1e-15)
    first = [crops.units[crops.shown == person][0] for person in range(LEAST_SHOWN)]
    expected = np.mean(first, axis=0, dtype=np.float64)
    np.testing.assert_allclose(means.gallery, expected, rtol=0, atol=1e-15)


def test_who_is_on_many_crops_counts_once():
    crops = drawn(people=LEAST_SHOWN, crops=1)
    often = np.flatnonzero(crops.shown == crops.shown[0])[[0] * 1000]
    repeated = crops.at(np.concatenate([np.arange(len(crops.shown)), often]))
    means = fit_means(crops)
    again = fit_means(repeated)
    np.testing.assert_array_equal(again.gallery, means.gallery)
    np.testing.assert_array_equal(again.cameras[0], means.cameras[0])


def test_a_camera_that_showed_too_few_has_the_gallerys_mean():
    crops = drawn(people=LEAST_SHOWN, crops=1)
    few = (crops.cameras == 0) | (crops.shown < LEAST_SHOWN - 1)
    means = fit_means(crops.at(few))
    assert set(means.cameras) == {0}
    asked = np.array([0, 1, 7, UNKNOWN])
    np.testing.assert_array_equal(means.of(asked)[0], means.cameras[0])
    np.testing.assert_array_equal(means.of(asked)[1:], np.stack([means.gallery] * 3))


def test_crops_without_a_camera_count_for_the_gallery_alone():
    crops = drawn(people=LEAST_SHOWN, cameras=1)
    nowhere = ShownCrops(crops.units, np.full(len(crops.shown), UNKNOWN), crops.shown)
    means = fit_means(nowhere)
    assert means.cameras == {}
    np.testing.assert_array_equal(means.gallery, fit_means(crops).gallery)


def test_a_gallery_of_too_few_people_has_no_means():
    crops = drawn(people=LEAST_SHOWN - 1, crops=9)
    assert fit_means(crops) is None
    assert fit_means(crops, least=LEAST_SHOWN - 1) is not None
    assert fit_means(crops.at(np.empty(0, np.int64))) is None


def test_centred_vectors_have_unit_length_and_lost_the_mean():
    crops = drawn(people=LEAST_SHOWN, shift=3.0)
    means = fit_means(crops)
    centred = means.centre(crops.units, crops.cameras)
    assert centred.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(centred, axis=1), 1.0, atol=1e-6)
    before = np.linalg.norm(crops.units[crops.cameras == 0].mean(axis=0))
    after = np.linalg.norm(centred[crops.cameras == 0].mean(axis=0))
    assert after < 0.1 < 0.9 < before


def test_a_vector_that_is_the_mean_does_not_divide_by_zero():
    mean = np.array([1.0, 0.0])
    means = CameraMeans(mean, {})
    centred = means.centre(np.array([[1.0, 0.0]], np.float32), np.array([UNKNOWN]))
    np.testing.assert_array_equal(centred, [[0.0, 0.0]])


def enrolled_and_unnamed(tracks, known=0):
    """Draw a gallery of 100 people of camera 0, and unnamed tracks of camera 1, who differ less.

    Args:
        tracks: number of tracks, each of one crop.
        known: number of these tracks that show people of the gallery.
    """
    random = np.random.default_rng(0)
    looks = random.normal(size=(100 + tracks, DIMENSION))
    seen = np.concatenate([looks[:known], looks[100 : 100 + tracks - known]])
    # Half of what camera 1 shows is noise in directions that camera 0 does not know.
    noise = random.normal(size=seen.shape)
    units = np.concatenate(
        [
            np.hstack([looks[:100], np.zeros((100, DIMENSION))]),
            np.hstack([seen, noise]),
        ]
    )
    cameras = np.repeat([0, 1], [100, tracks])
    return ShownCrops(unit_rows(units.astype(np.float32)), cameras, np.arange(100 + tracks))


@pytest.mark.parametrize("known", [0, 5])
def test_cosines_of_a_camera_that_shows_people_less_well_are_less_spread(known):
    crops = enrolled_and_unnamed(tracks=200, known=known)
    spreads = measure_spreads(crops, crops.cameras == 0, fit_means(crops))
    assert spreads == {0: 1.0, 1: pytest.approx(np.sqrt(0.5), abs=0.03)}


def test_a_camera_without_a_mean_has_no_spread():
    crops = enrolled_and_unnamed(tracks=LEAST_SHOWN - 1)
    assert measure_spreads(crops, crops.cameras == 0, fit_means(crops)) == {0: 1.0}


def test_further_crops_of_a_person_change_no_spread():
    crops = enrolled_and_unnamed(tracks=60)
    often = crops.at(np.concatenate([np.arange(160), np.repeat([3, 120], 500)]))
    means = fit_means(crops)
    expected = measure_spreads(crops, crops.cameras == 0, means)
    assert measure_spreads(often, often.cameras == 0, means) == pytest.approx(expected, abs=1e-6)


def test_plain_cosines_half_as_far_apart_have_half_the_spread_whatever_they_have_in_common():
    random = np.random.default_rng(0)

    def units_of(share, common):
        """Return unit vectors, of which only a share lies outside what all have in common."""
        own = np.pad(random.standard_normal((LEAST_SHOWN, DIMENSION)), ((0, 0), (2, 0)))
        own /= np.linalg.norm(own, axis=1, keepdims=True)
        shared = np.array([*common, *[0.0] * DIMENSION])
        shared /= np.linalg.norm(shared)
        return share * own + np.sqrt(1.0 - share**2) * shared, own

    named, _ = units_of(0.8, (1.0, 0.0))
    half, own = units_of(0.4, (1.0, 1.0))
    whole = 0.8 * own + 0.6 * np.array([1.0, *[0.0] * (DIMENSION + 1)])
    crops = ShownCrops(
        np.concatenate([named, half, whole]).astype(np.float32),
        np.repeat([0, 1, 2], LEAST_SHOWN),
        np.arange(3 * LEAST_SHOWN),
    )
    spreads = measure_spreads(crops, crops.cameras == 0, None)
    assert spreads[0] == pytest.approx(1.0)
    assert 0.5 < spreads[2] < 2.0
    assert spreads[1] == pytest.approx(0.5 * spreads[2], rel=1e-4)


def test_people_left_out_rank_better_where_cameras_shift_all_vectors():
    crops = drawn(people=100, shift=1.5)
    gain = measure_gain(crops, everybody(crops))
    assert gain.people == 100
    assert gain.is_clear
    assert gain.gain > 0.1


def test_there_is_no_clear_gain_where_nothing_is_in_common():
    clear = 0
    for seed in range(20):
        crops = drawn(people=80, shift=0.0, seed=seed)
        clear += measure_gain(crops, everybody(crops)).is_clear
    assert clear <= 8


def test_vectors_lose_the_mean_of_their_camera_or_else_of_the_gallery_and_zeros_stay():
    random = np.random.default_rng(4)
    gallery, third, seventh = 0.1 * random.normal(size=(3, DIMENSION))
    means = CameraMeans(gallery, {3: third, 7: seventh})
    units = unit_rows(random.normal(size=(6, DIMENSION)))
    units[5] = 0.0
    cameras = np.array([7, 3, UNKNOWN, 1000, 7, 3])
    expected = units.astype(np.float64) - [seventh, third, gallery, gallery, seventh, third]
    expected[5] = 0.0
    np.testing.assert_array_equal(means.subtract(units, cameras), expected)
    centred = means.centre(units, cameras)
    np.testing.assert_allclose(np.linalg.norm(centred, axis=1), [1, 1, 1, 1, 1, 0], atol=1e-6)
    assert means.subtract(units[:0], cameras[:0]).shape == (0, DIMENSION)


def test_no_mean_has_crops_of_who_searches_by_it(monkeypatch):
    crops = drawn(people=70)
    fitted_to = []

    def note(fitted, least):
        fitted_to.append(set(fitted.shown.tolist()))
        return fit_means(fitted, least)

    monkeypatch.setattr(centring, "fit_means", note)
    assert measure_gain(crops, everybody(crops)).people == 70
    left_out = [set(range(70)) - people for people in fitted_to]
    assert [len(people) for people in left_out] == [14] * 5
    assert set.union(*left_out) == set(range(70))


def test_crops_of_the_own_person_and_camera_are_no_results():
    units = np.array([[1, 0], [1, 0], [0.8, 0.6], [0.6, 0.8], [1, 0]], np.float32)
    # A second crop of the passage, somebody else, the same person elsewhere, and a third person.
    crops = ShownCrops(units, np.array([0, 0, 1, 1, 0]), np.array([7, 7, 8, 7, 9]))
    found = average_precisions(crops, units, np.array([0, 3, 4]))
    np.testing.assert_allclose(found, [1 / 3, (1 / 2 + 2 / 3) / 2, np.nan])


@pytest.mark.parametrize("known", [0, 17])
def test_too_few_people_under_two_cameras_show_no_gain(known):
    crops = drawn(people=60, own_people=True)
    both = drawn(people=known, shift=1.0, seed=1) if known else crops.at(crops.shown < 0)
    joined = ShownCrops(
        np.concatenate([crops.units, both.units]),
        np.concatenate([crops.cameras, both.cameras]),
        np.concatenate([crops.shown, both.shown + 1000]),
    )
    assert measure_gain(joined, everybody(joined)) is None


def test_unnamed_crops_give_means_and_do_not_search():
    crops = drawn(people=100, shift=1.5)
    named = crops.shown < 30
    gain = measure_gain(crops, named)
    assert gain.people == 30
    assert gain.is_clear
    # The named ones alone are too few for means.
    assert measure_gain(crops.at(named), everybody(crops.at(named))) is None


@pytest.mark.parametrize(
    ("gain", "is_clear"), [(0.02, True), (0.01, False), (0.0, False), (-0.05, False)]
)
def test_a_gain_is_clear_beyond_its_standard_error(gain, is_clear):
    assert Gain(gain, 0.01, 50).is_clear is is_clear
