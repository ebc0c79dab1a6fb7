"""`gmn store`, `audit`, `backup` and `restore`: verify and copy a data directory."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option, echo

from gmn_client.commands.common import Shown, shortened
from gmn_client.commands.parameters import command_group
from model.problems import InputProblem, legible
from model.wording import counted
from service.commands.options import DEFAULT_DATA_DIR, DataDirOption, printed

if TYPE_CHECKING:
    from service.ops.audit import AuditLog
    from service.record.record import Record
    from service.store.verify import RecordFound

DAMAGE_SHOWN = 5
DELETE_AGAIN = "forget these people and revoke these keys again"

audit = command_group(
    """Checks the log of who did what.

    Example: gmn audit verify --data-dir ./gmn-data
    """
)
store = command_group(
    """Checks the data directory of a service.

    Example: gmn store verify --data-dir ./gmn-data
    """
)


def open_record(data_dir: Path) -> contextlib.closing[Record]:
    """Open the record of a data directory, also while a service runs; creates missing files.

    Raises:
        InputProblem: it cannot be used.
    """
    from service.opening import open_folder
    from service.ops.data_directory import require_permission
    from service.settings import read_settings

    require_permission(data_dir, changes=True)
    settings = read_settings(data_dir=data_dir)
    url = settings.database_with_password
    return contextlib.closing(open_folder(data_dir, url, settings.database_accept))


def database_url(data_dir: Path) -> str | None:
    from service.settings import read_settings

    return read_settings(data_dir=data_dir).database_url


def _require_sqlite(data_dir: Path) -> None:
    """Raise `InputProblem` if the record is in PostgreSQL."""
    if database_url(data_dir):
        raise InputProblem(
            "the record is in PostgreSQL (GMN_DATABASE_URL): back it up, verify and restore it by "
            "the tools of PostgreSQL"
        )


def require_record(data_dir: Path) -> None:
    from service.ops.data_directory import MACHINE, require_permission
    from service.store.verify import has_record

    require_permission(data_dir, changes=False)
    is_there = has_record(data_dir)
    if database_url(data_dir):
        # Opening the record from another directory would take it from the service.
        is_there = (data_dir / MACHINE).exists()
    if not is_there:
        raise InputProblem(
            f"{legible(data_dir)}: no service has kept data there; name its data directory with "
            "--data-dir or GMN_DATA_DIR"
        )


def open_audit(data_dir: Path) -> AuditLog:
    """Open the audit log for lines of this command's user; raises `InputProblem`."""
    from service.ops.audit import AuditLog, act_as

    act_as(f"uid:{os.getuid()}")
    return AuditLog(data_dir)


@audit.command("verify")
@printed
def verify_audit(data_dir: DataDirOption = DEFAULT_DATA_DIR) -> Shown:
    """Verifies that the numbers of the audit log's lines have no gap, and names the first gap.

    The exit status is 1 if lines are missing, out of order or damaged. A log without its oldest
    files, or whose end was cut off, has no gap: compare the first and the last number with earlier
    ones, or the last one with the metric. A line that was changed keeps its number.
    """
    from service.ops.audit import LOG_NAME
    from service.ops.numbered_lines import check_numbers

    path = data_dir / LOG_NAME
    try:
        checked = check_numbers(path)
    except OSError as error:
        raise InputProblem(
            f"{legible(path)}: cannot be read ({error.strerror}); name the service's data "
            "directory with --data-dir or GMN_DATA_DIR"
        ) from error
    ok = checked.problem is None
    complete = f"{path}: the numbers {checked.first_line} to {checked.last_line} are complete"
    return Shown({"complete": ok, **asdict(checked)}, [checked.problem or complete], ok)


@store.command("verify")
@printed
def verify(data_dir: DataDirOption = DEFAULT_DATA_DIR) -> Shown:
    """Verifies every vector, picture and key against its checksum; changes nothing.

    It may run while the service does. The exit status is 1 if anything differs.
    """
    from service.errors import DamagedRecord
    from service.store.verify import RecordFound
    from service.store.verify import verify as verify_record

    _require_sqlite(data_dir)
    _require_data(data_dir)
    try:
        found = verify_record(data_dir)
    except DamagedRecord as damage:
        found = RecordFound(problems=[f"the record cannot be read: {damage.why}"])
    whole = not found.damage
    lines = [*_format_lines(data_dir, found)]
    if not whole:
        lines.append(
            "The service leaves damaged crops out: delete and enroll them again. For any other "
            "damage stop it and restore the newest backup with gmn restore; and look at the disk"
        )
    answer = {
        "whole": whole,
        "problems": found.problems,
        "galleries": [asdict(gallery) for gallery in found.galleries.values()],
    }
    return Shown(answer, lines, whole)


@store.command("accept-earlier-state")
def accept_earlier_state(data_dir: DataDirOption = DEFAULT_DATA_DIR) -> None:
    """Goes on with a record in PostgreSQL that lacks what this machine has acknowledged.

    As after the promotion of a standby that lagged, or after a restore. What deletions.log names is
    deleted again; everything else since then is lost. The service must be stopped.

    Example: gmn store accept-earlier-state --data-dir ./gmn-data
    """
    from service.postgres.acknowledged import NAME

    if not database_url(data_dir):
        raise InputProblem(
            "the record is in a data directory, and GMN_DATABASE_URL is not set: a start goes on "
            "with an older copy by itself"
        )
    require_record(data_dir)
    with _lock(data_dir):
        (data_dir / NAME).unlink(missing_ok=True)
        with open_record(data_dir) as record:
            for gallery in record.galleries.all():
                echo(f"{gallery.name}: {counted(gallery.crops, 'crop')}")


@store.command("forget-runtime")
def forget_runtime(data_dir: DataDirOption = DEFAULT_DATA_DIR) -> None:
    """Forgets which runtime computes the features, so that the next start chooses again.

    For a record moved to another machine, or to change GMN_DEVICE, GMN_RUNTIME or GMN_DTYPE. The
    service must be stopped. New features are compared with stored ones of another runtime, which
    they match to a cosine of 0.999 or better; a reindex embeds all of them alike.
    """
    require_record(data_dir)
    with _lock(data_dir), open_record(data_dir) as record:
        forgotten = record.runtimes.forget()
    echo(f"{forgotten} forgotten; the next start chooses again")


@store.command("strip-metadata")
@printed
def strip_stored_metadata(data_dir: DataDirOption = DEFAULT_DATA_DIR) -> Shown:
    """Removes place, time and device from the pictures that are stored already.

    Every picture is left with its pixels, colour profile and orientation, also those at
    GMN_IMAGES_URL; nothing is encoded anew. Versions before 0.7 stored pictures as they were sent.
    The service must be stopped, on all machines. If the command is ended, the next call goes on.
    Exports and backups made before keep their pictures: delete them, or wait until they expire.

    Example: gmn store strip-metadata --data-dir ./gmn-data
    """
    from service.record.files import PictureFolder
    from service.settings import read_settings
    from service.store.metadata import Stripped, strip_stored

    require_record(data_dir)
    settings = read_settings(data_dir=data_dir)
    if settings.keep_metadata:
        raise InputProblem(
            "GMN_KEEP_METADATA is on, so that the metadata of pictures is kept; unset it first"
        )

    def tell(found: Stripped) -> None:
        echo(f"{counted(found.crops, 'crop')} and {found.searches} searches", err=True)

    with _lock(data_dir), contextlib.ExitStack() as held:
        record = held.enter_context(open_record(data_dir))
        _require_alone(record)
        folder = PictureFolder(settings.images_url) if settings.images_url else None
        if folder is not None:
            held.callback(folder.close)
        audit = held.enter_context(open_audit(data_dir))
        audit.record("strip_metadata", "asked")
        found = strip_stored(record, folder, tell)
        audit.record("strip_metadata", count=found.stripped)
    searches = counted(found.searches, "kept search", "kept searches")
    lines = [
        f"{counted(found.stripped, 'picture')} had metadata, which is removed, of "
        f"{counted(found.crops, 'crop')} and {searches}"
    ]
    if found.unreadable:
        count = counted(found.unreadable, "picture is", "pictures are")
        lines.append(f"{count} missing or damaged, and left as they are")
    return Shown(asdict(found), lines)


@store.command("copy")
@printed
def copy(
    source: Annotated[Path, Argument(metavar="DIR", help="The data directory to copy from.")],
    into: Annotated[str, Option("--into", metavar="URL", help="The empty database.")],
) -> Shown:
    """Copies a whole record from its data directory into PostgreSQL; there is no copy back.

    URL names a database of PostgreSQL, as GMN_DATABASE_URL does; the password may be in the file of
    GMN_DATABASE_PASSWORD_FILE. The copy has every gallery, crop, vector, search, watch list and
    key, and what was deleted stays deleted. Imports that have not ended are cancelled in it.
    Exports and the audit log stay in the data directory, and images at GMN_IMAGES_URL where they
    are: both records name the same files, so serve only one of them.

    The service must be stopped. The source is not changed, and keeps what is deleted from the copy
    later: remove it once the copy is served.

    Example: gmn store copy ./gmn-data --into postgresql://gmn@db/gmn
    """
    from service.postgres.copying import copy_into_postgres
    from service.settings import read_settings
    from service.store.verify import has_record

    if not has_record(source):
        # A URL in place of the directory may contain a password.
        raise InputProblem("DIR: has no record; name the data directory of a service")
    settings = read_settings(data_dir=source)
    with _lock(source), open_audit(source) as audit:
        audit.record("copy_record", "asked")
        copied = copy_into_postgres(
            source, settings.with_database_password(into), settings.database_accept
        )
        audit.record("copy_record")
    lines = [f"{name}: {counted(crops, 'crop')}" for name, crops in copied.crops.items()]
    rows = sum(copied.rows.values())
    lines.append(
        f"{counted(rows, 'row')} and {counted(copied.vectors, 'vector')}, as many as in the source"
    )
    lines.append(
        "Serve the copy with GMN_DATABASE_URL, and with an empty data directory on each machine"
    )
    return Shown(copied, lines)


@printed
def backup(
    folder: Annotated[
        Path, Argument(envvar="GMN_BACKUP_DIR", help="Of the backups; better on another disk.")
    ],
    keep: Annotated[
        int | None, Option(min=1, help="Then remove the oldest ones; all are kept if unset.")
    ] = None,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> Shown:
    """Copies the record and its data directory, also while it is served, and verifies the copy.

    The backup is a new folder named by its time, the last word of the output. It contains the
    record at one moment with its images, the log of deletions and the audit log; images at
    GMN_IMAGES_URL must be copied afterwards with the tools of that storage. Nothing is written if
    less than GMN_RESERVED_DISK_BYTES would stay free.

    Example: gmn backup /mnt/backups --keep 7 --data-dir ./gmn-data
    """
    from service.settings import read_settings
    from service.store.backup import remove_oldest, write_backup
    from service.store.verify import StoredRecord

    reserved = read_settings(data_dir=data_dir).reserved_disk_bytes
    _require_sqlite(data_dir)
    require_record(data_dir)
    with contextlib.closing(StoredRecord(data_dir)) as database, open_audit(data_dir) as audit:
        audit.record("backup", "asked", folder=str(folder))
        written = write_backup(database, folder, reserved)
        audit.record("backup", folder=str(written.path))
        old = remove_oldest(folder, keep, database) if keep else []
    removed = [str(backup) for backup in old]
    path = written.path
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    lines = [f"removed {backup}" for backup in removed]
    lines += _format_damaged(written.damaged_crops)
    others = "all else" if written.damaged_crops else "all"
    lines.append(f"{size:,} bytes, {others} as written, in {path}")
    answer = {
        "path": str(path),
        "bytes": size,
        "removed": removed,
        "damaged_crops": written.damaged_crops,
    }
    return Shown(answer, lines)


@printed
def restore(
    folder: Path,
    into: Annotated[
        Path,
        Option("--into", envvar="GMN_DATA_DIR", help="The new data directory."),
    ] = DEFAULT_DATA_DIR,
    replaces: Annotated[
        Path, Option("--replaces", envvar="GMN_DATA_DIR", help="The data directory before it.")
    ] = DEFAULT_DATA_DIR,
) -> Shown:
    """Creates a new data directory from a backup; what was deleted since then stays deleted.

    Deletions are those in deletions.log of the data directory that is replaced, and of newer
    backups beside this one. The service of that directory must be stopped; it is not changed.
    Unfinished jobs are cancelled.

    Example: gmn restore /mnt/backups/20260301T020000Z --into ./restored --replaces ./gmn-data

    Args:
        folder: the backup, a folder that gmn backup wrote.
    """
    from service.record.deletions import KEPT_FOR
    from service.store.backup import kept_backups, restore_backup

    taken = folder.resolve()
    if taken not in kept_backups(taken.parent):
        backups = ", ".join(str(backup) for backup in kept_backups(folder))
        hint = f"it holds {backups}" if backups else "gmn backup names one as the last word"
        raise InputProblem(f"{folder}: is no backup; {hint}")
    _require_sqlite(into)
    _require_new(into, "--into")
    is_other = replaces.is_dir() and replaces.resolve() != into.resolve()
    with _lock(*([replaces] if is_other else []), into):
        with _filling(into):
            restored = restore_backup(taken, into, replaces)
        with open_audit(into) as audit:
            audit.record("restore_backup", folder=str(taken))
    lines = [f"{name}: {counted(crops, 'crop')}" for name, crops in restored.crops.items()]
    lines += [
        f"key {key_id}: its secret was replaced since; gmn keys rotate {key_id} makes a new one"
        for key_id in restored.secrets
    ]
    lines += _format_damaged(restored.damaged_crops)
    if restored.unknown_after:
        lines.append(
            f"What was deleted after {restored.unknown_after:%Y-%m-%d %H:%M} UTC is not known, as "
            f"{replaces} has no deletions.log of this record, and may be back: {DELETE_AGAIN}"
        )
    if restored.lacks_lines:
        lines.append(
            "Some of what was deleted since the backup is not known, as lines of deletions.log are "
            f"damaged or older than {KEPT_FOR.days} days, and may be back: {DELETE_AGAIN}"
        )
    lines.append(f"Serve it with gmn serve --data-dir {into}")
    return Shown(restored, lines)


def _require_data(data_dir: Path) -> None:
    """Raise `InputProblem` if a directory has neither a record nor remains of one."""
    from service.errors import DamagedRecord
    from service.ops.data_directory import require_permission
    from service.record.sqlite import require_new
    from service.store.verify import has_record

    require_permission(data_dir, changes=False)
    if not has_record(data_dir):
        with contextlib.suppress(DamagedRecord):
            require_new(data_dir)
            require_record(data_dir)


def _require_new(directory: Path, option: str) -> None:
    is_empty = directory.is_dir() and not any(directory.iterdir())
    if directory.exists() and not is_empty:
        raise InputProblem(f"{directory}: holds something already; name a new one with {option}")


def _require_alone(record: Record) -> None:
    """Raise `InputProblem` if a machine serves a record in PostgreSQL."""
    jobs = record.database.work_lock("jobs")
    if not jobs.acquire():
        raise InputProblem("another machine serves the record; stop it first")
    jobs.release()


@contextlib.contextmanager
def _filling(*directories: Path) -> Iterator[None]:
    """Remove new data directories if the block fails."""
    try:
        yield
    except BaseException:
        for directory in directories:
            # The folder was empty and its name is needed; a mounted volume itself stays.
            shutil.rmtree(directory, ignore_errors=True)
        raise


@contextlib.contextmanager
def _lock(*directories: Path) -> Iterator[None]:
    """Lock data directories so that no service can use them; creates missing ones."""
    from service.ops.data_directory import lock_data_directory

    with contextlib.ExitStack() as held:
        for directory in directories:
            held.enter_context(lock_data_directory(directory))
        yield


def _format_damaged(damaged_crops: list[str]) -> list[str]:
    """Return lines about damaged crops that were copied as they are."""
    if not damaged_crops:
        return []
    damaged = counted(len(damaged_crops), "crop is damaged", "crops are damaged")
    told = f"{damaged} and left out of every answer; delete what follows:"
    # Somebody else may have written the ids in a backup.
    return [told, *(f"  {legible(line)}" for line in shortened(damaged_crops, DAMAGE_SHOWN))]


def _format_lines(data_dir: Path, found: RecordFound) -> Iterator[str]:
    yield f"{data_dir}: {'damaged' if found.damage else 'as written'}"
    for problem in found.problems:
        yield f"  {problem}"
    for gallery in found.galleries.values():
        damaged = list(gallery.damaged_crops.values())
        others = f", {len(damaged)} not" if damaged else ""
        yield f"gallery {gallery.name}: {counted(gallery.whole, 'crop')} as written{others}"
        for line in gallery.damage + shortened(damaged, DAMAGE_SHOWN):
            yield f"  {line}"
