"""Times as evidence in a search, beside appearance: the interface to what a gallery has learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from model.arrays import Array
from service.gallery.gallery import Gallery
from service.index.moments import Moments
from service.record.values import LabelledCrop
from service.search.options import QueryOptions


class LearnedTimes(Protocol):
    """The evidence of times in one gallery.

    Attributes:
        version: changes whenever something else was learned.
    """

    @property
    def version(self) -> str: ...

    def knows(self, camera: str) -> bool:
        """Return whether anything was learned about this camera."""
        ...

    def log_odds(self, camera: str, captured: float, crops: Moments) -> Array:
        """Compute how far the times of a query and of crops speak for one person, `(n,)`.

        Args:
            camera, captured: of the query, in seconds since 1970.

        Returns:
            Log-odds; 0 where nothing is known.
        """
        ...


class TimeEvidence(Protocol):
    """The evidence of times in all galleries."""

    def of(self, gallery: Gallery) -> LearnedTimes | None:
        """Return what a gallery has learned; None if it has not, or does not use times."""
        ...


@dataclass(frozen=True)
class QueryTimes:
    """The times of one query, and what they say about the crops of a gallery.

    Attributes:
        asked: cameras and times of the query's pictures; None where they are unknown.
    """

    learned: LearnedTimes
    asked: Sequence[tuple[str, float] | None]

    @classmethod
    def of(
        cls, learned: LearnedTimes | None, options: QueryOptions, crops: Sequence[LabelledCrop]
    ) -> QueryTimes | None:
        """Return the times of a query; None if they say nothing about any crop.

        Args:
            crops: the crops searched by; none if the query has images.
        """
        if learned is None or not options.uses_times:
            return None
        sources: Sequence[LabelledCrop | QueryOptions] = crops or [options]
        asked = [
            (source.camera, source.captured_at.timestamp())
            if source.camera and source.captured_at and learned.knows(source.camera)
            else None
            for source in sources
        ]
        return cls(learned, asked) if any(asked) else None

    def log_odds(self, crops: Moments) -> Array:
        """Compute the mean of the log-odds of the query's pictures for each crop, `(n,)`."""
        total = np.zeros(len(crops.captured))
        for moment in self.asked:
            if moment is not None:
                total += self.learned.log_odds(*moment, crops)
        return total / len(self.asked)
