"""Fewer people of a set: always the same ones, and what shows nobody stays."""

from __future__ import annotations

from dataclasses import replace

from training.datasets.fewer import fewer_people
from training.datasets.market1501 import DISTRACTOR
from training.datasets.synthetic import draw_people

DRAWN = draw_people(seed=2, domains=1, identities_per_domain=6, crops_per_camera=1)


def test_so_many_people_stay_with_all_their_crops_and_more_hold_the_fewer() -> None:
    two, four = fewer_people(DRAWN, 2), fewer_people(DRAWN, 4)
    assert (len(two.identities), len(four.identities)) == (2, 4)
    assert set(two.identities) < set(four.identities)
    assert len(two.records) == 2 * 3


def test_no_number_keeps_everybody() -> None:
    assert fewer_people(DRAWN, None) == DRAWN


def test_distractors_are_nobody_and_stay() -> None:
    distractor = replace(DRAWN.records[0], identity=DISTRACTOR)
    market = replace(DRAWN, spec="market1501:here", records=(*DRAWN.records, distractor))
    assert distractor in fewer_people(market, 2).records
