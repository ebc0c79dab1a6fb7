"""Identities held out of the training sets: chosen by a seeded hash, so that anyone can redo it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

from training.datasets.record import CropRecord, Dataset


def is_held_out(dataset: str, identity: str, fraction: float, seed: int) -> bool:
    """Whether a person is kept away from training.

    The answer depends on nothing but the arguments: not on the other people of the set, on their
    order, nor on the machine.

    Args:
        dataset: the data set's name.
        identity: the person's identity in it.
        fraction: how many of all people are held out, 0 to 1.
        seed: another seed, another choice.
    """
    # JSON keeps ("a", "b1") and ("ab", "1") apart, with any characters in a name.
    label = json.dumps([seed, dataset, identity])
    digest = hashlib.sha256(label.encode("ascii")).digest()
    uniform: float = (int.from_bytes(digest[:8], "big") >> 11) / 2**53
    return uniform < fraction


def split_held_out(
    datasets: Iterable[Dataset], fraction: float, seed: int
) -> tuple[list[CropRecord], list[CropRecord]]:
    """Splits the training crops of the sets by person, never by image.

    Crops of the `query` and `gallery` splits are in neither part.

    Args:
        datasets: the training sets.
        fraction: how many of all people are held out, 0 to 1.
        seed: of the choice.

    Returns:
        The crops to train on and the crops held out, each in the order of the sets.
    """
    training: list[CropRecord] = []
    held_out: list[CropRecord] = []
    for dataset in datasets:
        away = {
            identity
            for identity in dataset.identities
            if is_held_out(dataset.name, identity, fraction, seed)
        }
        for record in dataset.records:
            if record.split in (None, "train"):
                (held_out if record.identity in away else training).append(record)
    return training, held_out
