"""The outcome of an evaluation, a protocol or a dry run, printed on a terminal."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from training.dry_run import RunEstimate
from training.evaluation.protocol_report import ProtocolReport, metric_tables
from training.evaluation.report_tables import dataset_tables
from training.evaluation.results import EvaluationReport
from training.evaluation.tables import Table, Value
from training.sampler import describe_epoch


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


def render_estimate(estimate: RunEstimate, console: Console) -> None:
    """Prints what a run would take."""
    together = f" × {estimate.processes} processes" if estimate.processes > 1 else ""
    console.print(
        f"\n[bold]{escape(estimate.recipe)}[/bold]  {estimate.device}{together}, "
        f"{estimate.precision}"
    )
    sizes = estimate.domains.items()
    domains: list[list[Value]] = [[name, own.crops, own.identities] for name, own in sizes]
    costs = [
        [name, f"{cost.parameters / 1e6:.2f} M", f"{cost.multiply_adds / 1e9:.{digits}f}"]
        for name, cost, digits in (
            ("embedder", estimate.embedder, 2),
            ("M-Net, a pair", estimate.metric_network, 4),
        )
    ]
    for row in estimate.published:
        flops = "–" if row.gflops is None else f"{row.gflops:g}"
        costs.append([f"reported: {row.name}", f"{row.parameters_millions:g} M", flops])
    memory = f"{estimate.memory_bytes / 1e9:.2f} GB"
    if estimate.gpu_memory_bytes is not None:
        memory += f", {estimate.gpu_memory_bytes / 1e9:.2f} GB of the GPU's"
    crops = sum(size.crops for size in estimate.domains.values())
    whole, reading = (
        timedelta(seconds=round(seconds))
        for seconds in (estimate.seconds, estimate.seconds_to_read)
    )
    shown = describe_epoch(crops, estimate.crops_in_epoch, estimate.single_crop_identities)
    steps = f"{estimate.steps_per_epoch:,} an epoch × {estimate.epochs:,} = {estimate.steps:,}"
    facts = [
        ["steps", steps],
        ["an epoch shows", shown],
        ["memory", memory],
        ["a step", f"{estimate.seconds_per_step:.3g} s"],
        ["the run", f"about {whole}, of which reading crops {reading}"],
    ]
    for table in (
        Table("", ["", "crops", "identities"], domains),
        Table("", ["", "parameters", "GFLOPs"], costs),
        Table("", ["", ""], facts, words=True),
    ):
        console.print(table.rich(console.width))
