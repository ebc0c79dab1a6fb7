"""`gmn train`: a recipe and data sets in, a run's folder with an artefact out."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from model.problems import InputProblem
from training.commands.progress import progress_bar
from training.commands.rendering import render_report

if TYPE_CHECKING:
    from training.recipe import Recipe


def train(
    recipe: Annotated[
        str, typer.Argument(help="A recipe's name or TOML file.", show_default=False)
    ],
    data: Annotated[
        list[str], typer.Option("--data", help="KIND:PATH, repeatable.", show_default=False)
    ],
    out: Annotated[
        Path, typer.Option("--out", help="The run's folder, made by the run.", show_default=False)
    ],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="KEY=VALUE of the recipe, repeatable.", show_default=False),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run that is in --out.")
    ] = False,
) -> None:
    """Trains an artefact from labelled crops.

    Example: gmn train small-gmn --data cuhk01:/data/cuhk01 --data synthetic:7 --out runs/first
    """
    from training.datasets.held_out import split_held_out
    from training.datasets.registry import read_datasets
    from training.finish import finish_run, without_folders
    from training.recipe import read_recipe
    from training.trainer import prepare_run
    from training.trainer import train as train_networks

    resolved = read_recipe(recipe, settings)
    _open_folder(out, resume)
    console = Console(stderr=True)
    datasets = read_datasets(data)
    records, held_out = split_held_out(datasets, resolved.held_out.fraction, resolved.held_out.seed)
    console.print(f"{len(records):,} crops to train on, {len(held_out):,} held out")
    run = prepare_run(resolved, records, out)
    _write_recipe(out, resolved)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    ) as progress:
        task = progress.add_task("training", total=None)

        def report(done: int, total: int, values: dict[str, float]) -> None:
            loss = f"training, loss {sum(values.values()):.3f}"
            progress.update(task, completed=done, total=total, description=loss)

        train_networks(run, report)
    command = "gmn " + shlex.join(without_folders(word) for word in sys.argv[1:])
    measured = finish_run(run, datasets, command, progress_bar)
    render_report(measured, Console(), out)
    console.print(f"Artefact: {out / 'model.safetensors'}", markup=False)


def _open_folder(out: Path, resume: bool) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputProblem(f"--out {out}: cannot be made ({error.strerror})") from error
    if resume and not (out / "checkpoint.pt").exists() and not (out / "recipe.json").exists():
        raise InputProblem(f"--out {out}: holds no run to resume; leave --resume out to start one")
    if not resume and any(out.iterdir()):
        raise InputProblem(f"--out {out}: is not empty; name a new folder, or add --resume")


def _write_recipe(out: Path, recipe: Recipe) -> None:
    (out / "recipe.json").write_text(recipe.model_dump_json(indent=1), encoding="utf-8")
