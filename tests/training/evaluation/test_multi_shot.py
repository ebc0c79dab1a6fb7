"""Multi-shot queries: who is in one, and what its score is."""

import numpy as np
import pytest

from training.evaluation.embedding import SearchFeatures
from training.evaluation.metrics import PairLabels, rank_queries
from training.evaluation.multi_shot import multi_shot_result, pooled_rows, query_groups
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
    assert [group.tolist() for group in query_groups(labels)] == [[1], [0, 3], [2]]


@pytest.mark.parametrize(("how", "expected"), [("mean", [[2.0, 3.0]]), ("max", [[4.0, 5.0]])])
def test_scores_of_a_query_are_pooled(how, expected):
    scores = np.array([[0.0, 1.0], [9.0, 9.0], [4.0, 5.0]], dtype=np.float32)
    rows = pooled_rows(lambda rows: scores[rows], [np.array([0, 2])], how)
    assert rows(slice(0, 1)).tolist() == expected


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
