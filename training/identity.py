"""What makes a resumed run the same run, wherever its files lie: recipe, crops, and named files."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from model.artefact import resolve_artefact
from training.checkpoint import RunIdentity
from training.datasets.record import CropRecord
from training.provenance import file_digest
from training.recipe import Recipe
from training.start import NO_FILE


def run_identity(recipe: Recipe, records: Sequence[CropRecord]) -> RunIdentity:
    """What a run has in common with its continuation.

    Args:
        recipe: of the run.
        records: the training crops, in order.

    Raises:
        InputProblem: naming starting weights or a teacher that cannot be read.
    """
    words = {"initial_weights": recipe.initial_weights}
    for number, word in enumerate(recipe.distillation.teachers):
        words[f"distillation.teachers.{number}"] = word
    return RunIdentity(
        recipe,
        _digest(records),
        {
            setting: word if word in NO_FILE else file_digest(resolve_artefact(word))
            for setting, word in words.items()
        },
    )


def names_within_sets(records: Sequence[CropRecord]) -> list[str]:
    """What each crop is called, without the folder that all files of its data set lie in."""
    places: dict[str, set[str]] = defaultdict(set)
    for record in records:
        if record.path is not None or record.load is not None:
            places[record.dataset].add(str(Path(record.source).parent))
    folders = {os.path.commonpath(list(found)) for found in places.values()} - {"", ".", os.sep}
    names = [record.source for record in records]
    # A longer folder may lie within a shorter one.
    for folder in sorted(folders, key=len, reverse=True):
        names = [name.replace(folder + os.sep, "") for name in names]
    return names


def _digest(records: Sequence[CropRecord]) -> str:
    """Of names and labels, not of pixels."""
    digest = hashlib.sha256()
    for record, name in zip(records, names_within_sets(records), strict=True):
        digest.update(f"{name}\0{record.identity}\0{record.camera}\n".encode())
    return digest.hexdigest()
