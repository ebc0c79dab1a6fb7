"""Asked against obtained false alarms on other cameras, before and after re-calibration."""

import numpy as np
import pytest
import torch

from model.artefact import Artefact, load_artefact
from model.pair_scoring import cosine_similarities, score_pairs
from training.evaluation.calibrating import collect_pairs, fit_from_pairs
from training.evaluation.measuring import calibrated_result
from training.evaluation.ranking import PairLabels, rank_queries
from training.evaluation.recalibrating import (
    crops_per_person,
    recalibrated_if_enough,
    searched_pairs,
)

PEOPLE = 300


def search(centre: float, seed: int):
    """Cosines of 300 people under one camera with the same under another, closer by `centre`."""
    random = np.random.default_rng(seed)
    latent = random.normal(0.0, 0.18, (PEOPLE, PEOPLE)) + np.eye(PEOPLE) * 0.8
    people = np.arange(PEOPLE)
    labels = PairLabels(people, np.zeros_like(people), people, np.ones_like(people))
    return (centre + (1 - centre) * np.tanh(latent)).astype(np.float32), labels


@pytest.fixture(scope="module")
def artefact(tiny_artefact) -> Artefact:
    cosine, labels = search(0.0, seed=1)
    calibration = fit_from_pairs([collect_pairs(cosine, 10 * cosine, labels)], "drawn")
    tiny = load_artefact(tiny_artefact)
    description = tiny.description.model_copy(update={"calibration": calibration})
    return Artefact(description, tiny.embedder, tiny.metric_network)


@pytest.fixture(scope="module")
def features(artefact):
    shape = (PEOPLE, artefact.embedder.config.dimension)
    random = np.random.default_rng(4)
    return tuple(random.normal(size=shape).astype(np.float32) for _ in range(2))


def test_a_report_shows_both_sides_of_it(artefact, features) -> None:
    cosine, labels = search(0.4, seed=2)
    moved = recalibrated_if_enough(artefact, features, lambda rows: cosine[rows], labels)
    metrics = rank_queries(lambda rows: cosine[rows], labels)
    result = calibrated_result(
        lambda rows: cosine[rows],
        labels,
        metrics,
        artefact.description.calibration.scorings["cosine"],
        moved.scorings["cosine"],
    )
    before, after = (
        next(point for point in points if point.name == "far_1e-2")
        for points in (result.operating_points, result.recalibrated_operating_points)
    )
    assert before.false_alarm_rate.mean > 0.3
    assert after.false_alarm_rate.mean < 2e-2
    assert after.detection_rate.mean > 0.2


def test_too_few_searches_are_left_as_they_are(artefact, features) -> None:
    cosine, labels = search(0.4, seed=3)
    few = labels.part(np.arange(10), np.arange(PEOPLE))
    some = (features[0][:10], features[1])
    assert recalibrated_if_enough(artefact, some, lambda rows: cosine[:10][rows], few) is None


def test_what_the_protocol_takes_out_of_a_gallery_is_not_looked_at() -> None:
    labels = PairLabels(
        np.array([1, 2]), np.array([0, 0]), np.array([1, 1, 2, -1]), np.array([0, 1, 1, 1])
    )
    found = searched_pairs(lambda _: np.ones((1, 4), np.float32), labels)
    assert np.isnan(found.cosines).tolist() == [
        [True, False, False, True],
        [False, False, False, True],
    ]
    assert found.gallery_size == 2
    assert crops_per_person(labels) == 1.5


def test_m_nets_scores_are_of_the_pairs_that_were_searched(artefact, features) -> None:
    queries, gallery = (torch.from_numpy(rows) for rows in features)
    cosine = cosine_similarities(queries, gallery).numpy()
    mnet = score_pairs(artefact.metric_network, queries, gallery).numpy()
    labels = search(0.0, seed=5)[1]
    moved = recalibrated_if_enough(artefact, features, lambda rows: cosine[rows], labels)
    for share in (0.5, 0.2):
        assert moved.scorings["mnet"].pair_threshold(share) == pytest.approx(
            float(np.quantile(mnet, 1 - share)), abs=0.1 * float(mnet.std())
        )
