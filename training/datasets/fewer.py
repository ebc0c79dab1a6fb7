"""Fewer data to train on, chosen so that anyone can redo it: some people, or a set left out."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from training.datasets.held_out import split_held_out
from training.datasets.record import CropRecord, Dataset, DatasetProblem
from training.datasets.registry import kind_of


def limit_identities(
    records: Sequence[CropRecord], per_set: int | None, seed: int
) -> list[CropRecord]:
    """Keeps at most so many people of each data set, with all their crops.

    Who stays depends on a hash of (seed, data set, identity) alone, so that the people of a lower
    limit are among those of a higher one.

    Args:
        records: in any order, which is kept.
        per_set: how many people of each data set stay; None keeps all.
        seed: another seed, another choice.
    """
    if per_set is None:
        return list(records)
    people: dict[str, set[str]] = defaultdict(set)
    for record in records:
        people[record.dataset].add(record.identity)
    kept = {
        (dataset, identity)
        for dataset, identities in people.items()
        for identity in some_identities(dataset, identities, per_set, seed)
    }
    return [record for record in records if record.person in kept]


def some_identities(
    dataset: str, identities: Iterable[str], most: int | None, seed: int
) -> list[str]:
    """At most so many identities of a data set, chosen as `limit_identities` does; None is all."""
    return sorted(identities, key=lambda one: _digest(seed, dataset, one))[:most]


def fewer_people(
    dataset: Dataset, most: int | None, held_out: Mapping[str, float] | None = None
) -> Dataset:
    """The set with at most so many of the people who have queries.

    Where a set has a query split, these are the people of that split. Crops of no
    person, such as distractors, stay. A set that papers split at random stays whole: a split draws
    from all of its people, and the search limits each split.

    Args:
        dataset: as read by the registry.
        most: how many people stay, chosen as `limit_identities` does; None keeps all.
        held_out: `fraction` and `seed` of a training, where only the people that it
            held out have queries; None is all people.
    """
    kind = kind_of(dataset.spec)
    if most is None or (kind.random_splits is not None and held_out is None):
        return dataset
    nobody = kind.not_people
    people = [record for record in dataset.records if record.identity not in nobody]
    if held_out is not None:
        searched = split_held_out(
            [dataset], held_out.get("fraction", 0.0), int(held_out.get("seed", 0))
        )[1]
    else:
        searched = [record for record in people if record.split == "query"] or people
    kept = {record.person for record in limit_identities(searched, most, seed=0)}
    records = tuple(
        record for record in dataset.records if record.identity in nobody or record.person in kept
    )
    return replace(dataset, records=records)


def leave_out(datasets: Sequence[Dataset], name: str) -> list[Dataset]:
    """All data sets but the named one; a drawn set with several domains counts as one.

    Raises:
        InputProblem: naming the sets there are, when it is none of them or the only one.
    """
    names = [dataset.name for dataset in datasets]
    if name not in names:
        raise DatasetProblem(f"{name}: no set of --data has this name; name {', '.join(names)}")
    if len(names) == 1:
        raise DatasetProblem(f"{name}: nothing is left to train on; give another --data as well")
    return [dataset for dataset in datasets if dataset.name != name]


def _digest(seed: int, dataset: str, identity: str) -> bytes:
    # Its first word keeps the choice apart from that of the people held out.
    label = json.dumps(["training", seed, dataset, identity])
    return hashlib.sha256(label.encode("ascii")).digest()
