"""Thresholds for cameras never seen, found without a label."""

import json

import numpy as np
import pytest

from model.calibration import (
    SCORINGS,
    Calibration,
    Fusion,
    LikelihoodPoint,
    ScoringCalibration,
    TailPoint,
)
from model.problems import InputProblem
from model.recalibration import SHARES, recalibrate

CEILING = 12.0
GALLERY = 400


def m_net(cosines):
    """A score that rises with the cosine, less steeply from 0.5 on: at 1 a crop meets itself."""
    return CEILING - 12.0 * (1.0 - cosines) - 18.0 * np.maximum(0.5 - cosines, 0.0)


def searches(count, centre, spread, seed, genuine=0):
    """Cosines of other people, and of `genuine` crops of the person searched for in each row."""
    random = np.random.default_rng(seed)
    cosines = centre + (1 - centre) * np.tanh(random.normal(0.0, spread, (count, GALLERY)))
    cosines[:, :genuine] = np.tanh(random.normal(0.7, 0.2, (count, genuine)))
    return cosines.astype(np.float32)


def calibrated_on(cosines) -> Calibration:
    """An artefact's calibration whose impostors had these cosines."""
    scores = {"cosine": cosines, "mnet": m_net(cosines), "fused": m_net(cosines) + 2 * cosines}
    shares = np.geomspace(1.0, 10 / cosines.size, 60)
    return Calibration(
        scorings={
            name: ScoringCalibration(
                slope=2.0,
                intercept=-1.0,
                impostor_tail=tuple(
                    TailPoint(share=share, score=float(np.quantile(of_others, 1 - share)))
                    for share in shares
                ),
            )
            for name, of_others in scores.items()
        },
        fusion=Fusion(cosine_weight=2.0, mnet_weight=1.0, offset=0.0),
        genuine_pairs=100,
        impostor_pairs=cosines.size,
        data="drawn",
    )


SOURCE = calibrated_on(searches(1000, 0.0, 0.17, seed=1))


def false_alarms(calibration: Calibration, cosines, scoring, asked=1e-2) -> float:
    best = cosines.max(axis=1)
    scores = {"cosine": best, "mnet": m_net(best), "fused": m_net(best) + 2 * best}[scoring]
    threshold = calibration.scorings[scoring].search_threshold(asked, GALLERY)
    return float(np.mean(scores >= threshold))


@pytest.mark.parametrize("scoring", SCORINGS)
@pytest.mark.parametrize(("centre", "spread"), [(0.0, 0.17), (0.05, 0.2), (0.45, 0.2), (0.1, 0.25)])
def test_an_asked_rate_is_obtained_on_cameras_never_seen(centre, spread, scoring) -> None:
    moved = recalibrate(SOURCE, searches(300, centre, spread, seed=2), CEILING)
    strangers = searches(5000, centre, spread, seed=3)
    assert 0.5e-2 < false_alarms(moved, strangers, scoring) < 2e-2


def test_without_it_closer_strangers_raise_false_alarms() -> None:
    assert false_alarms(SOURCE, searches(1000, 0.45, 0.2, seed=3), "cosine") > 0.5


@pytest.mark.parametrize("scoring", SCORINGS)
def test_people_who_are_in_the_gallery_make_it_more_careful_not_less(scoring) -> None:
    moved = recalibrate(SOURCE, searches(500, 0.1, 0.2, seed=4, genuine=2), CEILING)
    strangers = searches(5000, 0.1, 0.2, seed=5)
    assert false_alarms(moved, strangers, scoring) < 1e-2
    assert 0.0 < false_alarms(moved, strangers, scoring, asked=1e-1) < 1e-1


@pytest.mark.parametrize("scoring", SCORINGS)
def test_some_of_m_nets_own_scores_show_where_it_moved(scoring) -> None:
    def elsewhere(cosines):
        return m_net(cosines + 0.15 * (1.0 - cosines))

    cosines, strangers = searches(300, 0.1, 0.2, seed=10), searches(5000, 0.1, 0.2, seed=11)
    scored = np.random.default_rng(12).random(cosines.shape) < 0.25
    mnet = np.where(scored, elsewhere(cosines), np.nan).astype(np.float32)
    best = strangers.max(axis=1)
    scores = {"cosine": best, "mnet": elsewhere(best), "fused": elsewhere(best) + 2 * best}[scoring]
    unseen, seen = (
        float(np.mean(scores >= one.scorings[scoring].search_threshold(1e-2, GALLERY)))
        for one in (
            recalibrate(SOURCE, cosines, CEILING),
            recalibrate(SOURCE, cosines, CEILING, mnet=mnet),
        )
    )
    assert 0.3e-2 < seen < 2e-2
    assert unseen == seen if scoring == "cosine" else unseen > 2e-2


@pytest.mark.parametrize(
    ("mnet", "message"),
    [
        (np.zeros((100, 300), np.float32), "shape .100, 300. and the cosines .100, 400."),
        (np.full((100, 400), np.nan, np.float32), "M-Net scored 0 of the searched pairs"),
    ],
)
def test_m_nets_scores_have_to_be_of_enough_of_the_same_pairs(mnet, message) -> None:
    with pytest.raises(InputProblem, match=message):
        recalibrate(SOURCE, searches(100, 0.1, 0.2, seed=13), CEILING, mnet=mnet)


def test_a_part_of_the_gallery_stands_for_all_of_it() -> None:
    cosines = searches(500, 0.1, 0.2, seed=6)
    part = cosines.copy()
    part[:, 1::2] = np.nan
    whole = recalibrate(SOURCE, cosines, CEILING)
    half = recalibrate(SOURCE, part, CEILING, gallery_size=GALLERY)
    for name in SCORINGS:
        first, second = (
            one.scorings[name].search_threshold(1e-2, GALLERY) for one in (whole, half)
        )
        assert first == pytest.approx(second, abs=0.05 if name == "cosine" else 0.5)


def test_rankings_and_fusion_stay_and_the_calibration_says_what_moved_it() -> None:
    moved = recalibrate(SOURCE, searches(50, 0.1, 0.2, seed=7), CEILING)
    assert moved.fusion == SOURCE.fusion
    assert moved.data == "drawn; impostor tails moved to 50 unlabelled searches of 400 crops"
    assert Calibration.model_validate(json.loads(moved.model_dump_json())) == moved


def test_probabilities_move_along_with_the_impostors() -> None:
    calibration = SOURCE.scorings["cosine"].model_copy(
        update={
            "isotonic": (
                LikelihoodPoint(score=0.0, log_ratio=-3.0),
                LikelihoodPoint(score=0.6, log_ratio=3.0),
            )
        }
    )
    source = SOURCE.model_copy(update={"scorings": {**SOURCE.scorings, "cosine": calibration}})
    moved = recalibrate(source, searches(50, 0.4, 0.2, seed=8), CEILING)
    for name in SCORINGS:
        rare = [one.scorings[name].pair_threshold(0.02) for one in (source, moved)]
        assert rare[1] > rare[0]
        before, after = (
            one.scorings[name].probability(score)
            for one, score in zip((source, moved), rare, strict=True)
        )
        assert before == pytest.approx(after)


def test_a_copy_of_a_gallery_crop_is_no_trouble() -> None:
    cosines = searches(100, 0.0, 0.17, seed=9)
    cosines[:, :40] = 1.0
    points = recalibrate(SOURCE, cosines, CEILING).scorings["cosine"].impostor_tail
    assert len(points) == len(SHARES)
    assert all(np.isfinite(point.score) and point.score <= 1.0 for point in points)


@pytest.mark.parametrize(
    ("cosines", "message"),
    [
        (np.zeros((5, 400), np.float32), "5 searches with 2000 pairs do not show a tail"),
        (np.full((50, 400), np.nan, np.float32), "0 pairs do not show a tail"),
        (np.full((50, 400), 0.3, np.float32), "have no spread"),
    ],
)
def test_too_little_to_go_by_is_refused(cosines, message) -> None:
    with pytest.raises(InputProblem, match=message):
        recalibrate(SOURCE, cosines, CEILING)
