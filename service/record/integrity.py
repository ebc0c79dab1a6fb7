"""Everything of a record held against its checksums, crop by crop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from service.errors import DamagedSnapshot, ServiceError
from service.ops.data_dir import SNAPSHOT_SUFFIX, SNAPSHOTS
from service.record.crop_entries import Generation, as_crop, read_contents
from service.record.encoding import below, key, shown
from service.record.engine import Engine, Reader, Scan
from service.record.gallery_entries import ENTRY, require_entry
from service.record.records import ArchivedCrop, GalleryRecord
from service.record.restoring import replace_crops
from service.record.snapshot_file import read_snapshot

KEYS_AT_ONCE = 200


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
    """Every snapshot's file of a data directory, oldest first: an id begins with its time."""
    files = data_dir.glob(f"{SNAPSHOTS}/*/*{SNAPSHOT_SUFFIX}")
    found = []
    for path in sorted(files, key=lambda path: (path.parent.name, path.name)):
        crops, problem = 0, None
        try:
            for _ in read_snapshot(path):
                crops += 1
        except DamagedSnapshot as error:
            problem = error.why
        found.append(SnapshotFound(path, crops, problem))
    return found


def verify_galleries(engine: Engine) -> Iterator[GalleryFound]:
    """Every gallery: how many crops are as they were written, and what is wrong with others."""
    for entry in entries(engine):
        if isinstance(entry, ServiceError):
            yield GalleryFound(0, "unknown", 0, (entry.why,))
            continue
        found = list(checked_crops(engine, entry))
        damage = tuple(one.why for one in found if isinstance(one, ServiceError))
        yield GalleryFound(entry.gallery_id, entry.name, len(found) - len(damage), damage)


def entries(engine: Engine) -> Iterator[GalleryRecord | ServiceError]:
    """Every gallery's entry, as far as it can be read."""
    for _, body in readable(engine, below(key("gallery"))):
        yield body if isinstance(body, ServiceError) else ENTRY.validate_json(body)


def checked_crops(engine: Engine, entry: GalleryRecord) -> Iterator[ArchivedCrop | ServiceError]:
    """A gallery's crops that are whole, and what is wrong with others."""
    reader, at, count = Reader(engine), Generation.searched(entry), 0
    for _, body in readable(engine, below(at.key("crop"))):
        count += 1
        if isinstance(body, ServiceError):
            yield body
            continue
        crop = as_crop(body)
        try:
            (whole,) = read_contents(reader, at, entry.side, [crop], pictures=True, pinned=True)
            if reader.json(at.lookup("crop id", crop.crop_id)) != [crop.row_id, crop.changes]:
                yield engine.damage(f"crop {crop.crop_id} is not found by its crop_id")
            found_by = list(at.found_by(crop))
            there = reader.scan(*(Scan(own, own + b"\0", 1) for own in found_by))
        except ServiceError as error:
            yield error
            continue
        for own, found in zip(found_by, there, strict=True):
            if not found:
                yield engine.damage(f"crop {crop.crop_id} is not found by {shown(own)}")
        yield whole
    if count != entry.crops:
        yield engine.damage(f"{count} crops are there, and {entry.crops} were written")


def readable(
    engine: Engine, bounds: tuple[bytes, bytes]
) -> Iterator[tuple[bytes, bytes | ServiceError]]:
    """What can be read of a range: from its start on, then from its end back to what cannot."""
    reader, (start, end) = Reader(engine), bounds
    for reverse in (False, True):
        limit = KEYS_AT_ONCE
        while True:
            try:
                found = engine.scan([Scan(start, end, limit, reverse)])[0]
            except ServiceError:
                if limit == 1:
                    break
                limit = 1
                continue
            for own, value in found:
                try:
                    yield own, reader.body(own, value) or b""
                except ServiceError as error:
                    yield own, error
            if len(found) < limit:
                return
            start, end = (start, found[-1][0]) if reverse else (found[-1][0] + b"\0", end)


def recover_in_place(engine: Engine) -> list[GalleryFound]:
    """Builds each damaged gallery anew from its whole crops; answers these galleries as they were.

    Raises:
        ServiceError: the entry of a gallery is damaged; only a copy of the store helps then.
    """
    damaged = [found for found in verify_galleries(engine) if found.damage]
    for found in damaged:
        entry = require_entry(Reader(engine), found.gallery_id)
        crops = (one for one in checked_crops(engine, entry) if isinstance(one, ArchivedCrop))
        replace_crops(engine, found.gallery_id, entry.embedding_fingerprint, crops)
    return damaged
