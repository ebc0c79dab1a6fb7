"""Protocols of domain generalisation: what is trained on, and on which sets that is tested."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from model.problems import InputProblem
from training.datasets.record import Dataset
from training.datasets.registry import kind_of

LARGE_SETS = ("market1501", "msmt17", "cuhksysu", "cuhk03np")


@dataclass(frozen=True)
class Protocol:
    """One protocol.

    Attributes:
        name: as `--protocol` takes it.
        title: for people.
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

    What comes back goes through `split_held_out` and the trainer like any other set.

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
    """The set with what is trained on as its training split, and nothing else."""
    nobody = kind_of(dataset.spec).not_people
    records = tuple(
        replace(record, split="train") if record.split else record
        for record in dataset.records
        if record.identity not in nobody and (test_images or record.split in (None, "train"))
    )
    splits = ("train", "query", "gallery") if test_images else ("train",)
    present = {record.split for record in dataset.records}
    return replace(
        dataset,
        records=records,
        training_splits=tuple(name for name in splits if name in present) or None,
    )
