"""`gmn check-data`: reads data sets, counts them, and prints their faults."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

if TYPE_CHECKING:
    from training.datasets.check import Report
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
    ] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Reads data sets, counts them, and reports their faults.

    Found are files that cannot be read, crops that are too small, blurred, dark, overexposed or
    not person-shaped, counts that are not the published ones, people under one camera only, and
    files with the same pixels, also under several labels, both to train on and to test on, or in
    several of the sets given. Every finding is counted, --examples of each kind are named. Exits
    with 1 if a file cannot be read. Notes and poor crops alone are no failure. docs/datasets.md
    lists every KIND and where to get it.

    Example: gmn check-data market1501:/data/Market-1501-v15.09.15 /data/people.csv
    """
    report = _check(specs, examples)
    if as_json:
        typer.echo(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        _print_report(report, Console())
    if any(dataset["unreadable"]["count"] for dataset in report["datasets"]):
        raise typer.Exit(1)


def _check(specs: list[str], examples: int) -> Report:
    # Imported here, since comparing pictures needs libraries that --help should not wait for.
    from training.datasets.check import check_datasets
    from training.datasets.registry import read_datasets

    datasets = read_datasets(specs)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        total = sum(len(dataset.records) for dataset in datasets)
        reading = progress.add_task("Reading files", total=total)
        return check_datasets(datasets, examples, on_file=lambda: progress.advance(reading))


def _print_report(report: Report, console: Console) -> None:
    """Prints every data set, then the pictures that are there more than once."""
    for dataset in report["datasets"]:
        _print_dataset(dataset, console)
    if report["shared"] or report["notes"]:
        console.print("\n[bold]Between places[/bold]")
    _print_notes(report, console)
    if shared := report["shared"][:LISTED]:
        rows = [
            (
                ("within " if len(one["places"]) == 1 else "") + " and ".join(one["places"]),
                one["pictures"],
                one["crossing"],
            )
            for one in shared
        ]
        columns = ["pictures in several files", "same pixels", "label differs"]
        _print_table(columns, rows, console)
    for key, title in (
        ("crossing_duplicates", "Same pixels, different label or split"),
        ("duplicates", "Same pixels, same label and split"),
    ):
        _print_findings(f"\n[yellow]{title}", report[key], _duplicate, console)


def _print_dataset(dataset: Report, console: Console) -> None:
    version = f"  ({escape(dataset['version'])})" if dataset["version"] else ""
    console.print(
        f"\n[bold]{escape(dataset['name'])}[/bold]{version}  {escape(dataset['spec'])}",
        soft_wrap=True,
    )
    console.print(f"  Terms: {escape(dataset['terms'])}", soft_wrap=True)
    console.print(f"  From: {escape(dataset['obtain'])}", soft_wrap=True)
    console.print(
        f"  {dataset['images']:,} images, {dataset['identities']:,} identities, "
        f"{len(dataset['images_by_camera']):,} cameras"
    )
    keys = ["images", "published_images", "identities", "published_identities"]
    rows = [
        (split["split"] or "none", *(split[key] for key in keys)) for split in dataset["splits"]
    ]
    _print_table(["split", "images", "published", "identities", "published"], rows, console)
    console.print(f"  Images by camera: {escape(_cameras(dataset))}", soft_wrap=True)
    for side in ("width", "height"):
        if dataset[side]:
            _print_sizes(side.capitalize(), dataset[side], console)
    _print_findings("  [red]Unreadable files", dataset["unreadable"], _file, console)
    for fault in dataset["quality"]:
        share = f"{fault['files']['count'] / dataset['images']:.2%} of the images"
        title = f"  [yellow]{fault['code'].replace('_', ' ').capitalize()}, {share}"
        _print_findings(title, fault["files"], _file, console)
    _print_notes(dataset, console)


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[Value]], console: Console) -> None:
    # Imported here, since it needs libraries that --help should not wait for.
    from training.evaluation.tables import Table

    console.print(Table("", columns, rows).rich(console.width))


def _cameras(dataset: Report) -> str:
    cameras = list(dataset["images_by_camera"].items())
    rest = ""
    if len(cameras) > 2 * LISTED:
        rest = f" and {len(cameras) - LISTED:,} more; --json names them all"
        cameras = sorted(cameras, key=lambda camera: -camera[1])[:LISTED]
    return ", ".join(f"{name} {count:,}" for name, count in cameras) + rest


def _print_sizes(side: str, sizes: Report, console: Console) -> None:
    console.print(
        f"  {side} {sizes['smallest']} to {sizes['largest']} (median {sizes['median']:g}) pixels"
    )
    most = max(each["images"] for each in sizes["histogram"])
    for each in sizes["histogram"]:
        upper = f"– {each['below'] - 1:>3}" if each["below"] is not None else "or more"
        bar = "█" * round(BAR * each["images"] / most) or ("▏" if each["images"] else "")
        console.print(f"    {each['at_least']:>3} {upper:<7} {bar} {each['images']:,}")


def _duplicate(found: Report) -> str:
    unnamed = found["files"] - len(found["sources"])
    rest = f" and {unnamed:,} more files" if unnamed else ""
    return f"{', '.join(found['people'])}: {', '.join(found['sources'])}{rest}"


def _file(found: Report) -> str:
    return f"  {found['source']}: {found['detail']}"


def _print_findings(
    title: str, found: Report, line: Callable[[Report], str], console: Console
) -> None:
    """Prints how many there are, the examples, and how to see the others; nothing for none."""
    count = found["count"]
    examples = found["examples"]
    if not count:
        return
    console.print(f"{title}: {count:,}[/]")
    for one in examples:
        console.print(f"  {escape(line(one))}", soft_wrap=True)
    if count > len(examples):
        console.print(f"    and {count - len(examples):,} more; --examples {count} names them all")


def _print_notes(report: Report, console: Console) -> None:
    for note in report["notes"]:
        console.print(f"  [yellow]Note:[/yellow] {escape(note)}", soft_wrap=True)
