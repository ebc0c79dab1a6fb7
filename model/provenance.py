"""The provenance of an artefact: training data and inherited weights."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from model.stored import Metadata, is_absent


class TrainingData(Metadata):
    """A data set to which the weights or the calibration were fitted.

    Attributes:
        splits: splits of the set that were used, such as `train`; None if the set has none.
        fingerprints: number of crops that have a fingerprint in the artefact.
    """

    name: str
    spec: str
    terms: str
    crops: int
    identities: int
    cameras: int
    splits: tuple[str, ...] | None = Field(None, exclude_if=is_absent)
    fingerprints: int


class WeightSource(Metadata):
    """Initial weights or a teacher of an artefact, or of another source.

    Attributes:
        name: name of the file, or a word such as `torchvision`.
        sha256: digest of the file; None if it is unknown.
        data: training data, if this project trained the weights.
        documented_data: data sets that the publisher of the weights names, such as `MSMT17`.
        terms: terms of use of the weights; empty if they are unknown.
    """

    role: Literal["initial weights", "teacher"]
    name: str
    sha256: str | None = None
    data: tuple[TrainingData, ...] = ()
    documented_data: tuple[str, ...] = ()
    terms: str = ""

    @property
    def is_documented(self) -> bool:
        """True if the training data of the weights are known."""
        return bool(self.data or self.documented_data)


class Provenance(Metadata):
    """The provenance of an artefact.

    Attributes:
        data: training data, without the held-out identities.
        terms: terms of use of the weights, which follow from the data and the sources.
        recipe: the recipe with all its settings.
        commit: commit of the project, with `-dirty` if files differed; None outside a checkout.
        created_at: time in the format of RFC 3339.
        held_out: fraction of the identities that were held out, and the seed that chose them.
        metrics: figures that were measured on the held-out identities, by name.
        sources: initial weights and teachers, with their own sources.
    """

    data: tuple[TrainingData, ...]
    terms: str
    recipe: dict[str, Any]
    command: str
    commit: str | None
    created_at: str
    held_out: dict[str, float]
    initial_weights: str
    metrics: dict[str, Any]
    sources: tuple[WeightSource, ...]
