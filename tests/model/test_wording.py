"""Numbers in sentences."""

import pytest

from model.wording import counted


@pytest.mark.parametrize(
    ("count", "words", "said"),
    [
        (0, ("crop",), "0 crops"),
        (1, ("crop",), "1 crop"),
        (2000, ("crop",), "2,000 crops"),
        (1, ("gallery", "galleries"), "1 gallery"),
        (2, ("gallery", "galleries"), "2 galleries"),
        (1, ("crop was", "crops were"), "1 crop was"),
        (0, ("crop was", "crops were"), "0 crops were"),
    ],
)
def test_one_thing_is_told_in_the_singular(count, words, said):
    assert counted(count, *words) == said
