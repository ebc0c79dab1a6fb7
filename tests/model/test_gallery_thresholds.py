"""Search thresholds from leave-one-identity-out searches, on drawn scores."""

import numpy as np
import pytest

from model.calibration import ScoringCalibration, TailPoint
from model.gallery_thresholds import (
    LeftOutSearches,
    artefact_thresholds,
    fit_thresholds,
    level,
    mean_scale,
)
from model.left_out import (
    hide_known,
    leaders_by_name,
    sampled_crops,
    sampled_groups,
    search_other_cameras,
    subgalleries,
)
from model.order_statistics import FEW_IDENTITIES, RANKS
from model.problems import InputProblem
from model.search_calibration import RATES

PEOPLE = 150


def strangers(random, count, people=PEOPLE, scale=0.05):
    """Draw the nine best of `people` scores for strangers' searches of different levels."""
    rarity = random.exponential(1.0, (count, people))
    tail = np.expm1(-0.05 * rarity) / -0.05
    scores = random.normal(0.1, 0.05, (count, 1)) + scale * tail
    return -np.sort(-scores, axis=1)[:, :RANKS]


def left_out(random, people=PEOPLE, scale=0.05):
    names = np.repeat(np.arange(people), 2)
    return LeftOutSearches(strangers(random, 2 * people, people, scale), names, people)


def fitted(seed=0, sizes=(PEOPLE, 50)):
    random = np.random.default_rng(seed)
    return fit_thresholds([left_out(random, size) for size in sizes])


def obtained(thresholds, far, people=PEOPLE, scale=0.05, spread=1.0):
    leaders = strangers(np.random.default_rng(99), 4000, people, scale)
    tail = thresholds.tail(people, spread=spread)
    limits = [tail.threshold(far, height) for height in level(leaders).tolist()]
    return float((leaders[:, 0] >= limits).mean())


def test_a_camera_whose_scores_are_less_spread_obtains_as_much_by_its_spread():
    thresholds = fitted()
    own = obtained(thresholds, 0.01)
    assert obtained(thresholds, 0.01, scale=0.04) < own / 2
    assert obtained(thresholds, 0.01, scale=0.04, spread=0.8) == pytest.approx(own, abs=1e-3)
    assert thresholds.tail(PEOPLE, spread=1.0) == thresholds.tail(PEOPLE)


@pytest.mark.parametrize("people", [1, 3, 5, 10, 17])
def test_few_identities_have_the_artefacts_thresholds_and_a_probability_of_their_rarity(people):
    scores = [0.0, 0.1, 0.2, 0.3, 0.3, 0.4]
    points = [TailPoint(share=10.0**-place, score=score) for place, score in enumerate(scores)]
    artefact = ScoringCalibration(slope=20.0, intercept=-8.0, impostor_tail=tuple(points))
    tail = artefact_thresholds(artefact).tail(people)

    limits = [tail.threshold(rate, 0.0) for rate in RATES]
    expected = [artefact.search_threshold(rate, people) for rate in RATES]
    assert limits == pytest.approx(expected, abs=2e-5)
    probabilities = tail.probability(np.array(limits), 0.0)
    assert probabilities == pytest.approx([0.5429, 0.9164, 0.9868], abs=1e-3)
    rising = tail.probability(np.linspace(-0.5, 0.5, 500), 0.0)
    assert (np.diff(rising) > 0).all()


@pytest.mark.parametrize("people", [30, 50, 100, 150])
def test_the_asked_rate_is_obtained_before_any_search_and_under_a_filter(people):
    rates = [obtained(fitted(seed), 1e-2, people) for seed in range(4)]

    assert 0.002 <= np.mean(rates) <= 0.02


def test_people_enrolled_under_two_names_leave_the_thresholds_as_they_are():
    random = np.random.default_rng(4)
    clean = left_out(random, 100)
    leaders = clean.leaders.copy()
    # Three people of a hundred: the crops of either name find the other one first.
    doubles = clean.names < 6
    own = leaders[doubles, 0] + random.normal(0.35, 0.05, doubles.sum())
    leaders[doubles] = np.c_[own, leaders[doubles, :-1]]
    doubled = fit_thresholds([LeftOutSearches(leaders, clean.names, 100)])

    assert 0.004 <= obtained(doubled, 1e-2, 100) <= 0.025


def test_a_stricter_rate_has_a_higher_threshold():
    thresholds = fitted()

    for identities in (18, 40, 150, 1000):
        tail = thresholds.tail(identities)
        limits = [tail.threshold(rate, 0.3) for rate in (0.9, *RATES, 1e-6)]
        assert limits == sorted(set(limits))


def test_probability_rises_with_the_score_and_agrees_with_the_verdict():
    thresholds = fitted()
    scores = np.linspace(-1.0, 1.5, 400)
    at = {rate: [] for rate in RATES}
    for where, identities in ((0.1, 150), (0.3, 40), (-0.2, 18)):
        tail = thresholds.tail(identities)
        probability = tail.probability(scores, where)
        assert np.all(np.diff(probability) > 0.0)
        assert 0.0 < probability[0] < 0.05
        assert 0.95 < probability[-1] < 1.0
        for rate in RATES:
            limit = np.array([tail.threshold(rate, where)])
            at[rate] += tail.probability(limit, where).tolist()
    # Every search, size and gallery has the same probability at an operating point.
    for rate, expected in zip(
        RATES,
        (0.54, 0.92, 0.99),
        strict=True,
    ):
        assert at[rate] == pytest.approx([expected] * 3, abs=0.01)


def test_too_few_named_identities_show_no_tail():
    random = np.random.default_rng(0)
    with pytest.raises(InputProblem, match="17 named identities"):
        fit_thresholds([left_out(random, FEW_IDENTITIES - 1)])
    leaders = np.full((40, RANKS), 0.5)
    with pytest.raises(InputProblem, match="no spread"):
        fit_thresholds([LeftOutSearches(leaders, np.arange(40), 40)])


def test_a_search_with_fewer_than_nine_identities_is_left_out():
    one = left_out(np.random.default_rng(0))
    leaders = one.leaders.copy()
    leaders[::2, 5:] = -np.inf
    half = LeftOutSearches(one.leaders[1::2], one.names[1::2], PEOPLE)

    assert fit_thresholds([LeftOutSearches(leaders, one.names, PEOPLE)]).tails == (
        fit_thresholds([half]).tails
    )


def test_the_sample_has_every_identity_once_before_any_twice():
    random = np.random.default_rng(0)
    names = np.repeat(np.arange(400), 5)

    rows = sampled_crops(names, random)

    assert len(rows) == len(set(rows.tolist())) == 1000
    assert set(np.bincount(names[rows]).tolist()) == {2, 3}
    assert len(sampled_crops(np.repeat(np.arange(20), 9), random)) == 60


def test_parts_of_the_gallery_have_18_identities_at_least():
    names = np.repeat(np.arange(200), 3)

    parts = subgalleries(names, np.random.default_rng(0))

    assert [len(part) for part in parts] == [200, 66, 20]
    assert all(len(set(part.tolist())) == len(part) for part in parts)


def test_a_crop_searches_other_identities_and_other_cameras_where_there_are_enough():
    names = np.repeat(np.arange(20), 2)
    cameras = np.tile([0, 1], 20)
    scores = np.ones((3, 40), np.float32)

    own_names = np.array([0, 1, 2])
    hidden = hide_known(scores, own_names, np.array([0, 1, -1]), names, cameras)
    seen = np.isfinite(hidden)

    assert (seen[0] == ((names != 0) & (cameras == 1))).all()
    assert (seen[1] == ((names != 1) & (cameras == 0))).all()
    assert (seen[2] == (names != 2)).all()
    others_only = search_other_cameras(own_names, np.array([0, 1, -1]), names, cameras)
    assert others_only.tolist() == [True, True, False]
    names = names[:36]
    hidden = hide_known(scores[:, :36], own_names, np.zeros(3, int), names, cameras[:36])
    assert (np.isfinite(hidden[0]) == (names != 0)).all()


def test_identities_lead_by_their_best_crop():
    scores = np.linspace(0.9, 0.1, 11)[None].repeat(2, axis=0)
    scores[0, 4] = -np.inf
    scores[1] = scores[1, ::-1]
    names = np.array([4, 4, 2, 3, 1, 5, 6, 7, 8, 9, 10])[None].repeat(2, axis=0)

    leaders = leaders_by_name(scores, names)

    assert leaders.shape == (2, RANKS)
    assert leaders[0].tolist() == [0.9, *scores[0, [2, 3, 5, 6, 7, 8, 9, 10]]]
    assert leaders[1].tolist() == scores[1, [10, 9, 8, 7, 6, 5, 4, 3, 2]].tolist()


@pytest.mark.parametrize(("pictures", "scale"), [(1, 1.0), (2, 0.9), (4, 0.8), (8, 0.7), (32, 0.7)])
def test_the_threshold_of_several_pictures_has_their_scale(pictures, scale):
    measured = fitted().model_copy(update={"mean_scales": ((2, 0.9), (8, 0.7))})
    one = measured.tail(PEOPLE)
    several = measured.tail(PEOPLE, pictures)
    height = one.threshold(0.01, 0.2) - 0.2
    limit = several.threshold(0.01, 0.2)
    assert limit - 0.2 == pytest.approx(scale * height)
    assert several.probability(np.array([limit]), 0.2)[0] == pytest.approx(0.916, abs=1e-3)


@pytest.mark.parametrize("measured", [None, ()])
def test_without_a_measured_scale_several_pictures_are_judged_as_one(measured):
    thresholds = fitted().model_copy(update={"mean_scales": measured})
    assert thresholds.tail(PEOPLE, 4) == thresholds.tail(PEOPLE)


def test_the_scale_of_means_is_that_of_their_spacings_and_every_identity_counts_once():
    random = np.random.default_rng(3)
    names = np.repeat(np.arange(60), 2)
    crops = np.stack([strangers(random, 120) for _ in range(4)], axis=1)
    middle = crops[:, :1, -1:]
    means = middle + 0.8 * (crops[:, :1] - middle)
    assert mean_scale(np.hstack([means, crops[:, :1]]), names) == 0.8
    # An identity without nine people to search has no scale, and 18 identities have to have one.
    crops[names >= FEW_IDENTITIES - 1, 0, 5:] = -np.inf
    assert mean_scale(np.hstack([means, crops]), names) is None


def test_the_crops_of_a_group_are_of_one_track_where_18_identities_have_tracks():
    random = np.random.default_rng(4)
    names = np.repeat(np.arange(40), 6)
    cameras = np.tile([0, 0, 0, 1, 1, 1], 40)
    tracks = np.where(names < FEW_IDENTITIES, 2 * names + cameras, -1)
    groups = sampled_groups(names, (tracks, cameras), 3, random)
    assert len(groups) == 2 * FEW_IDENTITIES
    assert (names[groups] == names[groups][:, :1]).all()
    assert (tracks[groups] == tracks[groups][:, :1]).all()
    # With fewer people with tracks the crops are of one camera, and of more crops of any.
    few = np.where(names < FEW_IDENTITIES - 1, tracks, -1)
    by_camera = sampled_groups(names, (few, cameras), 3, random)
    assert len(np.unique(names[by_camera])) == 40
    assert (cameras[by_camera] == cameras[by_camera][:, :1]).all()
    anywhere = sampled_groups(names, (few, cameras), 4, random)
    assert len(anywhere) == 40
    assert not (cameras[anywhere] == cameras[anywhere][:, :1]).all()
    assert len(sampled_groups(names, (few, cameras), 8, random)) == 0
