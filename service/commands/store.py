"""`gmn store` and `gmn audit`: checks of a data directory, and recovery of a damaged record."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

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
    from service.record.engine import Engine
    from service.record.record import Record
    from service.record.verification import StoreFound

# No option: every user of the machine can read a command line, with the password in it.
REDIS_URL = "GMN_REDIS_URL"
REDIS_PASSWORD_FILE = "GMN_REDIS_PASSWORD_FILE"  # pragma: allowlist secret
IMAGES_URL = "GMN_IMAGES_URL"
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
    """The record in Redis or the data directory; raises `InputProblem` if unusable."""
    from service.record.picture_folder import PictureFolder
    from service.record.record import open_store

    record = open_store(*_record_place(data_dir))
    images = os.environ.get(IMAGES_URL)
    if images and os.environ.get(REDIS_URL):
        record.engine.outside = PictureFolder(images)
    return record


def open_engine(data_dir: Path) -> Engine | None:
    """What a record is read by beside a running service; None where there is no file yet."""
    from service.ops.data_directory import DATABASE_NAME
    from service.record.sqlite_engine import SqliteEngine

    if os.environ.get(REDIS_URL):
        return open_record(data_dir).engine
    database = data_dir / DATABASE_NAME
    return SqliteEngine(database, only_read=True) if database.is_file() else None


def _record_place(data_dir: Path) -> tuple[str | None, Path, Path | None]:
    from service.ops.data_directory import DATABASE_NAME

    password = os.environ.get(REDIS_PASSWORD_FILE)
    return os.environ.get(REDIS_URL), data_dir / DATABASE_NAME, Path(password) if password else None


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
    ok = all(one["whole"] for one in logs)
    return Shown({"whole": ok, "logs": logs}, "\n".join(lines), ok)


@store.command("verify")
@printed
def verify(data_dir: DataDirOption = DEFAULT_DATA_DIR) -> Shown:
    """Reads every crop, picture and snapshot, holds each against its checksum, and changes nothing.

    The exit status is 1 where something is not as it was written. It may run while the service
    does. Where GMN_REDIS_URL names a record, that one is read.
    """
    from service.ops.data_directory import DATABASE_NAME
    from service.record.verification import verify_file, verify_record

    _require_directory(data_dir)
    place = str(data_dir / DATABASE_NAME)
    remedy = f" --data-dir {data_dir} --into NEW"
    if os.environ.get(REDIS_URL):
        place = "the record in Redis"
        remedy = ""
        with contextlib.closing(open_record(data_dir)) as record:
            found = verify_record(record.engine, data_dir)
    else:
        found = verify_file(Path(place))
    lines = [*_lines(place, found)]
    if not found.whole:
        recover = f"gmn store recover{remedy}"
        lines.append(f"With the service stopped, {recover} recovers what is whole")
    return Shown({"whole": found.whole, **asdict(found)}, "\n".join(lines), found.whole)


@store.command("recover")
def recover(
    into: Annotated[
        Path | None, typer.Option("--into", help="A new directory; none for a record in Redis.")
    ] = None,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """Makes a new data directory: what is whole of a damaged record, the rest from snapshots.

    The damaged directory is not changed. What was deleted stays deleted, as far as the record or
    the audit log still shows it. Jobs and learned calibrations are not taken over.

    Where GMN_REDIS_URL names a record, its damaged galleries are built anew in it; copy Redis'
    files first.

    Example: gmn store recover --data-dir ./gmn-data --into ./gmn-data-new
    """
    from service.ops.data_directory import DATABASE_NAME
    from service.record.recovery import recover_file, recover_in_place

    in_redis = bool(os.environ.get(REDIS_URL))
    if in_redis:
        with _stopped(data_dir), contextlib.closing(open_record(data_dir)) as record:
            _require_unserved(REDIS_URL, record.engine)
            done = recover_in_place(record.engine, data_dir, deleted_by_audit(data_dir))
    elif into is None:
        raise typer.BadParameter("name a new directory", param_hint="--into")
    else:
        if into.exists() and any(into.iterdir()):
            raise InputProblem(f"{into}: holds something already; name a new directory with --into")
        with _stopped(data_dir, into):
            for path in sorted(data_dir.glob("audit*")):
                shutil.copyfile(path, into / path.name)
            database = data_dir / DATABASE_NAME
            removed = deleted_by_audit(data_dir)
            done = recover_file(database, into / DATABASE_NAME, removed)
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
    if in_redis:
        typer.echo("Every other gallery is as it was written.")
    else:
        typer.echo(f"{len(done.snapshots)} snapshots")
        typer.echo(f"Serve it with gmn serve --data-dir {into}")


@store.command("copy")
def copy(
    to: Annotated[str, typer.Option(help="The Redis to copy to, without its password.")],
    into: Annotated[Path, typer.Option(help="The data directory of services on the copy.")],
    to_password_file: Annotated[Path | None, typer.Option(help="The password of --to.")] = None,
    to_images: Annotated[str | None, typer.Option(help="GMN_IMAGES_URL of the copy.")] = None,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """Copies every gallery into a Redis, from SQLite or from the record in GMN_REDIS_URL.

    With them come deletions, merges, calibrations, snapshots and API keys; jobs, audit logs and
    answers kept for an Idempotency-Key stay behind. Every copy is compared with its source before
    it is shown. The source is not changed. Every service on either must be stopped. After an
    interruption run it again.

    Example: gmn store copy --data-dir ./gmn-data --to redis://localhost:6379/0 --into ./new-data
    """
    from service.ops.data_directory import DATABASE_NAME
    from service.record.copying import Store, copy_galleries
    from service.record.picture_folder import PictureFolder
    from service.record.record import open_store

    source_url, database, source_password = _record_place(data_dir)
    if urlsplit(to).password:
        raise typer.BadParameter("has a password; use --to-password-file", param_hint="--to")
    if into.resolve() == data_dir.resolve():
        raise typer.BadParameter("is the directory of the source", param_hint="--into")
    if not source_url and not database.is_file():
        raise InputProblem(f"{database}: there is no record; name the service's with --data-dir")
    with _stopped(data_dir, into), contextlib.ExitStack() as held:
        source = open_store(source_url, database, source_password, alone=True)
        held.callback(source.close)
        target = open_store(to, into / DATABASE_NAME, to_password_file)
        held.callback(target.close)
        epochs = [one.changes.epoch() for one in (source, target) if one.changes]
        if len(set(epochs)) < len(epochs):
            raise InputProblem("--to: is the record in GMN_REDIS_URL itself; name another Redis")
        for name, record in ((REDIS_URL, source), ("--to", target)):
            _require_unserved(name, record.engine)
        for record, url in ((source, os.environ.get(IMAGES_URL)), (target, to_images)):
            record.engine.outside = PictureFolder(url) if url else None
        stores = Store(source.engine, data_dir), Store(target.engine, into)
        for entry, before in copy_galleries(*stores):
            done = "were copied before, and are" if before else "are copied, and"
            typer.echo(f"{entry.name}: {entry.crops} crops {done} equal to the source")
        # From now on the directory belongs to that record.
        if target.changes:
            target.changes.last()
    place = f"GMN_REDIS_URL={to}" + (f" GMN_IMAGES_URL={to_images}" if to_images else "")
    typer.echo(f"Serve it with {place} gmn serve --data-dir {into}")


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
    """Locks directories, which keeps services away, also those of a record in Redis."""
    from service.ops.data_directory import lock_data_directory

    _require_directory(data_dir)
    with contextlib.ExitStack() as held:
        for directory in (data_dir, *others):
            held.enter_context(lock_data_directory(directory))
        yield


def _require_unserved(name: str, engine: Engine) -> None:
    from service.record.redis_engine import RedisEngine

    if isinstance(engine, RedisEngine) and engine.others_connected():
        raise InputProblem(
            f"{name}: a service is connected to this record; stop every one of them first"
        )


def _lines(place: str, found: StoreFound) -> Iterator[str]:
    damaged = found.problems or any(gallery.damage for gallery in found.galleries)
    yield f"{place}: {'damaged' if damaged else 'as written'}"
    for problem in found.problems:
        yield f"  {problem}"
    for gallery in found.galleries:
        others = f", {len(gallery.damage)} not" if gallery.damage else ""
        kept = f", {gallery.whole_searches} kept searches" * bool(gallery.whole_searches)
        yield f"gallery {gallery.name}: {gallery.whole} crops as written{kept}{others}"
        for line in shortened(gallery.damage, DAMAGE_SHOWN):
            yield f"  {line}"
    for one in found.snapshots:
        state = one.problem or f"{one.crops} crops as written"
        yield f"snapshot {one.path.parent.name}/{one.path.name}: {state}"


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
