"""The provenance of an artefact: training data, inherited weights and fingerprints of crops."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from model.arrays import Codes
from model.stored import Metadata, is_absent

CROPS_TENSOR = "training.crops"
PEOPLE_TENSOR = "training.people"


class TrainingData(Metadata):
    """A data set to which the weights or the calibration were fitted.

    Attributes:
        splits: splits of the set that were used, such as `train`; None if the set has none, and in
            older artefacts.
        fingerprints: number of crops that have a fingerprint in the artefact. None in older
            artefacts, which can be compared with a data set by its name alone.
    """

    name: str
    spec: str
    terms: str
    crops: int
    identities: int
    cameras: int
    splits: tuple[str, ...] | None = Field(None, exclude_if=is_absent)
    fingerprints: int | None = Field(None, exclude_if=is_absent)


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
        sources: initial weights and teachers, with their own sources; None in older artefacts.
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
    sources: tuple[WeightSource, ...] | None = Field(None, exclude_if=is_absent)

    @property
    def all_sources(self) -> tuple[WeightSource, ...]:
        """The sources; in an older artefact these are the ones that its recipe names."""
        if self.sources is not None:
            return self.sources
        sources = []
        if (name := self.initial_weights) not in ("", "none"):
            data = ("ImageNet",) if name == "torchvision" else ()
            source = WeightSource(role="initial weights", name=name, documented_data=data)
            sources.append(source)
        distillation = self.recipe.get("distillation")
        teachers = distillation.get("teachers", ()) if isinstance(distillation, Mapping) else ()
        sources += [WeightSource(role="teacher", name=str(name)) for name in teachers]
        return tuple(sources)


@dataclass(frozen=True)
class TrainingFingerprints:
    """Fingerprints of the training crops and people of an artefact, 8 bytes each.

    Attributes:
        crops: fingerprints of crops, `(n,)` int64, ascending; of a random sample if there were very
            many crops.
        people: fingerprints of people, from data sets whose identities are the same at every site.
    """

    crops: Codes = field(default_factory=lambda: np.empty(0, np.int64))
    people: Codes = field(default_factory=lambda: np.empty(0, np.int64))

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Return the tensors to store in an artefact; empty ones are left out."""
        named = {CROPS_TENSOR: self.crops, PEOPLE_TENSOR: self.people}
        return {name: values for name, values in named.items() if len(values)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[Any]]) -> TrainingFingerprints:
        """Return the fingerprints among the tensors of an artefact."""
        none = np.empty(0, np.int64)
        return cls(tensors.get(CROPS_TENSOR, none), tensors.get(PEOPLE_TENSOR, none))
