"""`gmn bench`: measured ratios, both sides in one run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.result import BenchResult
from bench.units import keep_units, read_units
from model.problems import InputProblem
from service.commands.common import JsonOption, output, plain_table

NAMES = ("embed", "enroll", "query", "serve", "pairs", "train", "scale")


def bench(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help=f"Which: {', '.join(NAMES)}.")],
    artefact: Annotated[
        str | None,
        typer.Option(
            help="What all but train and scale run with: a file, or a shipped name. Without it it "
            "is bundled, with small beside it but in pairs.",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="Where train runs: auto, cpu or cuda.")] = "auto",
    units: Annotated[
        Path | None, typer.Option(help="Adds measured unit costs to this file, for gmn plan.")
    ] = None,
    crops: Annotated[int, typer.Option(min=1, help="The largest gallery of scale.")] = 100_000,
    data: Annotated[str, typer.Option(help="What scale enrolls: people or clusters.")] = "people",
    features: Annotated[
        Path | None, typer.Option(help="People of scale are like those of this file of gmn embed.")
    ] = None,
    work: Annotated[
        Path | None, typer.Option(help="Where scale keeps its record, to go on from there.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measures ratios, both sides in one run.

    Example: gmn bench serve --json
    """
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        raise InputProblem(f"{unknown[0]}: there is no such bench; there is {', '.join(NAMES)}")
    if units is not None and units.exists():
        # What cannot be written to is found before hours of measuring.
        read_units(units)
    results = [
        _measure_scale(crops, data, features, work)
        if name == "scale"
        else _measure(name, artefact, device)
        for name in names
    ]
    if units is not None:
        keep_units(units, results)
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


def _measure(name: str, artefact: str | None, device: str) -> BenchResult:
    if name == "train":
        from bench.train import bench_train

        return bench_train(device)
    if name == "pairs":
        from bench.pairs import bench_pairs

        return bench_pairs(artefact)
    from bench.serve import bench_serving

    return bench_serving(name, artefact)


def _measure_scale(crops: int, data: str, features: Path | None, work: Path | None) -> BenchResult:
    from bench.scale import bench_scale

    return bench_scale(crops, data, features, work)
