"""`gmn store`: whether the record is as it was written, and a new one from a damaged one."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from model.problems import InputProblem
from service.commands.connection import JsonOption, output
from service.commands.record import REDIS_URL, open_record

if TYPE_CHECKING:
    from service.record.verification import StoreFound

DataDirOption = Annotated[
    Path,
    typer.Option("--data-dir", envvar="GMN_DATA_DIR", help="Where the service keeps its data."),
]
DEFAULT_DATA_DIR = Path("gmn-data")
NAMED = 5

store = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


@store.callback()
def _store() -> None:
    """Checks what a service keeps in its data directory, and recovers what is whole of it.

    Example: gmn store verify --data-dir ./gmn-data
    """


@store.command("verify")
def verify(data_dir: DataDirOption = DEFAULT_DATA_DIR, as_json: JsonOption = False) -> None:
    """Reads every crop, picture and snapshot, holds each against its checksum, and changes nothing.

    The exit status is 1 where something is not as it was written. It may run while the service
    does. Where GMN_REDIS_URL names a record, that one is read.

    Example: gmn store verify --data-dir ./gmn-data
    """
    if not data_dir.is_dir():
        raise InputProblem(
            f"{data_dir}: is no directory; name the service's with --data-dir or GMN_DATA_DIR"
        )
    place, found, remedy = _verify(data_dir)
    if as_json:
        output().print_json(data=_as_json(found))
    else:
        for line in _said_of(place, found):
            typer.echo(line)
        if not found.whole:
            typer.echo(f"What is whole is got back, with the service stopped, by {remedy}")
    if not found.whole:
        raise typer.Exit(1)


@store.command("recover")
def recover(
    into: Annotated[
        Path | None, typer.Option("--into", help="A new directory; none for a record in Redis.")
    ] = None,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """Makes a new data directory: what is whole of a damaged record, the rest from snapshots.

    The damaged directory is not changed. What was deleted stays deleted, as far as the record or
    the audit log still says so. Jobs and learned calibrations are not taken over.

    Where GMN_REDIS_URL names a record, its damaged galleries are built anew in it, from the crops
    that are whole; copy Redis' files first.

    Example: gmn store recover --data-dir ./gmn-data --into ./gmn-data-new
    """
    if os.environ.get(REDIS_URL):
        _recover_redis(data_dir)
        return
    if into is None:
        raise typer.BadParameter("name a new directory", param_hint="--into")
    from service.ops.data_dir import DATABASE_NAME, DataDirectory
    from service.record.recovery import recover_file

    if into.exists() and any(into.iterdir()):
        raise InputProblem(f"{into}: holds something already; name a new directory with --into")
    if not data_dir.is_dir():
        raise InputProblem(
            f"{data_dir}: is no directory; name the damaged one with --data-dir or GMN_DATA_DIR"
        )
    # Held, so that no service writes meanwhile.
    with DataDirectory(data_dir) as damaged, DataDirectory(into) as new:
        for path in sorted(data_dir.glob("audit*")):
            shutil.copyfile(path, into / path.name)
        removed = _deleted_by_audit(data_dir)
        done = recover_file(damaged.database, into / DATABASE_NAME, removed)
        assert new.database == into / DATABASE_NAME
    for gallery in done.galleries:
        typer.echo(
            f"{gallery.name}: {gallery.from_record} crops from the record, "
            f"{gallery.from_snapshots} from snapshots"
        )
        for line in gallery.lost:
            typer.echo(f"  not recovered: {line}")
    typer.echo(f"{done.snapshots} snapshots")
    if done.unread:
        typer.echo(
            f"Not all of {', '.join(done.unread)} could be read: crops deleted since a snapshot "
            "may be back where the audit log does not name them, and keys may be missing."
        )
    typer.echo(f"Serve it with gmn serve --data-dir {into}")


@store.command("forget-runtime")
def forget_runtime(data_dir: DataDirOption = DEFAULT_DATA_DIR) -> None:
    """Forgets what computes the features, so that the next start of the service chooses again.

    For a record that comes to another machine, or to change GMN_RUNTIME or GMN_DTYPE. The service
    must be stopped. Features of another runtime are compared with those that are stored: they agree
    to a cosine of 0.999 or better; a reindex embeds all of them alike.

    Example: gmn store forget-runtime --data-dir ./gmn-data
    """
    from service.ops.data_dir import DataDirectory

    if not data_dir.is_dir():
        raise InputProblem(
            f"{data_dir}: is no directory; name the service's with --data-dir or GMN_DATA_DIR"
        )
    # Held, so that no service runs meanwhile: those of a record in Redis share the directory.
    with DataDirectory(data_dir), contextlib.closing(open_record(data_dir)) as record:
        forgotten = record.runtimes.forget()
    typer.echo(f"{forgotten} forgotten; the next start chooses again")


def _verify(data_dir: Path) -> tuple[str, StoreFound, str]:
    """Which record, what is found of it, and what gets back what is whole of it."""
    from service.record.verification import StoreFound, verify_snapshots

    if os.environ.get(REDIS_URL):
        from service.record.integrity import verify_galleries

        with contextlib.closing(open_record(data_dir)) as record:
            galleries = tuple(verify_galleries(record.engine))
        found = StoreFound((), galleries, tuple(verify_snapshots(data_dir)))
        return "the record in Redis", found, "gmn store recover"
    from service.ops.data_dir import DATABASE_NAME
    from service.record.recovery import verify_file

    database = data_dir / DATABASE_NAME
    remedy = f"gmn store recover --data-dir {data_dir} --into NEW"
    return str(database), verify_file(database), remedy


def _recover_redis(data_dir: Path) -> None:
    from service.record.integrity import recover_in_place
    from service.record.redis_engine import RedisEngine

    with contextlib.closing(open_record(data_dir)) as record:
        engine = record.engine
        if isinstance(engine, RedisEngine) and engine.others_connected():
            raise InputProblem(
                "GMN_REDIS_URL: a service is connected to this record; stop every one of them first"
            )
        damaged = recover_in_place(engine)
    for gallery in damaged:
        typer.echo(f"{gallery.name}: {gallery.whole} crops kept")
        for line in gallery.damage:
            typer.echo(f"  {line}")
    typer.echo(
        "What was not kept is in the snapshots, as far as they have it; restore one with gmn "
        "snapshot restore."
        if damaged
        else "Every gallery is as it was written; nothing was changed."
    )


def _said_of(place: str, found: StoreFound) -> Iterator[str]:
    damaged = found.problems or any(gallery.damage for gallery in found.galleries)
    yield f"{place}: {'damaged' if damaged else 'as written'}"
    for problem in found.problems:
        yield f"  {problem}"
    for gallery in found.galleries:
        others = f", {len(gallery.damage)} not" if gallery.damage else ""
        yield f"gallery {gallery.name}: {gallery.whole} crops as written{others}"
        for line in gallery.damage[:NAMED]:
            yield f"  {line}"
        if len(gallery.damage) > NAMED:
            yield f"  and {len(gallery.damage) - NAMED} more; --json names each"
    for snapshot in found.snapshots:
        said = f"{snapshot.crops} crops as written" if not snapshot.problem else snapshot.problem
        yield f"snapshot {snapshot.path.parent.name}/{snapshot.path.name}: {said}"


def _as_json(found: StoreFound) -> dict[str, object]:
    return {
        "whole": found.whole,
        "problems": list(found.problems),
        "galleries": [
            {"name": one.name, "whole": one.whole, "damage": list(one.damage)}
            for one in found.galleries
        ],
        "snapshots": [
            {"file": str(one.path), "crops": one.crops, "problem": one.problem}
            for one in found.snapshots
        ],
    }


def _deleted_by_audit(data_dir: Path) -> list[str]:
    """Ids of crops that the audit log says were deleted one by one."""
    from service.ops.audit import audit_files

    removed: list[str] = []
    for path in audit_files(data_dir):
        for line in path.read_bytes().splitlines():
            try:
                said = json.loads(line)
            except ValueError:
                continue
            if said.get("event") == "delete_crop" and said.get("phase") == "done":
                removed += said.get("crop_ids", [])
    return removed
