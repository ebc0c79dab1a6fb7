"""Filters of a search, and the rows and identities that pass one: counted with every change."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.record.records import CropLabel

Rows = NDArray[np.int64]
Item = TypeVar("Item", bound=np.generic)


@dataclass(frozen=True)
class Filter:
    """Which crops a search may return; a crop of unknown camera or time passes no `only`.

    Attributes:
        cameras: only these; empty for every camera.
        exclude_cameras: none of these.
        captured_after, captured_before: inclusive bounds, with time zone.
        without: `row_id`s to leave out.
        named: only crops with an identity, or only those without one; None for both.
        identities: only these; empty for every identity, and none.
        metadata: keys that a crop's metadata has to have, each with its value, as `pairs_of` has
            them.
    """

    cameras: tuple[str, ...] = ()
    exclude_cameras: tuple[str, ...] = ()
    captured_after: datetime | None = None
    captured_before: datetime | None = None
    without: frozenset[int] = frozenset()
    named: bool | None = None
    identities: tuple[str, ...] = ()
    metadata: frozenset[str] = frozenset()

    @property
    def of_cameras(self) -> Filter:
        """Its cameras alone."""
        return Filter(self.cameras, self.exclude_cameras)

    def passes_camera(self, camera: str | None) -> bool:
        """Whether a crop of this camera may be returned."""
        return (not self.cameras or camera in self.cameras) and camera not in self.exclude_cameras

    def passes(self, label: CropLabel) -> bool:
        """Whether a crop with this label may be returned."""
        taken, after, before = label.captured_at, self.captured_after, self.captured_before
        if not self.passes_camera(label.camera) or label.row_id in self.without:
            return False
        if self.named is not None and self.named != (label.identity is not None):
            return False
        if self.identities and label.identity not in self.identities:
            return False
        if self.metadata and not self.metadata <= pairs_of(label.metadata):
            return False
        if taken is None:
            return after is None and before is None
        return (after is None or taken >= after) and (before is None or taken <= before)


EVERY_CROP = Filter()


def pairs_of(metadata: Mapping[str, Any] | None) -> frozenset[str]:
    """Each key of a crop's metadata with its value, as texts."""
    return frozenset(map(pair_text, (metadata or {}).items()))


def pair_text(pair: tuple[str, Any]) -> str:
    """A key with its value, as a text that is equal where both are."""
    return json.dumps(pair, sort_keys=True)


class View:
    """The valid rows of some cameras, and the groups that they belong to.

    Attributes:
        mask: of the table's rows, `(capacity,)` bool.
        identities: the number of their groups, a row without a group counting by itself.
    """

    def __init__(self, wanted: Filter, capacity: int) -> None:
        self._wanted = wanted
        self._passes = np.zeros(0, np.bool_)
        self.mask = np.zeros(capacity, np.bool_)
        self.identities = self._unnamed = 0
        self._rows_of = np.zeros(0, np.int32)

    def grow(self, capacity: int) -> None:
        """Makes room for rows."""
        self.mask = grown(self.mask, capacity)

    def add(
        self,
        rows: Rows,
        groups: NDArray[np.int32],
        cameras: NDArray[np.int32],
        known: Mapping[str, int],
    ) -> None:
        """Adds those of some rows that are of its cameras.

        Args:
            groups: numbers of theirs; -1 for none.
            cameras: codes of theirs, as `known` has them; -1 for none.
        """
        if len(self._passes) <= len(known):
            self._passes = np.array([*map(self._wanted.passes_camera, [*known, None])])
        passing = self._passes[cameras]
        self.mask[rows[passing]] = True
        self._count(groups[passing], 1)

    def remove(self, rows: Rows, groups: NDArray[np.int32]) -> None:
        """Removes those of these rows that are in it."""
        there = self.mask[rows]
        self.mask[rows] = False
        self._count(groups[there], -1)

    def _count(self, groups: NDArray[np.int32], change: int) -> None:
        named = groups[groups >= 0]
        highest = int(named.max(initial=-1))
        if highest >= len(self._rows_of):
            self._rows_of = grown(self._rows_of, 2 * highest + 2)
        np.add.at(self._rows_of, named, np.int32(change))
        self._unnamed += change * (len(groups) - len(named))
        self.identities = self._unnamed + int(np.count_nonzero(self._rows_of))


def grown(array: NDArray[Item], capacity: int) -> NDArray[Item]:
    """A copy with room for more; what is not written yet takes no memory."""
    more = np.zeros((capacity, *array.shape[1:]), array.dtype)
    more[: len(array)] = array
    return more
