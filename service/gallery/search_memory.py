"""What a gallery remembers of its searches: scores of random crops, never of whom it answered.

Nearly all of them are of other people, which is what operating points are moved by. Nothing else
of a search is kept: no image, no feature, no crop's name.
"""

from __future__ import annotations

import base64
import json
import zlib

import numpy as np
from numpy.typing import NDArray

from model.problems import InputProblem

SEARCHES = 256
COSINES = 256
MNET_SCORES = 128
FORMAT = 1


class SearchMemory:
    """The last searches' scores; a search by the same features counts once.

    Attributes:
        seen: how many searches were remembered so far, those forgotten again included.
    """

    def __init__(self) -> None:
        self.seen = 0
        self._cosines = np.full((SEARCHES, COSINES), np.nan, np.float32)
        self._mnet = np.full((SEARCHES, MNET_SCORES), np.nan, np.float32)
        self._queries: list[int] = [0] * SEARCHES

    @property
    def searches(self) -> int:
        """How many searches are remembered now."""
        return min(self.seen, SEARCHES)

    @property
    def cosines(self) -> NDArray[np.float32]:
        """Cosines of searches with random crops, `(Q, COSINES)`; NaN where there were fewer."""
        return self._cosines[: self.searches].copy()

    @property
    def mnet(self) -> NDArray[np.float32]:
        """M-Net's scores of the first of these crops, `(Q, COSINES)`; NaN for the others."""
        scores = np.full((self.searches, COSINES), np.nan, np.float32)
        scores[:, :MNET_SCORES] = self._mnet[: self.searches]
        return scores

    def knows(self, query: int) -> bool:
        """Whether a search by these features, given as their hash, is remembered."""
        return query in self._queries[: self.searches]

    def remember(self, query: int, cosines: NDArray[np.float32], mnet: NDArray[np.float32]) -> None:
        """Keeps one search in the place of the oldest.

        Args:
            query: a hash of its features.
            cosines: with up to `COSINES` random crops of those that were searched, `(n,)`.
            mnet: M-Net's scores of the first `MNET_SCORES` of the same crops at most, `(m,)`.
        """
        place = self.seen % SEARCHES
        for row, scores in ((self._cosines[place], cosines), (self._mnet[place], mnet)):
            row[:] = np.nan
            row[: len(scores)] = scores
        self._queries[place] = query
        self.seen += 1

    def to_json(self) -> str:
        """All of it as text."""
        return json.dumps(
            {
                "format": FORMAT,
                "seen": self.seen,
                "cosines": _packed(self._cosines[: self.searches]),
                "mnet": _packed(self._mnet[: self.searches]),
            }
        )

    @classmethod
    def from_json(cls, text: str) -> SearchMemory:
        """What `to_json` wrote.

        Raises:
            InputProblem: for anything else.
        """
        memory = cls()
        try:
            said = json.loads(text)
            if said["format"] != FORMAT:
                raise ValueError(f"format {said['format']}")
            memory.seen = int(said["seen"])
            count = memory.searches
            memory._cosines[:count] = _unpacked(said["cosines"], COSINES)
            memory._mnet[:count] = _unpacked(said["mnet"], MNET_SCORES)
        except (ValueError, KeyError, TypeError, zlib.error) as error:
            raise InputProblem(
                f"what a gallery remembered of its searches cannot be read ({error}); it will be "
                "gathered anew"
            ) from error
        return memory


def _packed(scores: NDArray[np.float32]) -> str:
    return base64.b64encode(zlib.compress(scores.astype("<f4").tobytes())).decode()


def _unpacked(text: str, width: int) -> NDArray[np.float32]:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), "<f4").reshape(-1, width)
