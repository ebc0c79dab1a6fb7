"""A run from its data to its artefact, for the command line and for programs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from model.problems import InputProblem
from training.datasets.record import Dataset, refuse_unreadable
from training.distributed import Processes
from training.evaluation.embedding import Progress, ProgressBar
from training.evaluation.protocols import Search
from training.evaluation.results import EvaluationReport
from training.finish import FinishedRun, choose_weights, finish_run, held_out_searches
from training.improvement import measure_start
from training.recipe import Recipe
from training.run import Run, prepare_run
from training.run_data import RunData, split_people, write_run
from training.trainer import train
from training.validation import validation_searches

Notice = Callable[[str], None]


@contextmanager
def _no_bar(description: str, total: int) -> Iterator[Progress]:  # noqa: ARG001
    yield lambda _: None


def train_artefact(
    recipe: Recipe,
    datasets: Sequence[Dataset],
    out: Path,
    resume: bool = False,
    notice: Notice = print,
) -> EvaluationReport:
    """Trains by a recipe and writes the artefact and its report into a folder.

    Args:
        recipe: from `training.recipe.read_recipe`; its `held_out.fraction` is above 0.
        datasets: from `training.datasets.registry.read_datasets`.
        out: the run's folder; it is made where it is missing.
        resume: continue the run that is in it.
        notice: is given a line at a time of what the run does.

    Returns:
        The figures on the people held out; the artefact is `out / "model.safetensors"`.

    Raises:
        InputProblem: where data, initial weights or a setting do not fit, or training diverged.
        TrainingStopped: when SIGINT or SIGTERM stopped it; it can be resumed.
    """
    if not recipe.held_out.fraction:
        raise InputProblem(
            "held_out.fraction is 0, and the artefact is measured and calibrated on the people "
            "held out; set it to 0.15, or train from the command line and use gmn finish --data"
        )
    if not resume and out.is_dir() and any(out.iterdir()):
        raise InputProblem(f"{out}: is not empty; name a new folder, or resume its run")
    out.mkdir(parents=True, exist_ok=True)
    source = RunData(specs=tuple(dataset.spec for dataset in datasets), command="train_artefact")
    run, searches = begin_run(recipe, source, datasets, out, Processes(), notice)
    train(run, lambda *_: None, notice, searches)
    finished = FinishedRun(recipe, out, datasets, run.records, source.command)
    return finish_run(finished, choose_weights(out, None), (), _no_bar)


def begin_run(
    recipe: Recipe,
    source: RunData,
    datasets: Sequence[Dataset],
    out: Path,
    processes: Processes,
    notice: Notice,
    progress_bar: ProgressBar = _no_bar,
) -> tuple[Run, dict[str, Search]]:
    """Checks what the run needs, from its first step to its artefact, and prepares it.

    Args:
        recipe: decides everything but the data.
        source: where the data come from; `gmn finish` reads it.
        datasets: what it trains on.
        out: the run's folder; its parent exists.
        processes: those that train together; the leading one writes.
        notice: is given a line at a time of what the run starts with.
        progress_bar: shows how far the reading of the crops is.

    Returns:
        The run, and by data set the held-out people that are measured while it trains.

    Raises:
        InputProblem: where data, initial weights or a setting do not fit.
    """
    records, held_out = split_people(recipe, datasets)
    notice(f"{len(records):,} crops to train on, {len(held_out):,} held out")
    # What the end of the run needs is asked for before its first step.
    known = held_out_searches(recipe, datasets) if recipe.held_out.fraction else {}
    searches = validation_searches(recipe, datasets)
    if processes.leads and not any(out.glob("checkpoint*.pt")):
        # Recombined people are made of crops that are read already.
        sets = {dataset.name for dataset in datasets}
        crops = [record for record in records if record.dataset in sets] + held_out
        with progress_bar("Reading every crop once", len(crops)) as advance:
            refuse_unreadable(crops, advance)
    processes.any(False)
    run = prepare_run(recipe, records, out, processes)
    for note in run.notes:
        notice(note)
    if processes.leads:
        out.mkdir(exist_ok=True)
        write_run(out, recipe, source)
        if recipe.refuse_worse and known:
            start = measure_start(recipe, known, out, run.device)
            scoring, mean = start.best
            notice(f"{start.name}: held-out people mAP {100 * mean:.1f} by {scoring}")
    return run, searches
