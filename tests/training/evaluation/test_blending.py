"""The calibration of few people leans on that of the artefact that was adapted to them."""

from __future__ import annotations

import numpy as np
import pytest

from model.calibration import Calibration
from training.evaluation.blending import Moments, blended, impostor_moments
from training.evaluation.calibration import calibrate_searches
from training.evaluation.metrics import PairLabels
from training.evaluation.scoring import SearchScores
from training.evaluation.sweep import sweep

CROPS = 4


def drawn_search(people: int, seed: int, scale: float = 1.0, offset: float = 0.0) -> SearchScores:
    """Four crops of each person under either camera; all pairs of two people score alike."""
    random = np.random.default_rng(seed)
    names = np.repeat(np.arange(people), CROPS)
    scores = (random.normal(size=(people, people)) + 6.0 * np.eye(people))[names][:, names]
    scores = scale * (scores + random.normal(0.0, 0.1, scores.shape)) + offset
    scores = scores.astype(np.float32)
    mnet = (2.0 * scores + 7.0).astype(np.float32)
    labels = PairLabels(names, 0 * names, names, 0 * names + 1)
    return SearchScores(scores.__getitem__, mnet.__getitem__, labels)


def false_alarms(calibration: Calibration, judged: SearchScores) -> float:
    extremes = sweep(judged.cosine, judged.labels)
    size = int(extremes.impostors[0])
    threshold = calibration.scorings["cosine"].search_threshold(1e-2, size)
    return float(extremes.false_alarms(threshold).mean())


@pytest.fixture(scope="module")
def start() -> Calibration:
    return calibrate_searches([drawn_search(100, seed=1)], "many people")


@pytest.mark.parametrize(("scale", "offset"), [(1.0, 0.0), (0.5, 0.2), (1.5, -1.0)])
def test_few_people_raise_fewer_false_alarms_than_by_themselves(
    start: Calibration, scale: float, offset: float
) -> None:
    """Also where the adapted scores lie elsewhere than the start's."""
    judged = drawn_search(100, seed=3, scale=scale, offset=offset)
    alone = []
    together = []
    for seed in range(10, 18):
        before = impostor_moments([drawn_search(5, seed)], start)
        few = drawn_search(5, seed, scale, offset)
        new = calibrate_searches([few], "five people")
        mixed = blended(new, impostor_moments([few], new), start, before, 5)
        alone.append(false_alarms(new, judged))
        together.append(false_alarms(mixed, judged))

    assert np.mean(alone) > 0.05
    assert np.mean(together) < 0.05
    assert max(together) < max(alone) / 3


def test_many_people_decide_by_themselves(start: Calibration) -> None:
    new = calibrate_searches([drawn_search(40, seed=5, offset=0.5)], "40 people")
    moments = {name: Moments(0.0, 1.0) for name in new.scorings}
    none, some, many = (
        blended(new, moments, start, moments, people).scorings["cosine"].pair_threshold(1e-3)
        for people in (0, 50, 1_000_000)
    )

    assert none == pytest.approx(start.scorings["cosine"].pair_threshold(1e-3), abs=0.02)
    assert many == pytest.approx(new.scorings["cosine"].pair_threshold(1e-3), abs=0.02)
    assert some == pytest.approx((none + many) / 2, abs=0.02)


def test_a_rescaled_calibration_gives_the_same_probabilities_and_shares(
    start: Calibration,
) -> None:
    for scoring in (start.scorings["cosine"], start.scorings["mnet"]):
        other = scoring.rescaled(0.3, -40.0)
        for score in (0.0, 1.7, 6.0):
            assert other.probability(0.3 * score - 40.0) == pytest.approx(
                scoring.probability(score)
            )
        for far in (0.3, 1e-3, 1e-7):
            expected = 0.3 * scoring.pair_threshold(far) - 40.0
            assert other.pair_threshold(far) == pytest.approx(expected)


def test_probabilities_are_blended(start: Calibration) -> None:
    new = calibrate_searches([drawn_search(20, seed=5)], "20 people")
    moments = {name: Moments(0.0, 1.0) for name in new.scorings}
    mixed = blended(new, moments, start, moments, 50).scorings["cosine"]
    both = [
        calibration.scorings["cosine"].log_likelihood_ratios(np.array([1.0]))
        for calibration in (new, start)
    ]
    assert mixed.log_likelihood_ratios(np.array([1.0])) == pytest.approx(np.mean(both))


def test_a_start_without_mnet_lends_its_cosine(start: Calibration) -> None:
    search = drawn_search(9, seed=7)
    new = calibrate_searches([search], "nine people")
    cosine_alone = start.model_copy(update={"scorings": {"cosine": start.scorings["cosine"]}})
    before = impostor_moments([search], cosine_alone)
    mixed = blended(new, impostor_moments([search], new), cosine_alone, before, 9)

    # M-Net's scores are 2·cosine + 7 here.
    for far in (1e-2, 1e-4):
        cosine, mnet = (mixed.scorings[name].pair_threshold(far) for name in ("cosine", "mnet"))
        assert mnet == pytest.approx(2.0 * cosine + 7.0, abs=0.05)
