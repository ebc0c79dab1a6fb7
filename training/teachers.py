"""Teachers' features of the training crops, read from the files that `gmn embed` writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from model.problems import InputProblem
from training.datasets.record import CropRecord
from training.evaluation.feature_file import FeatureFile, read_features


@dataclass(frozen=True)
class Teacher:
    """One teacher's features.

    Attributes:
        name: of the model that made them.
        features: of the training crops, in their order, `(n, t)` float32, of unit length.
    """

    name: str
    features: torch.Tensor

    @property
    def dimension(self) -> int:
        """t, the size of a feature."""
        return self.features.shape[1]


def read_teachers(files: Sequence[str], records: Sequence[CropRecord]) -> list[Teacher]:
    """Gathers the features of all training crops, by teacher.

    Args:
        files: of one teacher or several, each of one data set or several; what belongs together is
            known by the name of the model in the file.
        records: the training crops.

    Raises:
        InputProblem: for a file that cannot be read or does not say which model made it, or naming
            the first crop that a teacher has not embedded.
    """
    by_model: dict[str, list[FeatureFile]] = {}
    for name in files:
        file = read_features(Path(name))
        if not file.fingerprint or len(file.paths) != len(file.features):
            raise InputProblem(f"{name}: does not say whose features it holds; run gmn embed again")
        by_model.setdefault(file.fingerprint, []).append(file)
    return [_teacher(name, parts, records) for name, parts in by_model.items()]


def _teacher(name: str, files: list[FeatureFile], records: Sequence[CropRecord]) -> Teacher:
    sizes = {file.features.shape[1] for file in files}
    if len(sizes) > 1:
        raise InputProblem(
            f"{files[1].path}: {name} has features of {' and '.join(map(str, sorted(sizes)))} "
            "dimensions in its files; run gmn embed again for all of them"
        )
    row_of = {
        path: (part, row) for part, file in enumerate(files) for row, path in enumerate(file.paths)
    }
    features = np.empty((len(records), sizes.pop()), dtype=np.float32)
    for number, record in enumerate(records):
        place = row_of.get(record.source)
        if place is None:
            raise InputProblem(
                f"{record.source}: {name} has not embedded it; run gmn embed with this model and "
                f"--data of {record.dataset} exactly as for training, and name the file as well"
            )
        features[number] = files[place[0]].features[place[1]]
    return Teacher(name, torch.nn.functional.normalize(torch.from_numpy(features), dim=1))
