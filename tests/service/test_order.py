"""The order of a list of crops: those of one person stand together, and nothing else changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.search.candidates import NEIGHBOURS, Candidates, order_by_neighbours

DIMENSION = 64
ANN = 7
BOB = 9


def listed(
    served,
    gallery: str,
    image: bytes,
    **fields: str,
) -> list[dict[str, Any]]:
    answer = served.query(gallery, image, scoring="cosine", top_k=24, **fields)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["results"]
    assert answer.json()["verdict"] == found[0]["verdict"]
    return found


def places(results: list[dict[str, Any]]) -> dict[str, list[int]]:
    by_person: dict[str, list[int]] = {}
    for result in results:
        by_person.setdefault(result["identity"], []).append(result["rank"])
    return by_person


def shown(results: list[dict[str, Any]]) -> dict[str, tuple[float, float, str]]:
    return {
        result["crop_id"]: (result["cosine"], result["probability"], result["verdict"])
        for result in results
    }


@pytest.mark.parametrize("crop", range(0, 24, 5))
def test_the_crops_of_a_person_move_together_and_keep_their_scores(
    served, filled, drawn_crops, crop
):
    image = drawn_crops[crop].png
    by_score = listed(served, filled, image, order="score")
    together = listed(served, filled, image)
    cosines = [result["cosine"] for result in by_score]
    assert cosines == sorted(cosines, reverse=True)
    assert together[0] == by_score[0]
    assert shown(together) == shown(by_score)
    # The best crop of each person decides, so that the others follow it more closely.
    spread = {name: ranks[-1] - ranks[0] for name, ranks in places(by_score).items()}
    closer = {name: ranks[-1] - ranks[0] for name, ranks in places(together).items()}
    assert sum(closer.values()) < sum(spread.values())


def test_fewer_results_are_the_first_of_more(served, filled, drawn_crops):
    for scoring in ("cosine", "mnet"):
        asked = {"scoring": scoring, "include_vector": "true"}
        image = drawn_crops[9].png
        whole = served.search(
            filled,
            image,
            **asked,
            top_k=24,
        )
        few = served.search(
            filled,
            image,
            **asked,
            top_k=3,
        )
        assert few == whole[:3]


def test_with_one_crop_a_person_the_order_is_that_of_the_score(served, gallery, drawn_crops):
    single = drawn_crops[::4]
    served.fill(gallery, single, camera="east")
    for crop in drawn_crops:
        by_score = listed(served, gallery, crop.png, order="score")
        assert listed(served, gallery, crop.png) == by_score


def test_another_order_is_refused_by_its_name(served, filled, drawn_crops):
    refused = served.query(filled, drawn_crops[0].png, order="alphabetical")
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["field"] == "order"


def candidates(
    vectors: np.ndarray,
    groups: list[int],
    scores: np.ndarray,
) -> Candidates:
    return Candidates(
        row_ids=np.arange(len(groups)),
        cosines=scores,
        groups=np.array(groups),
        sets=np.array(groups),
        vectors=np.asarray(vectors, np.float32),
        searched=len(groups),
    )


def descending(*scores: float) -> np.ndarray:
    return np.array(scores, np.float32)


def test_a_named_crop_goes_with_the_best_crop_of_its_name_however_it_looks():
    vectors = np.eye(4, DIMENSION)
    order = order_by_neighbours(
        candidates(
            vectors,
            [ANN, BOB, ANN, BOB],
            scores := descending(
                0.9,
                0.8,
                0.3,
                0.2,
            ),
        ),
        scores,
    )
    assert order.tolist() == [0, 2, 1, 3]


def test_an_unnamed_crop_goes_with_the_unnamed_one_that_looks_like_it():
    vectors = np.eye(4, DIMENSION)
    vectors[2] = vectors[0] + 0.5 * vectors[2]
    scores = descending(0.9, 0.8, 0.3, 0.2)
    unnamed = candidates(vectors, [-1, -2, -3, -4], scores)
    assert order_by_neighbours(unnamed, scores).tolist() == [0, 2, 1, 3]
    # Named crops are never followed by unnamed ones.
    half_named = candidates(vectors, [ANN, -2, -3, -4], scores)
    assert order_by_neighbours(half_named, scores).tolist() == [0, 1, 2, 3]


def test_of_a_crowd_of_equals_a_crop_has_its_nearest_for_neighbours_in_either_direction():
    angles = np.cumsum([0.0, 0.3, *[0.01] * (NEIGHBOURS + 2)])
    vectors = np.zeros((len(angles), DIMENSION))
    vectors[:, 0] = np.cos(angles)
    vectors[:, 1] = np.sin(angles)
    scores = np.linspace(0.9, 0.1, len(angles), dtype=np.float32)
    crowd = candidates(vectors, [-1 - place for place in range(len(angles))], scores)
    # The first is among the nearest of nobody, and its own eight nearest are raised by it.
    order = order_by_neighbours(crowd, scores)
    assert order.tolist() == list(range(len(angles)))
    value = 0.1 * scores[NEIGHBOURS] + 0.9 * scores[0]
    assert value > 0.1 * scores[NEIGHBOURS + 1] + 0.9 * scores[1]


groups = st.lists(
    st.integers(-40, 5).filter(lambda code: code != 0),
    min_size=1,
    max_size=40,
)


@settings(max_examples=50, deadline=None)
@given(groups, st.integers(0, 1000))
def test_the_first_place_never_changes_and_every_crop_stays(codes, seed):
    random = np.random.default_rng(seed)
    unique = [code if code > 0 else -1 - place for place, code in enumerate(codes)]
    # A few equal scores, as near duplicates have.
    scores = np.sort(random.choice(np.linspace(-1, 1, 9), len(codes))).astype(np.float32)[::-1]
    vectors = random.normal(size=(len(codes), DIMENSION)) + 2.0 * random.normal(size=DIMENSION)
    order = order_by_neighbours(candidates(vectors, unique, scores), scores)
    assert order[0] == 0
    assert sorted(order.tolist()) == list(range(len(codes)))
