"""Multi-shot queries: who is in one, and what its score is."""

import numpy as np
import pytest

from training.evaluation.embedding import SearchFeatures
from training.evaluation.evaluate_search import multi_shot_result
from training.evaluation.metrics import PairLabels, rank_queries
from training.evaluation.scoring import cosine_rows


def drawn(shots: int) -> tuple[PairLabels, SearchFeatures]:
    """Twenty people under one camera, `shots` noisy crops each, and one crop under another."""
    random = np.random.default_rng(1)
    people = np.tile(np.arange(20), shots)
    centres = random.normal(size=(20, 8))
    queries = centres[people] + 1.2 * random.normal(size=(len(people), 8))
    gallery = centres + 0.3 * random.normal(size=(20, 8))
    labels = PairLabels(people, np.zeros_like(people), np.arange(20), np.ones(20, dtype=np.int64))
    return labels, SearchFeatures(queries.astype(np.float32), gallery.astype(np.float32))


def test_a_query_is_a_person_under_one_camera():
    labels = PairLabels(
        np.array([1, 0, 1, 1]), np.array([0, 0, 1, 0]), np.array([0, 1]), np.array([2, 2])
    )
    features = SearchFeatures(np.eye(4, 2, dtype=np.float32) + 1, np.eye(2, dtype=np.float32))
    result = multi_shot_result(labels, features, {"cosine": cosine_rows(*features)}, "mean")
    assert (result.queries, result.crops_per_query) == (3, 1.33)


@pytest.mark.parametrize(("how", "right"), [("mean", 1.0), ("max", 0.0)])
def test_scores_of_a_query_are_pooled(how, right):
    """On average the person's crop scores 2.5 and the other one 2; at most 3 and 4."""
    labels = PairLabels(np.array([0, 0]), np.array([0, 0]), np.array([0, 1]), np.array([1, 1]))
    features = SearchFeatures(np.ones((2, 2), np.float32), np.ones((2, 2), np.float32))
    scores = np.array([[3.0, 0.0], [2.0, 4.0]], dtype=np.float32)
    result = multi_shot_result(labels, features, {"mnet": lambda rows: scores[rows]}, how)
    assert result.scorings["mnet"].metrics["rank_1"].mean == right


def test_several_crops_find_a_person_better_than_one():
    labels, features = drawn(shots=5)
    cosine = cosine_rows(*features)
    single = rank_queries(cosine, labels).means()
    for how in ("mean", "max"):
        result = multi_shot_result(labels, features, {"cosine": cosine, "mnet": cosine}, how)
        assert (result.queries, result.crops_per_query) == (20, 5.0)
        for scoring in result.scorings.values():
            assert scoring.metrics["mAP"].mean > single["mAP"] + 0.05


def test_with_one_crop_each_both_poolings_are_the_single_shot_figures():
    labels, features = drawn(shots=1)
    cosine = cosine_rows(*features)
    single = rank_queries(cosine, labels).means()
    result = multi_shot_result(labels, features, {"cosine": cosine, "mnet": cosine}, "max")
    for scoring in result.scorings.values():
        assert scoring.metrics["mAP"].mean == pytest.approx(single["mAP"])
