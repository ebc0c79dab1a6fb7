"""An evaluation's figures as tables on a terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from training.evaluation.results import DatasetResult, EvaluationReport, Figure


def render_report(report: EvaluationReport, console: Console, out: Path | None) -> None:
    """Prints every data set's figures, and where the report page lies."""
    for result in report.datasets:
        console.print(
            f"\n[bold]{escape(result.name)}[/bold]  {escape(result.spec)}", soft_wrap=True
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
        console.print(_metrics_table(result))
        if result.used_to_calibrate:
            console.print(
                "  [yellow]The calibration was fitted on these people: expect other people's false "
                "alarms to differ.[/yellow]",
                soft_wrap=True,
            )
        if any(scoring.operating_points for scoring in result.scorings.values()):
            console.print(_operating_points_table(result))
        if any(scoring.half_enrolled for scoring in result.scorings.values()):
            console.print(_half_enrolled_table(result))
        if any(scoring.verification for scoring in result.scorings.values()):
            console.print(_verification_table(result))
    if report.checkpoint:
        console.print(f"\n{escape(report.checkpoint)}", highlight=False, soft_wrap=True)
    if out is not None:
        console.print(f"\nReport: {escape(str(out / 'report.html'))}", soft_wrap=True)


def _metrics_table(result: DatasetResult) -> Table:
    """Page and JSON have an interval for every figure; here the two main ones do.

    `mAP` is the step definition, `trapezoid` the same mean by the other one.
    """
    table = Table(box=None, padding=(0, 1), title="%, with 95% interval", title_justify="left")
    table.add_column("", overflow="fold")
    for name in ("mAP", "trapezoid", "Rank-1", "Rank-5", "Rank-10", "mINP"):
        table.add_column(name, justify="right", no_wrap=True)
    named = result.scorings | result.peers
    lines = [(name, scoring.metrics) for name, scoring in named.items()]
    if shots := result.multi_shot:
        lines += [
            (f"{name}, multi-shot {shots.how}", scoring.metrics)
            for name, scoring in shots.scorings.items()
        ]
    for name, metrics in (*lines, *result.differences.items()):
        table.add_row(
            escape(name),
            _percent(metrics["mAP"]),
            f"{100 * metrics['mAP_trapezoid'].mean:.1f}",
            _percent(metrics["rank_1"]),
            *(f"{100 * metrics[metric].mean:.1f}" for metric in ("rank_5", "rank_10", "mINP")),
        )
    return table


def _operating_points_table(result: DatasetResult) -> Table:
    table = Table(box=None, padding=(0, 2), title="Searches, %", title_justify="left")
    table.add_column("")
    for name in ("false alarms asked", "obtained", "people found"):
        table.add_column(name, justify="right")
    for name, scoring in result.scorings.items():
        for point in scoring.operating_points:
            table.add_row(
                f"{name} {point.name}",
                f"{100 * point.asked:g}",
                _percent(point.false_alarm_rate),
                _percent(point.detection_rate),
            )
    return table


def _half_enrolled_table(result: DatasetResult) -> Table:
    named = {**result.scorings, **result.peers}
    found = {name: own.half_enrolled for name, own in named.items() if own.half_enrolled}
    enrolled = next(iter(found.values())).enrolled
    title = f"Half of the people enrolled ({enrolled:,}), 1 false alarm in 100 searches obtained, %"
    table = Table(box=None, padding=(0, 2), title=title, title_justify="left")
    table.add_column("")
    table.add_column("people found", justify="right")
    for name, own in found.items():
        table.add_row(escape(name), _percent(own.detection_rate))
    return table


def _verification_table(result: DatasetResult) -> Table:
    table = Table(box=None, padding=(0, 2), title="Comparing two crops, %", title_justify="left")
    table.add_column("")
    for name in ("false accepts asked", "true accepts"):
        table.add_column(name, justify="right")
    for name, scoring in result.scorings.items():
        for point in scoring.verification:
            table.add_row(name, f"{100 * point.asked:g}", _percent(point.true_accept_rate))
    return table


def _percent(figure: Figure) -> str:
    return f"{100 * figure.mean:.1f} [dim]{100 * figure.low:.1f}…{100 * figure.high:.1f}[/dim]"
