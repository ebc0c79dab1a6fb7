"""`gmn store`: whether the record is as it was written, and a new one from a damaged one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from model.problems import InputProblem
from service.commands.connection import JsonOption, output

if TYPE_CHECKING:
    from service.gallery.sqlite.verifying import StoreFound

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
    does. A record in Redis is not checked here: redis-check-aof is for its files.

    Example: gmn store verify --data-dir ./gmn-data
    """
    from service.gallery.data_dir import DATABASE_NAME
    from service.gallery.sqlite.verifying import verify_store

    if not data_dir.is_dir():
        raise InputProblem(
            f"{data_dir}: is no directory; name the service's with --data-dir or GMN_DATA_DIR"
        )
    found = verify_store(data_dir / DATABASE_NAME)
    if as_json:
        output().print_json(data=_as_json(found))
    else:
        for line in _said_of(data_dir / DATABASE_NAME, found):
            typer.echo(line)
        if not found.whole:
            typer.echo(
                "What is whole is got back into a new directory, with the service stopped, by "
                f"gmn store recover --data-dir {data_dir} --into NEW"
            )
    if not found.whole:
        raise typer.Exit(1)


@store.command("recover")
def recover(
    into: Annotated[Path, typer.Option("--into", help="A new directory.")],
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """Makes a new data directory: what is whole of a damaged record, the rest from snapshots.

    The damaged directory is not changed. What was deleted stays deleted, as far as the record or
    the audit log still says so. Jobs are not taken over.

    Example: gmn store recover --data-dir ./gmn-data --into ./gmn-data-new
    """
    from service.gallery.data_dir import DATABASE_NAME, DataDirectory
    from service.gallery.sqlite.recovery import recover_store

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
        done = recover_store(damaged.database, into / DATABASE_NAME, removed)
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


def _said_of(database: Path, found: StoreFound) -> Iterator[str]:
    yield f"{database}: {'as written' if not found.problems else 'damaged'}"
    for problem in found.problems:
        yield f"  {problem}"
    for gallery in found.galleries:
        damaged = f", {len(gallery.damage)} not" if gallery.damage else ""
        yield f"gallery {gallery.name}: {gallery.whole} crops as written{damaged}"
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
    from service.audit import audit_logs

    removed: list[str] = []
    for path in audit_logs(data_dir):
        for line in path.read_bytes().splitlines():
            try:
                said = json.loads(line)
            except ValueError:
                continue
            if said.get("event") == "delete_crop" and said.get("phase") == "done":
                removed += said.get("crop_ids", [])
    return removed
