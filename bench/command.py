"""`gmn bench`: measured ratios, both sides in one run."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from service.commands.common import JsonOption, output, plain_table

Name = StrEnum("Name", ["embed", "enroll", "query", "serve", "pairs", "scale", "alerts"])


def bench(
    names: Annotated[list[Name], typer.Argument(help="What is measured.")],
    artefact: Annotated[
        str | None,
        typer.Option(
            help="What all but scale run with: a file, or a shipped name. Without it it is "
            "bundled, with small beside it but in pairs and alerts.",
        ),
    ] = None,
    crops: Annotated[int, typer.Option(min=1, help="The largest gallery of scale.")] = 100_000,
    data: Annotated[str, typer.Option(help="What scale enrolls: people or clusters.")] = "people",
    features: Annotated[
        Path | None, typer.Option(help="People of scale are like those of this file of gmn embed.")
    ] = None,
    work: Annotated[
        Path | None, typer.Option(help="A folder on the disk that scale measures.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measures ratios, both sides in one run.

    Example: gmn bench serve --json
    """
    results = []
    for name in names:
        # These imports take seconds, which the help does not need. Pairs alone need PyTorch.
        if name is Name.scale:
            from bench.scale import bench_scale

            results.append(bench_scale(crops, data, features, work))
        elif name is Name.pairs:
            from bench.pairs import bench_pairs

            results.append(bench_pairs(artefact))
        elif name is Name.alerts:
            from bench.alerts import bench_alerts

            results.append(bench_alerts(artefact))
        else:
            from bench.serve import bench_serving

            results += bench_serving(name, artefact)
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
