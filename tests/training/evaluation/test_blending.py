"""The calibration of few people leans on that of the artefact that was adapted to them."""

import numpy as np
import pytest

from training.evaluation.blending import Moments, blended, impostor_moments
from training.evaluation.calibration import calibrate_searches
from training.evaluation.metrics import PairLabels
from training.evaluation.scoring import SearchScores
from training.evaluation.sweep import sweep

CROPS = 4


def drawn_search(people, seed, scale=1.0, offset=0.0):
    """Four crops of each person under either camera; all pairs of two people score alike."""
    random = np.random.default_rng(seed)
    names = np.repeat(np.arange(people), CROPS)
    scores = (random.normal(size=(people, people)) + 6.0 * np.eye(people))[names][:, names]
    scores = scale * (scores + random.normal(0.0, 0.1, scores.shape)) + offset
    scores = scores.astype(np.float32)
    mnet = (2.0 * scores + 7.0).astype(np.float32)
    labels = PairLabels(names, 0 * names, names, 0 * names + 1)
    return SearchScores(scores.__getitem__, mnet.__getitem__, labels)


def false_alarms(calibration, judged):
    extremes = sweep(judged.cosine, judged.labels)
    size = int(extremes.impostors[0])
    threshold = calibration.scorings["cosine"].search_threshold(1e-2, size)
    return float(extremes.false_alarms(threshold).mean())


@pytest.fixture(scope="module")
def start():
    return calibrate_searches([drawn_search(100, seed=1)], "many people")


@pytest.mark.parametrize(("scale", "offset"), [(1.0, 0.0), (1.5, -1.0)])
def test_few_people_raise_fewer_false_alarms_than_by_themselves(start, scale, offset):
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


def test_a_start_without_mnet_lends_its_cosine(start):
    search = drawn_search(9, seed=7)
    new = calibrate_searches([search], "nine people")
    cosine_alone = start.model_copy(update={"scorings": {"cosine": start.scorings["cosine"]}})
    before = impostor_moments([search], cosine_alone)
    mixed = blended(new, impostor_moments([search], new), cosine_alone, before, 9)

    # M-Net's scores are 2·cosine + 7 here.
    for far in (1e-2, 1e-4):
        cosine, mnet = (mixed.scorings[name].pair_threshold(far) for name in ("cosine", "mnet"))
        assert mnet == pytest.approx(2.0 * cosine + 7.0, abs=0.05)


def test_many_people_decide_by_themselves(start):
    new = calibrate_searches([drawn_search(40, seed=5, offset=0.5)], "40 people")
    moments = {name: Moments(0.0, 1.0) for name in new.scorings}
    none, some, many = (
        blended(new, moments, start, moments, people).scorings["cosine"].pair_threshold(1e-3)
        for people in (0, 50, 1_000_000)
    )

    assert none == pytest.approx(start.scorings["cosine"].pair_threshold(1e-3), abs=0.02)
    assert many == pytest.approx(new.scorings["cosine"].pair_threshold(1e-3), abs=0.02)
    assert some == pytest.approx((none + many) / 2, abs=0.02)
