"""The choice of people and crops to train on and to test: protocols, splits, limits."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from model.problems import InputProblem
from training.datasets.record import CropRecord, Dataset, DatasetProblem
from training.datasets.registry import kind_of

LARGE_SETS = ("market1501", "msmt17", "cuhksysu", "cuhk03np")


@dataclass(frozen=True)
class Protocol:
    """One protocol, by which tables of `gmn benchmark` are trained and tested.

    Attributes:
        sources: names of the sets that may be trained on; empty is whichever are given.
        targets: names of the sets that are tested; empty is whichever are given.
        leave_one_out: a target among the sources is left out of its own artefact's training.
        test_images: the sources' query and gallery images are trained on too.
    """

    name: str
    title: str
    sources: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    leave_one_out: bool = True
    test_images: bool = False


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("lodo", "leave one domain out, over the sets given"),
        Protocol(
            "P1",
            "four sets with their test images, tested on four small ones",
            ("market1501", "cuhk02", "cuhk03np", "cuhksysu"),
            ("prid2011", "grid", "viper", "ilids"),
            leave_one_out=False,
            test_images=True,
        ),
        Protocol(
            "P2",
            "leave one domain out of four, training splits",
            LARGE_SETS,
            # CUHK-SYSU has too few known cameras to test on it.
            ("market1501", "msmt17", "cuhk03np"),
        ),
        Protocol(
            "P3",
            "leave one domain out of four, training and test images of the sources",
            LARGE_SETS,
            ("market1501", "msmt17", "cuhk03np"),
            test_images=True,
        ),
    )
}


def training_sets(
    datasets: Sequence[Dataset], protocol: Protocol, target: str | None = None
) -> list[Dataset]:
    """The sets that a protocol trains on, with the crops that it trains on as their `train` split.

    Args:
        datasets: as read.
        protocol: which of them may be sources, and whether with their test images.
        target: the set to leave out; None where the protocol leaves out none.

    Raises:
        InputProblem: where a set is no source of the protocol, the target is not among its
            targets or is missing, or nothing is left to train on.
    """
    if protocol.leave_one_out and target is None:
        raise InputProblem(f"protocol {protocol.name} leaves one set out; name it")
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
    if not sources:
        raise InputProblem(f"protocol {protocol.name}: no set is left to train on; give another")
    return [_as_training(dataset, protocol.test_images) for dataset in sources]


def _as_training(dataset: Dataset, test_images: bool) -> Dataset:
    """Return the set with what is trained on as its training split, and nothing else."""
    no_people = kind_of(dataset.spec).not_people
    used = ("train", "query", "gallery") if test_images else ("train",)
    records = tuple(
        replace(record, split=record.split and "train")
        for record in dataset.records
        if record.identity not in no_people and record.split in (None, *used)
    )
    present = {record.split for record in dataset.records}
    splits = tuple(name for name in used if name in present)
    return replace(dataset, records=records, training_splits=splits or None)


def is_held_out(dataset: str, identity: str, fraction: float, seed: int) -> bool:
    """Return whether a person is kept away from training.

    The answer depends on nothing but the arguments: not on the other people of the set, on their
    order, nor on the machine. `fraction` of all people are held out, 0 to 1.
    """
    uniform: float = (int.from_bytes(_digest(seed, dataset, identity)[:8], "big") >> 11) / 2**53
    return uniform < fraction


def split_held_out(
    datasets: Iterable[Dataset], fraction: float, seed: int
) -> tuple[list[CropRecord], list[CropRecord]]:
    """Splits the training crops of the sets by person, never by image.

    Crops of the `query` and `gallery` splits are in neither part.

    Returns:
        The crops to train on and the crops held out, each in the order of the sets.
    """
    training: list[CropRecord] = []
    held_out: list[CropRecord] = []
    for dataset in datasets:
        away = {
            name for name in dataset.identities if is_held_out(dataset.name, name, fraction, seed)
        }
        for record in dataset.records:
            if record.split in (None, "train"):
                (held_out if record.identity in away else training).append(record)
    return training, held_out


def limit_identities(
    records: Sequence[CropRecord], per_set: int | None, seed: int
) -> list[CropRecord]:
    """Keeps at most so many people of each data set, with all their crops.

    Who stays depends on a hash of (seed, data set, identity) alone, so that the people of a lower
    limit are among those of a higher one. The order of the records is kept.
    """
    if per_set is None:
        return list(records)
    people: dict[str, set[str]] = defaultdict(set)
    for record in records:
        people[record.dataset].add(record.identity)
    kept = {name: some_identities(name, own, per_set, seed) for name, own in people.items()}
    return [record for record in records if record.identity in kept[record.dataset]]


def some_identities(
    dataset: str, identities: Iterable[str], most: int | None, seed: int
) -> set[str]:
    """At most so many identities of a data set, chosen as `limit_identities` does; None is all."""
    # The first word keeps the choice apart from that of the people held out.
    return set(sorted(identities, key=lambda one: _digest("training", seed, dataset, one))[:most])


def limit_test_identities(
    dataset: Dataset, most: int | None, held_out: Mapping[str, float] | None = None
) -> Dataset:
    """Return the set with at most so many of the people who have queries.

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
    searched = [record for record in dataset.records if record.split == "query"] or dataset.records
    if held_out is not None:
        fraction = held_out.get("fraction", 0.0)
        seed = int(held_out.get("seed", 0))
        _, searched = split_held_out([dataset], fraction, seed)
    people = {record.identity for record in searched} - kind.not_people
    kept = some_identities(dataset.name, people, most, seed=0) | kind.not_people
    records = tuple(record for record in dataset.records if record.identity in kept)
    return replace(dataset, records=records)


def leave_out(datasets: Sequence[Dataset], name: str) -> list[Dataset]:
    """Return all data sets but the named one; a drawn set with several domains counts as one.

    Raises:
        InputProblem: naming the sets there are, when it is none of them or the only one.
    """
    names = [dataset.name for dataset in datasets]
    if name not in names:
        raise DatasetProblem(f"{name}: no set of --data has this name; name {', '.join(names)}")
    if len(names) == 1:
        raise DatasetProblem(f"{name}: nothing is left to train on; give another --data as well")
    return [dataset for dataset in datasets if dataset.name != name]


def _digest(*words: str | int) -> bytes:
    # JSON keeps ("a", "b1") and ("ab", "1") apart, with any characters in a name.
    return hashlib.sha256(json.dumps(words).encode("ascii")).digest()
