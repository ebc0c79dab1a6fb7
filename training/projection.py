"""Fit a projection of features that shortens what cameras change about a person.

It is a within-class covariance normalisation (Hatch, Kajarekar and Stolcke, Interspeech 2006) of
centred features, whose classes are people, and whose deviations are between cameras. Crops of one
person differ between two cameras by light, view and background, in much the same directions for all
people. A few dozen people show these directions, which is far fewer than a network needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch

from model.arrays import Array, Floats, unit_rows
from model.embedder import Embedder
from model.preprocessing import Preprocessing
from model.problems import InputProblem
from model.weights import round_as_stored
from training.datasets.record import CropRecord
from training.evaluation.embedding import ProgressBar, embed_records, no_bar
from training.evaluation.searches import TWO_CAMERAS, camera_name


class Projection(NamedTuple):
    """A projection of unit features.

    Attributes:
        mean: what features lose first, `(d,)`.
        matrix: symmetric, `(d, d)`.
    """

    mean: Array
    matrix: Array

    def of(self, units: Floats) -> Floats:
        """Project unit features, `(n, d)`; the result has any length."""
        return np.asarray((units - self.mean) @ self.matrix, np.float32)


def add_projection(
    embedder: Embedder,
    preprocessing: Preprocessing,
    records: Sequence[CropRecord],
    shrinkage: float,
    progress_bar: ProgressBar = no_bar,
) -> Embedder:
    """Return a copy of an embedder with a projection that is fitted to its features of people.

    Args:
        embedder: the embedder as the artefact stores it, in evaluation mode, on any device. If it
            has a projection, the new one takes its place.
        preprocessing: the preprocessing that it was trained with.
        records: crops of training people.
        shrinkage: see `fit_projection`.
        progress_bar: shows the progress of the embedding.

    Raises:
        InputProblem: a crop cannot be read, or nobody is seen by two cameras.
    """
    plain = without_projection(embedder)
    with progress_bar("Embedding crops for the projection", len(records)) as progress:
        features = embed_records(plain, preprocessing, records, progress=progress)
    units = unit_rows(features)
    people = [record.person for record in records]
    cameras = [camera_name(record) for record in records]
    return with_projection(plain, fit_projection(units, people, cameras, shrinkage))


def with_projection(embedder: Embedder, fitted: Projection) -> Embedder:
    """Return a copy of an embedder with a projection, rounded as an artefact stores it."""
    projected = _copied(embedder, True)
    with torch.no_grad():
        projected.projection.weight.copy_(torch.from_numpy(fitted.matrix))
        projected.projection.bias.copy_(torch.from_numpy(-fitted.mean @ fitted.matrix))
    round_as_stored(projected)
    return projected


def without_projection(embedder: Embedder) -> Embedder:
    """Return a copy of an embedder without its projection, if it has one."""
    return _copied(embedder, None)


def _copied(embedder: Embedder, projection: Literal[True] | None) -> Embedder:
    """Return a copy in evaluation mode with a new projection, or without one."""
    device = next(embedder.parameters()).device
    copied = Embedder(embedder.config.model_copy(update={"projection": projection}))
    weights = embedder.state_dict()
    kept = {name: weights[name] for name in weights if not name.startswith("projection.")}
    copied.load_state_dict(copied.state_dict() | kept)
    return copied.eval().to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def fit_projection(
    units: Floats, people: Sequence[object], cameras: Sequence[object], shrinkage: float
) -> Projection:
    """Fit a projection to people, who weigh the same.

    The matrix is (1 + S / (shrinkage · m))^(−1/2), where S is the scatter between cameras of
    features without their mean, and m the mean variance of a direction in S. No direction is
    lengthened, and one with the variance shrinkage · m becomes shorter by √2.

    Args:
        units: unit features, `(n, d)`.
        people, cameras: the labels of the crops, n of each.
        shrinkage: above 0; the larger, the nearer the matrix is to the identity.

    Raises:
        InputProblem: nobody is seen by two cameras.
    """
    rows: dict[object, list[int]] = {}
    for row, person in enumerate(people):
        rows.setdefault(person, []).append(row)
    of_people = np.array([units[own].mean(axis=0) for own in rows.values()], np.float64)
    mean: Array = of_people.mean(axis=0)
    centred = unit_rows(np.asarray(units - mean, np.float32))
    scatter = scatter_between_cameras(centred, people, cameras)

    variances, directions = np.linalg.eigh(scatter)
    variances = np.maximum(variances, 0.0)
    factors = 1.0 / np.sqrt(1.0 + variances / max(shrinkage * variances.mean(), 1e-12))
    return Projection(mean, (directions * factors) @ directions.T)


def scatter_between_cameras(
    features: Floats, people: Sequence[object], cameras: Sequence[object]
) -> Array:
    """Return the mean square of each crop minus the mean of its person's crops of other cameras.

    People weigh the same, and so do the crops of a person. People of one camera do not count.

    Args:
        features: features of the crops, `(n, d)`.
        people, cameras: the labels of the crops, n of each.

    Returns:
        `(d, d)`, symmetric.

    Raises:
        InputProblem: nobody is seen by two cameras.
    """
    rows: dict[object, dict[object, list[int]]] = {}
    for row, (person, camera) in enumerate(zip(people, cameras, strict=True)):
        rows.setdefault(person, {}).setdefault(camera, []).append(row)
    scatters = []
    for by_camera in rows.values():
        if len(by_camera) == 1:
            continue
        deviations = []
        for camera, own in by_camera.items():
            others = [row for name, there in by_camera.items() if name != camera for row in there]
            deviations.append(features[own].astype(np.float64) - features[others].mean(axis=0))
        deviation = np.concatenate(deviations)
        scatters.append(deviation.T @ deviation / len(deviation))
    if not scatters:
        raise InputProblem(f"no training person is seen by two cameras; {TWO_CAMERAS}")
    return np.asarray(np.mean(scatters, axis=0), np.float64)
