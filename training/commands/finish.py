"""`gmn finish`: a checkpoint of a run becomes an artefact with its report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from training.commands.progress import progress_bar
from training.commands.train import PluginOption


def finish(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A folder that gmn train made.")],
    checkpoint: Annotated[
        str | None,
        typer.Option(
            metavar="best|last|FILE",
            help="Which weights: the best of the validations, the last, or those of a file; "
            "without it the best where there are any.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            metavar="SPEC",
            help="Measure and calibrate on these people, not on those held out; KIND:PATH, "
            "repeatable.",
            show_default=False,
        ),
    ] = None,
    plugins: PluginOption = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Makes an artefact and its report from a checkpoint of a run, finished or not.

    Example: gmn finish runs/mine --checkpoint last
    """
    from training.commands.rendering import render_report
    from training.datasets.registry import read_datasets
    from training.finish import TrainedRun, choose_weights, finish_run
    from training.run_folder import ARTEFACT_NAME, read_run

    recipe, source, datasets = read_run(run, plugins or ())
    weights = choose_weights(run, checkpoint)
    others = read_datasets(data) if data else []
    finished = TrainedRun(recipe, run, datasets, source.command)
    measured = finish_run(finished, weights, others, progress_bar, device)
    render_report(measured, Console(), run)
    Console(stderr=True).print(f"Artefact: {run / ARTEFACT_NAME}", markup=False)
