"""Half of the people are enrolled, all are searched for, at 1% false alarms obtained."""

import numpy as np
import pytest

from training.evaluation.metrics import PairLabels, integer_labels
from training.evaluation.open_set import half_enrolled


def labels(people: int, extra: tuple[str, ...] = ()) -> PairLabels:
    names = [f"{number:04d}" for number in range(people)]
    gallery = [*names, *extra]
    return integer_labels(names, ["a"] * people, gallery, ["b"] * len(gallery))


def rows(scores: np.ndarray):
    return lambda block: scores[block].astype(np.float32)


def test_a_scoring_that_keeps_people_apart_finds_everybody() -> None:
    found = half_enrolled(rows(np.eye(40)), labels(40))
    assert found.enrolled == 20
    assert (found.detection_rate.mean, found.detection_rate.low) == (1.0, 1.0)


def test_a_scoring_that_knows_nothing_finds_about_as_many_as_it_alarms() -> None:
    scores = np.random.default_rng(0).normal(size=(400, 400))
    found = half_enrolled(rows(scores), labels(400))
    assert found.detection_rate.mean < 0.02


def test_the_share_found_is_that_above_the_hundredth_false_alarm() -> None:
    """Strangers reach 0.5 but for three in a thousand; a tenth of the people exceed that."""
    people = 1000
    scores = np.full((people, people), 0.1)
    np.fill_diagonal(scores, np.where(np.arange(people) % 10 == 0, 0.9, 0.4))
    scores[1:4] = np.where(np.eye(people, dtype=bool)[1:4], scores[1:4], 0.95)
    scores[4:400] = np.where(np.eye(people, dtype=bool)[4:400], scores[4:400], 0.5)
    found = half_enrolled(rows(scores), labels(people)).detection_rate
    assert found.mean == pytest.approx(0.1, abs=0.02)
    assert found.low < found.mean < found.high


def test_junk_and_people_who_are_not_searched_for_are_not_enrolled() -> None:
    scores = np.hstack([np.eye(40), np.full((40, 2), 5.0)])
    found = half_enrolled(rows(scores), labels(40, ("-1", "other")))
    assert found.detection_rate.mean == 1.0


def test_too_few_people_have_no_figure() -> None:
    assert half_enrolled(rows(np.eye(3)), labels(3)) is None
