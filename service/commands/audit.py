"""`gmn audit`: whether the audit log is as it was written."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from model.problems import InputProblem
from service.commands.connection import JsonOption, output

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
    """Follows the chain of hashes through the audit log and names the first line that breaks it.

    The exit status is 1 where one does. A log whose end was cut off is whole by itself: compare the
    number of lines and the last hash with those that an earlier check showed.

    Example: gmn audit verify --data-dir ./gmn-data
    """
    from service.audit import LOG_NAME
    from service.chained_file import check_chain

    path = data_dir / LOG_NAME
    try:
        checked = check_chain(path)
    except OSError as error:
        raise InputProblem(
            f"{path}: cannot be read ({error.strerror}); name the service's data directory with "
            "--data-dir or GMN_DATA_DIR"
        ) from error
    if as_json:
        output().print_json(
            data={
                "whole": checked.problem is None,
                "lines": checked.lines,
                "last_sha256": checked.last_sha256,
                "problem": checked.problem,
            }
        )
    elif checked.problem is None:
        typer.echo(f"{path}: {checked.lines} lines, all as written; last {checked.last_sha256}")
    else:
        typer.echo(f"{path}: line {checked.lines + 1} {checked.problem}")
    if checked.problem is not None:
        raise typer.Exit(1)
