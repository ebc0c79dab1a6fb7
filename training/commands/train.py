"""`gmn train` and `gmn finish`: train a recipe on data sets, and make the run's artefact."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskProgressColumn,
    TimeRemainingColumn,
)

from gmn_client.commands.terminal import make_progress
from model.problems import InputProblem
from training.commands.common import (
    DataSpecs,
    DeviceOption,
    PluginOption,
    SettingsOption,
    progress_bar,
)

if TYPE_CHECKING:
    from training.datasets.record import Dataset
    from training.distributed import Processes
    from training.recipe import Recipe
    from training.run_folder import RunData
    from training.train import ShowProgress


def train(
    recipe: Annotated[str, typer.Argument(help="A recipe's name or TOML file.")],
    data: DataSpecs,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The run's folder, which must be new."),
    ] = None,
    settings: SettingsOption = None,
    plugins: PluginOption = None,
    left_out: Annotated[
        str | None,
        typer.Option(
            "--leave-out",
            help="Train on all --data except the set of this name.",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run that is in --out.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Estimate the run's cost from a few steps; write nothing."),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result of --dry-run as JSON.")
    ] = False,
) -> None:
    """Trains an artefact from labelled crops.

    Example: gmn train quick --data synthetic:7,identities=60,domains=1,crops=6 --out runs/first

    On several GPUs: torchrun --nproc-per-node=4 -m gmn train gmn-r50 --data … --out …
    """
    from training.datasets.registry import read_datasets
    from training.distributed import joined_processes
    from training.networks import starting_networks
    from training.provenance import command_line
    from training.recipe import read_recipe
    from training.run_folder import RECIPE_NAME, RunData

    if as_json and not dry_run:
        raise InputProblem("--json: needs --dry-run; the figures of a run are in its report.json")
    if out is None and not dry_run:
        raise InputProblem("--out is missing: name a new folder for the run")
    resolved = read_recipe(recipe, settings, plugins or ())
    source = RunData(specs=tuple(data), left_out=left_out, command=command_line())
    if resume and out is not None and not (out / RECIPE_NAME).is_file():
        raise InputProblem(f"--out {out}: has no run to resume; leave --resume out to start one")
    # Weights that cannot be downloaded end the run before minutes of reading data.
    starting_networks(resolved)
    with joined_processes() as processes:
        datasets = source.training_sets(read_datasets(data))
        if out is None or dry_run:
            _estimate(resolved, datasets, as_json, processes)
        else:
            train_one(resolved, source, datasets, out, resume, processes)


def _estimate(
    recipe: Recipe,
    datasets: Sequence[Dataset],
    as_json: bool,
    processes: Processes,
) -> None:
    from training.commands.rendering import render_estimate
    from training.dry_run import estimate_run
    from training.finish import searches_to_measure
    from training.recipe import Distillation
    from training.run import prepare_run
    from training.run_folder import split_people

    # The time of teachers does not depend on the steps, and their features would be written.
    recipe = recipe.model_copy(update={"distillation": Distillation()})
    records, _ = split_people(recipe, datasets)
    searches_to_measure(recipe, datasets, records)
    estimate = estimate_run(prepare_run(recipe, records, Path(), processes))
    if not processes.is_main:
        return
    if as_json:
        typer.echo(estimate.model_dump_json(indent=2))
    else:
        render_estimate(estimate)


def train_one(
    recipe: Recipe,
    source: RunData,
    datasets: Sequence[Dataset],
    out: Path,
    resume: bool,
    processes: Processes,
) -> None:
    """Train a run and print its figures; exit with the signal's status if one stopped it."""
    from training.commands.rendering import render_report
    from training.run_folder import ARTEFACT_NAME
    from training.train import TrainingStopped, no_training_bar
    from training.train import train as train_run

    def notice(text: str) -> None:
        if processes.is_main:
            typer.echo(text, err=True)

    try:
        report = train_run(
            recipe,
            datasets,
            out,
            resume=resume,
            notice=notice,
            source=source,
            processes=processes,
            progress_bar=progress_bar,
            training_bar=training_bar if processes.is_main else no_training_bar,
        )
    except TrainingStopped as stopped:
        notice(f"{out}: {stopped}")
        raise typer.Exit(128 + stopped.signal_number) from stopped
    if report is not None:
        render_report(report, out)
        notice(f"Artefact: {out / ARTEFACT_NAME}")


@contextmanager
def training_bar() -> Iterator[ShowProgress]:
    """Show a bar with steps and loss on standard error; see `make_progress`."""
    columns = (BarColumn(), MofNCompleteColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with make_progress(*columns, transient=False) as progress:
        task = progress.add_task("Training")

        def show_progress(
            done: int,
            total: int,
            values: dict[str, float],
        ) -> None:
            loss = f", loss {sum(values.values()):.3f}" if values else ""
            progress.update(task, completed=done, total=total, description=f"Training{loss}")

        yield show_progress


def finish(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A folder that gmn train made.")],
    checkpoint: Annotated[
        str | None,
        typer.Option(
            metavar="best|last|FILE",
            help="The weights: the best of all validations, the last, or those of a file; by "
            "default the best if there were validations.",
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            metavar="SPEC",
            help="KIND:PATH of people to measure and calibrate on, instead of those held out; "
            "repeatable.",
        ),
    ] = None,
    plugins: PluginOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Makes an artefact and its report from a checkpoint of a run, which may still train.

    Example: gmn finish runs/mine --checkpoint last
    """
    from training.commands.rendering import render_report
    from training.datasets.registry import read_datasets
    from training.finish import choose_weights, finish_run
    from training.finished_networks import TrainedRun
    from training.run_folder import ARTEFACT_NAME, read_run

    recipe, source, datasets = read_run(run, plugins or ())
    weights = choose_weights(run, checkpoint)
    finished = TrainedRun(recipe, run, datasets, source.command)
    report = finish_run(finished, weights, read_datasets(data or []), progress_bar, device)
    render_report(report, run)
    typer.echo(f"Artefact: {run / ARTEFACT_NAME}", err=True)
