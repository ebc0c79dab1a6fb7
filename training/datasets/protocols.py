"""Choose the people and crops to train on and to test: protocols, held-out people, limits."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from model.problems import InputProblem
from training.datasets.record import CropRecord, Dataset, DatasetProblem
from training.datasets.registry import kind_of

LARGE_SETS = ("market1501", "msmt17", "cuhksysu", "cuhk03np")
LARGE_TESTS = ("market1501", "msmt17", "cuhk03np")
"""CUHK-SYSU is not tested, because too few of its cameras are known."""


@dataclass(frozen=True)
class Protocol:
    """A protocol of domain generalisation, for the tables of `gmn benchmark`.

    Attributes:
        sources: the names of the sets that may be trained on; empty allows any.
        targets: the names of the sets that are tested; empty allows any.
        trains_on: what a run trains on: `all` sources, the `others` than the set that it tests, or
            `one` source, to test all the others.
        test_images: whether query and gallery images of the sources are trained on, too.
    """

    name: str
    sources: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    trains_on: Literal["all", "others", "one"] = "others"
    test_images: bool = False


PROTOCOLS = {
    "lodo": Protocol("lodo"),
    "P1": Protocol(
        "P1",
        ("market1501", "cuhk02", "cuhk03np", "cuhksysu"),
        ("prid2011", "grid", "viper", "ilids"),
        trains_on="all",
        test_images=True,
    ),
    "P2": Protocol("P2", LARGE_SETS, LARGE_TESTS),
    "P3": Protocol("P3", LARGE_SETS, LARGE_TESTS, test_images=True),
    "single-source": Protocol("single-source", trains_on="one"),
}


def training_sets(
    datasets: Sequence[Dataset],
    protocol: Protocol,
    target: str | None = None,
) -> list[Dataset]:
    """Return the training sets of a protocol, reduced to their training crops.

    Args:
        datasets: the data sets as read.
        protocol: the protocol.
        target: the set to leave out, if any.

    Raises:
        InputProblem: a set is not a source of the protocol, or the target is not one of its
            targets.
    """
    if target is not None and protocol.targets and target not in protocol.targets:
        raise InputProblem(
            f"{target}: protocol {protocol.name} does not test on it; leave out one of "
            f"{', '.join(protocol.targets)}"
        )
    sources = [dataset for dataset in datasets if dataset.name != target]
    for dataset in sources:
        if protocol.sources and dataset.name not in protocol.sources:
            raise InputProblem(
                f"{dataset.spec}: protocol {protocol.name} does not train on it; give some of "
                f"{', '.join(protocol.sources)}"
            )
    splits = ("train", "query", "gallery") if protocol.test_images else ("train",)
    return [_as_training(dataset, splits) for dataset in sources]


def _as_training(dataset: Dataset, splits: Sequence[str]) -> Dataset:
    """Reduce a set to the people in these splits, and make all of it the training split."""
    no_people = kind_of(dataset.spec).not_people
    records = tuple(
        replace(record, split=record.split and "train")
        for record in dataset.records
        if record.identity not in no_people and record.split in (None, *splits)
    )
    present = {record.split for record in dataset.records}
    trained = tuple(split for split in splits if split in present)
    return replace(dataset, records=records, training_splits=trained or None)


def is_held_out(
    dataset: str,
    identity: str,
    fraction: float,
    seed: int,
) -> bool:
    """Return whether a person is held out, as `fraction` (0 to 1) of all people are.

    The answer depends on the arguments alone, not on the machine or on other people of the set.
    """
    digest = _digest(seed, dataset, identity)
    number = int.from_bytes(digest[:8], "big") >> 11
    return number / 2**53 < fraction


def split_held_out(
    datasets: Iterable[Dataset],
    fraction: float,
    seed: int,
) -> tuple[list[CropRecord], list[CropRecord]]:
    """Split the training crops of data sets into those to train on and those held out, by person.

    Returns:
        The crops to train on, and the crops held out, both in the order of the sets. Crops of the
        `query` and `gallery` splits are in neither.
    """
    training: list[CropRecord] = []
    held_out: list[CropRecord] = []
    for dataset in datasets:
        for record in dataset.records:
            if record.split in (None, "train"):
                away = is_held_out(dataset.name, record.identity, fraction, seed)
                (held_out if away else training).append(record)
    return training, held_out


def some_identities(
    dataset: str,
    identities: Iterable[str],
    most: int | None,
    seed: int,
) -> set[str]:
    """Choose at most `most` identities of a data set; None keeps all.

    They are chosen by a hash of (seed, data set, identity), so that the people of a lower limit are
    among those of a higher one.
    """

    # With the word "training" the choice is independent of the one of held-out people.
    def rank(identity: str) -> bytes:
        return _digest("training", seed, dataset, identity)

    return set(sorted(identities, key=rank)[:most])


def limit_identities(
    records: Sequence[CropRecord],
    most: int | None,
    seed: int,
) -> list[CropRecord]:
    """Keep the crops of at most `most` people of each data set, in their order."""
    people: dict[str, set[str]] = defaultdict(set)
    for record in records:
        people[record.dataset].add(record.identity)
    chosen = {
        dataset: some_identities(dataset, identities, most, seed)
        for dataset, identities in people.items()
    }
    return [record for record in records if record.identity in chosen[record.dataset]]


def limit_test_identities(
    dataset: Dataset,
    most: int | None,
    held_out: Mapping[str, float] | None = None,
) -> Dataset:
    """Limit the people of a data set who are searched for.

    They are chosen among the people of the query split, if there is one. Crops of no person, such
    as distractors, stay. A set that papers split at random stays whole, because its search limits
    each split.

    Args:
        dataset: the data set as read.
        most: the largest number of people; None keeps all.
        held_out: `fraction` and `seed` of a training, to choose among the people that it held out;
            None chooses among all people.
    """
    kind = kind_of(dataset.spec)
    if most is None or (kind.random_splits is not None and held_out is None):
        return dataset
    searched = [record for record in dataset.records if record.split == "query"]
    if held_out is not None:
        fraction = held_out.get("fraction", 0.0)
        seed = int(held_out.get("seed", 0))
        _, searched = split_held_out([dataset], fraction, seed)
    people = {record.identity for record in searched or dataset.records} - kind.not_people
    stay = some_identities(dataset.name, people, most, seed=0) | kind.not_people
    records = [record for record in dataset.records if record.identity in stay]
    return replace(dataset, records=tuple(records))


def leave_out(datasets: Sequence[Dataset], name: str) -> list[Dataset]:
    """Return all data sets except the named one; a drawn set with several domains counts as one.

    Raises:
        InputProblem: there is no set of this name, or no other set.
    """
    names = [dataset.name for dataset in datasets]
    if name not in names:
        raise DatasetProblem(f"{name}: no set of --data has this name; name {', '.join(names)}")
    if len(names) == 1:
        raise DatasetProblem(f"{name}: nothing is left to train on; give another --data as well")
    return [dataset for dataset in datasets if dataset.name != name]


def _digest(*words: str | int) -> bytes:
    # JSON distinguishes ("a", "b1") from ("ab", "1"), with any characters in a name.
    text = json.dumps(words)
    return hashlib.sha256(text.encode("ascii")).digest()
