"""Fit a projection to everybody, and score people by projections that were fitted to others.

People are dealt into folds. For each pair of folds a projection is fitted to everybody else, and
compares the people of the two. So each score is of two people who took no part in its fit, as it
will be of people to come. If each fold were projected by one fit instead, the fit to the others
would move it away from all of them, and impostors would look too different: thresholds for 1% would
let 1.9% pass with 60 people of CUHK01, and those by pairs of folds let 1.0% pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np

from model.arrays import Codes, Floats, unit_rows
from model.problems import InputProblem
from model.wording import counted
from training.datasets.record import CropRecord, Person
from training.evaluation.embedding import ProgressBar, SearchFeatures
from training.evaluation.metrics import ScoreRows
from training.evaluation.scoring import SearchScores
from training.evaluation.searches import Search, camera_name
from training.projection import Projection, fit_projection

# Each fit has 80% of the people. Fewer folds would judge a fit to too few people.
FOLDS = 10
# Two folds are left out of each fit, which needs a person under two cameras.
LEAST_PEOPLE = 3


@dataclass(frozen=True)
class Folds:
    """People dealt into folds.

    Attributes:
        number: the number of folds.
        of_people: the fold of each person, from 0.
    """

    number: int
    of_people: Mapping[Person, int]

    def of(self, records: Iterable[CropRecord]) -> Codes:
        """Return the fold of each crop's person, `(n,)`."""
        return np.array([self.of_people[record.person] for record in records], np.int64)

    def pairs(self) -> Iterator[tuple[int, int]]:
        """Yield the two folds of each fit, the lower one first."""
        return combinations(range(self.number), 2)

    def left_out_with(self, first: int, second: int) -> tuple[int, int]:
        """Return the pair whose fit compares people of two folds, or of one fold if they agree."""
        if first == second:
            second = (first + 1) % self.number
        return (first, second) if first < second else (second, first)

    @property
    def sentence(self) -> str:
        """A sentence on what is measured."""
        people = counted(len(self.of_people), "person", "people")
        return (
            f"The projection is fitted to all {people}. All figures and thresholds are out of "
            f"fold: the people were dealt into {self.number} folds, and two people are compared by "
            "a projection that was fitted to the others, without the folds of these two."
        )


def deal_folds(records: Sequence[CropRecord]) -> Folds:
    """Deal the people of crops into folds of equal size, at random but always alike.

    Raises:
        InputProblem: too few people are seen by two cameras.
    """
    cameras: dict[Person, set[str]] = {}
    for record in records:
        cameras.setdefault(record.person, set()).add(camera_name(record))
    seen_twice = sorted(person for person, seen in cameras.items() if len(seen) > 1)
    if len(seen_twice) < LEAST_PEOPLE:
        raise InputProblem(
            f"{counted(len(seen_twice), 'person is', 'people are')} seen by two cameras or more, "
            f"and a projection needs {LEAST_PEOPLE}, better 60; add people, or crops of other "
            "cameras"
        )
    random = np.random.default_rng(0)
    number = min(FOLDS, len(seen_twice))
    # People whom a fit can use are dealt first, so that each fold has as many of them.
    groups = (seen_twice, sorted(cameras.keys() - set(seen_twice)))
    dealt = [group[place] for group in groups for place in random.permutation(len(group))]
    return Folds(number, {person: place % number for place, person in enumerate(dealt)})


class FoldedFit(NamedTuple):
    """A projection that is fitted to everybody, and scores by projections fitted to others.

    Attributes:
        projection: the projection of the artefact.
        features: features of each search by it.
        scores: scores of each search, out of fold.
    """

    projection: Projection
    features: dict[str, SearchFeatures]
    scores: dict[str, SearchScores]


def fit_in_folds(
    folds: Folds,
    searches: Mapping[str, Search],
    features: Mapping[str, SearchFeatures],
    shrinkage: float,
    progress_bar: ProgressBar,
) -> FoldedFit:
    """Fit projections to everybody and to all but each pair of folds.

    Args:
        folds: the people.
        searches: a search of each data set; together they have all crops to fit to.
        features: features of each search without a projection.
        shrinkage: see `fit_projection`.
        progress_bar: shows the progress of the fits.
    """
    records = [record for search in searches.values() for record in search.records]
    people = [record.person for record in records]
    cameras = [camera_name(record) for record in records]
    crops = [_of_records(search, features[name]) for name, search in searches.items()]
    units = unit_rows(np.concatenate(crops))
    fold_of_crops = folds.of(records)

    def fit_to(rows: Codes) -> Projection:
        of_people = [people[row] for row in rows]
        of_cameras = [cameras[row] for row in rows]
        return fit_projection(units[rows], of_people, of_cameras, shrinkage)

    pairs = list(folds.pairs())
    fits = {}
    with progress_bar("Fitting without two folds each", len(pairs)) as progress:
        for pair in pairs:
            fits[pair] = fit_to(np.flatnonzero(~np.isin(fold_of_crops, pair)))
            progress(1)
    projection = fit_to(np.arange(len(records)))

    projected = {}
    scores = {}
    for name, search in searches.items():
        queries = unit_rows(features[name].queries)
        gallery = unit_rows(features[name].gallery)
        projected[name] = SearchFeatures(projection.of(queries), projection.of(gallery))
        rows = _cosines(folds, search, fits, queries, gallery)
        scores[name] = SearchScores(rows, None, search.labels())
    return FoldedFit(projection, projected, scores)


def _of_records(search: Search, features: SearchFeatures) -> Floats:
    """Return the features of `search.records`, `(n, d)`."""
    one_list = search.gallery is search.queries
    return features.queries if one_list else np.concatenate(features)


def _cosines(
    folds: Folds,
    search: Search,
    fits: Mapping[tuple[int, int], Projection],
    queries: Floats,
    gallery: Floats,
) -> ScoreRows:
    """Return a function that computes the cosines of some queries and the whole gallery.

    Args:
        folds, search: the folds, and a search for their people.
        fits: the projection of each pair of folds.
        queries, gallery: unit features without a projection, `(Q, d)` and `(G, d)`.
    """
    fold_of_queries = folds.of(search.queries)
    in_fold = [np.flatnonzero(folds.of(search.gallery) == fold) for fold in range(folds.number)]
    # Each crop of the gallery is projected once for each fold of queries.
    projected = {
        (asking, fold): unit_rows(fits[folds.left_out_with(asking, fold)].of(gallery[columns]))
        for asking in range(folds.number)
        for fold, columns in enumerate(in_fold)
    }

    def rows_of(rows: slice) -> Floats:
        units = queries[rows]
        scores = np.empty((len(units), len(gallery)), np.float32)
        for asking in np.unique(fold_of_queries[rows]).tolist():
            inside = np.flatnonzero(fold_of_queries[rows] == asking)
            for fold, columns in enumerate(in_fold):
                projection = fits[folds.left_out_with(asking, fold)]
                asked = unit_rows(projection.of(units[inside]))
                scores[np.ix_(inside, columns)] = asked @ projected[asking, fold].T
        return scores

    return rows_of
