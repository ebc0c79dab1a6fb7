"""The order of a list of crops: those of one person stand together, and nothing else changes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.index.candidates import Candidates
from service.search.ranking import NEIGHBOURS, order_by_neighbours

DIMENSION = 64
ANN = 7
BOB = 9


@pytest.fixture(scope="module")
def served(served_here):
    return served_here


def spread(results):
    """Return the distance between the first and the last place of each person, summed."""
    places = {}
    for result in results:
        places.setdefault(result["identity"], []).append(result["rank"])
    return sum(ranks[-1] - ranks[0] for ranks in places.values())


@pytest.mark.parametrize("crop", range(0, 24, 5))
def test_the_crops_of_a_person_move_together_and_keep_their_scores(served, filled, images, crop):
    by_score, together = (
        served.search(filled, images[crop], scoring="cosine", top_k=24, order=order)
        for order in ("score", "neighbours")
    )
    assert together == served.search(filled, images[crop], scoring="cosine", top_k=24)
    cosines = [result["cosine"] for result in by_score]
    assert cosines == sorted(cosines, reverse=True)
    assert together[0] == by_score[0]
    shown, expected = (
        sorted((result["crop_id"], result["cosine"], result["verdict"]) for result in results)
        for results in (together, by_score)
    )
    assert shown == expected
    # The best crop of each person decides, so that the others follow it more closely.
    assert spread(together) < spread(by_score)


@pytest.mark.parametrize("scoring", ["cosine", "mnet"])
def test_fewer_results_are_the_first_of_more(served, filled, images, scoring):
    whole, few = (
        served.search(filled, images[9], scoring=scoring, include_vector="true", top_k=top_k)
        for top_k in (24, 3)
    )
    assert few == whole[:3]


def order_of(vectors, groups, scores):
    slots = np.arange(len(groups))
    codes = np.array(groups)
    scores = np.array(scores, np.float32)
    crops = Candidates(slots, scores, codes, codes, np.asarray(vectors, np.float32), len(groups))
    return order_by_neighbours(crops, scores).tolist()


ALIKE = np.eye(4, DIMENSION)
ALIKE[2] = ALIKE[0] + 0.5 * ALIKE[2]


@pytest.mark.parametrize(
    ("vectors", "groups", "order"),
    [
        pytest.param(np.eye(4, DIMENSION), [ANN, BOB, ANN, BOB], [0, 2, 1, 3], id="of one name"),
        pytest.param(ALIKE, [-1, -2, -3, -4], [0, 2, 1, 3], id="unnamed and alike"),
        pytest.param(ALIKE, [ANN, -2, -3, -4], [0, 1, 2, 3], id="no unnamed one follows a name"),
    ],
)
def test_a_crop_goes_with_the_best_of_its_name_or_the_unnamed_one_that_looks_like_it(
    vectors, groups, order
):
    assert order_of(vectors, groups, [0.9, 0.8, 0.3, 0.2]) == order


def test_of_a_crowd_of_equals_a_crop_has_its_nearest_for_neighbours_in_either_direction():
    angles = np.cumsum([0.0, 0.3, *[0.01] * (NEIGHBOURS + 2)])
    vectors = np.zeros((len(angles), DIMENSION))
    vectors[:, :2] = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    scores = np.linspace(0.9, 0.1, len(angles), dtype=np.float32)
    # The first is among the nearest of nobody, and its own eight nearest are raised by it.
    places = list(range(len(angles)))
    assert order_of(vectors, [-1 - place for place in places], scores) == places
    value = 0.1 * scores[NEIGHBOURS] + 0.9 * scores[0]
    assert value > 0.1 * scores[NEIGHBOURS + 1] + 0.9 * scores[1]


codes = st.integers(-40, 5).filter(lambda code: code != 0)


@settings(max_examples=50)
@given(st.lists(codes, min_size=1, max_size=40), st.integers(0, 1000))
def test_the_first_place_never_changes_and_every_crop_stays(groups, seed):
    random = np.random.default_rng(seed)
    unique = [code if code > 0 else -1 - place for place, code in enumerate(groups)]
    # A few equal scores, as near duplicates have.
    scores = np.sort(random.choice(np.linspace(-1, 1, 9), len(groups)))[::-1]
    vectors = random.normal(size=(len(groups), DIMENSION)) + 2.0 * random.normal(size=DIMENSION)
    order = order_of(vectors, unique, scores)
    assert order[0] == 0
    assert sorted(order) == list(range(len(groups)))
