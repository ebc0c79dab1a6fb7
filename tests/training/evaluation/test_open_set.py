from unittest.mock import patch

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from training.evaluation.metrics import PairLabels
from training.evaluation.open_set import search_extremes


@given(st.integers(0, 2**32), st.booleans(), st.integers(1, 60))
def test_the_best_scores_are_those_of_a_search_written_out(seed, other_cameras_only, block):
    random = np.random.default_rng(seed)
    labels = PairLabels(
        random.integers(0, 4, 5),
        random.integers(0, 3, 5),
        random.integers(-1, 4, 12),
        random.integers(0, 3, 12),
        other_cameras_only,
    )
    scores = random.normal(size=(5, 12)).astype(np.float32)
    with patch("training.evaluation.metrics.SCORES_PER_BLOCK", block):
        found = search_extremes(lambda rows: scores[rows], labels)
    for query in range(5):
        genuine = []
        impostor = []
        for column in range(12):
            own = labels.gallery_identities[column] == labels.query_identities[query]
            same_camera = labels.gallery_cameras[column] == labels.query_cameras[query]
            if own and not same_camera:
                genuine.append(scores[query, column])
            absent = labels.gallery_identities[column] < 0 or (other_cameras_only and same_camera)
            if not own and not absent:
                impostor.append(scores[query, column])
        assert found.best_genuine[query] == max(genuine, default=-np.inf)
        assert found.best_impostor[query] == max(impostor, default=-np.inf)
        assert found.impostors[query] == len(impostor)


def test_a_person_who_is_outranked_or_below_the_threshold_is_not_detected():
    labels = PairLabels(
        np.array([0, 1, 2]), np.array([0, 0, 0]), np.array([0, 1, 2]), np.array([1, 1, 1])
    )
    scores = np.array([[0.9, 0.1, 0.0], [0.8, 0.7, 0.0], [0.1, 0.0, 0.3]], dtype=np.float32)
    extremes = search_extremes(lambda rows: scores[rows], labels)
    assert extremes.detections(0.5).tolist() == [1.0, 0.0, 0.0]
    assert extremes.false_alarms(0.5).tolist() == [0.0, 1.0, 0.0]
