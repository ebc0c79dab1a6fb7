"""Thresholds of watch lists: scores against a list, and rates of false alarms."""

import time
import tracemalloc

import numpy as np
import pytest

from model.artefact import load_artefact, resolve_artefact
from model.gallery_thresholds import artefact_thresholds
from model.problems import InputProblem
from service.watch.forecast import forecast_alarms, rate_within
from service.watch.scores import WatchList
from service.watch.threshold import BINS, CROPS_PER_TRACK, Reviews, ThresholdFit, Traffic

RATES = (0.3, 0.1, 1e-2, 3e-3, 1e-3, 1e-4, 1e-6)
DIMENSION = 32


def _population(people, crops, seed, spread=0.5):
    """Draw people about their own directions, each under two cameras in turn."""
    random = np.random.default_rng(seed)
    middles = random.standard_normal((people, 1, DIMENSION))
    vectors = middles + spread * random.standard_normal((people, crops, DIMENSION))
    names = np.repeat(np.arange(people), crops)
    return vectors.reshape(-1, DIMENSION).astype(np.float32), names, np.arange(len(names)) % 2


def _list(people, crops=5, seed=1):
    return WatchList(*_population(people, crops, seed))


def _reference(rows=2000):
    pairs = np.random.default_rng(7).standard_normal((rows, 2, DIMENSION))
    return pairs.sum(axis=1).astype(np.float32)


def _traffic(watch_list, people, seed=3):
    """Count the best of four crops of each person."""
    vectors, _, _ = _population(people, 4, seed)
    return Traffic.of(watch_list.score(vectors).scores.reshape(-1, 4).max(axis=1))


def fit_threshold(
    watch_list, rate, reference, traffic=None, crops_per_track=CROPS_PER_TRACK, artefact=None
):
    """Fit the threshold at a camera that enrolled nobody."""
    return ThresholdFit(watch_list, rate, reference, crops_per_track, artefact).at(None, traffic)


@pytest.mark.promise("budget")
@pytest.mark.parametrize(("budget", "tracks"), [(3, 500), (1, 500), (10, 3000)])
@pytest.mark.parametrize("people", [2, 6, 40])
def test_the_forecast_expects_the_accepted_budget_before_and_after_traffic(people, budget, tracks):
    watch_list = _list(people)
    no_traffic = Traffic(np.zeros(BINS, np.int64))
    for traffic in (no_traffic, _traffic(watch_list, 200)):
        rate = rate_within(budget / tracks, watch_list, _reference(), traffic)
        threshold = fit_threshold(watch_list, rate, _reference(), traffic)
        assert threshold.promised
        assert threshold.traffic_tracks == traffic.tracks
        assert forecast_alarms(threshold, tracks).false_alarms == pytest.approx(budget)


def _artefact():
    artefact = load_artefact(resolve_artefact("open"))
    return artefact_thresholds(artefact.description.calibration.scorings["cosine"])


@pytest.mark.parametrize(
    ("cosines", "score", "person"),
    [
        pytest.param([0.1, 0.8, -0.3], 0.8, 10, id="of few people the best cosine"),
        pytest.param(
            [0.1, 0.2, 0.3, 0.9, 0.4, 0.5, 0.6, 0.1, 0.2, -0.9],
            0.9 - (0.6 + 0.5 + 0.4 + 0.3 + 0.2 + 0.2 + 0.1 + 0.1) / 8,
            30,
            id="from nine people on relative to the next eight",
        ),
    ],
)
def test_a_crop_scores_by_the_people_of_a_list(cosines, score, person):
    count = len(cosines)
    vectors = np.zeros((count, count + 1), np.float32)
    vectors[:, 0] = cosines
    vectors[np.arange(count), np.arange(1, count + 1)] = np.sqrt(1 - np.square(cosines))
    watch_list = WatchList(5 * vectors, 10 * np.arange(count), np.full(count, -1))
    scores = watch_list.score(3 * np.eye(1, count + 1, dtype=np.float32))
    assert scores.scores == pytest.approx([score])
    assert watch_list.people[scores.positions].tolist() == [person]


def test_a_person_scores_by_their_best_crop():
    vectors = np.array([[3, 4], [0, 1], [4, 3]], np.float32)
    watch_list = WatchList(vectors, np.array([2, 7, 7]), np.array([-1, -1, -1]))
    scores = watch_list.score(np.array([[2, 0]], np.float32))
    assert scores.scores == pytest.approx([0.8])
    assert watch_list.people[scores.positions].tolist() == [7]
    assert scores.positions.tolist() == [2]
    assert watch_list.size == 2


def test_a_list_without_a_named_person_is_refused():
    with pytest.raises(InputProblem, match="no named person"):
        WatchList(np.ones((0, 3), np.float32), np.zeros(0, np.int64), np.zeros(0, np.int64))


@pytest.mark.parametrize("people", [1, 3, 5, 9, 17, 18, 40])
@pytest.mark.parametrize("known", ["reference", "traffic", "nothing"])
def test_a_smaller_rate_never_has_a_lower_threshold(people, known):
    watch_list = _list(people)
    reference = None if known == "nothing" else _reference()
    traffic = _traffic(watch_list, 300) if known == "traffic" else None
    fitted = [
        fit_threshold(watch_list, rate, reference, traffic, artefact=_artefact()) for rate in RATES
    ]
    values = [threshold.value for threshold in fitted]
    assert np.isfinite(values).all()
    assert values == sorted(values)
    assert {threshold.basis for threshold in fitted} == {
        {"nothing": "list" if people >= 18 else "artefact"}.get(known, known)
    }


@pytest.mark.parametrize("people", [3, 9, 18, 40])
def test_strangers_exceed_it_no_more_often_than_asked_and_listed_people_mostly(people):
    watch_list = _list(people)
    threshold = fit_threshold(watch_list, 1e-2, _reference(), crops_per_track=1)
    strangers = watch_list.score(_population(20_000, 1, seed=9)[0]).scores
    listed = watch_list.score(_population(people, 5, seed=1)[0]).scores
    assert (strangers > threshold.value).mean() < 1.2e-2
    assert (listed > threshold.value).mean() > 0.9


def test_a_rate_below_the_smallest_promise_keeps_its_threshold_and_is_not_promised():
    watch_list = _list(40)
    usual, rare = (fit_threshold(watch_list, rate, _reference()) for rate in (1e-3, 1e-5))
    assert usual.promised
    assert not rare.promised
    assert (rare.asked, rare.rate) == (1e-5, 1e-3)
    assert rare.value > usual.value
    alone = fit_threshold(watch_list, 1e-3, None)
    assert not alone.promised
    assert alone.rate == 1e-2


def test_few_people_without_a_reference_have_the_artefacts_threshold_or_none():
    for people in (3, 9, 17):
        with pytest.raises(InputProblem, match="reference"):
            fit_threshold(_list(people), 1e-2, None)
        assert not fit_threshold(_list(people), 1e-2, None, artefact=_artefact()).promised
    by_score = fit_threshold(_list(3), 1e-2, None, crops_per_track=4, artefact=_artefact())
    assert by_score.value == _artefact().tail(3).threshold(5e-3, 0.0)


def test_people_who_look_all_the_same_are_refused():
    same = np.tile(np.arange(1, 5, dtype=np.float32), (20, 1))
    watch_list = WatchList(same, np.arange(20), np.zeros(20, np.int64))
    with pytest.raises(InputProblem):
        fit_threshold(watch_list, 1e-2, np.random.default_rng(0).random((500, 4), np.float32))


@pytest.mark.parametrize("people", [5, 40])
def test_traffic_moves_the_threshold_from_200_tracks_on_and_within_a_factor_of_three(people):
    watch_list = _list(people)
    reference = _reference()
    before, above, below = (
        fit_threshold(watch_list, rate, reference) for rate in (1e-2, 1e-2 / 3, 3e-2)
    )
    assert fit_threshold(watch_list, 1e-2, reference, _traffic(watch_list, 199)) == before
    seen = fit_threshold(watch_list, 1e-2, reference, _traffic(watch_list, 200))
    assert (seen.basis, seen.traffic_tracks) == ("traffic", 200)
    assert below.value <= seen.value <= above.value
    for scores, end in (([0.9] * 250 + [0.8] * 250, above), ([-0.1] * 250 + [-0.2] * 250, below)):
        moved = fit_threshold(watch_list, 1e-2, reference, Traffic.of(np.array(scores)))
        assert moved.value == end.value


@pytest.mark.parametrize("people", [5, 40])
def test_listed_people_in_the_traffic_change_the_threshold_little(people):
    watch_list = _list(people)
    listed = watch_list.score(_population(people, 8, seed=1)[0]).scores
    listed = np.resize(listed, 90)
    strangers = _traffic(watch_list, 360)
    reference = _reference()
    clean = fit_threshold(watch_list, 1e-2, reference, strangers)
    both = Traffic(strangers.counts + Traffic.of(listed).counts)
    mixed = fit_threshold(watch_list, 1e-2, reference, both)
    assert mixed.traffic_tracks == 450
    assert abs(mixed.value - clean.value) < 0.05 * (np.median(listed) - clean.value)


@pytest.mark.parametrize("people", [3, 9, 40])
@pytest.mark.parametrize("crops", [1, 5])
def test_the_camera_that_enrolled_a_list_has_a_stricter_threshold_at_every_rate(people, crops):
    watch_list = _list(people, crops)
    traffic = _traffic(watch_list, 300)
    for seen in (None, traffic):
        fits = [ThresholdFit(watch_list, rate, _reference()) for rate in RATES]
        values = [fit.at(0, seen).value for fit in fits]
        assert values == sorted(values)
        elsewhere = [fit.at(7, seen) for fit in fits]
        assert [fit.at(None, seen) for fit in fits] == elsewhere
        assert not any(threshold.own_camera for threshold in elsewhere)
        differences = np.subtract(values, [threshold.value for threshold in elsewhere])
        assert (differences >= 0).all()
        assert (differences > 0).any()


def test_the_camera_that_enrolled_a_list_still_finds_its_people():
    watch_list = _list(9)
    threshold = ThresholdFit(watch_list, 1e-2, _reference()).at(1)
    listed = watch_list.score(_population(9, 5, seed=1)[0]).scores
    assert (listed > threshold.value).mean() > 0.9


def test_crops_unlike_each_other_make_no_threshold_stricter():
    vectors = np.eye(6, DIMENSION, dtype=np.float32)
    watch_list = WatchList(vectors, np.repeat(np.arange(3), 2), np.zeros(6, np.int64))
    fit = ThresholdFit(watch_list, 1e-2, _reference())
    assert fit.at(0).value == fit.at(None).value


@pytest.mark.parametrize("people", [3, 40])
def test_traffic_of_the_own_camera_moves_its_threshold_within_a_factor_of_three(people):
    watch_list = _list(people)
    above, below = (
        ThresholdFit(watch_list, rate, _reference()).at(0).value for rate in (1e-2 / 3, 3e-2)
    )
    fit = ThresholdFit(watch_list, 1e-2, _reference())
    for scores, end in (([0.9] * 250 + [0.8] * 250, above), ([-0.1] * 250 + [-0.2] * 250, below)):
        assert fit.at(0, Traffic.of(np.array(scores))).value == pytest.approx(end)


def _reviewed(rejected=(), confirmed=(), people=3, traffic=None):
    """Return a list's threshold at its own camera before and after reviews, and another's after."""
    fit = ThresholdFit(_list(people), 1e-2, _reference())
    reviews = Reviews(np.array(rejected, float), np.array(confirmed, float))
    before = fit.at(0, traffic).value
    after = fit.at(0, traffic, reviews)
    assert after.reviews == len(rejected) + len(confirmed)
    assert fit.at(7, traffic, reviews) == fit.at(7, traffic)
    return before, after.value


def test_a_rejected_alert_raises_the_threshold_of_the_camera_to_its_score():
    before, _ = _reviewed()
    assert _reviewed(rejected=[before + 0.005]) == (before, before + 0.005)
    assert _reviewed(rejected=[before - 0.01]) == (before, before)


def test_the_promised_number_of_false_alarms_moves_no_threshold():
    traffic = _traffic(_list(3), 200)
    before, _ = _reviewed(traffic=traffic)
    # Two of 200 tracks are 1%.
    raised = [before + 0.005, before + 0.02]
    assert _reviewed(rejected=raised, traffic=traffic)[1] == before
    assert _reviewed(rejected=[*raised, before + 0.03], traffic=traffic)[1] == before + 0.005


def test_wrong_rejections_move_a_threshold_a_little_only():
    before, after = _reviewed(rejected=[0.99] * 20)
    own_crops_reach = 0.8
    assert before < after < before + 0.1 * (own_crops_reach - before)
    # A confirmed alert bounds them further.
    assert _reviewed(rejected=[0.99] * 20, confirmed=[before + 0.01])[1] <= before + 0.01


def test_confirmed_alerts_far_above_a_threshold_raise_it_the_more_the_more_there_are():
    before, few = _reviewed(confirmed=[0.9] * 2)
    _, many = _reviewed(confirmed=[0.9] * 50)
    assert before < few < many < (before + 0.9) / 2
    # None of them would be missed.
    assert _reviewed(confirmed=[0.9] * 50 + [before + 0.01])[1] < before + 0.01


def test_five_thousand_people_are_fitted_in_seconds_within_200_megabytes():
    watch_list = _list(5000)
    reference = _reference(5000)
    tracemalloc.start()
    began = time.process_time()
    assert fit_threshold(watch_list, 1e-3, reference).promised
    seconds = time.process_time() - began
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds < 15
    assert peak < 200e6
