"""A gallery as a plain dictionary, which has the promised behaviour and no storage."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime


@dataclass(frozen=True)
class Said:
    """Labels sent with one image; the image is the number of a drawn one."""

    image: int
    identity: str | None
    camera: str | None
    captured_at: str | None
    external_id: str | None

    @property
    def moment(self):
        return moment_of(self.captured_at, None)


def moment_of(text, unknown):
    return datetime.fromisoformat(text) if text else unknown


@dataclass(frozen=True)
class Wanted:
    """A filter of crops, as a query sends it."""

    cameras: tuple[str, ...] = ()
    exclude_cameras: tuple[str, ...] = ()
    captured_after: str | None = None
    captured_before: str | None = None

    @property
    def is_inverted(self):
        return self._earliest > self._latest

    @property
    def _earliest(self):
        return moment_of(self.captured_after, datetime.min.replace(tzinfo=UTC))

    @property
    def _latest(self):
        return moment_of(self.captured_before, datetime.max.replace(tzinfo=UTC))

    def passes(self, crop):
        if self.cameras and crop.camera not in self.cameras:
            return False
        if crop.camera is not None and crop.camera in self.exclude_cameras:
            return False
        if not (self.captured_after or self.captured_before):
            return True
        return crop.moment is not None and self._earliest <= crop.moment <= self._latest

    def not_under(self, camera):
        return replace(self, exclude_cameras=(*self.exclude_cameras, camera))

    def fields(self):
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
        exports: ids of the crops that each has.
        removed: ids of crops that were deleted; none of them may ever be seen again.
        issued: every id that was ever given out.
        merges: by id, oldest first.
    """

    crops: dict[str, Said] = field(default_factory=dict)
    exports: dict[str, list[str]] = field(default_factory=dict)
    removed: set[str] = field(default_factory=set)
    issued: list[str] = field(default_factory=list)
    merges: dict[str, Merged] = field(default_factory=dict)
    version: int = 0

    def stored_as(self, said):
        """Return the crop that the same bytes under the same identity and camera are."""
        same = (said.image, said.identity, said.camera)
        for crop_id, crop in self.crops.items():
            if (crop.image, crop.identity, crop.camera) == same:
                return crop_id
        return None

    def identities(self):
        """Count each identity's crops and known cameras, by name."""
        cameras = {}
        for crop in self.crops.values():
            if crop.identity:
                cameras.setdefault(crop.identity, []).append(crop.camera)
        return {
            name: (len(seen), len(set(seen) - {None})) for name, seen in sorted(cameras.items())
        }

    def passing(self, wanted, without=None):
        """Return the crops that a query has to answer, all of them and no other."""
        return {
            crop_id
            for crop_id, crop in self.crops.items()
            if wanted.passes(crop) and crop_id != without
        }

    def groups(self, crop_ids):
        """How many results they are, grouped by identity; who is unknown stands alone."""
        known = [self.crops[crop_id].identity for crop_id in crop_ids]
        return len(set(known) - {None}) + known.count(None)

    def delete(self, crop_id):
        del self.crops[crop_id]
        self.removed.add(crop_id)
        self.version += 1

    def _crops_of(self, identity):
        return frozenset(
            crop_id for crop_id, crop in self.crops.items() if crop.identity == identity
        )

    def rename(self, identity, new):
        theirs = self._crops_of(identity)
        if theirs:
            for merge in self.merges.values():
                merge.into = new if merge.into == identity else merge.into
        self._relabel(theirs, new)
        return theirs

    def undo_merge(self, merge_id):
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

    def _relabel(self, crop_ids, identity):
        for crop_id in crop_ids:
            self.crops[crop_id] = replace(self.crops[crop_id], identity=identity)
        self.version += bool(crop_ids)

    def remembers(self, identity):
        """Return whether the gallery holds somebody of that name."""
        return any(crop.identity == identity for crop in self.crops.values())

    def forget(self, identity):
        """Remove a person from gallery and merges; return how many crops they had."""
        self.merges = {
            merge_id: merge
            for merge_id, merge in self.merges.items()
            if identity not in (merge.identity, merge.into)
        }
        theirs = self._crops_of(identity)
        for crop_id in theirs:
            del self.crops[crop_id]
        self.removed |= theirs
        self.version += bool(theirs)
        return len(theirs)

    def import_export(self, export_id):
        """Return how many crops of an export are new, are there already, and were deleted."""
        crops = self.exports[export_id]
        deleted = sum(crop_id in self.removed for crop_id in crops)
        duplicates = sum(crop_id in self.crops for crop_id in crops)
        return len(crops) - duplicates - deleted, duplicates, deleted
