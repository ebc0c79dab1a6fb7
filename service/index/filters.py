"""Filters on the crops of a search, and the groupings of its results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from service.record.values import CropFilter, LabelledCrop

GroupBy = Literal["crop", "identity", "track"]


@dataclass(frozen=True, kw_only=True)
class SearchFilter(CropFilter):
    """A filter of the crops that a search may return.

    Attributes:
        exclude_cameras: no crops of these; a crop of unknown camera passes.
        metadata: pairs, as returned by `pairs_of`, that the crop's metadata must contain.
        without: slots of excluded crops.
    """

    exclude_cameras: frozenset[str] = frozenset()
    metadata: frozenset[str] = frozenset()
    without: frozenset[int] = frozenset()

    def passes_camera(self, camera: str | None) -> bool:
        return (not self.cameras or camera in self.cameras) and camera not in self.exclude_cameras

    def passes(self, label: LabelledCrop) -> bool:
        captured_at = label.captured_at
        after = self.captured_after
        before = self.captured_before
        if label.set_aside or label.slot in self.without:
            return False
        if not self.passes_camera(label.camera):
            return False
        if self.named is not None and self.named != (label.identity is not None):
            return False
        if self.identities and label.identity not in self.identities:
            return False
        if self.metadata and not self.metadata <= pairs_of(label.metadata or {}):
            return False
        if captured_at is None:
            return after is None and before is None
        return (after is None or captured_at >= after) and (before is None or captured_at <= before)


EVERY_CROP = SearchFilter()


def pairs_of(metadata: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(pair_text(pair) for pair in metadata.items())


def pair_text(pair: Sequence[Any]) -> str:
    """Return a key and its value as a text that is the same for equal values of JSON."""
    return json.dumps(_with_whole_numbers(pair), sort_keys=True)


def _with_whole_numbers(value: Any) -> Any:
    """Return a JSON value in which 1.0 and 1e0 are written as 1, since they are one number."""
    if isinstance(value, float) and value.is_integer():
        # The digits that were sent: beyond 2**53, those of the nearest float may differ.
        return int(Decimal(repr(value)))
    if isinstance(value, Mapping):
        return {name: _with_whole_numbers(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_with_whole_numbers(part) for part in value]
    return value
