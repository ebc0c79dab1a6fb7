"""The parts of SQL that each engine writes in its own way."""

from __future__ import annotations

from abc import ABC, abstractmethod


class Dialect(ABC):
    """The SQL of one engine where engines differ; every other statement suits them all."""

    @abstractmethod
    def among(self, column: str, value: str = "?") -> str:
        """Return the condition that a column is in a collection, which is given as one value."""

    @abstractmethod
    def gathered(self, expression: str, condition: str | None = None) -> str:
        """Return the aggregate of the values in a group as a JSON array.

        Args:
            condition: which values are meant; None for all.
        """

    @abstractmethod
    def unindexed(self, expression: str) -> str:
        """Return an expression for which the engine uses no index."""
