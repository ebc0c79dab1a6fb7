"""Galleries copied into another record: filled where nothing shows them, compared, then shown.

A copy has a number of its own, so that it shares no file with its source. Where copying ends early
nothing of that gallery is shown, and the next process that opens the record removes it.
"""

from __future__ import annotations

import contextlib
import filecmp
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path

from pydantic_core import from_json, to_json

from model.problems import InputProblem
from service.errors import RecordUnavailable, ServiceError, UnknownGallery
from service.ops.data_directory import copy_file, snapshot_name
from service.record.api_keys import API_KEYS, CHANGES
from service.record.engine import Engine, Reader, Transaction, batches, put_all, transact
from service.record.entries import put_entry, require_entry
from service.record.files import Snapshots, UnneededFiles, forget_unneeded
from service.record.galleries import (
    NAMES,
    NEXT_GALLERY,
    Galleries,
    remove_gallery,
    remove_unfinished,
)
from service.record.garbage import SEARCH_BY_HASH, collect_garbage
from service.record.kept_queries import KEPT_KIND, OF_KEPT, picture_key
from service.record.keys import below, key, last_text
from service.record.records import ArchivedCrop, GalleryRecord
from service.record.replacing import replace_crops
from service.record.verification import checked_crops

# Of each gallery, besides its crops.
COPIED = (
    *("tombstone", "merge", "merged crops", "search", "searches", "published", "snapshot"),
    *OF_KEPT,
)
KEPT = ("name", "embedding_fingerprint", "created_at", "settings", "version", "removals")
ALIKE = attrgetter(*KEPT, "crops", "identities", "image_bytes")
# Pictures of kept searches are among them.
ENTRIES_AT_ONCE = 200


@dataclass(frozen=True)
class Store:
    """A record and its data directory."""

    engine: Engine
    data_dir: Path

    def crops(self, entry: GalleryRecord) -> Iterator[ArchivedCrop]:
        """Every crop of a gallery with its picture; raises `ServiceError` for a damaged one."""
        for crop in checked_crops(self.engine, entry):
            if isinstance(crop, ServiceError):
                raise crop
            if crop.record.content_type and crop.picture is None:
                raise self.engine.damage(
                    f"the picture of crop {crop.record.crop_id}, kept at GMN_IMAGES_URL, is not "
                    "found there"
                )
            yield crop

    def snapshots(self, gallery_id: int) -> list[str]:
        """The ids of a gallery's snapshots."""
        return [one.snapshot_id for one in Snapshots(self.engine).all(gallery_id)]


def copy_galleries(source: Store, target: Store) -> Iterator[tuple[GalleryRecord, bool]]:
    """Copies galleries with what was deleted from them, merges, calibrations and snapshots.

    Also copies kept searches with their cases; and the API keys, and what computes the features,
    where the target has none. No other process may use either record.

    Yields:
        Each gallery of the source, once its copy is equal to it and shown, and whether an earlier
        call had copied it.

    Raises:
        InputProblem: the target has other galleries of these names; nothing was copied.
        ServiceError: something of the source is damaged, or a copy is not equal to it.
    """
    entries = Galleries(source.engine).all()
    # One that was never written was made by the start of a service.
    used = {one.name: one for one in Galleries(target.engine).all() if one.version}
    there = {one.name: used[one.name] for one in entries if one.name in used}
    for entry in entries:
        if entry.name in there and ALIKE(there[entry.name]) != ALIKE(entry):
            raise InputProblem(
                f"gallery {entry.name}: the target has another one of this name; delete that one "
                "there, or name another Redis with --to"
            )
    if not there:
        transact(target.engine, _put_access, source.engine)
    for entry in entries:
        if entry.name in there:
            _require_equal(source, target, entry, there[entry.name])
        else:
            _copy(source, target, entry)
        yield entry, entry.name in there


def _copy(source: Store, target: Store, entry: GalleryRecord) -> None:
    engine = target.engine
    # Of neither record, as both may keep their pictures in one place.
    numbers = (Reader(one.engine).json(NEXT_GALLERY) or 0 for one in (source, target))
    number = transact(engine, _begin, entry, max(numbers) + 1)
    files = [snapshot_name(number, one) for one in source.snapshots(entry.gallery_id)]
    UnneededFiles(engine).add(files)
    try:
        replace_crops(engine, number, entry.embedding_fingerprint, source.crops(entry))
        put_all(engine, _others(source.engine, entry.gallery_id, number))
        for file in files:
            name = snapshot_name(entry.gallery_id, Path(file).stem)
            copy_file(source.data_dir / name, target.data_dir / file)
        filled = require_entry(Reader(engine), number)
        filled = replace(filled, **{name: getattr(entry, name) for name in KEPT})
        _require_equal(source, target, entry, filled)
        transact(engine, _show, filled, files)
    except BaseException as error:
        # Where the store itself is gone, the next process removes what was filled.
        with contextlib.suppress(ServiceError):
            remove_unfinished(engine)
            collect_garbage(engine)
        if isinstance(error, UnknownGallery):
            raise RecordUnavailable(
                "another process has opened the target and removed what was copied; stop every "
                "service on it, and copy again"
            ) from error
        raise
    collect_garbage(engine)


def _require_equal(source: Store, target: Store, entry: GalleryRecord, copy: GalleryRecord) -> None:
    """Compares everything of a gallery and its copy; raises `ServiceError` where they differ."""
    different = "" if ALIKE(entry) == ALIKE(copy) else "its counts"
    for one, other in itertools.zip_longest(source.crops(entry), target.crops(copy)):
        if one is None or other is None or not _same(one, other):
            different = f"crop {(one or other).record.crop_id}"
            break
    others = _others(source.engine, entry.gallery_id, copy.gallery_id)
    for some in batches(others, ENTRIES_AT_ONCE):
        if Reader(target.engine).get([own for own, _ in some]) != [body for _, body in some]:
            different = "what is kept beside its crops"
    for one in source.snapshots(entry.gallery_id):
        old, new = (snapshot_name(number, one) for number in (entry.gallery_id, copy.gallery_id))
        if not filecmp.cmp(source.data_dir / old, target.data_dir / new, shallow=False):
            different = f"snapshot {one}"
    if different:
        raise target.engine.damage(
            f"{different} of gallery {entry.name} is not equal to the source; copy again"
        )


def _same(one: ArchivedCrop, other: ArchivedCrop) -> bool:
    # What is of the place alone.
    placed = {name: getattr(one.record, name) for name in ("row_id", "changes", "inside")}
    same = replace(other.record, **placed) == one.record and one.picture == other.picture
    return same and one.vector.tobytes() == other.vector.tobytes()


def _others(engine: Engine, of: int, to: int) -> Iterator[tuple[bytes, bytes]]:
    """What is kept of a gallery besides its crops, as its copy of another number has it."""
    for kind in COPIED:
        prefix = key(kind, of)
        for own, body in Reader(engine).every(below(prefix)):
            if kind == "search":
                # It begins with the key of its name.
                body = key(SEARCH_BY_HASH, to) + body.removeprefix(key(SEARCH_BY_HASH, of))
            elif kind == "snapshot":
                body = to_json({**from_json(body), "gallery_id": to})
            yield key(kind, to) + own.removeprefix(prefix), body
            if kind == KEPT_KIND:
                query_id = last_text(own, prefix)
                (picture,) = Reader(engine).get([picture_key(of, query_id)])
                if picture is not None:
                    yield picture_key(to, query_id), picture


def _begin(transaction: Transaction, entry: GalleryRecord, number: int) -> int:
    """Makes an empty gallery without a name, which no service shows; answers its number."""
    transaction.put_json(NEXT_GALLERY, number)
    unnamed = GalleryRecord(number, "", entry.embedding_fingerprint, entry.created_at)
    put_entry(transaction, unnamed)
    return number


def _put_access(transaction: Transaction, source: Engine) -> None:
    """Puts the API keys, and what computes the features, where there are none."""
    for kind in (API_KEYS, CHANGES, key("runtime")):
        if not transaction.below(kind, 1):
            for own, body in Reader(source).below(kind):
                transaction.put(own, body)
    transaction.note("keys")


def _show(transaction: Transaction, filled: GalleryRecord, files: Sequence[str]) -> None:
    """Gives a copy its name, and takes it from a gallery that was never written."""
    own = NAMES + key(filled.name)
    number = filled.gallery_id
    # Any process that opens the record removes what has no name.
    require_entry(transaction, number)
    if unused := transaction.json(own):
        remove_gallery(transaction, unused)
    forget_unneeded(transaction, files)
    transaction.put_json(own, number)
    put_entry(transaction, filled)
    transaction.note("gallery_created", number)
