"""The best scores of nine people in one search, which is all that is kept of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.candidate_groups import UNNAMED, leading_scores
from model.search_calibration import RANKS
from service.search.index import Candidates, GalleryIndex, first_of_each
from service.search.rows import Filter

# So many pairs at most are scored for the sake of the calibration alone.
MORE_PAIRS = 64
# Where the candidates show too few people, so many crops by cosine are looked at for others.
DEEPEST = 1600


@dataclass(frozen=True)
class People:
    """Candidates of one search, as what they show of different people is counted.

    Attributes:
        rows: of the index, `(n,)`.
        cosines: with the query, `(n,)` float32.
        codes: of their names, `(n,)`; -1 for a crop without one.
        units: their features of unit length, `(n, d)` float32.
        joins_at: the cosine from which a crop without a name shows the same person.
    """

    rows: NDArray[np.int64]
    cosines: NDArray[np.float32]
    codes: NDArray[np.int64]
    units: NDArray[np.float32]
    joins_at: float

    @classmethod
    def of(cls, index: GalleryIndex, found: Candidates, joins_at: float) -> People:
        """Candidates of an index."""
        groups = index.table.groups[found.rows]
        vectors = index.table.vectors[found.rows]
        units = vectors / np.maximum(index.table.norms[found.rows, None], 1e-12)
        codes = np.where(groups < 0, UNNAMED, groups)
        return cls(found.rows, found.cosines, codes, units, joins_at)

    def leaders(self, scores: NDArray[np.float32]) -> tuple[float, ...]:
        """The best scores of up to nine different people, descending.

        Args:
            scores: of the candidates, `(n,)`; NaN for one that was not scored.
        """
        scored = np.isfinite(scores)
        return leading_scores(
            scores[scored], self.codes[scored], self.units[scored], self.joins_at, RANKS
        )


def with_nine_people(
    index: GalleryIndex,
    queries: NDArray[np.float32],
    wanted: Filter,
    scored: Candidates,
    joins_at: float,
) -> People:
    """The candidates that are scored, then the nearest crop of each further person, by cosine.

    So many are added that nine people have a score, and 64 at most. None are added where there
    are too few people or they are too far off.

    Args:
        index: what is searched.
        queries: features `(m, d)` of one person.
        wanted: which crops may be returned.
        scored: the nearest crops by cosine.
        joins_at: the cosine from which a crop without a name shows the same person.
    """
    people = People.of(index, scored, joins_at)
    if len(people.leaders(people.cosines)) == RANKS or len(scored.rows) == scored.searched:
        return people
    deeper = index.search(queries, DEEPEST, wanted)
    first = first_of_each(index.table.groups[deeper.rows])
    new = first[~np.isin(deeper.rows[first], scored.rows)][:MORE_PAIRS]
    rows = np.concatenate([scored.rows, deeper.rows[new]])
    cosines = np.concatenate([scored.cosines, deeper.cosines[new]])
    more = People.of(index, Candidates(rows, cosines, scored.searched), joins_at)
    leaders = more.leaders(cosines)
    if len(leaders) < RANKS:
        return people
    enough = np.flatnonzero(cosines >= np.float32(leaders[-1]))
    enough = np.union1d(np.arange(len(scored.rows)), enough)
    return People(rows[enough], cosines[enough], more.codes[enough], more.units[enough], joins_at)
