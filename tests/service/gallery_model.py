"""A gallery as a plain dictionary, which has the promised behaviour and no storage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any


@dataclass(frozen=True)
class Said:
    """Labels sent with one image; the image is the number of a drawn one."""

    image: int
    identity: str | None
    camera: str | None
    captured_at: str | None
    external_id: str | None

    @property
    def moment(self) -> datetime | None:
        return datetime.fromisoformat(self.captured_at) if self.captured_at else None


@dataclass(frozen=True)
class Wanted:
    """A filter of crops, as a query sends it."""

    cameras: tuple[str, ...] = ()
    exclude_cameras: tuple[str, ...] = ()
    captured_after: str | None = None
    captured_before: str | None = None

    @property
    def is_inverted(self) -> bool:
        earliest = self.captured_after
        latest = self.captured_before
        if not (earliest and latest):
            return False
        return datetime.fromisoformat(earliest) > datetime.fromisoformat(latest)

    def passes(self, crop: Said) -> bool:
        if self.cameras and crop.camera not in self.cameras:
            return False
        if crop.camera is not None and crop.camera in self.exclude_cameras:
            return False
        if not (self.captured_after or self.captured_before):
            return True
        moment = crop.moment
        if moment is None:
            return False
        earliest = self.captured_after
        latest = self.captured_before
        if earliest and moment < datetime.fromisoformat(earliest):
            return False
        return not (latest and moment > datetime.fromisoformat(latest))

    def not_under(self, camera: str) -> Wanted:
        return replace(self, exclude_cameras=(*self.exclude_cameras, camera))

    def fields(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if value}


@dataclass
class Merged:
    """A merge that can be undone: its crops, their former identity, and the one of now."""

    identity: str
    into: str
    crops: frozenset[str]


@dataclass
class GalleryModel:
    """The contents of a gallery.

    Attributes:
        crops: by crop id, in the order of their enrolment.
        snapshots: what each held when it was taken, less who was forgotten since.
        removed: ids of crops that were deleted; none of them may ever be seen again.
        issued: every id that was ever given out.
        merges: by id, oldest first.
    """

    crops: dict[str, Said] = field(default_factory=dict)
    snapshots: dict[str, dict[str, Said]] = field(default_factory=dict)
    removed: set[str] = field(default_factory=set)
    issued: list[str] = field(default_factory=list)
    merges: dict[str, Merged] = field(default_factory=dict)
    version: int = 0

    def stored_as(self, said: Said) -> str | None:
        """Return the crop that the same bytes under the same identity and camera are."""
        same = (said.image, said.identity, said.camera)
        for crop_id, crop in self.crops.items():
            if (crop.image, crop.identity, crop.camera) == same:
                return crop_id
        return None

    def identities(self) -> dict[str, tuple[int, int]]:
        """Count each identity's crops and known cameras, by name."""
        names = sorted({crop.identity for crop in self.crops.values() if crop.identity})
        theirs = {
            name: [crop.camera for crop in self.crops.values() if crop.identity == name]
            for name in names
        }
        return {name: (len(seen), len(set(seen) - {None})) for name, seen in theirs.items()}

    def passing(self, wanted: Wanted, without: str | None = None) -> set[str]:
        """Return the crops that a query has to answer, all of them and no other."""
        return {
            crop_id
            for crop_id, crop in self.crops.items()
            if wanted.passes(crop) and crop_id != without
        }

    def groups(self, crop_ids: Sequence[str] | set[str]) -> int:
        """How many results they are, grouped by identity; who is unknown stands alone."""
        known = [self.crops[crop_id].identity for crop_id in crop_ids]
        return len(set(known) - {None}) + known.count(None)

    def delete(self, crop_id: str) -> None:
        del self.crops[crop_id]
        self.removed.add(crop_id)
        self.version += 1

    def rename(self, identity: str, new: str) -> frozenset[str]:
        theirs = frozenset(
            crop_id for crop_id, crop in self.crops.items() if crop.identity == identity
        )
        if theirs:
            for merge in self.merges.values():
                merge.into = new if merge.into == identity else merge.into
        self._relabel(theirs, new)
        return theirs

    def undo_merge(self, merge_id: str) -> int:
        """Return how many crops got their former identity again."""
        earlier = list(self.merges)[: list(self.merges).index(merge_id)]
        undone = self.merges.pop(merge_id)
        for other in earlier:
            if self.merges[other].crops & undone.crops:
                self.merges[other].into = undone.identity
        theirs = frozenset(
            crop_id
            for crop_id in undone.crops & self.crops.keys()
            if self.crops[crop_id].identity == undone.into
        )
        self._relabel(theirs, undone.identity)
        return len(theirs)

    def _relabel(self, crop_ids: frozenset[str], identity: str) -> None:
        for crop_id in crop_ids:
            self.crops[crop_id] = replace(self.crops[crop_id], identity=identity)
        self.version += bool(crop_ids)

    def remembers(self, identity: str) -> bool | None:
        """Return whether the gallery or a snapshot holds somebody of that name.

        None where only deleted crops of theirs may still be in a snapshot: they leave it at the
        next housekeeping, whenever that is.
        """
        kept = [self.crops, *self.snapshots.values()]
        theirs = {
            crop_id
            for crops in kept
            for crop_id, crop in crops.items()
            if crop.identity == identity
        }
        if theirs - self.removed:
            return True
        return None if theirs else False

    def forget(self, identity: str) -> int:
        """Remove a person from gallery, snapshots and merges; return how many crops they had."""
        self.merges = {
            merge_id: merge
            for merge_id, merge in self.merges.items()
            if identity not in (merge.identity, merge.into)
        }
        theirs = [crop_id for crop_id, crop in self.crops.items() if crop.identity == identity]
        for crop_id in theirs:
            del self.crops[crop_id]
        self.removed.update(theirs)
        for snapshot_id, crops in self.snapshots.items():
            self.snapshots[snapshot_id] = {
                crop_id: crop
                for crop_id, crop in crops.items()
                if crop.identity != identity and crop_id not in self.removed
            }
        self.version += bool(theirs)
        return len(theirs)

    def restore(self, snapshot_id: str) -> None:
        self.crops = {
            crop_id: crop
            for crop_id, crop in self.snapshots[snapshot_id].items()
            if crop_id not in self.removed
        }
        self.version += 1
