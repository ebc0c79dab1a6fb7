"""A protocol's figures as a table on a terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from training.evaluation.protocol_report import ProtocolReport
    from training.evaluation.results import Figure


def render_protocol(report: ProtocolReport, console: Console, out: Path | None) -> None:
    """Prints mAP and Rank-1 of every set and on average, papers' figures, and where the page is."""
    console.print(f"\n[bold]Protocol {report.protocol}[/bold]  {escape(report.title)}")
    for own in report.reports:
        result = own.datasets[0]
        console.print(
            f"  {escape(result.name)}, by {escape(own.artefact)}: {escape(result.protocol)}, "
            f"{result.queries:,} queries, {result.gallery:,} gallery crops",
            soft_wrap=True,
        )
    for remark in report.remarks:
        console.print(f"  [yellow]{escape(remark)}[/yellow]", soft_wrap=True)
    console.print(_table(report))
    if out is not None:
        console.print(f"\nReport: {escape(str(out / 'protocol.html'))}", soft_wrap=True)


def _table(report: ProtocolReport) -> Table:
    table = Table(
        box=None, padding=(0, 1), title="mAP / Rank-1, %; mAP's interval", title_justify="left"
    )
    results = [result for own in report.reports for result in own.datasets]
    table.add_column("", overflow="fold")
    for name in (*(result.name for result in results), "average"):
        table.add_column(escape(name), justify="right")
    for name, average in report.averages.items():
        rankings = [result.scorings | result.peers for result in results]
        metrics = [*(own[name].metrics for own in rankings), average]
        table.add_row(escape(name), *(_cell(own["mAP"], own["rank_1"]) for own in metrics))
    for name, difference in report.differences.items():
        apart = [result.differences[name] for result in results]
        cells = (_cell(own["mAP"], own["rank_1"], "+.1f") for own in (*apart, difference))
        table.add_row(escape(name), *cells)
    for row in report.published:
        found = [row.results.get(name) for name in (*(own.name for own in results), "average")]
        table.add_row(
            escape(row.row),
            *(f"{own.mAP:.1f} / {own.rank_1:.1f}" if own else "–" for own in found),
            style="dim",
        )
    return table


def _cell(average_precision: Figure, rank_1: Figure, form: str = ".1f") -> str:
    mean, low, high, first = (
        format(100 * value, form)
        for value in (
            average_precision.mean,
            average_precision.low,
            average_precision.high,
            rank_1.mean,
        )
    )
    return f"{mean} / {first} [dim]{low}…{high}[/dim]"
