"""The reference of an artefact: sums of the vectors of two training people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from model.arrays import Floats, unit_rows
from model.artefact import REFERENCE, Artefact, load_artefact
from model.problems import InputProblem
from training.evaluation.files import read_features
from training.provenance import TrainingFingerprints, digest_fingerprint

# How often the people are paired anew, by other crops.
PAIRINGS = 6
LEAST_PEOPLE = 100
MOST_VECTORS = 6_000
LABELS = ("identities", "sha256")


def add_reference(path: Path, features: Sequence[Path]) -> Floats:
    """Write a reference of `mixed_people` into an artefact's file, and return its vectors.

    The file is replaced atomically. The fingerprints of the artefact and of its embeddings stay.
    """
    artefact = load_artefact(path)
    vectors = mixed_people(artefact, features)
    # Each row fills the range of int8, so that cosines keep three digits.
    scaled = np.round(127.0 * vectors / np.abs(vectors).max(axis=1, keepdims=True))
    artefact.save(path, {REFERENCE: scaled.astype(np.int8)})
    return vectors


def mixed_people(artefact: Artefact, features: Sequence[Path]) -> Floats:
    """Sum the unit vectors of pairs of people, drawn at random within each data set.

    Args:
        artefact: the artefact; only crops whose fingerprints it has are used.
        features: a file or folder of `gmn embed` for each data set.

    Returns:
        Unit vectors `(n, d)`, the same for the same files.

    Raises:
        InputProblem: a file cannot be read or was made by another embedder, or fewer than
            `LEAST_PEOPLE` of its people are known as the artefact's training people.
    """
    random = np.random.default_rng(0)
    sums = []
    for path in features:
        file = read_features(path)
        by_it = file.origin.embedder == artefact.description.embedding_fingerprint
        if not by_it or not file.columns.keys() >= set(LABELS):
            raise InputProblem(
                f"{path}: was not made by gmn embed with {artefact.source}; make it anew with this "
                "artefact"
            )
        identities, digests = (np.array(file.columns[name]) for name in LABELS)
        fingerprints = [digest_fingerprint(bytes.fromhex(digest)) for digest in digests]
        trained = np.flatnonzero(np.isin(fingerprints, TrainingFingerprints.of(artefact).crops))
        people = len(np.unique(identities[trained]))
        if people < LEAST_PEOPLE:
            raise InputProblem(
                f"{path}: shows {people} people whom {artefact.source} was trained on, and a "
                f"reference needs {LEAST_PEOPLE}; name features of its training data (an artefact "
                "of imported weights does not know its people)"
            )
        units = unit_rows(file.features)
        for _ in range(PAIRINGS):
            crops = random.permutation(trained)
            _, crop_of_each = np.unique(identities[crops], return_index=True)
            first, second = random.permutation(crops[crop_of_each])[: people // 2 * 2].reshape(
                2, -1
            )
            sums.append(units[first] + units[second])
    return unit_rows(random.permutation(np.concatenate(sums))[:MOST_VECTORS])
