"""The estimate of `gmn train --dry-run` on a terminal."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from training.sampler import describe_epoch

if TYPE_CHECKING:
    from training.dry_run import Estimate, NetworkCost


def render_estimate(estimate: Estimate, console: Console) -> None:
    """Prints what a run would take."""
    together = f" × {estimate.processes} processes" if estimate.processes > 1 else ""
    console.print(
        f"\n[bold]{escape(estimate.recipe)}[/bold]  {estimate.device}{together}, "
        f"{estimate.precision}"
    )
    domains = Table(box=None, padding=(0, 2))
    domains.add_column("")
    domains.add_column("crops", justify="right")
    domains.add_column("identities", justify="right")
    for name, size in estimate.domains.items():
        domains.add_row(escape(name), f"{size.crops:,}", f"{size.identities:,}")
    console.print(domains)
    console.print(_cost_table(estimate))
    facts = Table(box=None, padding=(0, 2), show_header=False)
    memory = f"{estimate.memory_bytes / 1e9:.2f} GB"
    if estimate.gpu_memory_bytes is not None:
        memory += f", {estimate.gpu_memory_bytes / 1e9:.2f} GB of the GPU's"
    crops = sum(size.crops for size in estimate.domains.values())
    alone = estimate.single_crop_identities
    for name, value in (
        (
            "steps",
            f"{estimate.steps_per_epoch:,} an epoch × {estimate.epochs:,} = {estimate.steps:,}",
        ),
        ("an epoch shows", describe_epoch(crops, estimate.crops_in_epoch, alone)),
        ("memory", memory),
        ("a step", f"{estimate.seconds_per_step:.3g} s"),
        (
            "the run",
            f"about {timedelta(seconds=round(estimate.seconds))}, of which reading crops "
            f"{timedelta(seconds=round(estimate.seconds_to_read))}",
        ),
    ):
        facts.add_row(name, value)
    console.print(facts)


def _cost_table(estimate: Estimate) -> Table:
    table = Table(box=None, padding=(0, 2))
    table.add_column("")
    table.add_column("parameters", justify="right")
    table.add_column("GFLOPs", justify="right")
    table.add_row("embedder", *_cost(estimate.embedder, 2))
    table.add_row("M-Net, a pair", *_cost(estimate.metric_network, 4))
    for row in estimate.published:
        flops = "–" if row.gflops is None else f"{row.gflops:g}"
        table.add_row(f"reported: {escape(row.name)}", f"{row.parameters_millions:g} M", flops)
    return table


def _cost(cost: NetworkCost, digits: int) -> tuple[str, str]:
    return f"{cost.parameters / 1e6:.2f} M", f"{cost.multiply_adds / 1e9:.{digits}f}"
