"""Held-out identities: the same ones everywhere, people and never single images."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from training.datasets.protocols import is_held_out, split_held_out
from training.datasets.record import CropRecord, Dataset


def people(name: str, identities: Sequence[str], split: str | None = None) -> Dataset:
    records = tuple(
        CropRecord(f"{name}/{identity}/{camera}", name, identity, camera, name, split=split)
        for identity in identities
        for camera in ("A", "B")
    )
    return Dataset(name=name, spec=f"manifest:{name}", terms="none", records=records)


IDENTITIES = [f"{number:04d}" for number in range(2000)]


def test_the_choice_is_the_same_on_every_machine_and_release() -> None:
    chosen = [identity for identity in IDENTITIES[:40] if is_held_out("cuhk01", identity, 0.2, 1)]
    assert chosen == ["0009", "0010", "0018", "0019", "0024", "0031", "0033", "0036"]


@pytest.mark.parametrize("fraction", [0.1, 0.5])
def test_about_the_asked_fraction_is_held_out(fraction: float) -> None:
    held_out = sum(is_held_out("set", identity, fraction, 0) for identity in IDENTITIES)
    assert held_out / len(IDENTITIES) == pytest.approx(fraction, abs=0.03)


def test_nobody_or_everybody_can_be_held_out() -> None:
    assert not any(is_held_out("set", identity, 0.0, 0) for identity in IDENTITIES)
    assert all(is_held_out("set", identity, 1.0, 0) for identity in IDENTITIES)


def test_a_larger_fraction_only_adds_people() -> None:
    small = {identity for identity in IDENTITIES if is_held_out("set", identity, 0.1, 0)}
    large = {identity for identity in IDENTITIES if is_held_out("set", identity, 0.3, 0)}
    assert small < large


def test_the_seed_and_the_set_s_name_change_the_choice() -> None:
    def chosen(name: str, seed: int) -> set[str]:
        return {identity for identity in IDENTITIES if is_held_out(name, identity, 0.3, seed)}

    assert (
        len({frozenset(chosen("a", 0)), frozenset(chosen("a", 1)), frozenset(chosen("b", 0))}) == 3
    )


def test_a_split_parts_people_and_loses_no_crop() -> None:
    sets = [people("a", IDENTITIES[:100]), people("b", IDENTITIES[:100])]
    training, held_out = split_held_out(sets, 0.3, seed=5)
    assert {record.person for record in training}.isdisjoint(record.person for record in held_out)
    assert len(training) + len(held_out) == 400
    assert held_out == [
        record
        for dataset in sets
        for record in dataset.records
        if is_held_out(record.dataset, record.identity, 0.3, 5)
    ]


def test_query_and_gallery_crops_are_in_neither_part() -> None:
    sets = [
        people("a", IDENTITIES[:50], "train"),
        people("b", IDENTITIES[:50], "query"),
        people("c", IDENTITIES[:50], "gallery"),
    ]
    training, held_out = split_held_out(sets, 0.5, seed=0)
    assert {record.dataset for record in [*training, *held_out]} == {"a"}
    assert len(training) + len(held_out) == 100
