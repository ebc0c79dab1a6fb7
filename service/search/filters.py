"""Filters that choose the crops that a search may return."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from service.record.values import CropLabel


@dataclass(frozen=True)
class Filter:
    """Conditions on the crops that a search may return.

    A crop of unknown camera or time passes no condition that asks for one.

    Attributes:
        cameras: allowed cameras; empty for all.
        exclude_cameras: cameras that are left out.
        captured_after, captured_before: inclusive bounds, with time zone.
        without: `row_id`s that are left out.
        named: True for crops with an identity, False for those without; None for both.
        identities: allowed identities; empty for all crops.
        metadata: pairs, as by `pairs_of`, that the crop's metadata must contain.
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
        taken = label.captured_at
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
        if taken is None:
            return after is None and before is None
        return (after is None or taken >= after) and (before is None or taken <= before)


EVERY_CROP = Filter()


def pairs_of(metadata: Mapping[str, Any] | None) -> frozenset[str]:
    pairs = (metadata or {}).items()
    return frozenset(pair_text(pair) for pair in pairs)


def pair_text(pair: tuple[str, Any]) -> str:
    """Return a text that is equal for equal keys with equal values."""
    return json.dumps(pair, sort_keys=True)
