"""`gmn backup` and `gmn restore`: copies of a record and its data directory."""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from model.problems import InputProblem
from service.commands.common import DEFAULT_DATA_DIR, DataDirOption, JsonOption, show
from service.commands.store import deleted_by_audit, open_database


def backup(
    folder: Annotated[
        Path, Argument(envvar="GMN_BACKUP_DIR", help="Of the backups; better on another disk.")
    ],
    keep: Annotated[
        int | None, Option(min=1, help="Then remove the oldest ones; all are kept if unset.")
    ] = None,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    as_json: JsonOption = False,
) -> None:
    """Copies the record and its data directory, also while served, and reads the copy through.

    The backup is a new folder named by its time, the last word of the output. It holds the record
    at one moment with its images, snapshots and the audit log; images at GMN_IMAGES_URL are copied
    after it, by the tools of that place. Where less than GMN_RESERVED_DISK_BYTES would stay free,
    nothing is written.

    Example: gmn backup /mnt/backups --keep 7 --data-dir ./gmn-data
    """
    from service.ops.audit import AuditLog, act_as
    from service.record.restoring import remove_oldest, write_backup
    from service.settings import read_settings

    reserved = read_settings(data_dir=data_dir).reserved_disk_bytes
    database = open_database(data_dir) if data_dir.is_dir() else None
    if database is None:
        raise InputProblem(f"{data_dir}: there is no record; name the service's with --data-dir")
    with contextlib.closing(database), AuditLog(data_dir) as audit:
        act_as(f"uid:{os.getuid()}")
        audit.record("backup", "asked", folder=str(folder))
        written = write_backup(database, folder, reserved)
        audit.record("backup", folder=str(written.path))
        old = remove_oldest(folder, keep, database) if keep else []
    removed = [str(backup.path) for backup in old]
    size = sum(file.stat().st_size for file in written.path.rglob("*") if file.is_file())
    text = f"{size:,} bytes, all as written, in {written.path}"
    answer = {"path": str(written.path), "bytes": size, "removed": removed}
    show(answer, as_json, "\n".join([*(f"removed {path}" for path in removed), text]))


def restore(
    folder: Annotated[Path, Argument(help="The backup, a folder that gmn backup wrote.")],
    data_dir: Annotated[
        Path, Option("--data-dir", envvar="GMN_DATA_DIR", help="The new data directory to make.")
    ] = DEFAULT_DATA_DIR,
    replaces: Annotated[
        Path, Option("--replaces", envvar="GMN_DATA_DIR", help="The data directory before it.")
    ] = DEFAULT_DATA_DIR,
    as_json: JsonOption = False,
) -> None:
    """Makes a new data directory of a backup; crops deleted since stay deleted.

    Deleted crops are those that the data directory which it replaces lacks: its service has to be
    stopped, and it is not changed. Where it is lost or damaged, the newest backup beside
    this one shows it, and the audit log. Jobs that had not ended are cancelled.

    Example: gmn restore /mnt/backups/20260301T020000Z --data-dir ./restored --replaces ./gmn-data
    """
    from service.ops.audit import AuditLog, act_as
    from service.ops.data_directory import lock_data_directory
    from service.record.restoring import Backup, kept_backups, restore_backup

    taken = Backup(folder.resolve())
    if taken not in kept_backups(taken.path.parent):
        there = ", ".join(str(backup.path) for backup in kept_backups(folder))
        hint = f"it holds {there}" if there else "gmn backup names one as the last word"
        raise InputProblem(f"{folder}: is no backup; {hint}")
    if data_dir.exists() and any(data_dir.iterdir()):
        raise InputProblem(f"{data_dir}: holds something already; name a new one with --data-dir")
    with contextlib.ExitStack() as held:
        if replaces.is_dir() and replaces.resolve() != data_dir.resolve():
            held.enter_context(lock_data_directory(replaces))
        held.enter_context(lock_data_directory(data_dir))
        try:
            removed = deleted_by_audit(replaces)
            restored = restore_backup(taken, data_dir, replaces, removed)
        except BaseException:
            # It was empty, and is to be named again; a volume itself stays.
            shutil.rmtree(data_dir, ignore_errors=True)
            raise
        with AuditLog(data_dir) as audit:
            act_as(f"uid:{os.getuid()}")
            audit.record("restore_backup", folder=str(taken.path))
    lines = [
        f"{name}: {crops:,} crops, {restored.left_out.get(name, 0):,} left out as deleted since"
        for name, crops in restored.crops.items()
    ]
    lines += [f"{name}: left out, as it was deleted since" for name in restored.galleries]
    lines += [f"key {key_id}: left out, as it was revoked since" for key_id in restored.keys]
    if restored.by != replaces:
        lines.append(
            f"No later record than {restored.by or 'this backup'} can be read: what was deleted "
            "after it is back, but for single crops that an audit log names. Forget these people "
            "again."
        )
    lines.append(f"Serve it with gmn serve --data-dir {data_dir}")
    show(asdict(restored), as_json, "\n".join(lines))
