"""Filters of a search, and the rows and identities that pass one: counted with every change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from service.record.records import CropLabel

Rows = NDArray[np.int64]
# More are counted quicker without being sorted.
FEW_ROWS = 10_000
Item = TypeVar("Item", bound=np.generic)


@dataclass(frozen=True)
class Filter:
    """Which crops a search may return; a crop of unknown camera or time passes no `only`.

    Attributes:
        cameras: only these; empty for every camera.
        exclude_cameras: none of these.
        captured_after, captured_before: inclusive bounds, with time zone.
        without: `row_id`s to leave out.
    """

    cameras: tuple[str, ...] = ()
    exclude_cameras: tuple[str, ...] = ()
    captured_after: datetime | None = None
    captured_before: datetime | None = None
    without: frozenset[int] = frozenset()

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
        if taken is None:
            return after is None and before is None
        return (after is None or taken >= after) and (before is None or taken <= before)


EVERY_CROP = Filter()


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
        self.identities = 0
        self._rows_of = np.zeros(0, np.int32)

    def grow(self, capacity: int) -> None:
        """Makes room for rows."""
        self.mask = grown(self.mask, capacity)

    def passing(self, cameras: NDArray[np.int32], known: Mapping[str, int]) -> NDArray[np.bool_]:
        """Which rows are of its cameras, by the codes of theirs; the last one's stands for none."""
        if len(self._passes) <= len(known):
            self._passes = np.array([*map(self._wanted.passes_camera, [*known, None])])
        return self._passes[cameras]

    def add(self, rows: Rows, groups: NDArray[np.int32]) -> None:
        """Adds rows, that are not in it, with their groups' numbers; -1 for none."""
        self.mask[rows] = True
        found, counts = _counted(groups)
        if len(found) and found[-1] >= len(self._rows_of):
            self._rows_of = grown(self._rows_of, 2 * int(found[-1]) + 2)
        self.identities += int(np.count_nonzero(self._rows_of[found] == 0))
        self.identities += int(np.count_nonzero(groups < 0))
        self._rows_of[found] += counts

    def remove(self, rows: Rows, groups: NDArray[np.int32]) -> None:
        """Removes those of these rows that are in it."""
        there = self.mask[rows]
        rows, groups = rows[there], groups[there]
        self.mask[rows] = False
        found, counts = _counted(groups)
        self._rows_of[found] -= counts
        self.identities -= int(np.count_nonzero(self._rows_of[found] == 0))
        self.identities -= int(np.count_nonzero(groups < 0))


def _counted(groups: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    groups = groups[groups >= 0]
    if len(groups) < 2:
        return groups, np.ones(len(groups), np.int32)
    if len(groups) < FEW_ROWS:
        found, counts = np.unique(groups, return_counts=True)
    else:
        counts = np.bincount(groups)
        found = np.flatnonzero(counts).astype(np.int32)
        counts = counts[found]
    return found, counts.astype(np.int32)


def grown(array: NDArray[Item], capacity: int) -> NDArray[Item]:
    """A copy with room for more; what is not written yet takes no memory."""
    more = np.zeros((capacity, *array.shape[1:]), array.dtype)
    more[: len(array)] = array
    return more
