"""Filters on the crops that a search may return, and lookup of crops by metadata."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic_core import from_json, to_json

from service.record.values import CropLabel

ReadTexts = Callable[[Sequence[int]], Iterable[tuple[int, str]]]
"""Yields slot and text, such as the metadata, for those of the given slots that have one."""


@dataclass(frozen=True)
class Filter:
    """Conditions on the crops that a search may return.

    A crop of unknown camera or time fails every condition on cameras or times.

    Attributes:
        cameras: allowed cameras; empty for all.
        exclude_cameras: excluded cameras.
        captured_after, captured_before: inclusive bounds, with time zone.
        without: excluded `row_id`s.
        named: True for crops with an identity, False for crops without one; None for both.
        identities: allowed identities; empty for all crops.
        metadata: pairs, as returned by `pairs_of`, that the crop's metadata must contain.
    """

    cameras: tuple[str, ...] = ()
    exclude_cameras: tuple[str, ...] = ()
    captured_after: datetime | None = None
    captured_before: datetime | None = None
    without: frozenset[int] = frozenset()
    named: bool | None = None
    identities: tuple[str, ...] = ()
    metadata: frozenset[str] = frozenset()

    def passes_camera(self, camera: str | None) -> bool:
        return (not self.cameras or camera in self.cameras) and camera not in self.exclude_cameras

    def passes(self, label: CropLabel) -> bool:
        captured_at = label.captured_at
        after = self.captured_after
        before = self.captured_before
        if not self.passes_camera(label.camera) or label.row_id in self.without:
            return False
        if self.named is not None and self.named != (label.identity is not None):
            return False
        if self.identities and label.identity not in self.identities:
            return False
        if self.metadata and not self.metadata <= pairs_of(label.metadata):
            return False
        if captured_at is None:
            return after is None and before is None
        return (after is None or captured_at >= after) and (before is None or captured_at <= before)


EVERY_CROP = Filter()


def pairs_of(metadata: Mapping[str, Any] | None) -> frozenset[str]:
    pairs = (metadata or {}).items()
    return frozenset(pair_text(pair) for pair in pairs)


def pair_text(pair: tuple[str, Any]) -> str:
    """Return a text that is the same for equal keys with equal values."""
    return json.dumps(pair, sort_keys=True)


def no_texts(_: Sequence[int]) -> Iterable[tuple[int, str]]:
    return ()


class LazyTexts:
    """Texts of crops, read on first use and again after changes."""

    def __init__(self, read: ReadTexts) -> None:
        self._read = read
        self._is_read = np.zeros(0, np.bool_)

    def outdate(self, slots: NDArray[np.int64]) -> None:
        self._is_read[slots[slots < len(self._is_read)]] = False

    def _unread(self, valid: NDArray[np.bool_]) -> NDArray[np.int64]:
        unread = valid.copy()
        unread[: len(self._is_read)] &= ~self._is_read
        return np.flatnonzero(unread)


class MetadataRows(LazyTexts):
    """Pairs of keys and values as 64-bit codes, each with the slot of a crop that has it.

    Nothing is stored before the first search with a metadata filter. Each such search reads the
    metadata of crops added or changed since the previous one, so a gallery that is never filtered
    by metadata has no cost.
    """

    def __init__(self, read: ReadTexts) -> None:
        super().__init__(read)
        self._slots = np.zeros(0, np.int64)
        # Python salts str hashes per process, so nobody can craft collisions.
        self._codes = np.zeros(0, np.int64)

    def bearing(self, pairs: Iterable[str], valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return a mask `(size,)` of the crops that have every pair.

        Args:
            pairs: pairs as returned by `pairs_of`.
            valid: True where there is a living crop, `(size,)`.
        """
        self._catch_up(valid)
        has_all = np.ones(len(valid), np.bool_)
        for pair in pairs:
            has_pair = np.zeros(len(valid), np.bool_)
            has_pair[self._slots[self._codes == hash(pair)]] = True
            has_all &= has_pair
        return has_all

    def _catch_up(self, valid: NDArray[np.bool_]) -> None:
        stale = self._unread(valid)
        if not len(stale):
            return
        slots: list[int] = []
        codes: list[int] = []
        # Many crops share most pairs.
        codes_by_pair: dict[bytes, int] = {}
        for slot, metadata in self._read(stale.tolist()):
            for pair in from_json(metadata).items():
                body = to_json(pair)
                if body not in codes_by_pair:
                    codes_by_pair[body] = hash(pair_text(pair))
                slots.append(slot)
                codes.append(codes_by_pair[body])
        kept = ~np.isin(self._slots, stale)
        self._slots = np.concatenate([self._slots[kept], np.array(slots, np.int64)])
        self._codes = np.concatenate([self._codes[kept], np.array(codes, np.int64)])
        self._is_read = np.ones(len(valid), np.bool_)
