import tracemalloc
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.problems import InputProblem
from training.evaluation.metrics import PairLabels, integer_labels, rank_queries


def one_query(relevance):
    """Scores that put the gallery in its own order, and labels that make `relevance` true."""
    scores = -np.arange(len(relevance), dtype=np.float32)[None, :]
    identities = ["7" if hit else "8" for hit in relevance]
    return scores, integer_labels(["7"], ["a"], identities, ["b"] * len(identities))


def by_definition(scores, labels):
    """Sorts the whole gallery and walks down it, as the definitions are written."""
    found = {}
    for query, row in enumerate(scores):
        person = labels.query_identities[query]
        camera = labels.query_cameras[query]
        relevance = []
        for column in sorted(range(len(row)), key=lambda column: (-row[column], column)):
            same = labels.gallery_identities[column] == person
            own_camera = labels.gallery_cameras[column] == camera
            if labels.gallery_identities[column] < 0:
                continue
            if own_camera and (same or labels.other_cameras_only):
                continue
            relevance.append(bool(same))
        if person < 0 or not any(relevance):
            continue
        hits = 0
        step = 0.0
        trapezoid = 0.0
        previous = 1.0
        recall = 0.0
        for rank, hit in enumerate(relevance, 1):
            hits += hit
            precision = hits / rank
            step += precision * hit / sum(relevance)
            trapezoid += (hits / sum(relevance) - recall) * (precision + previous) / 2
            previous = precision
            recall = hits / sum(relevance)
            if hits == sum(relevance):
                break
        first = relevance.index(True) + 1
        found[query] = (step, trapezoid, sum(relevance) / rank, first)
    return found


@st.composite
def searches(draw):
    queries = draw(st.integers(1, 6))
    gallery = draw(st.integers(1, 25))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    scores = random.integers(0, draw(st.integers(1, 30)), (queries, gallery)).astype(np.float32)
    labels = PairLabels(
        random.integers(0, 4, queries),
        random.integers(0, 3, queries),
        random.integers(-1, 4, gallery),
        random.integers(0, 3, gallery),
        other_cameras_only=draw(st.booleans()),
    )
    return scores, labels, draw(st.integers(1, 60))


@given(searches())
def test_every_figure_equals_its_definition_with_ties_junk_and_own_cameras(search):
    scores, labels, block = search
    expected = by_definition(scores, labels)
    with patch("training.evaluation.metrics.SCORES_PER_BLOCK", block):
        if not expected:
            with pytest.raises(InputProblem, match="no query has a true match"):
                rank_queries(lambda rows: scores[rows], labels)
            return
        metrics = rank_queries(lambda rows: scores[rows], labels)
    assert metrics.queries.tolist() == list(expected)
    assert metrics.not_counted == len(scores) - len(expected)
    obtained = zip(
        metrics.average_precision,
        metrics.average_precision_trapezoid,
        metrics.inverse_negative_penalty,
        metrics.first_rank,
        strict=True,
    )
    np.testing.assert_allclose(list(obtained), list(expected.values()))


def test_the_two_definitions_of_average_precision_differ_as_worked_out_by_hand():
    scores, labels = one_query([False, True, False, True])
    metrics = rank_queries(lambda rows: scores[rows], labels)
    assert metrics.means()["mAP"] == pytest.approx((1 / 2 + 2 / 4) / 2)
    by_hand = ((0 / 1 + 1 / 2) / 2 + (1 / 3 + 2 / 4) / 2) / 2
    assert metrics.means()["mAP_trapezoid"] == pytest.approx(by_hand)
    assert metrics.means()["mINP"] == pytest.approx(2 / 4)
    assert metrics.means()["rank_1"] == 0.0
    assert metrics.means()["rank_5"] == 1.0
    assert metrics.cmc(4).tolist() == [0.0, 1.0, 1.0, 1.0]


def test_junk_is_passed_over_and_a_distractor_counts_against():
    scores = np.array([[3.0, 2.0, 1.0]], dtype=np.float32)
    for stranger, rank in (("-1", 1), ("0000", 2)):
        labels = integer_labels(["7"], ["a"], [stranger, "7", "8"], ["b", "b", "b"])
        assert rank_queries(lambda rows: scores[rows], labels).first_rank.tolist() == [rank]


def test_when_query_and_gallery_are_one_list_a_query_does_not_find_itself():
    identities = ["1", "1", "2", "2"]
    cameras = ["a", "b", "a", "b"]
    labels = integer_labels(identities, cameras, identities, cameras)
    scores = np.eye(4, dtype=np.float32)
    assert rank_queries(lambda rows: scores[rows], labels).first_rank.max() <= 3


def test_a_score_that_is_not_finite_is_refused():
    scores, labels = one_query([True, False])
    scores[0, 1] = np.nan
    with pytest.raises(InputProblem, match="not a finite number"):
        rank_queries(lambda rows: scores[rows], labels)


def test_a_large_search_never_holds_more_than_a_block_of_scores(monkeypatch):
    monkeypatch.setattr("training.evaluation.metrics.SCORES_PER_BLOCK", 400_000)
    random = np.random.default_rng(0)
    labels = PairLabels(
        random.integers(0, 200, 300),
        np.zeros(300, dtype=np.int64),
        random.integers(0, 200, 20_000),
        np.ones(20_000, dtype=np.int64),
    )
    features = random.normal(size=(20_300, 8)).astype(np.float32)
    tracemalloc.start()
    rank_queries(lambda rows: features[:300][rows] @ features[300:].T, labels)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8_000_000  # the whole matrix is 24 MB
