"""Filters of a search: which crops it may return."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from service.record.records import CropLabel


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

    def passes_camera(self, camera: str | None) -> bool:
        """Whether a crop of this camera may be returned."""
        return (not self.cameras or camera in self.cameras) and camera not in self.exclude_cameras

    def passes(self, label: CropLabel) -> bool:
        """Whether a crop with this label may be returned."""
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
    """Each key of a crop's metadata with its value, as texts."""
    return frozenset(map(pair_text, (metadata or {}).items()))


def pair_text(pair: tuple[str, Any]) -> str:
    """A key with its value, as a text that is equal where both are."""
    return json.dumps(pair, sort_keys=True)
