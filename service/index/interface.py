"""The interface of an index, in this process or in another program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeVar

from model.arrays import Floats
from service.index.candidates import Candidates, Integers
from service.index.filters import EVERY_CROP, GroupBy, SearchFilter
from service.index.moments import Moments
from service.ops.threads import MonitoredThreadPool

Result = TypeVar("Result")


class IdentityCount(NamedTuple):
    """Named people, and crops without a name, each of which counts as one identity."""

    named: int
    unnamed: int

    @property
    def total(self) -> int:
        return self.named + self.unnamed


class SearchedIndex(Protocol):
    """The vectors of one gallery and embedder, as they are searched.

    Attributes:
        kind: FAISS's name for the method of searches without a filter, or `milvus`.
        dtype: type in which proposals are compared; their final cosines are exact.
        recall: measured share of the 100 nearest found by a search without a filter; None for all.
        bytes: size of the vectors that a search reads in this process.
        counts_filtered: `identities` counts only the crops that pass a filter.
    """

    @property
    def kind(self) -> str: ...

    @property
    def dtype(self) -> str: ...

    @property
    def recall(self) -> float | None: ...

    @property
    def bytes(self) -> int: ...

    @property
    def counts_filtered(self) -> bool: ...

    def search(
        self,
        queries: Floats,
        cameras: Sequence[str | None],
        limit: int,
        wanted: SearchFilter = EVERY_CROP,
        grouped: bool = False,
        by: GroupBy = "crop",
    ) -> Candidates:
        """Return the `limit` crops with the highest mean cosine to the queries.

        Args:
            queries: features `(m, d)` of one person, not of unit length.
            cameras: the camera of each of the queries, if it is known; an index that does not
                centre ignores it.
            limit: maximum number of crops.
            wanted: filter on the crops; passes all by default.
            grouped: return the nearest crop of each of the `limit` nearest identities (or tracks);
                a crop without one is its own group.
            by: kind of group; for `track` the `sets` of the candidates are tracks.
        """
        ...

    def identities(self, wanted: SearchFilter = EVERY_CROP) -> IdentityCount:
        """Count the identities that a search covers."""
        ...

    def moments(self, slots: Integers) -> Moments:
        """Return the cameras and times of crops, `(n,)`; a deleted crop may have none."""
        ...


class OutsideIndex(SearchedIndex, Protocol):
    """The vectors of a gallery in another program, whose calls block."""

    def version(self) -> int:
        """Return the gallery version that searches show; 0 while the index is built."""
        ...


class OutsideIndexes(Protocol):
    """The indexes of all galleries in another program, which may fail to answer.

    Attributes:
        why_down: why the last search or write failed; empty while the program answers.
        threads: pools whose health is that of the service.
    """

    @property
    def why_down(self) -> str: ...

    @property
    def threads(self) -> list[MonitoredThreadPool]: ...

    def of(self, gallery_id: int, embedder: str) -> OutsideIndex:
        """Return the index of a gallery with vectors of one embedder."""
        ...

    async def run(self, call: Callable[..., Result], *args: object) -> Result:
        """Run a search on a thread that may wait for the network.

        Raises:
            IndexUnavailable: the program does not answer in time, or did not shortly before.
        """
        ...

    def compact(self, gallery_id: int, version: int, seconds: float) -> bool:
        """Wait until a gallery's index shows a version, and has freed the space of removed crops.

        Returns:
            False if either takes too long, or the program does not answer.
        """
        ...

    def close(self) -> None:
        """Stop searching and writing."""
        ...
