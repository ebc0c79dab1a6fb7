"""Thresholds of a list by camera and key, from its own crops, tracks and reviews of alerts."""

from datetime import UTC, datetime

import numpy as np
import pytest

from service.record.values import Sender
from service.watch.camera_thresholds import fit_cameras, measure_growth
from service.watch.scores import WatchList
from service.watch.tables.camera_reviews import CameraReviews
from service.watch.tables.traffic import CameraTraffic
from service.watch.threshold import ThresholdFit, Traffic

GATE = Sender("key", "gate")
FOREIGN = Sender("foreign", "gate")
YARD = Sender("key", "yard")
UNNAMED = Sender("key", None)


@pytest.fixture(scope="module")
def fit():
    """Return the fit of a list of five people, whom the camera of code 0 enrolled."""
    random = np.random.default_rng(1)
    middles = random.standard_normal((5, 1, 32))
    vectors = middles + 0.5 * random.standard_normal((5, 4, 32))
    watch_list = WatchList(
        vectors.reshape(-1, 32).astype(np.float32), np.repeat(np.arange(5), 4), np.zeros(20, int)
    )
    reference = random.standard_normal((2000, 32)).astype(np.float32)
    return ThresholdFit(watch_list, 1e-2, reference)


def _fit(fit, traffic=None, reviews=None):
    return fit_cameras(fit, fit.at(), {"gate": 0}, traffic or {}, reviews or {})


def _tracks(number, score=0.9):
    counts = Traffic.of(np.full(number, score)).counts
    return CameraTraffic(counts, number, datetime.now(UTC))


def _reviews(confirmed=(), rejected=(), are_ignored=False):
    reviews = CameraReviews(are_ignored)
    reviews.confirmed.extend(confirmed)
    reviews.rejected.extend(rejected)
    return reviews


def test_a_camera_that_sent_nothing_yet_has_the_threshold_of_its_name(fit):
    thresholds = _fit(fit)
    assert thresholds.at(GATE) == thresholds.at(FOREIGN) == fit.at(0)
    assert thresholds.at(YARD) == thresholds.at(UNNAMED) == fit.at()
    assert thresholds.describe() == []


def test_tracks_move_the_threshold_of_their_own_camera_and_key_alone(fit):
    thresholds = _fit(fit, {FOREIGN: _tracks(200), GATE: _tracks(199), YARD: _tracks(199)})
    assert thresholds.at(FOREIGN).traffic_tracks == 200
    assert thresholds.at(FOREIGN) != thresholds.at(GATE)
    assert thresholds.at(GATE) == fit.at(0)
    assert thresholds.at(YARD) == thresholds.at(UNNAMED) == fit.at()
    moved = _fit(fit, {YARD: _tracks(200)})
    assert moved.at(YARD) == fit.at(traffic=Traffic(_tracks(200).counts))


def test_reviews_move_the_threshold_of_their_own_camera_and_key_unless_they_are_ignored(fit):
    confirmed = [0.95] * 10
    thresholds = _fit(fit, reviews={GATE: _reviews(confirmed), YARD: _reviews(confirmed)})
    assert thresholds.at(GATE).value > fit.at(0).value
    assert thresholds.at(FOREIGN) == fit.at(0)
    assert thresholds.at(YARD).value == fit.at().value
    ignored = _fit(fit, reviews={GATE: _reviews(confirmed, are_ignored=True)})
    assert ignored.at(GATE) == fit.at(0)


def test_a_user_reads_what_the_threshold_of_a_camera_rests_on(fit):
    thresholds = _fit(
        fit,
        {GATE: _tracks(250), UNNAMED: _tracks(3)},
        {GATE: _reviews([0.9] * 2, [0.5]), YARD: _reviews([0.9], are_ignored=True)},
    )
    unnamed, gate, yard = thresholds.describe()
    assert (gate.tracks, gate.confirmed, gate.rejected, gate.own_camera) == (250, 2, 1, True)
    assert gate.rests_on == (
        "It rests on the list, the model's made-up strangers, its crops of this camera, 250 tracks "
        "and 3 reviews of alerts there."
    )
    assert (unnamed.camera, unnamed.tracks) == (None, 3)
    assert unnamed.rests_on == "It rests on the list and the model's made-up strangers."
    assert (yard.confirmed, yard.reviews_ignored, yard.own_camera) == (1, True, False)


def test_only_a_camera_whose_tracks_or_reviews_have_changed_has_other_evidence(fit):
    seen = {GATE: _tracks(200), YARD: _tracks(200)}
    former = _fit(fit, seen, {GATE: _reviews([0.9])})
    for traffic, reviews in (
        (seen, {GATE: _reviews([0.9], are_ignored=True)}),
        (seen, {GATE: _reviews([], [0.9])}),
        (seen, {}),
        (seen | {GATE: _tracks(300)}, {GATE: _reviews([0.9])}),
    ):
        current = _fit(fit, traffic, reviews)
        assert current.has_same_evidence(former, YARD)
        assert not current.has_same_evidence(former, GATE)


def test_another_fit_is_due_when_the_traffic_of_one_camera_has_grown():
    before = measure_growth({GATE: _tracks(200), YARD: _tracks(10)})
    assert measure_growth({GATE: _tracks(299), YARD: _tracks(199)}) == before
    assert measure_growth({GATE: _tracks(300), YARD: _tracks(10)}) != before
    assert measure_growth({GATE: _tracks(200), YARD: _tracks(200)}) != before
    assert measure_growth({GATE: _tracks(200)}) != before
