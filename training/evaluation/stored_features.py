"""Features that `gmn embed` has written, looked up by the names of a search's crops."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from model.artefact import Artefact
from model.feature_file import read_features
from model.problems import InputProblem
from training.evaluation.embedding import SearchFeatures
from training.evaluation.protocols import Search


class StoredFeatures:
    """The features of an artefact in some files or folders, by the crops' names.

    Raises:
        InputProblem: for a file that cannot be read, or was embedded by another artefact.
    """

    def __init__(self, places: Sequence[Path], artefact: Artefact) -> None:
        files = [read_features(place, ["paths"]) for place in places]
        for file in files:
            file.check_against(artefact)
        self._named = ", ".join(map(str, places))
        self._features = np.concatenate([file.features for file in files])
        names = [name for file in files for name in file.paths]
        self._rows = {name: row for row, name in enumerate(names)}

    def of(self, search: Search) -> SearchFeatures:
        """The features of a search.

        Raises:
            InputProblem: naming a crop that has none.
        """
        missing = [one.source for one in search.records if one.source not in self._rows]
        if missing:
            raise InputProblem(
                f"{self._named}: has no features of {len(missing):,} crops, such as {missing[0]}; "
                "run gmn embed with this data, named alike"
            )
        features = self._features[[self._rows[one.source] for one in search.records]]
        return SearchFeatures(features[: len(search.queries)], features[-len(search.gallery) :])
