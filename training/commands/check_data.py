"""`gmn check-data`: reads data sets, counts them, and says what is wrong with them."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from training.datasets.check import check_datasets
from training.datasets.check_report import CheckReport, DatasetReport, FileFinding, SizeRange
from training.datasets.record import Dataset
from training.datasets.registry import read_datasets

LISTED = 10
"""How many files of a kind the page names; `--json` names them all."""


def check_data(
    specs: Annotated[
        list[str],
        typer.Argument(metavar="SPEC...", help="KIND:PATH, such as cuhk01:/data/cuhk01."),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Reads data sets, counts them, and says what is wrong with them.

    Exits with 1 if a file cannot be read. Notes alone are no failure.

    Example: gmn check-data market1501:/data/Market-1501-v15.09.15 manifest:/data/people.csv
    """
    report = _check(read_datasets(specs))
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
    else:
        _render(report, Console())
    if not report.readable:
        raise typer.Exit(1)


def _check(datasets: list[Dataset]) -> CheckReport:
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        total = sum(len(dataset.records) for dataset in datasets)
        task = progress.add_task("Reading files", total=total)
        return check_datasets(datasets, on_file=lambda: progress.advance(task))


def _render(report: CheckReport, console: Console) -> None:
    for dataset in report.datasets:
        _render_dataset(dataset, console)
    if report.duplicates:
        console.print(
            f"\n[yellow]Same bytes, different label or split: {len(report.duplicates):,}[/yellow]"
        )
        for duplicate in report.duplicates[:LISTED]:
            people = escape(", ".join(duplicate.people))
            console.print(f"  {people}: {escape(', '.join(duplicate.sources))}", soft_wrap=True)
        _render_rest(len(report.duplicates), console)


def _render_dataset(dataset: DatasetReport, console: Console) -> None:
    console.print(f"\n[bold]{escape(dataset.name)}[/bold]  {escape(dataset.spec)}", soft_wrap=True)
    console.print(f"  Terms: {escape(dataset.terms)}", soft_wrap=True)
    console.print(
        f"  {dataset.images:,} images, {dataset.identities:,} identities, "
        f"{len(dataset.images_by_camera):,} cameras"
    )
    console.print(_split_table(dataset))
    cameras = ", ".join(f"{name} {count:,}" for name, count in dataset.images_by_camera.items())
    console.print(f"  Images by camera: {escape(cameras)}", soft_wrap=True)
    if dataset.width and dataset.height:
        console.print(f"  Width {_range(dataset.width)}, height {_range(dataset.height)} pixels")
    _render_files("Unreadable files", "red", dataset.unreadable, console)
    _render_files("Tiny files", "yellow", dataset.tiny, console)
    for note in dataset.notes:
        console.print(f"  [yellow]Note:[/yellow] {escape(note)}", soft_wrap=True)


def _split_table(dataset: DatasetReport) -> Table:
    table = Table(box=None, padding=(0, 2))
    table.add_column("split")
    for column in ("images", "published", "identities", "published"):
        table.add_column(column, justify="right")
    for count in dataset.splits:
        table.add_row(
            count.split or "none",
            f"{count.images:,}",
            _or_dash(count.published_images),
            f"{count.identities:,}",
            _or_dash(count.published_identities),
        )
    return table


def _render_files(title: str, colour: str, files: list[FileFinding], console: Console) -> None:
    if not files:
        return
    console.print(f"  [{colour}]{title}: {len(files):,}[/{colour}]")
    for file in files[:LISTED]:
        console.print(f"    {escape(file.source)}: {escape(file.detail)}", soft_wrap=True)
    _render_rest(len(files), console)


def _render_rest(count: int, console: Console) -> None:
    if count > LISTED:
        console.print(f"    and {count - LISTED:,} more; --json names them all")


def _or_dash(count: int | None) -> str:
    return "–" if count is None else f"{count:,}"


def _range(sides: SizeRange) -> str:
    return f"{sides.smallest} to {sides.largest} (median {sides.median:g})"
