"""Options that the service's commands share, and commands without a client."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from gmn_client.commands.parameters import JsonOption, with_parameters

if TYPE_CHECKING:
    from gmn_client.commands.common import Shown

DEFAULT_DATA_DIR = Path("gmn-data")

DataDirOption = Annotated[
    Path, Option("--data-dir", envvar="GMN_DATA_DIR", help="Where the service keeps its data.")
]


def printed(run: Callable[..., Shown]) -> Callable[..., None]:
    """Make a command that prints the result of `run`, with `--json` as additional option."""

    def command(*, as_json: JsonOption = False, **given: Any) -> None:
        # Imported here, so that commands which print no tables start without rich.
        from gmn_client.commands.common import show

        show(run(**given), as_json)

    return with_parameters(command, run)


def with_options(run: Callable[..., None]) -> Callable[..., None]:
    """Make a command of a function that prints its result itself."""

    def command(**given: Any) -> None:
        # Omitted options are None; leave them out so that the function's defaults apply.
        run(**{name: value for name, value in given.items() if value is not None})

    return with_parameters(command, run)
