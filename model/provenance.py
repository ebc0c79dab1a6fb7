"""Where an artefact comes from: training data, inherited weights, and fingerprints of the crops."""

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
    """One data set that went into the weights or the calibration.

    Attributes:
        splits: of which of the set's splits the crops are, such as `train`; None where the set
            has none, and in older artefacts.
        fingerprints: how many of the crops have their fingerprint in the artefact; None in older
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
    """Initial weights or a teacher of an artefact, or of another source of it.

    Attributes:
        name: the file's name, or a word such as `torchvision`.
        sha256: of the file; None where it is not known.
        data: of the project's own training.
        documented_data: data sets that the weights' publisher names, such as `MSMT17`.
        terms: of use of the weights; empty where not known.
    """

    role: Literal["initial weights", "teacher"]
    name: str
    sha256: str | None = None
    data: tuple[TrainingData, ...] = ()
    documented_data: tuple[str, ...] = ()
    terms: str = ""

    @property
    def is_documented(self) -> bool:
        """True if the data that the weights were trained on are known."""
        return bool(self.data or self.documented_data)


class Provenance(Metadata):
    """Where an artefact comes from.

    Attributes:
        data: the training data, without the held-out identities.
        terms: of use of the weights, as the data and the sources demand.
        recipe: the resolved recipe.
        commit: the project's commit, with `-dirty` where files differed; None outside a checkout.
        created_at: RFC 3339.
        held_out: fraction of identities kept out of training, and the seed that chose them.
        metrics: figures measured on the held-out identities, by name.
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
        """The sources; for an older artefact the sources that its recipe names."""
        if self.sources is not None:
            return self.sources
        sources = []
        if (name := self.initial_weights) not in ("", "none"):
            data = ("ImageNet",) if name == "torchvision" else ()
            sources += [
                WeightSource(
                    role="initial weights",
                    name=name,
                    documented_data=data,
                )
            ]
        distillation = self.recipe.get("distillation")
        teachers = distillation.get("teachers", ()) if isinstance(distillation, Mapping) else ()
        sources += [WeightSource(role="teacher", name=str(name)) for name in teachers]
        return tuple(sources)


@dataclass(frozen=True)
class TrainingFingerprints:
    """Fingerprints of an artefact's training crops and people, 8 bytes each.

    Attributes:
        crops: fingerprints of training crops, `(n,)` int64, ascending; a random sample of the
            crops where there were very many.
        people: fingerprints of people, of data sets whose identities are the same at every site.
    """

    crops: Codes = field(default_factory=lambda: np.empty(0, np.int64))
    people: Codes = field(default_factory=lambda: np.empty(0, np.int64))

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Return the tensors of an artefact's file; empty ones are left out."""
        named = {CROPS_TENSOR: self.crops, PEOPLE_TENSOR: self.people}
        return {name: values for name, values in named.items() if len(values)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[Any]]) -> TrainingFingerprints:
        """Return the fingerprints among all tensors of a file."""
        none = np.empty(0, np.int64)
        return cls(tensors.get(CROPS_TENSOR, none), tensors.get(PEOPLE_TENSOR, none))
