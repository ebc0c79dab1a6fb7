"""Fewer data: the same people everywhere, and a set left out whole."""

from __future__ import annotations

import pytest

from model.problems import InputProblem
from training.datasets.drawn import draw_people
from training.datasets.protocols import leave_out, limit_identities
from training.datasets.record import CropRecord, Dataset


def crops(name: str, identities: int) -> list[CropRecord]:
    return [
        CropRecord(f"{name}/{identity}/{camera}", name, f"{identity:04d}", camera, name)
        for identity in range(identities)
        for camera in ("A", "B")
    ]


def people(records: list[CropRecord]) -> set[tuple[str, str]]:
    return {record.person for record in records}


def test_each_set_keeps_so_many_people_with_all_their_crops() -> None:
    kept = limit_identities(crops("a", 50) + crops("b", 8), 20, seed=0)
    assert len(kept) == 2 * (20 + 8)
    assert len(people(kept)) == 20 + 8


def test_a_lower_limit_keeps_some_of_the_same_people() -> None:
    everyone = crops("a", 50)
    assert people(limit_identities(everyone, 10, 3)) < people(limit_identities(everyone, 30, 3))


def test_the_choice_does_not_depend_on_the_order_and_changes_with_the_seed() -> None:
    everyone = crops("a", 50)
    chosen = people(limit_identities(everyone, 10, 3))
    assert people(limit_identities(everyone[::-1], 10, 3)) == chosen
    assert people(limit_identities(everyone, 10, 4)) != chosen


def test_without_a_limit_everybody_stays() -> None:
    assert limit_identities(crops("a", 5), None, 0) == crops("a", 5)


def test_a_drawn_set_is_left_out_with_all_its_domains() -> None:
    drawn = draw_people(3, 3, 2, cameras_per_domain=2, crops_per_camera=1)
    other = Dataset("a", "manifest:a", "none", tuple(crops("a", 4)))
    assert leave_out([other, drawn], drawn.name) == [other]


def test_an_unknown_set_is_refused_with_the_known_ones_and_the_only_one_is_kept() -> None:
    only = Dataset("a", "manifest:a", "none", tuple(crops("a", 4)))
    with pytest.raises(InputProblem, match=r"b: no set of --data has this name; name a"):
        leave_out([only], "b")
    with pytest.raises(InputProblem, match="nothing is left to train on"):
        leave_out([only], "a")
