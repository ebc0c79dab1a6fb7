"""The figures of an evaluation and of a protocol on a terminal."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape

from training.evaluation.protocol_report import ProtocolReport, metric_tables
from training.evaluation.report_tables import dataset_tables
from training.evaluation.results import EvaluationReport


def render_report(report: EvaluationReport, console: Console, out: Path | None) -> None:
    """Prints every data set's figures, and where the report page lies."""
    for result in report.datasets:
        version = f"  ({escape(result.version)})" if result.version else ""
        console.print(
            f"\n[bold]{escape(result.name)}[/bold]{version}  {escape(result.spec)}", soft_wrap=True
        )
        console.print(
            f"  {escape(result.protocol)}: {result.queries:,} queries, {result.gallery:,} gallery "
            f"crops, {result.identities:,} identities, {result.not_counted:,} queries not counted",
            soft_wrap=True,
        )
        if result.seen_in_training:
            console.print(
                f"  [yellow]{escape(result.seen_sentence)} --split held-out measures people "
                "that its training held out.[/yellow]",
                soft_wrap=True,
            )
        for table in dataset_tables(result):
            console.print(table.rich(console.width))
        if result.used_to_calibrate:
            console.print(
                "  [yellow]The calibration was fitted on these people: expect other people's false "
                "alarms to differ.[/yellow]",
                soft_wrap=True,
            )
    if report.checkpoint:
        console.print(f"\n{escape(report.checkpoint)}", highlight=False, soft_wrap=True)
    if out is not None:
        console.print(f"\nReport: {escape(str(out / 'report.html'))}", soft_wrap=True)


def render_protocol(report: ProtocolReport, console: Console, out: Path | None) -> None:
    """Prints every set's figures and their average, and where the page is."""
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
    for table in metric_tables(report):
        console.print(table.rich(console.width))
    if out is not None:
        console.print(f"\nReport: {escape(str(out / 'protocol.html'))}", soft_wrap=True)
