"""The shape of the tail of other people's best scores, which label-free thresholds lean on."""

import numpy as np
import pytest

from model.search_calibration import fit_searches, pack_search, unpack_searches
from training.evaluation.calibration import calibrate_searches
from training.evaluation.metrics import PairLabels
from training.evaluation.scoring import SearchScores
from training.evaluation.tails import fit_tail_shape, other_peoples_best


def pareto_search(people, shape, seed, crops=1):
    """Scores of other people with a tail of that shape; those of one person are far above."""
    random = np.random.default_rng(seed)
    names = np.repeat(np.arange(people), crops)
    rarity = random.exponential(1.0, (people, len(names)))
    scores = np.expm1(shape * rarity) / shape if shape else rarity
    scores = (0.05 * scores + 2.0 * (np.arange(people)[:, None] == names)).astype(np.float32)
    cameras = np.zeros(people, np.int64)
    labels = PairLabels(np.arange(people), cameras, names, np.ones(len(names), np.int64))
    return SearchScores(scores.__getitem__, None, labels)


def tail_shape(*searches):
    return fit_tail_shape([(search.cosine, search.labels) for search in searches])


@pytest.mark.parametrize("shape", [-0.25, -0.1, 0.0])
def test_the_shape_of_many_peoples_tail_is_found(shape):
    assert tail_shape(pareto_search(900, shape, seed=1)) == pytest.approx(shape, abs=0.04)


def test_of_several_domains_the_longest_tail_counts():
    short = pareto_search(300, -0.25, seed=2)
    long = pareto_search(300, -0.05, seed=3)

    assert tail_shape(short, long, pareto_search(5, 0.0, seed=4)) == tail_shape(long)


def test_a_person_has_the_score_of_the_best_crop_under_another_camera():
    search = pareto_search(30, -0.1, seed=5, crops=3)
    best, identities = other_peoples_best(search.cosine, search.labels)
    scores = search.cosine(slice(0, 1))[0]
    expected = sorted(scores[3 * person : 3 * person + 3].max() for person in range(1, 30))

    assert best[0] == pytest.approx(expected[::-1][:9])
    assert set(identities.tolist()) == {29}


def test_thresholds_without_labels_follow_what_the_calibration_found():
    """An embedder whose strangers' scores end early gets lower thresholds, not too few alarms."""
    search = pareto_search(600, -0.25, seed=6)
    one = calibrate_searches([search], "drawn").scorings["cosine"]
    others = -np.sort(-pareto_search(101, -0.25, seed=7).cosine(slice(0, 100)), axis=1)[:, 1:]
    kept = unpack_searches([pack_search(row[:9], 100, 1.0) for row in others])
    judged = pareto_search(2000, -0.25, seed=8).cosine(slice(0, 2000))[:, -100:][:1900].max(axis=1)

    obtained = {
        name: (judged >= fit_searches(kept, artefact).threshold(1e-2, 100)).mean()
        for name, artefact in {
            "own": one,
            "default": one.model_copy(update={"tail_shape": None}),
        }.items()
    }
    assert one.tail_shape is not None
    assert obtained["default"] < obtained["own"] < 0.025
