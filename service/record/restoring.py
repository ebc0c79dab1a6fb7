"""A backup made a record and a data directory again, without what was deleted since.

What was deleted is what a later record has not got any more: that of the data directory of now, or,
where this cannot be read, the newest backup beside the one that is restored.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from model.problems import InputProblem
from service.ops.data_directory import (
    DATABASE_NAME,
    UNFINISHED,
    copy_file,
    make_folder,
    snapshot_name,
    sync,
)
from service.record.api_keys import Keys
from service.record.backup import Backup, copy_outside, kept_backups, remove_gone
from service.record.engine import Reader, Transaction, put_all, transact
from service.record.entries import put_entry, read_entry, require_entry
from service.record.galleries import NEXT_GALLERY, SECRET
from service.record.kept_queries import CASE, KEPT_KIND
from service.record.keys import below, key, last_text
from service.record.picture_folder import PictureFolder
from service.record.record import Record, open_sqlite
from service.record.redis_engine import FILLING, FORMAT, RedisEngine
from service.record.snapshot_file import remove_from_snapshot
from service.record.sqlite_engine import SqliteEngine
from service.record.verification import verify_file

# Of a gallery, what stays gone besides crops.
STAYS_GONE = ("merge", "merged crops", "snapshot")


@dataclass
class Restored:
    """What became of a backup.

    Attributes:
        by: the directory of the record that shows what was deleted since; None where none can be
            read.
        crops, left_out: by gallery, how many crops are back, and how many were deleted since.
        galleries, keys: the names and ids of those that were deleted since.
    """

    by: Path | None
    crops: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    galleries: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)


def restore_backup(
    backup: Backup,
    into: Path,
    current: Path,
    removed: Collection[str] = (),
    redis: RedisEngine | None = None,
) -> Restored:
    """Makes a data directory of a backup. Jobs that had not ended are cancelled.

    Args:
        into: a folder that has no record.
        current: the data directory of now, which no service is using; it is only read, and may be
            gone.
        removed: ids of crops that are known to be deleted.
        redis: an empty one that takes the record, with the place of images; None for a file.

    Raises:
        InputProblem: the backup is damaged, or of another record than the current one, or has no
            place to go to.
    """
    images = PictureFolder.of_backup(backup.path)
    outside = redis.outside if redis else None
    if images and not outside:
        raise InputProblem(
            f"{backup.path}: has images of GMN_IMAGES_URL; set it, and GMN_REDIS_URL, to new places"
        )
    if redis and redis.command("EXISTS", "gmn:order"):
        raise InputProblem(
            f"Redis at {redis.place}: holds a record; make a backup of it, which shows what was "
            "deleted since, and name an empty Redis in GMN_REDIS_URL"
        )
    # Without its name until the end: a restore that is cut off is refused at the start.
    part = (into / DATABASE_NAME).with_suffix(UNFINISHED)
    make_folder(into)
    part.touch()
    backup.require_whole("restore another one")
    with contextlib.ExitStack() as held:
        # Beside Redis a file is of another record.
        later = _later(backup, None if redis else current, held)
        copy_file(backup.path / DATABASE_NAME, part)
        record = open_sqlite(part)
        held.callback(record.close)
        restored = Restored(later.path.parent if later else None)
        if later:
            # The secret is made once, and stays.
            if not backup.is_of(Reader(later).json(SECRET)):
                raise InputProblem(
                    f"{restored.by}: is another record than the backup's; name the backup's own "
                    "data directory with --data-dir, or, where it is lost, a directory that is "
                    "not there"
                )
            _leave_out(record, Reader(later), restored)
        for job in record.jobs.open():
            record.jobs.cancel(job.job_id)
        gone = remove_gone(record, Reader(later) if later else None, set(removed))
        entries = record.galleries.all()
        restored.left_out = {one.name: len(gone[one.gallery_id]) for one in entries}
        restored.crops = {one.name: one.crops for one in entries}
        _put_snapshots(record, [one for one in (restored.by, backup.path) if one], into, gone)
        for path in (restored.by or backup.path).glob("audit*"):
            copy_file(path, into / path.name)
        if images and outside:
            copy_outside(record.engine, images, outside)
        if redis:
            _fill_redis(record, redis)
    if redis:
        for one in into.glob(f"{part.stem}.*"):
            one.unlink()
    else:
        part.rename(into / DATABASE_NAME)
    sync(into)
    return restored


def _fill_redis(record: Record, redis: RedisEngine) -> None:
    """Puts a record into an empty Redis; no service starts there before the end."""
    redis.command("SET", "gmn:format", FILLING)
    put_all(redis, Reader(record.engine).every((b"", b"\xff")))
    # From its first change on the data directory belongs to this record.
    transact(redis, Transaction.note, "keys")
    redis.command("SET", "gmn:format", FORMAT)
    redis.last()


def _later(backup: Backup, current: Path | None, held: contextlib.ExitStack) -> SqliteEngine | None:
    """The record that shows what was deleted since a backup; None where there is none."""
    newer = [one.path for one in kept_backups(backup.path.parent) if one.path > backup.path]
    for folder in filter(None, (current, *reversed(newer))):
        database = folder / DATABASE_NAME
        try:
            if database.is_file() and verify_file(database).whole:
                engine = SqliteEngine(database, only_read=True)
                return held.enter_context(contextlib.closing(engine))
        except InputProblem as problem:
            raise InputProblem(
                f"{problem}, or move {folder} away to restore this backup without it: what was "
                "deleted since then comes back"
            ) from problem
    return None


def _leave_out(record: Record, later: Reader, restored: Restored) -> None:
    """Deletes galleries and keys that a later record has not got any more."""
    known = {one.key_id for one in Keys(later.engine).all()}
    for one in record.keys.all():
        if one.key_id not in known and record.keys.revoke(one.key_id):
            restored.keys.append(one.key_id)
    for entry in record.galleries.all():
        if read_entry(later, entry.gallery_id) is None:
            record.galleries.delete(entry.gallery_id)
            restored.galleries.append(entry.name)
        else:
            transact(record.engine, _follow, later, entry.gallery_id)
            for case_id in _gone_ids(record, later, CASE, entry.gallery_id):
                # Of its searches those go that are gone from the later record too.
                record.cases.delete(entry.gallery_id, case_id, "")
            searches = _gone_ids(record, later, KEPT_KIND, entry.gallery_id)
            record.kept.remove(entry.gallery_id, searches)
    transact(record.engine, _raise_number, later.json(NEXT_GALLERY) or 0)


def _follow(transaction: Transaction, later: Reader, gallery_id: int) -> None:
    """Takes a gallery's deletions over from a later record, and a version above its own."""
    transaction.removes = True
    entry = require_entry(transaction, gallery_id)
    entry.version = max(entry.version, require_entry(later, gallery_id).version) + 1
    entry.changes_from = None
    put_entry(transaction, entry)
    for own, body in later.below(key("tombstone", gallery_id)):
        transaction.put(own, body)
    for kind in STAYS_GONE:
        names = [own for own, _ in transaction.below(key(kind, gallery_id))]
        found = zip(names, later.get(names), strict=True)
        transaction.delete(*(own for own, there in found if there is None))


def _gone_ids(record: Record, later: Reader, kind: str, gallery_id: int) -> list[str]:
    """The ids of kept searches or cases that a later record has not got any more."""
    prefix = key(kind, gallery_id)
    kept = [own for own, _ in Reader(record.engine).every(below(prefix))]
    return [last_text(own, prefix) for own in kept if later.get([own]) == [None]]


def _raise_number(transaction: Transaction, number: int) -> None:
    """Gives no new gallery a number that a deleted one had."""
    transaction.put_json(NEXT_GALLERY, max(number, transaction.json(NEXT_GALLERY) or 0))


def _put_snapshots(
    record: Record, places: Collection[Path], into: Path, gone: dict[int, list[str]]
) -> None:
    """Puts each snapshot beside the record, without deleted crops, from the first place of it."""
    for number, crop_ids in gone.items():
        for one in record.snapshots.all(number):
            name = snapshot_name(number, one.snapshot_id)
            file = next((place / name for place in places if (place / name).is_file()), None)
            if file is None:
                record.snapshots.remove(number, one.snapshot_id)
                continue
            copy_file(file, into / name)
            if crop_ids:
                remove_from_snapshot(into / name, crop_ids)
