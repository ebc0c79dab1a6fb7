"""`gmn store` and `gmn audit`: checks of a data directory, and recovery of a damaged record."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from model.problems import InputProblem
from service.commands.common import (
    DEFAULT_DATA_DIR,
    DataDirOption,
    Shown,
    command_group,
    printed,
    shortened,
)

if TYPE_CHECKING:
    from service.record.reading import StoredRecord
    from service.record.record import Record
    from service.record.verify import RecordFound

DAMAGE_SHOWN = 5
DELETIONS = ("delete_crop", "delete_crops")

audit = command_group(
    """Checks the log of who did what.

    Example: gmn audit verify --data-dir ./gmn-data
    """
)
store = command_group(
    """Checks what a service keeps in its data directory, and recovers what is whole of it.

    Example: gmn store verify --data-dir ./gmn-data
    """
)


def open_record(data_dir: Path) -> Record:
    """Open the record of a data directory, also beside its service; creates what is missing.

    Raises:
        InputProblem: it cannot be used.
    """
    from service.record.record import Record

    return Record(data_dir)


def open_database(data_dir: Path) -> StoredRecord | None:
    """Open a record that is only read, also beside its service; None where there is none yet."""
    from service.record.database import FILE
    from service.record.reading import StoredRecord

    return StoredRecord(data_dir) if (data_dir / FILE).is_file() else None


@audit.command("verify")
@printed
def verify_audit(data_dir: DataDirOption = DEFAULT_DATA_DIR) -> Shown:
    """Follows the chain of hashes through every audit log and names the first line that breaks it.

    Each line and the note of the last one have a hash under audit.key, so that a line that was
    forged and an end that was cut off are found too; lines of a former version have none.

    Processes that share a record keep one each. The exit status is 1 where a line breaks its chain.
    Full files that were taken away, the oldest first, are no break: the number of the first line
    shows them. Who can read audit.key can write all of it anew: compare the number of the last line
    and its hash with those that an earlier check showed.
    """
    from service.ops.audit import LOG_NAME, audit_logs, line_key
    from service.ops.hash_chain import check_chain

    logs = []
    lines = []
    for path in audit_logs(data_dir) or [data_dir / LOG_NAME]:
        try:
            one = check_chain(path, line_key(data_dir))
        except OSError as error:
            raise InputProblem(
                f"{path}: cannot be read ({error.strerror}); name the service's data directory "
                "with --data-dir or GMN_DATA_DIR"
            ) from error
        logs.append({"file": path.name, "whole": not one.problem, **asdict(one)})
        since = f" from number {one.first_line:,} on" if one.first_line > 1 else ""
        keyed = f"keyed from number {one.keyed_from:,} on" if one.keyed_from else "none keyed"
        whole = f"{path}: {one.lines} lines{since}, all as written, {keyed}; last {one.last_sha256}"
        lines.append(one.problem or whole)
    ok = all(log["whole"] for log in logs)
    return Shown({"whole": ok, "logs": logs}, "\n".join(lines), ok)


@store.command("verify")
@printed
def verify(data_dir: DataDirOption = DEFAULT_DATA_DIR) -> Shown:
    """Reads every crop, picture and snapshot, holds each against its checksum, and changes nothing.

    The exit status is 1 where something is not as it was written. It may run while the service
    does.
    """
    from service.record.archive import check_snapshots
    from service.record.verify import verify as verify_record

    _require_directory(data_dir)
    found = verify_record(data_dir)
    snapshots = {
        f"{path.parent.name}/{path.name}": str(checked) if isinstance(checked, Exception) else None
        for path, checked in check_snapshots(data_dir).items()
    }
    whole = not found.damage and not any(snapshots.values())
    lines = [*_lines(data_dir, found)]
    lines += [f"snapshot {name}: {problem or 'as written'}" for name, problem in snapshots.items()]
    if not whole:
        recover = f"gmn store recover --data-dir {data_dir} --into NEW"
        lines.append(f"With the service stopped, {recover} recovers what is whole")
    answer = {
        "whole": whole,
        "problems": found.problems,
        "galleries": [asdict(gallery) for gallery in found.galleries.values()],
        "snapshots": snapshots,
    }
    return Shown(answer, "\n".join(lines), whole)


@store.command("recover")
def recover(
    into: Annotated[Path, typer.Option("--into", help="A new directory.")],
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """Makes a new data directory: what is whole of a damaged record, the rest from snapshots.

    The damaged directory is not changed. What was deleted stays deleted, as far as the record or
    the audit log still shows it. Jobs and learned calibrations are not taken over.

    Example: gmn store recover --data-dir ./gmn-data --into ./gmn-data-new
    """
    from service.record.recovery import recover as recover_record

    if into.exists() and any(into.iterdir()):
        raise InputProblem(f"{into}: holds something already; name a new directory with --into")
    with _stopped(data_dir, into):
        for path in sorted(data_dir.glob("audit*")):
            shutil.copyfile(path, into / path.name)
        done = recover_record(data_dir, into, deleted_by_audit(data_dir))
    for gallery in done.galleries:
        typer.echo(
            f"{gallery.name}: {gallery.whole} crops from the record, "
            f"{gallery.from_snapshots} from snapshots"
        )
        for line in gallery.damage:
            typer.echo(f"  {'not recovered: ' if line in gallery.lost else ''}{line}")
    if done.unread:
        typer.echo(
            f"Not all of {', '.join(done.unread)} could be read: crops deleted since a snapshot "
            "may be back where the audit log does not name them, and keys may be missing."
        )
    typer.echo(f"{len(done.snapshots)} snapshots")
    typer.echo(f"Serve it with gmn serve --data-dir {into}")


@store.command("upgrade")
def upgrade(
    old: Annotated[Path, typer.Argument(help="A data directory of a version before 0.5.")],
    into: Annotated[Path, typer.Option("--into", help="The new data directory.")],
) -> None:
    """Makes a data directory of one that a version before 0.5 wrote, or of its backup.

    The old one is not changed; its service has to be stopped. For a record in Redis make a backup
    by that version's gmn backup first, and name that.

    Example: gmn store upgrade ./gmn-data --into ./gmn-data-new
    """
    from service.record.upgrade import upgrade as upgrade_record

    with _stopped(old):
        done = upgrade_record(old, into)
    for name, crops in done.crops.items():
        typer.echo(f"{name}: {crops:,} crops")
    for line in done.left_out:
        typer.echo(f"left out: {line}")
    typer.echo(f"Serve it with gmn serve --data-dir {into}")


@store.command("forget-runtime")
def forget_runtime(data_dir: DataDirOption = DEFAULT_DATA_DIR) -> None:
    """Forgets what computes the features, so that the next start of the service chooses again.

    For a record that comes to another machine, or to change GMN_RUNTIME or GMN_DTYPE. The service
    must be stopped. Features of another runtime are compared with those that are stored: they agree
    to a cosine of 0.999 or better; a reindex embeds all of them alike.
    """
    with _stopped(data_dir), contextlib.closing(open_record(data_dir)) as record:
        forgotten = record.runtimes.forget()
    typer.echo(f"{forgotten} forgotten; the next start chooses again")


def _require_directory(data_dir: Path) -> None:
    if not data_dir.is_dir():
        raise InputProblem(
            f"{data_dir}: is no directory; name the service's with --data-dir or GMN_DATA_DIR"
        )


@contextlib.contextmanager
def _stopped(data_dir: Path, *others: Path) -> Iterator[None]:
    from service.ops.data_directory import lock_data_directory

    _require_directory(data_dir)
    with contextlib.ExitStack() as held:
        for directory in (data_dir, *others):
            held.enter_context(lock_data_directory(directory))
        yield


def _lines(data_dir: Path, found: RecordFound) -> Iterator[str]:
    yield f"{data_dir}: {'damaged' if found.damage else 'as written'}"
    for problem in found.problems:
        yield f"  {problem}"
    for gallery in found.galleries.values():
        others = f", {len(gallery.damage)} not" if gallery.damage else ""
        kept = f", {gallery.whole_searches} kept searches" * bool(gallery.whole_searches)
        yield f"gallery {gallery.name}: {gallery.whole} crops as written{kept}{others}"
        for line in shortened(gallery.damage, DAMAGE_SHOWN):
            yield f"  {line}"


def deleted_by_audit(data_dir: Path) -> list[str]:
    """Ids of the crops that were asked to be deleted by their ids, by the audit log.

    Those that were not there are left out; any other error may have come after the deletion.
    """
    from service.errors import UnknownCrop
    from service.ops.audit import audit_files

    removed: Counter[str] = Counter()
    for path in audit_files(data_dir):
        for line in path.read_bytes().splitlines():
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                # With further filters not all of the ids that are named were deleted.
                if entry.get("event") not in DELETIONS or entry.get("filters"):
                    continue
                if entry.get("phase") in ("asked", "done"):
                    removed.update(entry.get("crop_ids", []))
                elif entry.get("problem") == UnknownCrop.code:
                    removed.subtract(entry.get("crop_ids", []))
    return [crop_id for crop_id, times in removed.items() if times > 0]
