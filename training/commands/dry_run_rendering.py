"""The estimate of `gmn train --dry-run` on a terminal."""

from __future__ import annotations

from datetime import timedelta

from rich.console import Console
from rich.markup import escape

from training.cost import Cost
from training.dry_run import RunEstimate
from training.evaluation.tables import Table, Value
from training.sampler import describe_epoch


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
        ["embedder", *_cost(estimate.embedder, 2)],
        ["M-Net, a pair", *_cost(estimate.metric_network, 4)],
    ]
    for row in estimate.published:
        flops = "–" if row.gflops is None else f"{row.gflops:g}"
        costs.append([f"reported: {row.name}", f"{row.parameters_millions:g} M", flops])
    for table in (
        Table("", ["", "crops", "identities"], domains),
        Table("", ["", "parameters", "GFLOPs"], costs),
        Table("", ["", ""], _facts(estimate), words=True),
    ):
        console.print(table.rich(console.width))


def _facts(estimate: RunEstimate) -> list[list[str]]:
    memory = f"{estimate.memory_bytes / 1e9:.2f} GB"
    if estimate.gpu_memory_bytes is not None:
        memory += f", {estimate.gpu_memory_bytes / 1e9:.2f} GB of the GPU's"
    crops = sum(size.crops for size in estimate.domains.values())
    whole, reading = (
        timedelta(seconds=round(seconds))
        for seconds in (estimate.seconds, estimate.seconds_to_read)
    )
    length = f"{estimate.steps_per_epoch:,} an epoch × {estimate.epochs:,} = {estimate.steps:,}"
    shown = describe_epoch(crops, estimate.crops_in_epoch, estimate.single_crop_identities)
    return [
        ["steps", length],
        ["an epoch shows", shown],
        ["memory", memory],
        ["a step", f"{estimate.seconds_per_step:.3g} s"],
        ["the run", f"about {whole}, of which reading crops {reading}"],
    ]


def _cost(cost: Cost, digits: int) -> tuple[str, str]:
    return f"{cost.parameters / 1e6:.2f} M", f"{cost.multiply_adds / 1e9:.{digits}f}"
