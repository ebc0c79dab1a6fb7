"""Filters on the crops that a search may return, and lookup of crops by metadata."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
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

    cameras: frozenset[str] = frozenset()
    exclude_cameras: frozenset[str] = frozenset()
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
# Other searches take turns between steps, each of some tenths of a second at most.
SLOTS_PER_STEP = 512
CODES_PER_STEP = 50_000


def pairs_of(metadata: Mapping[str, Any] | None) -> frozenset[str]:
    return frozenset(_pair_text(pair) for pair in (metadata or {}).items())


def _pair_text(pair: Sequence[Any]) -> str:
    return json.dumps(pair, sort_keys=True)


# Many crops share most pairs.
@lru_cache(maxsize=10_000)
def _pair_code(pair: bytes) -> int:
    # Python salts str hashes per process, so nobody can craft collisions.
    return hash(_pair_text(from_json(pair)))


def metadata_codes(_slot: int, metadata: str) -> list[int]:
    return [_pair_code(to_json(pair)) for pair in from_json(metadata).items()]


class LazyCodes:
    """64-bit codes of texts of crops, such as their metadata.

    Nothing is stored before the first use. Each use reads the texts of crops added or changed since
    the previous one, so a gallery that is never filtered by metadata has no cost.
    """

    def __init__(self, read: ReadTexts, encode: Callable[[int, str], list[int]]) -> None:
        """Store nothing; `encode` returns the codes of the text of a slot."""
        self._read = read
        self._encode = encode
        self._is_read = np.zeros(0, np.bool_)
        self._parts = [np.zeros((2, 0), np.int64)]

    def outdate(self, slots: NDArray[np.int64]) -> None:
        self._is_read[slots[slots < len(self._is_read)]] = False
        self._parts = [part[:, ~np.isin(part[1], slots)] for part in self._parts]

    def catch_up(self, valid: NDArray[np.bool_]) -> bool:
        """Read some of the texts that are not known yet; return True if others remain.

        Args:
            valid: `(size,)`, True for a living crop.
        """
        unread = valid.copy()
        unread[: len(self._is_read)] &= ~self._is_read
        stale = np.flatnonzero(unread)
        if not len(stale):
            return False
        step = stale[:SLOTS_PER_STEP]
        codes: list[int] = []
        slots: list[int] = []
        for slot, text in self._read(step.tolist()):
            added = self._encode(slot, text)
            codes += added
            slots += [slot] * len(added)
            if len(codes) > CODES_PER_STEP:
                step = step[step <= slot]
                break
        self._parts.append(np.array([codes, slots], np.int64))
        self._is_read = ~unread
        self._is_read[step] = True
        return len(step) < len(stale)

    def table(self) -> NDArray[np.int64]:
        """Return the codes, each above the slot of a crop that has it, `(2, n)`."""
        if len(self._parts) > 1:
            self._parts = [np.concatenate(self._parts, axis=1)]
        return self._parts[0]
