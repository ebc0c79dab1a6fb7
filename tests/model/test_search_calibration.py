"""Search thresholds from unlabelled searches, on drawn scores."""

import numpy as np
import pytest

from model.calibration import DEFAULT_TAIL_SHAPE, ScoringCalibration, TailPoint
from model.order_statistics import RANKS
from model.problems import InputProblem
from model.search_calibration import (
    RATES,
    artefact_search_calibration,
    fit_searches,
    pack_search,
    unpack_searches,
)

PEOPLE = 200


def impostors(random, count, people, shape=-0.05):
    """Scores of other people, `(count, people)`: a generalised Pareto tail with σ = 0.05."""
    rarity = random.exponential(1.0, (count, people))
    return 0.1 + 0.05 * (np.expm1(shape * rarity) / shape if shape else rarity)


ARTEFACT = ScoringCalibration(
    slope=25.0,
    intercept=-10.0,
    impostor_tail=tuple(
        TailPoint(share=float(share), score=0.1 - 0.04 * float(np.log(share)))
        for share in np.geomspace(1.0, 1e-5, 40)
    ),
)


def searches(count, enrolled, seed=0, people=PEOPLE, shape=-0.05):
    """Searches of which a share is for enrolled people, whose own score is higher on the whole."""
    random = np.random.default_rng(seed)
    scores = impostors(random, count, people, shape)
    known = random.random(count) < enrolled
    scores[known, 0] = random.normal(0.7, 0.15, known.sum())
    best = -np.sort(-scores, axis=1)[:, :RANKS]
    return unpack_searches([pack_search(row, people, 1000.0) for row in best.tolist()])


def obtained(threshold, people=PEOPLE, count=4000, shape=-0.05):
    """Return the share of strangers' searches that reach a threshold."""
    random = np.random.default_rng(99)
    return float((impostors(random, count, people, shape).max(axis=1) >= threshold).mean())


@pytest.mark.parametrize("enrolled", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("shape", "most"), [(-0.1, 0.02), (-0.05, 0.025), (0.0, 0.04)])
def test_the_asked_rate_is_obtained_whoever_searches(enrolled, shape, most):
    rates = []
    for seed in range(4):
        own = fit_searches(searches(256, enrolled, seed, shape=shape), ARTEFACT)
        rates.append(obtained(own.threshold(1e-2, PEOPLE), shape=shape))

    assert 0.003 <= np.mean(rates) <= most


@pytest.mark.parametrize("used", [20, 30, 2000])
def test_thresholds_follow_a_gallery_that_grows_and_a_filter(used):
    rates = [
        obtained(fit_searches(searches(256, 0.5, seed), ARTEFACT).threshold(1e-2, used), used)
        for seed in range(4)
    ]

    assert 0.002 <= np.mean(rates) <= 0.03


def test_the_artefacts_thresholds_are_its_pair_tail_for_as_many_identities():
    calibration = artefact_search_calibration(ARTEFACT)

    for identities in (0, 1, 2, 5, 10, 100, 1000):
        expected = ARTEFACT.search_threshold(1e-2, identities)
        assert calibration.threshold(1e-2, identities) == pytest.approx(expected, abs=2e-3)
    assert calibration.searches == 0


def test_a_stricter_rate_and_more_identities_have_higher_thresholds():
    for calibration in (
        artefact_search_calibration(ARTEFACT),
        fit_searches(searches(100, 0.5), ARTEFACT),
    ):
        for identities in (18, 30, 100, 1000, 10_000):
            by_rate = [calibration.threshold(rate, identities) for rate in RATES]
            assert by_rate == sorted(by_rate)
        by_size = [calibration.threshold(1e-2, size) for size in (20, 100, 1000, 100_000)]
        assert by_size == sorted(by_size)


def test_an_answer_far_beyond_the_searches_is_extrapolated():
    own = fit_searches(searches(100, 0.5), ARTEFACT)

    assert not own.extrapolated(20)
    assert not own.extrapolated(10 * PEOPLE)
    assert own.extrapolated(11 * PEOPLE)


def test_probability_rises_strictly_with_the_score():
    scores = np.linspace(-1.0, 2.0, 500)
    for calibration in (
        artefact_search_calibration(ARTEFACT),
        fit_searches(searches(60, 0.5), ARTEFACT),
    ):
        probability = calibration.probability(scores)

        assert np.all(np.diff(probability) > 0.0)
        assert 0.0 < probability[0] < 0.1
        assert 0.8 < probability[-1] < 1.0


def test_other_people_are_improbable_after_searches_for_enrolled_people_alone():
    enrolled = searches(60, 1.0, seed=1, people=1000, shape=-0.2)
    genuine, impostor = np.median(enrolled["scores"][:, :2], axis=0)

    probability = fit_searches(enrolled, ARTEFACT).probability(np.array([impostor, genuine]))

    assert probability[0] < 0.05
    assert probability[1] > 0.99


def test_a_refit_moves_a_threshold_by_half_the_scale_of_the_tail_at_most():
    before = fit_searches(searches(60, 0.0), ARTEFACT)
    moved = searches(60, 0.0, seed=1)
    moved["scores"] += 0.5

    after = fit_searches(moved, ARTEFACT, before)

    assert (
        fit_searches(moved, ARTEFACT).threshold(1e-2, PEOPLE) > before.threshold(1e-2, PEOPLE) + 0.4
    )
    for rate in RATES:
        change = after.threshold(rate, PEOPLE) - before.threshold(rate, PEOPLE)
        assert 0.0 < change < 0.02


@pytest.mark.parametrize("data", [b"", b"\x02" + bytes(48), b"\x01" + bytes(48), b"\x01" * 50])
def test_bytes_that_are_no_packed_search_are_left_out(data):
    packed = pack_search((0.5,) * RANKS, 100, 0.0)
    assert len(unpack_searches([data, packed])) == 1


def test_a_search_among_few_identities_is_left_out():
    packed = [pack_search((0.5,) * RANKS, people, 0.0) for people in (17, 18)]
    assert unpack_searches(packed)["identities"].tolist() == [18]


def test_searches_without_spread_are_refused():
    alike = unpack_searches([pack_search((0.5,) * RANKS, 100, 0.0)] * 30)
    with pytest.raises(InputProblem, match="no spread"):
        fit_searches(alike, ARTEFACT)


def test_the_artefact_gives_the_shape_of_the_tail_of_any_scoring():
    few = searches(40, 0.0)
    thresholds = [
        fit_searches(few, ARTEFACT.model_copy(update={"tail_shape": shape})).threshold(1e-3, PEOPLE)
        for shape in (-0.2, DEFAULT_TAIL_SHAPE, None, 0.05)
    ]

    assert thresholds[0] < thresholds[1] == thresholds[2] < thresholds[3]
