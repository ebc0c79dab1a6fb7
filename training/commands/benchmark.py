"""`gmn benchmark`: a table of recipes, trained and measured by one command."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from model.problems import InputProblem
from training.commands.common import (
    DataSpecs,
    PluginOption,
    SettingsOption,
    print_tables,
    progress_bar,
)
from training.commands.train import train_one

if TYPE_CHECKING:
    from training.datasets.record import Dataset
    from training.recipe import Recipe
    from training.run_folder import RunData


def benchmark(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="A table, such as gmn/P2 or msfl/table1, or a TOML file of your own; a wrong "
            "name lists all tables.",
        ),
    ],
    data: DataSpecs,
    seeds: Annotated[
        str, typer.Option(help="Comma-separated; every row is trained with each seed.")
    ] = "0,1,2",
    out: Annotated[
        Path,
        typer.Option("--out", metavar="DIR", help="The folder of the runs and tables' pages."),
    ] = Path("runs/benchmark"),
    settings: SettingsOption = None,
    plugins: PluginOption = None,
    calibrate: Annotated[
        list[str] | None,
        typer.Option(
            "--calibrate",
            metavar="SPEC",
            help="Other people to calibrate on, where held_out.fraction=0 trains on all; "
            "repeatable.",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Estimate the hours of each row from a few steps; write nothing."
        ),
    ] = False,
) -> None:
    """Trains and measures every row of a paper's table, or of your own, on the given sets.

    Rows whose sets are missing are left out and named. The same command continues a benchmark that
    was stopped: finished runs are not trained again. Tables that share a row share its runs. The
    paper's figures are shown beside a row if recipe, sets and ranking are the paper's.

    Example: gmn benchmark msfl/table1 --data market1501:/data/Market-1501-v15.09.15 --dry-run
    """
    from training.benchmark import (
        estimate_benchmark,
        plan_benchmark,
        result_tables,
        run_benchmark,
    )
    from training.datasets.registry import read_datasets
    from training.distributed import joined_processes
    from training.finish import choose_weights, finish_run
    from training.finished_networks import TrainedRun
    from training.papers import read_table
    from training.plugins import load_plugins
    from training.provenance import command_line

    table = read_table(name)
    load_plugins(plugins or ())
    plan = plan_benchmark(
        table,
        read_datasets(data),
        settings or (),
        _numbers(seeds),
        out,
        command_line(),
        plugins or (),
    )
    others = read_datasets(calibrate or [])
    if not others and any(recipe.measures_nobody for recipe in plan.recipes):
        raise InputProblem(
            "held_out.fraction=0 leaves no people to calibrate on; name others with "
            "--calibrate SPEC"
        )
    with joined_processes() as processes:
        if processes.is_main:
            for sentence in plan.left_out:
                typer.echo(sentence, err=True)
        if dry_run:
            estimates, summary = estimate_benchmark(plan)
            if processes.is_main:
                print_tables([estimates])
                typer.echo(summary)
            return

        def train_run(
            recipe: Recipe,
            source: RunData,
            sets: Sequence[Dataset],
            folder: Path,
            resume: bool,
        ) -> None:
            if processes.is_main:
                typer.echo(f"── {'/'.join(folder.parts[-3:])}", err=True)
            train_one(recipe, source, sets, folder, resume, processes)
            if recipe.measures_nobody and processes.is_main:
                run = TrainedRun(recipe, folder, sets, source.command)
                finish_run(run, choose_weights(folder, None), others, progress_bar)

        report = run_benchmark(plan, train_run, progress_bar, processes.is_main)
    if report is None:
        return
    typer.secho(f"\n{table.name}  {table.title}", bold=True)
    for remark in report.remarks:
        typer.secho(f"  {remark}", fg="yellow")
    print_tables(result_tables(report))
    typer.echo(f"\nReport: {out / table.name / 'benchmark.html'}")


def _numbers(seeds: str) -> list[int]:
    try:
        return list(dict.fromkeys(int(word) for word in seeds.split(",")))
    except ValueError as error:
        raise InputProblem(f"--seeds {seeds}: separate numbers by commas, as in 0,1,2") from error
