"""`gmn bench`: measured ratios, both sides in one run."""

from __future__ import annotations

from typing import Annotated

import typer

from model.problems import InputProblem
from service.commands.common import JsonOption, output, plain_table

NAMES = ("embed", "query", "serve", "train")


def bench(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help=f"Which: {', '.join(NAMES)}.")],
    artefact: Annotated[
        str | None,
        typer.Option(
            help="What embed, query and serve run with: a file, or bundled. Without it they run "
            "with ResNet-50 at 256×128, random weights, and with the bundled one beside it.",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="Where train runs: auto, cpu or cuda.")] = "auto",
    as_json: JsonOption = False,
) -> None:
    """Measures ratios, both sides in one run.

    Example: gmn bench serve --json
    """
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        raise InputProblem(f"{unknown[0]}: there is no such bench; there is {', '.join(NAMES)}")
    from bench.serve import bench_serving
    from bench.train import bench_train

    results = [
        bench_train(device) if name == "train" else bench_serving(name, artefact) for name in names
    ]
    if as_json:
        answers = [result.model_dump(mode="json") for result in results]
        output().print_json(data=answers[0] if len(answers) == 1 else answers)
        return
    rows = []
    for result in results:
        low, high = result.spread
        details = ", ".join(f"{name} {value}" for name, value in result.details.items())
        reached = {True: "yes", False: "no", None: "–"}[result.reached]
        aim = "–" if result.reach is None else f"{result.reach:.2f}"
        spread = f"{low:.2f} to {high:.2f}"
        rows.append((result.bench, f"{result.ratio:.2f}", spread, aim, reached, details))
    titles = ("bench", "ratio", "spread", "aimed at", "reached", "details")
    output().print(plain_table(titles, rows))
