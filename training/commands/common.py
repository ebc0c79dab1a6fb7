"""Options that several commands share, and their progress bar and tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, TaskProgressColumn, TimeRemainingColumn

from gmn_client.commands.terminal import make_console, make_progress

if TYPE_CHECKING:
    from training.evaluation.tables import Table

ArtefactName = Annotated[
    str,
    typer.Argument(metavar="ARTEFACT", help="A .safetensors file, or a name such as bundled."),
]
DataSpecs = Annotated[
    list[str],
    typer.Option(
        "--data", metavar="SPEC", help="KIND:PATH, such as cuhk01:/data/cuhk01; repeatable."
    ),
]
PluginOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin",
        metavar="FILE",
        help="A Python file that registers losses, samplers and other parts; repeatable.",
    ),
]
SettingsOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="KEY=VALUE of the recipe, repeatable."),
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@contextmanager
def progress_bar(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on standard error while the block runs; see `make_progress`.

    The yielded function adds a number to those done. With a total of 0 nobody counts them.
    """
    with make_progress(BarColumn(), TaskProgressColumn(), TimeRemainingColumn()) as progress:
        task = progress.add_task(description, total=total or None)
        yield lambda done: progress.advance(task, done)


def print_tables(tables: Sequence[Table]) -> None:
    console = make_console()
    for table in tables:
        console.print(table.rich(console.width))
