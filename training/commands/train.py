"""`gmn train`: a recipe and data sets in, a run's folder with an artefact out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from model.problems import InputProblem
from training.commands.progress import progress_bar

if TYPE_CHECKING:
    from training.datasets.record import Dataset
    from training.distributed import Processes
    from training.recipe import Recipe
    from training.run_folder import RunData
    from training.train import Report

REPORT_FILE = "report.html"


class ProtocolName(StrEnum):
    """Which sets are trained on, and which are left out."""

    LODO = "lodo"
    P1 = "P1"
    P2 = "P2"
    P3 = "P3"


PluginOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin",
        metavar="FILE",
        help="A Python file that registers losses, samplers and other parts; repeatable.",
        show_default=False,
    ),
]
LeaveOutOption = Annotated[
    str | None,
    typer.Option(
        "--leave-out", help="Train on every --data but the one of this name.", show_default=False
    ),
]
ProtocolOption = Annotated[
    ProtocolName | None,
    typer.Option(
        "--protocol",
        help="One run per set that the protocol tests on, trained on the others, in "
        "OUT/without-NAME. lodo: every --data by turns. P2, P3: the papers' sets; P1 is one "
        "run, in OUT.",
        show_default=False,
    ),
]


def train(
    recipe: Annotated[
        str, typer.Argument(help="A recipe's name or TOML file.", show_default=False)
    ],
    data: Annotated[
        list[str], typer.Option("--data", help="KIND:PATH, repeatable.", show_default=False)
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The run's folder, made by the run.", show_default=False),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="KEY=VALUE of the recipe, repeatable.", show_default=False),
    ] = None,
    plugins: PluginOption = None,
    left_out: LeaveOutOption = None,
    protocol: ProtocolOption = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run that is in --out.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Say what the run would take, from a few steps; write nothing."
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="The answer of --dry-run as JSON.")
    ] = False,
) -> None:
    """Trains an artefact from labelled crops.

    Example: gmn train quick --data synthetic:7,identities=60,domains=1,crops=6 --out runs/first

    On several GPUs: torchrun --nproc-per-node=4 -m gmn train gmn-r50 --data … --out …
    """
    from training.distributed import joined_processes
    from training.recipe import read_recipe

    if left_out and protocol:
        raise InputProblem(
            f"--leave-out {left_out}: --protocol {protocol} sets what is left out itself; give one "
            "of the two"
        )
    if as_json and not dry_run:
        raise InputProblem("--json: answers --dry-run only; a run's figures are in its report.json")
    if out is None and not dry_run:
        raise InputProblem("--out is missing: name the folder that the run is to make")
    resolved = read_recipe(recipe, settings, plugins or ())
    with joined_processes() as processes:
        console = Console(stderr=True, quiet=not processes.is_main)
        if out is None or dry_run:
            runs = _runs(data, Path(), left_out, protocol)
            _estimate(resolved, runs, as_json, processes)
            return
        if processes.is_main:
            _open_folder(out, resume)
        for folder, source, datasets in _runs(data, out, left_out, protocol):
            if folder != out:
                console.rule(folder.name, align="left")
            if folder != out and (folder / REPORT_FILE).exists():
                console.print(f"{folder}: is finished already", markup=False)
                continue
            train_one(resolved, source, datasets, folder, resume, console, processes)


def _runs(
    data: list[str], out: Path, left_out: str | None, protocol: ProtocolName | None
) -> list[tuple[Path, RunData, list[Dataset]]]:
    """Return each run's folder, where its data come from, and what it trains on."""
    from training.datasets.registry import read_datasets
    from training.provenance import command_line
    from training.run_folder import RunData, protocol_runs

    datasets = read_datasets(data)
    source = RunData(
        specs=tuple(data),
        left_out=left_out,
        protocol=protocol.value if protocol else None,
        command=command_line(),
    )
    return [
        (
            out / f"without-{own.left_out}" if own.left_out and protocol else out,
            own,
            own.training_sets(datasets),
        )
        for own in protocol_runs(source, datasets)
    ]


def _estimate(
    recipe: Recipe,
    runs: list[tuple[Path, RunData, list[Dataset]]],
    as_json: bool,
    processes: Processes,
) -> None:
    from training.commands.rendering import render_estimate
    from training.dry_run import estimate_run
    from training.finish import held_out_searches
    from training.recipe import Distillation
    from training.run import prepare_run
    from training.run_folder import split_people

    # Teachers are asked once, and their features would be written: the steps go without them.
    recipe = recipe.model_copy(update={"distillation": Distillation()})
    for _, _, datasets in runs:
        if recipe.held_out.fraction:
            held_out_searches(recipe, datasets)
    estimates = {
        folder.name: estimate_run(
            prepare_run(recipe, split_people(recipe, datasets)[0], folder, processes)
        )
        for folder, _, datasets in runs
    }
    console = Console(quiet=not processes.is_main)
    if as_json:
        answers = {name: found.model_dump(mode="json") for name, found in estimates.items()}
        console.print_json(data=answers.get("", answers))
        return
    for name, estimate in estimates.items():
        if name:
            console.rule(name, align="left")
        render_estimate(estimate, console)


def train_one(
    recipe: Recipe,
    source: RunData,
    datasets: Sequence[Dataset],
    out: Path,
    resume: bool,
    console: Console,
    processes: Processes,
) -> None:
    """Trains a run in a folder and prints its figures; a signal ends the command."""
    from training.commands.rendering import render_report
    from training.run_folder import ARTEFACT_NAME
    from training.train import TrainingStopped
    from training.train import train as train_run

    def notice(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    try:
        measured = train_run(
            recipe,
            datasets,
            out,
            resume=resume,
            notice=notice,
            source=source,
            processes=processes,
            progress_bar=progress_bar,
            training_bar=partial(_training_bar, console),
        )
    except TrainingStopped as stopped:
        console.print(f"{out}: {stopped}", markup=False, soft_wrap=True)
        raise typer.Exit(128 + stopped.signal_number) from stopped
    if measured is not None:
        render_report(measured, Console(), out)
        console.print(f"Artefact: {out / ARTEFACT_NAME}", markup=False)


@contextmanager
def _training_bar(console: Console) -> Iterator[Report]:
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    ) as progress:
        # Hidden until the number of steps is known.
        task = progress.add_task("training", total=None, visible=False)

        def report(done: int, total: int, values: dict[str, float]) -> None:
            loss = f", loss {sum(values.values()):.3f}" if values else ""
            progress.update(
                task, completed=done, total=total, description=f"training{loss}", visible=True
            )

        yield report


def _open_folder(out: Path, resume: bool) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputProblem(f"--out {out}: cannot be made ({error.strerror})") from error
    held = ("checkpoint*.pt", "recipe.json", "without-*/recipe.json")
    if resume and not any(list(out.glob(name)) for name in held):
        raise InputProblem(f"--out {out}: holds no run to resume; leave --resume out to start one")
    if not resume and any(not one.match("reviews-*") for one in out.iterdir()):
        raise InputProblem(f"--out {out}: is not empty; name a new folder, or add --resume")
