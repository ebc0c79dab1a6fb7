"""The reference of an artefact: sums of the vectors of two training people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from model.arrays import Floats, unit_rows
from model.artefact import REFERENCE, load_artefact
from model.problems import InputProblem
from model.wording import counted
from training.evaluation.files import read_features
from training.provenance import TrainingFingerprints, digest_fingerprint

# How often the people are paired again, by other crops.
PAIRINGS = 6
LEAST_PEOPLE = 100
MOST_VECTORS = 6_000
LABELS = ("identities", "sha256")


def add_reference(path: Path, features: Sequence[Path]) -> Floats:
    """Write a reference into an artefact's file, atomically, and return its vectors.

    Each is the sum of the unit vectors of two people, drawn at random within a data set. The
    fingerprints of the artefact and of its embeddings stay.

    Args:
        path: the artefact's file; only crops whose fingerprints it has are used.
        features: a file or folder of `gmn embed` for each data set.

    Returns:
        Unit vectors `(n, d)`, the same for the same files.

    Raises:
        InputProblem: a file cannot be read or was made by another embedder, or fewer than
            `LEAST_PEOPLE` of its people are known as the artefact's training people.
    """
    artefact = load_artefact(path)
    random = np.random.default_rng(0)
    sums = []
    for source in features:
        file = read_features(source)
        by_it = file.origin.embedder == artefact.description.embedding_fingerprint
        if not by_it or not all(file.columns[name] for name in LABELS):
            raise InputProblem(
                f"{source}: was not made by gmn embed with {artefact.source}; make it again with "
                "this artefact"
            )
        identities, digests = (np.array(file.columns[name]) for name in LABELS)
        fingerprints = [digest_fingerprint(bytes.fromhex(digest)) for digest in digests]
        trained = np.flatnonzero(np.isin(fingerprints, TrainingFingerprints.of(artefact).crops))
        people = len(np.unique(identities[trained]))
        if people < LEAST_PEOPLE:
            raise InputProblem(
                f"{source}: shows {counted(people, 'person', 'people')} whom {artefact.source} was "
                "trained on, and a "
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
    vectors = unit_rows(random.permutation(np.concatenate(sums))[:MOST_VECTORS])
    # Each row fills the range of int8, so that cosines keep three digits.
    scaled = np.round(127.0 * vectors / np.abs(vectors).max(axis=1, keepdims=True))
    artefact.save(path, {REFERENCE: scaled.astype(np.int8)})
    return vectors
