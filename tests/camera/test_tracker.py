"""Following people from frame to frame."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import linear_sum_assignment

from gmn_camera.assignment import best_pairs
from gmn_camera.tracker import NO_TRACK, Tracker

FPS = 10


@given(
    arrays(
        np.float64,
        st.tuples(st.integers(1, 7), st.integers(1, 7)),
        elements=st.floats(0, 1, allow_subnormal=False),
    )
)
def test_the_pairs_have_the_largest_sum(likeness):
    pairs = best_pairs(likeness)
    rows, columns = linear_sum_assignment(likeness, maximize=True)
    assert len(pairs) == len(rows)
    assert len({row for row, _ in pairs}) == len({column for _, column in pairs}) == len(pairs)
    total = sum(likeness[pair] for pair in pairs)
    assert total == pytest.approx(likeness[rows, columns].sum())


def follow(frames, min_iou=0.3):
    """Return the numbers that the boxes of each frame get.

    Args:
        frames: of each frame the boxes, as left edges of people 40 wide and 100 high, and scores.
    """
    tracker = Tracker(min_iou)
    numbers = []
    for step, people in enumerate(frames):
        boxes = np.array([[left, 0, left + 40, 100] for left, _ in people], float).reshape(-1, 4)
        scores = np.array([score for _, score in people], float)
        numbers.append(tracker.update(step / FPS, boxes, scores).tolist())
    return numbers


def test_a_person_has_a_number_from_the_second_box_on():
    assert follow([[(0, 0.9)], [(2, 0.9)], [(4, 0.9)]]) == [[NO_TRACK], [0], [0]]


def test_what_is_seen_once_gets_no_number():
    assert follow([[(0, 0.9)], [], [], [(0, 0.9)]]) == [[NO_TRACK], [], [], [NO_TRACK]]


def test_two_people_who_walk_towards_each_other_keep_their_numbers():
    frames = [[(5 * step, 0.9), (300 - 5 * step, 0.9)] for step in range(27)]
    numbers = follow(frames)
    assert numbers[2] == numbers[-1] == [0, 1]


def test_a_person_who_is_hidden_for_a_second_is_the_same_afterwards():
    before = [[(3 * step, 0.9)] for step in range(10)]
    after = [[(3 * step, 0.9)] for step in range(20, 25)]
    numbers = follow([*before, *([[]] * 10), *after])
    assert numbers[-1] == numbers[2]


def test_a_person_who_was_away_for_longer_is_another_track():
    before = [[(0, 0.9)]] * 5
    numbers = follow([*before, *([[]] * 3 * FPS), *before])
    assert numbers[-1] != numbers[4]


def test_a_doubtful_box_continues_a_track_and_begins_none():
    assert follow([[(0, 0.9)], [(0, 0.9)], [(1, 0.3)], [(2, 0.9)]])[-2:] == [[0], [0]]
    assert follow([[(0, 0.3)]] * 5) == [[NO_TRACK]] * 5
