"""`gmn check-data`: reads data sets, counts them, and prints their faults."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from training.datasets.check_report import (
    EXAMPLES,
    CheckReport,
    DatasetReport,
    Duplicates,
    FileFinding,
    Findings,
    NearDuplicates,
    SizeRange,
)

if TYPE_CHECKING:
    from training.datasets.record import Dataset
    from training.evaluation.tables import Value

LISTED = 10
"""How many cameras and pairs of places are listed; `--json` has them all."""

BAR = 30
"""Length of a histogram's longest bar, characters."""

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
        _print_report(report, Console())
    if any(dataset.unreadable.count for dataset in report.datasets):
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


def _print_report(report: CheckReport, console: Console) -> None:
    """Prints every data set, then the pictures that are there more than once."""
    for dataset in report.datasets:
        _print_dataset(dataset, console)
    if report.shared or report.notes:
        console.print("\n[bold]Between places[/bold]")
    _print_notes(report.notes, console)
    if report.shared:
        rows = [
            (
                ("within " if len(shared.places) == 1 else "") + " and ".join(shared.places),
                shared.exact,
                shared.crossing,
                shared.near,
            )
            for shared in report.shared[:LISTED]
        ]
        columns = ["pictures in several files", "same bytes", "label differs", "stored again"]
        _print_table(columns, rows, console)
    _print_duplicates("Same bytes, different label or split", report.crossing_duplicates, console)
    _print_duplicates(
        "Same picture stored again, different label or split", report.near_duplicates, console
    )
    _print_duplicates("Same bytes, same label and split", report.duplicates, console)


def _print_dataset(dataset: DatasetReport, console: Console) -> None:
    version = f"  ({escape(dataset.version)})" if dataset.version else ""
    console.print(
        f"\n[bold]{escape(dataset.name)}[/bold]{version}  {escape(dataset.spec)}", soft_wrap=True
    )
    console.print(f"  Terms: {escape(dataset.terms)}", soft_wrap=True)
    console.print(f"  From: {escape(dataset.obtain)}", soft_wrap=True)
    console.print(
        f"  {dataset.images:,} images, {dataset.identities:,} identities, "
        f"{len(dataset.images_by_camera):,} cameras"
    )
    rows = [
        (
            count.split or "none",
            count.images,
            count.published_images,
            count.identities,
            count.published_identities,
        )
        for count in dataset.splits
    ]
    columns = ["split", "images", "published", "identities", "published"]
    _print_table(columns, rows, console)
    console.print(f"  Images by camera: {escape(_cameras(dataset))}", soft_wrap=True)
    for side, sizes in (("Width", dataset.width), ("Height", dataset.height)):
        if sizes:
            _print_sizes(side, sizes, console)
    _print_files("Unreadable files", "red", dataset.unreadable, console)
    for fault in dataset.quality:
        share = f"{fault.files.count / dataset.images:.2%} of the images"
        _print_files(
            f"{fault.code.replace('_', ' ').capitalize()}, {share}", "yellow", fault.files, console
        )
    _print_notes(dataset.notes, console)


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[Value]], console: Console) -> None:
    # Imported here, since it needs libraries that --help should not wait for.
    from training.evaluation.tables import Table

    console.print(Table("", columns, rows).rich(console.width))


def _cameras(dataset: DatasetReport) -> str:
    cameras = list(dataset.images_by_camera.items())
    rest = ""
    if len(cameras) > 2 * LISTED:
        rest = f" and {len(cameras) - LISTED:,} with fewer; --json names them all"
        cameras = sorted(cameras, key=lambda camera: -camera[1])[:LISTED]
    return ", ".join(f"{name} {count:,}" for name, count in cameras) + rest


def _print_sizes(side: str, sizes: SizeRange, console: Console) -> None:
    console.print(f"  {side} {sizes.smallest} to {sizes.largest} (median {sizes.median:g}) pixels")
    most = max(each.images for each in sizes.histogram)
    for each in sizes.histogram:
        upper = f"– {each.below - 1:>3}" if each.below is not None else "or more"
        bar = "█" * round(BAR * each.images / most) or ("▏" if each.images else "")
        console.print(f"    {each.at_least:>3} {upper:<7} {bar} {each.images:,}")


def _print_duplicates(
    title: str, found: Findings[Duplicates] | Findings[NearDuplicates], console: Console
) -> None:
    lines = []
    for duplicate in found.examples:
        unnamed = duplicate.files - len(duplicate.sources)
        rest = f" and {unnamed:,} more files" if unnamed else ""
        lines.append(f"{', '.join(duplicate.people)}: {', '.join(duplicate.sources)}{rest}")
    _print_findings(f"\n[yellow]{title}: {found.count:,}[/yellow]", lines, found.count, console)


def _print_files(title: str, colour: str, files: Findings[FileFinding], console: Console) -> None:
    lines = [f"  {file.source}: {file.detail}" for file in files.examples]
    _print_findings(f"  [{colour}]{title}: {files.count:,}[/{colour}]", lines, files.count, console)


def _print_findings(title: str, lines: list[str], count: int, console: Console) -> None:
    if not count:
        return
    console.print(title)
    for line in lines:
        console.print(f"  {escape(line)}", soft_wrap=True)
    if count > len(lines):
        console.print(f"    and {count - len(lines):,} more; --examples {count} names them all")


def _print_notes(notes: list[str], console: Console) -> None:
    for note in notes:
        console.print(f"  [yellow]Note:[/yellow] {escape(note)}", soft_wrap=True)
