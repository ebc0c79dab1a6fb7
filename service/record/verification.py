"""What is found of a record and its snapshots when all of them is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from service.errors import DamagedSnapshot
from service.ops.data_dir import SNAPSHOT_SUFFIX, SNAPSHOTS
from service.record.snapshot_file import read_snapshot


@dataclass(frozen=True)
class GalleryFound:
    """A gallery as far as it can be read: how many crops are whole, and what is wrong with others.

    Attributes:
        gallery_id, name: of the gallery.
        whole: crops that are as they were written.
        damage: a line for each of the others, and for what kept from reading on.
    """

    gallery_id: int
    name: str
    whole: int
    damage: tuple[str, ...]


@dataclass(frozen=True)
class SnapshotFound:
    """A snapshot's file: how many crops it holds, and what is wrong with it; None for nothing."""

    path: Path
    crops: int
    problem: str | None


@dataclass(frozen=True)
class StoreFound:
    """A data directory's record.

    Attributes:
        problems: with the database as a whole; nothing, where all of it can be read.
        galleries: by name.
        snapshots: of every gallery, also of those that are gone.
    """

    problems: tuple[str, ...]
    galleries: tuple[GalleryFound, ...]
    snapshots: tuple[SnapshotFound, ...]

    @property
    def whole(self) -> bool:
        """Whether everything is as it was written."""
        return not (
            self.problems
            or any(gallery.damage for gallery in self.galleries)
            or any(snapshot.problem for snapshot in self.snapshots)
        )


def verify_snapshots(data_dir: Path) -> list[SnapshotFound]:
    """Every snapshot's file of a data directory, oldest first."""
    return [_snapshot(path) for path in snapshot_files(data_dir)]


def snapshot_files(data_dir: Path) -> list[Path]:
    """Where they are, oldest first: a snapshot's id begins with its time."""
    files = data_dir.glob(f"{SNAPSHOTS}/*/*{SNAPSHOT_SUFFIX}")
    return sorted(files, key=lambda path: (path.parent.name, path.name))


def _snapshot(path: Path) -> SnapshotFound:
    crops = 0
    try:
        for _ in read_snapshot(path):
            crops += 1
    except DamagedSnapshot as error:
        return SnapshotFound(path, crops, error.reason)
    return SnapshotFound(path, crops, None)
