import numpy as np
import pytest

from model.problems import InputProblem
from training.evaluation.calibration import calibrate_searches, equal_error_score
from training.evaluation.metrics import PairLabels
from training.evaluation.scoring import SearchScores
from training.evaluation.sweep import operating_points, sweep
from training.evaluation.tails import impostor_tail


def gaussian_search(people, seed, noise=1.0):
    """Scores N(0, 1) of different people and N(3, 1) of one; M-Net's: the cosine's and noise."""
    random = np.random.default_rng(seed)
    queries = np.arange(people)
    gallery = np.arange(people)
    labels = PairLabels(queries, np.zeros_like(queries), gallery, np.ones_like(gallery))
    scores = random.normal(size=(people, people)) + 3.0 * np.eye(people)
    mnet = 2.0 * scores + noise * random.normal(size=scores.shape)
    return scores.astype(np.float32), mnet.astype(np.float32), labels


def fit_calibration(cosine, mnet, labels, data):
    return calibrate_searches([search_scores(cosine, mnet, labels)], data)


def search_scores(cosine, mnet, labels):
    cosine = cosine.astype(np.float32)
    mnet = mnet.astype(np.float32)
    return SearchScores(cosine.__getitem__, mnet.__getitem__, labels)


def test_probabilities_match_the_known_posterior_of_a_balanced_pair():
    cosine, mnet, labels = gaussian_search(1500, seed=1)
    calibration = fit_calibration(cosine, mnet, labels, "drawn")
    for score in (0.0, 1.0, 1.5, 2.0, 3.0):
        truth = 1.0 / (1.0 + np.exp(-(3.0 * score - 4.5)))
        assert calibration.scorings["cosine"].probability(score) == pytest.approx(truth, abs=0.03)


def test_pair_thresholds_obtain_the_asked_rate_on_other_people():
    cosine, mnet, labels = gaussian_search(1000, seed=2)
    calibration = fit_calibration(cosine, mnet, labels, "drawn")
    fresh_cosine, fresh_mnet, _ = gaussian_search(1000, seed=3)
    others = ~np.eye(1000, dtype=bool)
    for name, scores in (
        ("cosine", fresh_cosine),
        ("mnet", fresh_mnet),
    ):
        for far in (1e-1, 1e-2, 1e-3, 1e-4):
            obtained = (scores[others] >= calibration.scorings[name].pair_threshold(far)).mean()
            assert obtained == pytest.approx(far, rel=0.25)


def test_searches_for_absent_people_raise_about_as_many_alarms_as_asked():
    cosine, mnet, labels = gaussian_search(1500, seed=4)
    calibration = fit_calibration(cosine, mnet, labels, "drawn")
    fresh, _, _ = gaussian_search(1500, seed=5)
    extremes = sweep(lambda rows: fresh[rows], labels)
    figures = operating_points(extremes, calibration.scorings["cosine"])
    assert [figure.name for figure in figures] == ["far_1e-1", "far_1e-2", "far_1e-3"]
    assert figures[0].false_alarm_rate.mean == pytest.approx(0.1, rel=0.4)
    assert figures[1].false_alarm_rate.mean == pytest.approx(0.01, abs=0.01)
    assert figures[0].detection_rate.mean > figures[2].detection_rate.mean


def test_a_score_that_speaks_against_is_given_no_weight_rather_than_a_negative_one():
    cosine, _, labels = gaussian_search(300, seed=9)
    mnet, _, _ = gaussian_search(300, seed=13)
    calibration = fit_calibration(cosine, -mnet, labels, "drawn")
    assert calibration.scorings["mnet"].slope == 0.0


def test_only_pairs_across_cameras_count():
    labels = PairLabels(
        np.array([0, 1]), np.array([0, 0]), np.array([0, 0, 1, 1, -1]), np.array([0, 1, 0, 1, 1])
    )
    scores = np.arange(10, dtype=np.float32).reshape(2, 5)
    calibration = fit_calibration(scores, scores, labels, "drawn")
    assert (calibration.genuine_pairs, calibration.impostor_pairs) == (2, 2)


def test_a_pair_that_is_there_both_ways_counts_once():
    people = np.array([0, 0, 1, 1, 2])
    cameras = np.array([0, 1, 0, 1, 1])
    labels = PairLabels(people, cameras, people, cameras, other_cameras_only=True)
    scores = np.random.default_rng(0).normal(size=(5, 5)).astype(np.float32)
    calibration = fit_calibration(scores, scores, labels, "drawn")
    assert (calibration.genuine_pairs, calibration.impostor_pairs) == (2, 4)


def test_data_without_genuine_pairs_is_refused_with_the_counts():
    labels = PairLabels(np.array([0]), np.array([0]), np.array([1, 2]), np.array([1, 1]))
    with pytest.raises(InputProblem, match="has 0 and 2"):
        fit_calibration(np.ones((1, 2)), np.ones((1, 2)), labels, "nobody.csv")


def test_the_tail_says_what_share_reaches_each_of_its_scores():
    scores = np.random.default_rng(11).normal(size=5000).astype(np.float32)
    tail = impostor_tail(np.array_split(scores, 7), len(scores))
    assert tail[0].share == 1.0
    assert tail[-1].share == 1 / 5000
    assert all((scores >= np.float32(point.score)).mean() == point.share for point in tail)


def test_of_two_domains_neither_gets_more_false_alarms_than_asked():
    near, _, labels = gaussian_search(400, seed=8)
    far = near + np.float32(1.0)
    fitted = calibrate_searches(
        [search_scores(scores, scores, labels) for scores in (near, far)], "two domains"
    ).scorings["cosine"]
    others = ~np.eye(400, dtype=bool)
    for share in (1e-2, 1e-3):
        threshold = fitted.pair_threshold(share)
        assert (far[others] >= threshold).mean() == pytest.approx(share, rel=0.1)
        assert (near[others] >= threshold).mean() < share


def test_as_many_pairs_of_one_person_lie_below_as_of_two_above():
    random = np.random.default_rng(1)
    genuine = random.normal(7.0, 1.0, 4000)
    impostors = random.normal(4.0, 1.0, 90_000)
    zero = equal_error_score(genuine, impostors)

    assert zero == pytest.approx(5.5, abs=0.05)
    assert (genuine < zero).mean() == pytest.approx((impostors >= zero).mean(), abs=1e-3)
    # Kinds that do not overlap are parted in the middle.
    assert equal_error_score(np.full(3, 10.0), np.full(9, 0.0)) == 5.0
