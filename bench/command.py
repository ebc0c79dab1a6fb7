"""`gmn bench`: measured ratios, both sides in one run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from model.problems import InputProblem
from service.commands.common import JsonOption, output

if TYPE_CHECKING:
    from bench.result import BenchResult

NAMES = ("embed", "query", "serve", "train")


def bench(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help=f"Which: {', '.join(NAMES)}.")],
    artefact: Annotated[
        str | None,
        typer.Option(
            "--artefact",
            help="What embed, query and serve run with: a file, or bundled. Without it they run "
            "with ResNet-50 at 256×128, random weights, and with the bundled one beside it.",
        ),
    ] = None,
    device: Annotated[
        str, typer.Option("--device", help="Where train runs: auto, cpu or cuda.")
    ] = "auto",
    as_json: JsonOption = False,
) -> None:
    """Measures ratios, both sides in one run.

    Example: gmn bench serve --json
    """
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        raise InputProblem(f"{unknown[0]}: there is no such bench; there is {', '.join(NAMES)}")
    results = [_run(name, artefact, device) for name in names]
    console = output()
    if as_json:
        answers = [result.model_dump(mode="json") for result in results]
        console.print_json(data=answers[0] if len(answers) == 1 else answers)
        return
    table = Table("bench", "ratio", "spread", "aimed at", "reached", "details")
    for result in results:
        low, high = result.spread
        details = ", ".join(f"{name} {value}" for name, value in result.details.items())
        reached = {True: "yes", False: "no", None: "–"}[result.reached]
        aim = "–" if result.reach is None else f"{result.reach:.2f}"
        spread = f"{low:.2f} to {high:.2f}"
        table.add_row(result.bench, f"{result.ratio:.2f}", spread, aim, reached, details)
    console.print(table)


def _run(name: str, artefact: str | None, device: str) -> BenchResult:
    if name == "train":
        from bench.train import bench_train

        return bench_train(device)
    from bench.serve import bench_serving

    return bench_serving(name, artefact)
