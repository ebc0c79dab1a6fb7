"""The random splits of small sets: ten times some people are drawn, and the figures averaged."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from model.problems import InputProblem
from training.datasets.kind import RandomSplits
from training.datasets.protocols import some_identities
from training.datasets.record import CropRecord, Dataset
from training.datasets.registry import kind_of
from training.evaluation.protocols import RandomSplit, Search, whole_set


def usual_search(dataset: Dataset, most: int | None = None) -> Search:
    """How papers search a set: in random splits where that is the custom, else in its own splits.

    Args:
        dataset: as read; without a split of its own, after `limit_test_identities`.
        most: how many people a random split searches for at most; None is what papers do.

    Raises:
        InputProblem: where the set cannot be searched so.
    """
    kind = kind_of(dataset.spec)
    if kind.random_splits is None:
        return whole_set(dataset)
    return search_in_random_splits(dataset, kind.random_splits, kind.not_people, most=most)


def search_in_random_splits(
    dataset: Dataset,
    trials: RandomSplits,
    not_people: frozenset[str] = frozenset(),
    seed: int = 0,
    most: int | None = None,
) -> Search:
    """The search of everybody who takes part, and which of it each split is.

    Where the set's authors ship their own splits, these are taken; else people are drawn.

    Args:
        dataset: with crops of both sides.
        trials: how the set is split by custom.
        not_people: identities that label no person.
        seed: of the people drawn and, where crops are drawn, of the crops.
        most: how many of the people drawn are searched for at most, chosen as `limit_identities`
            does; None is all.

    Raises:
        InputProblem: where fewer people take part than a split draws.
    """
    people = trials.eligible_identities(dataset.records, not_people)
    if len(people) < trials.test_people:
        raise InputProblem(
            f"{dataset.spec}: {len(people)} people are on both sides, and a split draws "
            f"{trials.test_people}; complete the set, or name a part of it as a manifest"
        )
    searched = trials.test_people
    queries, gallery = _sides(dataset, trials, set(people))
    splits = []
    for number in range(trials.number):
        random = np.random.default_rng((seed, number))
        if dataset.training_people:
            drawn = set(people) - dataset.training_people[number % len(dataset.training_people)]
        else:
            drawn = set(random.choice(people, trials.test_people, replace=False).tolist())
        drawn = some_identities(dataset.name, drawn, most, seed=0)
        if trials.sides == "crops":
            splits.append(_one_crop_each(queries, sorted(drawn), random))
            continue
        stay = {record.identity for record in gallery} - set(people)
        splits.append(RandomSplit(_rows(queries, drawn), _rows(gallery, drawn | stay)))
    return Search(
        f"{trials.number} random splits of {min(most or searched, searched)} people, averaged",
        queries,
        gallery,
        splits=tuple(splits),
    )


def _sides(
    dataset: Dataset, trials: RandomSplits, people: Collection[str]
) -> tuple[tuple[CropRecord, ...], tuple[CropRecord, ...]]:
    """Everybody's queries, and everything that is in some split's gallery."""
    if trials.sides == "crops":
        everyone = tuple(record for record in dataset.records if record.identity in people)
        return everyone, everyone
    if trials.sides == "splits":
        query, other = "query", "gallery"
    else:
        query, other = sorted({record.camera for record in dataset.records})[:2]

    def side(record: CropRecord) -> str | None:
        return record.split if trials.sides == "splits" else record.camera

    queries = tuple(
        record for record in dataset.records if side(record) == query and record.identity in people
    )
    return queries, tuple(record for record in dataset.records if side(record) == other)


def _one_crop_each(
    records: tuple[CropRecord, ...], drawn: list[str], random: np.random.Generator
) -> RandomSplit:
    """One crop of every person drawn as the query, another one as the gallery."""
    pairs = [random.choice(_rows(records, {person}), 2, replace=False) for person in drawn]
    queries, gallery = np.stack(pairs).T
    return RandomSplit(queries.astype(np.int64), gallery.astype(np.int64))


def _rows(records: tuple[CropRecord, ...], people: Collection[str]) -> NDArray[np.int64]:
    return np.array(
        [row for row, record in enumerate(records) if record.identity in people], dtype=np.int64
    )
