"""Fewer people of a set: always the same ones, and what shows nobody stays."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from training.datasets.drawn import draw_people
from training.datasets.protocols import is_held_out, limit_test_identities
from training.datasets.public import DISTRACTOR

DRAWN = draw_people(seed=2, domains=1, identities_per_domain=6, crops_per_camera=1)


def test_so_many_people_stay_with_all_their_crops_and_more_hold_the_fewer() -> None:
    two = limit_test_identities(DRAWN, 2)
    four = limit_test_identities(DRAWN, 4)
    assert (len(two.identities), len(four.identities)) == (2, 4)
    assert set(two.identities) < set(four.identities)
    assert len(two.records) == 2 * 3


def test_no_number_keeps_everybody() -> None:
    assert limit_test_identities(DRAWN, None) == DRAWN


def test_where_a_set_has_a_query_split_its_people_are_the_ones_counted() -> None:
    train = DRAWN.identities[:3]
    test = DRAWN.identities[3:]
    splits = dict.fromkeys(train, ("train", "train", "train"))
    splits |= dict.fromkeys(test, ("query", "gallery", "gallery"))
    seen: Counter[str] = Counter()
    records = []
    for record in DRAWN.records:
        records.append(replace(record, split=splits[record.identity][seen[record.identity]]))
        seen[record.identity] += 1
    market = replace(DRAWN, spec="market1501:here", records=tuple(records))
    for most in (1, 2, 3):
        few = limit_test_identities(market, most)
        assert len(few.identities) == most
        assert set(few.identities) <= set(test)


def test_of_people_held_out_of_training_so_many_stay() -> None:
    drawn = draw_people(seed=2, domains=1, identities_per_domain=40, crops_per_camera=1)
    held_out = {"fraction": 0.3, "seed": 0}
    few = limit_test_identities(drawn, 5, held_out)
    assert len(few.identities) == 5
    assert all(is_held_out(drawn.name, name, 0.3, 0) for name in few.identities)


def test_distractors_are_nobody_and_stay() -> None:
    distractor = replace(DRAWN.records[0], identity=DISTRACTOR)
    market = replace(DRAWN, spec="market1501:here", records=(*DRAWN.records, distractor))
    assert distractor in limit_test_identities(market, 2).records
