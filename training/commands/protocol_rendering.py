"""A protocol's figures as a table on a terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from training.evaluation.protocol_report import table_beside_papers

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
    console.print(table_beside_papers(report).rich(console.width))
    if out is not None:
        console.print(f"\nReport: {escape(str(out / 'protocol.html'))}", soft_wrap=True)
