"""How pure groups are: what is drawn, and what is counted."""

from __future__ import annotations

import pytest

from bench.unnamed_groups import figures, sample
from service.commands.bulk import SourceCrop


def test_people_are_drawn_without_their_names_and_without_distractors():
    crops = [SourceCrop(f"{who}-{n}", bytes, who, "a") for who in "bcd0" for n in range(5)]
    crops += [SourceCrop("junk", bytes, "0000", "a"), SourceCrop("more junk", bytes, "-1", "a")]
    drawn = sample(crops, people=3, each=2)
    assert len(drawn) == 6
    assert {one.identity for one in drawn} == {None}
    assert len({one.external_id for one in drawn}) == 3
    assert {one.external_id for one in sample(crops, 9, 1)} == set("bcd0")


def test_purity_is_of_crops_and_pairs_are_of_all_that_are_of_one_person():
    who = dict(zip("abcdefgh", ["1", "1", "1", "1", "2", "2", "3", "3"], strict=True))
    found = figures(["abc", "de", "fg"], who)
    assert found == {
        "groups": 3,
        "grouped": 0.875,
        "pure_groups": pytest.approx(1 / 3, abs=1e-4),
        "purity": pytest.approx(5 / 7, abs=1e-4),
        "pairs_right": 0.6,
        "pairs_found": 0.375,
    }
    assert figures([], who)["grouped"] == 0.0
