"""`gmn benchmark`: a table of a paper, trained and measured by one command."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from model.problems import InputProblem
from training.commands.progress import progress_bar
from training.commands.train import PluginOption, train_one

if TYPE_CHECKING:
    from training.benchmark import Benchmark
    from training.datasets.record import Dataset
    from training.recipe import Recipe
    from training.run_folder import RunData

Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="A table, such as gmn/P2 or msfl/table1; a wrong name lists them.",
        show_default=False,
    ),
]
Data = Annotated[
    list[str], typer.Option("--data", help="KIND:PATH, repeatable.", show_default=False)
]
Seeds = Annotated[str, typer.Option(help="Comma-separated; every row is trained by each.")]
Out = Annotated[
    Path, typer.Option("--out", metavar="DIR", help="Gets the runs, and a page for each table.")
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="KEY=VALUE of every row's recipe, repeatable.")
]
Calibrate = Annotated[
    list[str] | None,
    typer.Option(
        "--calibrate",
        metavar="SPEC",
        help="Other people to calibrate on, where held_out.fraction=0 trains on all; repeatable.",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Print what each row would take, from a few steps; write nothing."
    ),
]


def benchmark(
    name: Name,
    data: Data,
    seeds: Seeds = "0,1,2",
    out: Out = Path("runs/benchmark"),
    settings: Settings = None,
    plugins: PluginOption = None,
    calibrate: Calibrate = None,
    dry_run: DryRun = False,
) -> None:
    """Trains and measures every row of a paper's table on the given sets.

    Rows whose sets are missing are left out and named. What has its report is not trained again, a
    stopped training continues, and tables that share a row share its runs. The paper's figures
    stand beside a row where recipe, sets and ranking are the paper's.

    Example: gmn benchmark msfl/table1 --data market1501:/data/Market-1501-v15.09.15 --dry-run
    """
    from training.benchmark import plan_benchmark, result_tables, run_benchmark
    from training.datasets.registry import read_datasets
    from training.distributed import joined_processes
    from training.papers import read_table
    from training.plugins import load_plugins
    from training.provenance import command_line

    table = read_table(name)
    numbers = _numbers(seeds)
    files = plugins or []
    load_plugins(files)
    sets = read_datasets(data)
    plan = plan_benchmark(table, sets, settings or [], numbers, out, command_line(), files)
    others = read_datasets(calibrate or [])
    if not others and any(not recipe.held_out.fraction for recipe in plan.recipes):
        raise InputProblem(
            "held_out.fraction is 0, so that no people are left to calibrate on; name others with "
            "--calibrate SPEC"
        )
    with joined_processes() as processes:
        quiet = not processes.is_main
        errors = Console(stderr=True, quiet=quiet)
        console = Console(quiet=quiet)
        for sentence in plan.left_out:
            errors.print(sentence, markup=False, soft_wrap=True)
        if dry_run:
            _print_estimates(plan, console)
            return

        def train_run(
            recipe: Recipe, source: RunData, sets: Sequence[Dataset], folder: Path, resume: bool
        ) -> None:
            errors.rule("/".join(folder.parts[-3:]), align="left")
            train_one(recipe, source, sets, folder, resume, errors, processes)
            if not recipe.held_out.fraction and processes.is_main:
                _calibrate(recipe, source, sets, folder, others)

        report = run_benchmark(plan, train_run, progress_bar, processes.is_main)
    if report is None:
        return
    console.print(f"\n[bold]{name}[/bold]  {table.title}")
    for remark in report.remarks:
        console.print(f"  {remark}", markup=False, style="yellow", soft_wrap=True)
    for shown in result_tables(report):
        console.print(shown.rich(console.width))
    console.print(f"\nReport: {out / name / 'benchmark.html'}", markup=False, soft_wrap=True)


def _numbers(seeds: str) -> list[int]:
    try:
        return list(dict.fromkeys(int(word) for word in seeds.split(",")))
    except ValueError as error:
        raise InputProblem(f"--seeds {seeds}: write numbers with commas, such as 0,1,2") from error


def _calibrate(
    recipe: Recipe,
    source: RunData,
    sets: Sequence[Dataset],
    folder: Path,
    others: Sequence[Dataset],
) -> None:
    from training.finish import TrainedRun, choose_weights, finish_run

    run = TrainedRun(recipe, folder, sets, source.command)
    finish_run(run, choose_weights(folder, None), others, progress_bar)


def _print_estimates(plan: Benchmark, console: Console) -> None:
    from training.benchmark import estimate_benchmark
    from training.evaluation.tables import Table, Value

    rows: list[list[Value]] = []
    hours = 0.0
    runs = 0
    seeds = len(plan.seeds)
    for row, training, found in estimate_benchmark(plan):
        sets = (training.sets, training.tests)
        names = (", ".join(sorted(dataset.name for dataset in own)) for own in sets)
        place: list[Value] = [row.name, *names]
        if found is None:
            rows.append([*place, None, None, None, None])
            continue
        hours = hours + seeds * found.seconds / 3600
        runs = runs + seeds
        memory = f"{found.memory_bytes / 1e9:.1f} GB"
        if found.gpu_memory_bytes is not None:
            memory += f", {found.gpu_memory_bytes / 1e9:.1f} GB of the GPU's"
        step = f"{found.seconds_per_step:.3g} s"
        rows.append([*place, found.steps, step, f"{found.seconds / 3600:.2f}", memory])
    columns = ["row", "trained on", "tested on", "steps", "a step", "hours a run", "memory"]
    console.print(Table("", columns, rows, labels=3).rich(console.width))
    console.print(
        f"{runs} runs with {seeds} seeds: about {hours:,.1f} hours, without measuring them. A row "
        "without figures is the run of an earlier row.",
        highlight=False,
        soft_wrap=True,
    )
