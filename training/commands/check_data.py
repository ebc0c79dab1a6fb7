"""`gmn check-data`: reads data sets, counts them, and reports their faults."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from training.commands.check_rendering import render_check
from training.datasets.check_report import EXAMPLES, CheckReport

if TYPE_CHECKING:
    from training.datasets.record import Dataset

SPEC_HELP = (
    "A CSV manifest, or KIND:PATH such as cuhk01:/data/cuhk01, with options such as "
    "cuhk03np:/data/cuhk03-np,boxes=detected. KIND is one of market1501, msmt17, cuhk03np, cuhk02, "
    "cuhk01, cuhksysu, viper, grid, prid2011, ilids, randperson, dukemtmc, manifest, folder, "
    "synthetic."
)


def check_data(
    specs: Annotated[list[str], typer.Argument(metavar="SPEC...", help=SPEC_HELP)],
    examples: Annotated[
        int, typer.Option("--examples", min=0, help="How many findings of a kind are named.")
    ] = EXAMPLES,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Reads data sets, counts them, and reports their faults.

    Found are files that cannot be read, crops that are too small, blurred, dark, overexposed or
    not person-shaped, counts that are not the published ones, people under one camera only, files
    with the same bytes, and among them and among pictures that were stored again those under
    several labels, both to train on and to test on, or in several of the sets given. Every finding
    is counted, --examples of each kind are named. Exits with 1 if a file cannot be read. Notes and
    poor crops alone are no failure. docs/datasets.md lists every KIND and where to get it.

    Example: gmn check-data market1501:/data/Market-1501-v15.09.15 /data/people.csv
    """
    from training.datasets.registry import read_datasets

    report = _check(read_datasets(specs), examples)
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
    else:
        render_check(report, Console())
    if not report.readable:
        raise typer.Exit(1)


def _check(datasets: list[Dataset], examples: int) -> CheckReport:
    # Imported here, since comparing pictures needs libraries that --help should not wait for.
    from training.datasets.check import check_datasets

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        total = sum(len(dataset.records) for dataset in datasets)
        reading = progress.add_task("Reading files", total=total)
        comparing = progress.add_task("Comparing pictures", total=total)
        return check_datasets(
            datasets,
            examples,
            on_file=lambda: progress.advance(reading),
            on_compared=lambda pictures: progress.advance(comparing, pictures),
        )
