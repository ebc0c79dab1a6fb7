"""The report of `gmn check-data` on a terminal: the same figures as its JSON."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from training.datasets.check_report import (
    CheckReport,
    DatasetReport,
    Duplicates,
    FileFinding,
    Findings,
    NearDuplicates,
    SizeRange,
)

LISTED = 10
"""How many cameras and pairs of places are listed; `--json` has them all."""

BAR = 30
"""Length of a histogram's longest bar, characters."""


def render_check(report: CheckReport, console: Console) -> None:
    """Prints every data set, then the pictures that are there more than once."""
    for dataset in report.datasets:
        _render_dataset(dataset, console)
    if report.shared or report.notes:
        console.print("\n[bold]Between places[/bold]")
    for note in report.notes:
        console.print(f"  [yellow]Note:[/yellow] {escape(note)}", soft_wrap=True)
    if report.shared:
        console.print(_shared_table(report))
    _render_duplicates("Same bytes, different label or split", report.crossing_duplicates, console)
    _render_duplicates(
        "Same picture stored again, different label or split", report.near_duplicates, console
    )
    _render_duplicates("Same bytes, same label and split", report.duplicates, console)


def _render_dataset(dataset: DatasetReport, console: Console) -> None:
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
    console.print(_split_table(dataset))
    console.print(f"  Images by camera: {escape(_cameras(dataset))}", soft_wrap=True)
    for side, sizes in (("Width", dataset.width), ("Height", dataset.height)):
        if sizes:
            _render_sizes(side, sizes, console)
    _render_files("Unreadable files", "red", dataset.unreadable, console)
    for fault in dataset.quality:
        share = f"{fault.files.count / dataset.images:.2%} of the images"
        _render_files(
            f"{fault.code.replace('_', ' ').capitalize()}, {share}", "yellow", fault.files, console
        )
    for note in dataset.notes:
        console.print(f"  [yellow]Note:[/yellow] {escape(note)}", soft_wrap=True)


def _cameras(dataset: DatasetReport) -> str:
    cameras = list(dataset.images_by_camera.items())
    if len(cameras) <= 2 * LISTED:
        return ", ".join(f"{name} {count:,}" for name, count in cameras)
    cameras.sort(key=lambda camera: -camera[1])
    busiest = ", ".join(f"{name} {count:,}" for name, count in cameras[:LISTED])
    return f"{busiest} and {len(cameras) - LISTED:,} with fewer; --json names them all"


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


def _render_sizes(side: str, sizes: SizeRange, console: Console) -> None:
    console.print(f"  {side} {sizes.smallest} to {sizes.largest} (median {sizes.median:g}) pixels")
    most = max(each.images for each in sizes.histogram)
    for each in sizes.histogram:
        upper = f"– {each.below - 1:>3}" if each.below is not None else "or more"
        bar = "█" * round(BAR * each.images / most) or ("▏" if each.images else "")
        console.print(f"    {each.at_least:>3} {upper:<7} {bar} {each.images:,}")


def _shared_table(report: CheckReport) -> Table:
    table = Table(box=None, padding=(0, 2))
    table.add_column("pictures in several files", no_wrap=True)
    for column in ("same bytes", "label differs", "stored again"):
        table.add_column(column, justify="right")
    for shared in report.shared[:LISTED]:
        within = "within " if len(shared.places) == 1 else ""
        counts = (f"{count:,}" for count in (shared.exact, shared.crossing, shared.near))
        table.add_row(escape(within + " and ".join(shared.places)), *counts)
    return table


def _render_duplicates(
    title: str, found: Findings[Duplicates] | Findings[NearDuplicates], console: Console
) -> None:
    if not found.count:
        return
    console.print(f"\n[yellow]{title}: {found.count:,}[/yellow]")
    for duplicate in found.examples:
        people = escape(", ".join(duplicate.people))
        unnamed = duplicate.files - len(duplicate.sources)
        rest = f" and {unnamed:,} more files" if unnamed else ""
        files = escape(", ".join(duplicate.sources))
        console.print(f"  {people}: {files}{rest}", soft_wrap=True)
    _render_rest(found.count, len(found.examples), console)


def _render_files(title: str, colour: str, files: Findings[FileFinding], console: Console) -> None:
    if not files.count:
        return
    console.print(f"  [{colour}]{title}: {files.count:,}[/{colour}]")
    for file in files.examples:
        console.print(f"    {escape(file.source)}: {escape(file.detail)}", soft_wrap=True)
    _render_rest(files.count, len(files.examples), console)


def _render_rest(count: int, named: int, console: Console) -> None:
    if count > named:
        console.print(f"    and {count - named:,} more; --examples {count} names them all")


def _or_dash(count: int | None) -> str:
    return "–" if count is None else f"{count:,}"
