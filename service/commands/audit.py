"""`gmn audit`: whether the audit log is as it was written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from model.problems import InputProblem
from service.commands.connection import JsonOption, output

if TYPE_CHECKING:
    from service.ops.chained_file import Checked

audit = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


@audit.callback()
def _audit() -> None:
    """Checks the log of who did what.

    Example: gmn audit verify --data-dir ./gmn-data
    """


@audit.command("verify")
def verify(
    data_dir: Annotated[
        Path,
        typer.Option("--data-dir", envvar="GMN_DATA_DIR", help="Where the service keeps its data."),
    ] = Path("gmn-data"),
    as_json: JsonOption = False,
) -> None:
    """Follows the chain of hashes through every audit log and names the first line that breaks it.

    Processes that share a record keep one each. The exit status is 1 where a line breaks its chain.
    Full files that were taken away, the oldest first, are no break: the number of the first line
    shows them. A log whose end was cut off is whole by itself: compare the number of the last line
    and its hash with those that an earlier check showed.

    Example: gmn audit verify --data-dir ./gmn-data
    """
    from service.ops.audit import LOG_NAME, audit_logs

    checked = {path: _check(path) for path in audit_logs(data_dir) or [data_dir / LOG_NAME]}
    whole = all(one.problem is None for one in checked.values())
    if as_json:
        logs = [{"file": path.name, **_as_json(one)} for path, one in checked.items()]
        alone = logs[0] if len(logs) == 1 else {}
        output().print_json(data={**alone, "whole": whole, "logs": logs})
    else:
        for path, one in checked.items():
            typer.echo(_said_of(path, one))
    if not whole:
        raise typer.Exit(1)


def _check(path: Path) -> Checked:
    from service.ops.chained_file import check_chain

    try:
        return check_chain(path)
    except OSError as error:
        raise InputProblem(
            f"{path}: cannot be read ({error.strerror}); name the service's data directory with "
            "--data-dir or GMN_DATA_DIR"
        ) from error


def _as_json(checked: Checked) -> dict[str, str | int | bool | None]:
    return {
        "whole": checked.problem is None,
        "first_line": checked.first,
        "lines": checked.lines,
        "last_sha256": checked.last_sha256,
        "problem": checked.problem,
    }


def _said_of(path: Path, checked: Checked) -> str:
    if checked.problem is not None:
        return f"{checked.file}: line {checked.line} {checked.problem}"
    since = f" from number {checked.first:,} on" if checked.first > 1 else ""
    return f"{path}: {checked.lines} lines{since}, all as written; last {checked.last_sha256}"
