"""A protocol's figures as a table on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from training.evaluation.intervals import Estimate
from training.evaluation.tables import Cell, Table, Value, difference, percent

if TYPE_CHECKING:
    from training.evaluation.protocol_report import ProtocolReport


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
    console.print(_table(report).rich(console.width))
    if out is not None:
        console.print(f"\nReport: {escape(str(out / 'protocol.html'))}", soft_wrap=True)


def _table(report: ProtocolReport) -> Table:
    """Papers' figures stand below this run's."""
    results = [result for own in report.reports for result in own.datasets]
    rows: list[list[Value]] = []
    for name, average in report.averages.items():
        metrics = [(result.scorings | result.peers)[name].metrics for result in results]
        rows.append([name, *(_both(own, percent) for own in (*metrics, average))])
    for name, apart in report.differences.items():
        metrics = [result.differences[name] for result in results]
        rows.append([name, *(_both(own, difference) for own in (*metrics, apart))])
    names = [*(result.name for result in results), "average"]
    for row in report.published:
        found = [row.results.get(name) for name in names]
        rows.append(
            [row.row, *(f"{own.mAP:.1f} / {own.rank_1:.1f}" if own else None for own in found)]
        )
    return Table("mAP / Rank-1, %; mAP's interval", ["", *names], rows)


def _both(metrics: Mapping[str, Estimate], form: Callable[[Estimate], Cell]) -> Cell:
    first, second = form(metrics["mAP"]), form(metrics["rank_1"])
    return first._replace(text=f"{first.text} / {second.text}")
