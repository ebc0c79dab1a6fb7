"""Probability and verdict follow the score within an answer, in every kind of search."""

from itertools import count, pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

NUMBERS = count()
SURENESS = {"no_match": 0, "uncertain": 1, "match": 2}
SCORES = {"mnet": "pair_logit", "cosine": "cosine"}

labels = st.tuples(
    st.sampled_from(("", "Ann", "Bob", "Cem", "Dee")), st.sampled_from(("", "east", "west"))
)
galleries = st.lists(labels, min_size=1, max_size=24)
options = {
    "scoring": ("mnet", "cosine"),
    "group_by": ("crop", "identity"),
    "order": ("neighbours", "score"),
    "operating_point": ("far_1e-1", "far_1e-2", "far_1e-3"),
    "rerank_depth": (1, 3, 8, 100),
    "top_k": (1, 5, 24),
}
searches = st.fixed_dictionaries(
    {name: st.sampled_from(values) for name, values in options.items()},
    optional={
        "cameras": st.sampled_from(("east", "west", "north")),
        "exclude_cameras": st.sampled_from(("east", "west")),
    },
)


@pytest.fixture(scope="module")
def served(served_here):
    return served_here


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(galleries, st.lists(searches, min_size=1, max_size=6), st.data())
def test_probability_and_verdict_never_rise_where_the_score_falls(
    served, drawn_crops, people, asked, data
):
    gallery = served.create(f"drawn-{next(NUMBERS)}")
    identities, cameras = zip(*people, strict=True)
    images = [crop.png for crop in drawn_crops[: len(people)]]
    served.enrolled(gallery, *images, identity=identities, camera=cameras)
    for fields in asked:
        query = data.draw(st.sampled_from(drawn_crops)).png
        answer = served.query(gallery, query, **fields).json()
        by_neighbours = (fields["group_by"], fields["order"]) == ("crop", "neighbours")
        _is_monotone(answer, SCORES[fields["scoring"]], by_neighbours)


def _is_monotone(answer, score, by_neighbours):
    results = answer["results"]
    scored = [result for result in results if result["probability"] is not None]
    assert all(result["verdict"] is None for result in results[len(scored) :])
    assert scored == results[: len(scored)]
    if by_neighbours:
        # The first has the best score, which the answer's verdict is of; others may be moved.
        first = [result[score] for result in scored[:1]]
        scored.sort(key=lambda result: -result[score])
        assert first == [result[score] for result in scored[:1]]
    for better, worse in pairwise(scored):
        assert better[score] >= worse[score]
        assert better["probability"] >= worse["probability"]
        assert SURENESS[better["verdict"]] >= SURENESS[worse["verdict"]]
        if better["verdict"] != worse["verdict"]:
            assert better["probability"] > worse["probability"]
    assert all(0 <= result["probability"] <= 1 for result in scored)
    assert answer["verdict"] == (scored[0]["verdict"] if scored else "nothing_searched")
