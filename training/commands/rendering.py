"""Print the figures of an evaluation, or the estimate of a dry run."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import typer

from model.wording import counted
from training.commands.common import print_tables
from training.dry_run import RunEstimate
from training.evaluation.report_tables import dataset_tables
from training.evaluation.results import EvaluationReport
from training.evaluation.tables import Table, Value
from training.sampler import describe_epoch


def render_report(report: EvaluationReport, out: Path | None) -> None:
    """Print the figures of every data set, and the path of the report's page."""
    for result in report.datasets:
        version = f"  ({result.version})" if result.version else ""
        typer.secho(f"\n{result.name}{version}  {result.spec}", bold=True)
        typer.echo(
            f"  {result.protocol}: {counted(result.queries, 'query', 'queries')}, "
            f"{counted(result.gallery, 'gallery crop')}, "
            f"{counted(result.identities, 'identity', 'identities')}, "
            f"{counted(result.not_counted, 'query', 'queries')} not counted"
        )
        if result.seen_in_training:
            typer.secho(
                f"  {result.seen_sentence} Use --split held-out to measure people whom its "
                "training held out.",
                fg="yellow",
            )
        if result.centring is not None:
            typer.echo(f"  {result.centring.sentence}")
        print_tables(dataset_tables(result))
        if result.used_to_calibrate:
            typer.secho(
                "  The calibration was fitted on these people; false alarms of other people may "
                "differ.",
                fg="yellow",
            )
    if report.checkpoint:
        typer.echo(f"\n{report.checkpoint}")
    if out is not None:
        typer.echo(f"\nReport: {out / 'report.html'}")


def render_estimate(estimate: RunEstimate) -> None:
    together = f" × {estimate.processes} processes" if estimate.processes > 1 else ""
    typer.secho(
        f"\n{estimate.recipe}  {estimate.device}{together}, {estimate.precision}", bold=True
    )
    domains: list[list[Value]] = [
        [name, domain.crops, domain.identities] for name, domain in estimate.domains.items()
    ]
    embedder = estimate.embedder
    pair = estimate.metric_network
    costs = [
        ["embedder", f"{embedder.parameters / 1e6:.2f} M", f"{embedder.multiply_adds / 1e9:.2f}"],
        ["M-Net, a pair", f"{pair.parameters / 1e6:.2f} M", f"{pair.multiply_adds / 1e9:.4f}"],
    ]
    for row in estimate.published:
        flops = "–" if row.gflops is None else f"{row.gflops:g}"
        costs.append([f"reported: {row.name}", f"{row.parameters_millions:g} M", flops])
    crops = sum(domain.crops for domain in estimate.domains.values())
    facts = [["the run", "no epoch: it embeds every crop, and fits to the features"]]
    if estimate.epochs:
        shown = describe_epoch(crops, estimate.crops_in_epoch, estimate.single_crop_identities)
        steps = f"{estimate.steps_per_epoch:,} an epoch × {estimate.epochs:,} = {estimate.steps:,}"
        facts = [
            ["steps", steps],
            ["an epoch shows", shown],
            ["a step", f"{estimate.seconds_per_step:.3g} s"],
            ["the run", f"about {timedelta(seconds=round(estimate.seconds))}"],
        ]
    print_tables(
        [
            Table("", ["", "crops", "identities"], domains),
            Table("", ["", "parameters", "GFLOPs"], costs),
            Table("", ["", ""], facts, words=True),
        ]
    )
