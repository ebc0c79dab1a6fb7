"""The upgrade of a data directory of version 0.5, before the first start that serves it.

A backup is made, the record is changed in one transaction, and snapshots become exports. If the
process is killed, the next start finds the directory of version 0.5 or the upgraded one, and goes
on. Snapshots that are left become exports then.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from gmn_client.models import Export
from model.problems import InputProblem
from service.errors import DamagedRecord, RecordUnavailable, StorageFailed
from service.ops.data_directory import (
    EXPORTS,
    SNAPSHOTS,
    STRAY,
    hold,
    list_snapshots,
    move_aside,
    put_in_place,
    remove_folder,
    require_free_disk,
    require_local_disk,
    unfinished_folder,
)
from service.ops.locks import holder_of
from service.ops.threads import heartbeat
from service.record.backup import kept_backups, remove_backup, write_backup
from service.record.exports import CONTENT, LISTED, write_export
from service.record.files import PictureFolder
from service.record.migrations import read_format
from service.record.record import Record
from service.record.schema import FORMAT
from service.record.transaction import FILE
from service.record.upgrade import upgrade_record
from service.record.values import StoredCrop
from service.record.verify import StoredRecord, UntouchedRecord, has_record, verify
from service.settings import Settings

log = logging.getLogger(__name__)
# Folder of the copy in the data directory, if no folder of backups is set.
COPIES = "before-upgrade"
EXPIRES_AFTER = timedelta(days=30)
# Name of the copy of a snapshot that is read while its export is written.
COPIED = "snapshot"


def upgrade_data_directory(settings: Settings) -> None:
    """Upgrade a data directory of version 0.5; do nothing to one of this version, or a new one.

    Raises:
        InputProblem: another process uses the directory, no upgrade reads its record, or the
            record is to be in PostgreSQL.
        StorageFailed: the disk does not hold the copy; nothing was changed.
        DamagedRecord: the record is damaged; nothing was changed.
    """
    if settings.database_url:
        _require_no_record(settings.data_dir)
        return
    data_dir = settings.data_dir
    version = _read_format(data_dir)
    is_upgraded = version == FORMAT
    if version is None or (is_upgraded and not list_snapshots(data_dir)):
        return
    require_local_disk(data_dir)
    try:
        (data_dir / "lock").touch()
        with hold(data_dir / "lock"):
            if not is_upgraded:
                _upgrade(settings)
            _export_snapshots(settings)
    except BlockingIOError as error:
        if is_upgraded:
            # The other process was started after the upgrade, or a later start goes on.
            return
        raise InputProblem(
            f"data directory {data_dir}: is of version 0.5, and {holder_of(data_dir / 'lock')} "
            "uses it. This version changes the record at its first start, which therefore needs "
            "the directory for itself: stop that process and start again. Nothing was changed"
        ) from error


def _require_no_record(data_dir: Path) -> None:
    if has_record(data_dir):
        raise InputProblem(
            f"data directory {data_dir}: it has a record of its own, and GMN_DATABASE_URL names "
            "another one; name an empty directory. To go on with this record there, copy it first "
            f"(gmn store copy {data_dir} --into URL)"
        )


def _read_format(data_dir: Path) -> int | None:
    """Return the format of a record; None if it is new or cannot be read, which its opening says.

    Raises:
        InputProblem: no upgrade reads this format.
    """
    if not has_record(data_dir):
        return None
    with (
        contextlib.suppress(sqlite3.Error, DamagedRecord),
        contextlib.closing(UntouchedRecord(data_dir)) as record,
    ):
        return read_format(record)
    return None


def _upgrade(settings: Settings) -> None:
    data_dir = settings.data_dir.resolve()
    folder = (settings.backup_dir or data_dir / COPIES).resolve()
    if settings.backup_dir is None:
        # A start that was killed has left a copy that the record does not name.
        for copy in kept_backups(folder):
            remove_backup(copy)
    log.warning("%s is of version 0.5; a copy of it is written to %s", data_dir, folder)
    with contextlib.closing(StoredRecord(data_dir)) as stored:
        copy = write_backup(stored, folder, settings.reserved_disk_bytes, [SNAPSHOTS]).path
    upgrade_record(data_dir, copy)
    log.warning(
        "%s is upgraded. The way back, without what is stored from now on: version 0.5.0 restores "
        "%s, which is removed after 7 days",
        *(data_dir, copy),
    )


def _export_snapshots(settings: Settings) -> None:
    """Make an export of each snapshot; move those aside that cannot be read."""
    data_dir = settings.data_dir
    with contextlib.closing(Record(data_dir)) as record:
        galleries = {str(gallery.gallery_id) for gallery in record.galleries.all()}
        unneeded = {data_dir / name for name in record.unneeded_files.all()}
    pictures = PictureFolder(settings.images_url) if settings.images_url else None
    try:
        for snapshot in list_snapshots(data_dir):
            if snapshot in unneeded:
                continue
            if snapshot.parent.name not in galleries:
                _move_aside(data_dir, snapshot, "its gallery is not in the record")
                continue
            try:
                require_free_disk(settings)
                _export(data_dir, snapshot, pictures)
                remove_folder(snapshot)
            except (OSError, StorageFailed, RecordUnavailable) as error:
                log.error("snapshot %s becomes an export at a later start: %s", snapshot, error)
            except DamagedRecord as damage:
                _move_aside(data_dir, snapshot, f"it is damaged ({damage.why})")
            except InputProblem as error:
                _move_aside(data_dir, snapshot, str(error))
    finally:
        if pictures:
            pictures.close()
    for folder in (data_dir / SNAPSHOTS).glob("*"):
        with contextlib.suppress(OSError):
            folder.rmdir()


def _move_aside(data_dir: Path, snapshot: Path, why: str) -> None:
    log.error("snapshot %s becomes no export: %s", snapshot, why)
    name = f"{snapshot.parent.name}-{snapshot.name}"
    move_aside(snapshot, data_dir / SNAPSHOTS / STRAY, name)


def _export(data_dir: Path, snapshot: Path, pictures: PictureFolder | None) -> None:
    export_id = snapshot.stem
    folder = data_dir / EXPORTS / snapshot.parent.name / export_id
    if (folder / LISTED).exists():
        # The process was killed before it removed the snapshot.
        return
    with unfinished_folder(folder) as part:
        with _open_copy(snapshot, part / COPIED) as record:
            (gallery,) = record.galleries.all()
            description = write_export(
                record,
                part,
                gallery.gallery_id,
                datetime.now(UTC) + EXPIRES_AFTER,
                lambda crop: _read_picture(record, pictures, gallery.gallery_id, crop),
                heartbeat,
            )
        shutil.rmtree(part / COPIED)
        export = Export(
            export_id=export_id,
            bytes=(part / CONTENT).stat().st_size,
            **description.model_dump(include=set(Export.model_fields)),
        )
        (part / LISTED).write_text(export.model_dump_json(), encoding="utf-8")
        put_in_place(part, folder)
    log.warning("snapshot %s is an export until %s", export_id, description.expires_at.date())


@contextlib.contextmanager
def _open_copy(snapshot: Path, copy: Path) -> Iterator[Record]:
    """Copy a snapshot and upgrade the copy; raises `DamagedRecord` if it is damaged."""
    shutil.copytree(snapshot, copy)
    if damage := verify(copy).damage:
        raise DamagedRecord(snapshot / FILE, damage[0])
    upgrade_record(copy)
    with contextlib.closing(Record(copy)) as record:
        yield record


def _read_picture(
    record: Record, pictures: PictureFolder | None, gallery_id: int, crop: StoredCrop
) -> bytes | None:
    if crop.inside:
        picture = record.crops.picture(gallery_id, crop.crop_id)
        return picture.content if picture else None
    return pictures.get(gallery_id, crop.crop_id) if pictures and crop.content_type else None
