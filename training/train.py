"""A run from its data to its artefact, and its loop, resumable at any step."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import FrameType, MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray

from model.precision import choose_dtype
from model.problems import InputProblem
from training.batches import load_batches, step_seed
from training.checkpoint import Position, Stateful, load_checkpoint, save_checkpoint
from training.datasets.record import Dataset, refuse_unreadable
from training.distributed import Processes
from training.evaluation.embedding import ProgressBar, embed_records, no_bar
from training.evaluation.results import EvaluationReport
from training.evaluation.searches import Search
from training.finish import TrainedRun, choose_weights, finish_run, held_out_searches
from training.optimiser import learning_rate, set_learning_rate
from training.recipe import Recipe
from training.run import Run, prepare_run
from training.run_folder import RunData, RunLog, split_people, write_run
from training.sampler import describe_epoch
from training.start_comparison import measure_start
from training.step import TrainingStep, Unread, refuse_divergence
from training.validation import Validation, validation_searches

Notice = Callable[[str], None]
Report = Callable[[int, int, dict[str, float]], None]
"""Called after every step with steps done, steps in all, and the loss terms as they were last
logged: to read them at every step would make a GPU wait."""
POINTS = 20
"""At least so many steps are logged of every run that has as many."""
INACTIVE_SHARE = 0.01
NO_SEARCHES: Mapping[str, Search] = MappingProxyType({})


@contextmanager
def no_report() -> Iterator[Report]:
    """Shows nothing of how far the training is."""
    yield lambda *_: None


class TrainingStopped(Exception):
    """A run that was asked to stop, and that can be resumed.

    Attributes:
        signal_number: of the signal that asked.
    """

    def __init__(self, now: Position, received: Sequence[int]) -> None:
        # Where several processes train, the signal may have come to another one.
        self.signal_number = received[0] if received else signal.SIGTERM
        name = signal.Signals(self.signal_number).name
        super().__init__(f"stopped by {name} after step {now.done}; continue with --resume")


def train(
    recipe: Recipe,
    datasets: Sequence[Dataset],
    folder: Path,
    *,
    resume: bool = False,
    notice: Notice = print,
    source: RunData | None = None,
    processes: Processes | None = None,
    progress_bar: ProgressBar = no_bar,
    training_bar: Callable[[], AbstractContextManager[Report]] = no_report,
) -> EvaluationReport | None:
    """Trains by a recipe and writes the artefact and its report into a folder.

    Args:
        recipe: from `training.recipe.read_recipe`.
        datasets: from `training.datasets.registry.read_datasets`.
        folder: the run's; it is made where it is missing.
        resume: continue the run that is in it.
        notice: is given a line at a time of what the run does.
        source: where the data come from, for `gmn finish`; None is from the data sets' specs.
        processes: those that train together; None is this one alone.
        progress_bar: shows how far a long step before or after the training is.
        training_bar: shows how far the training is.

    Returns:
        The figures on the people held out; the artefact is `folder / "model.safetensors"`. None
        where no people are held out, and in the processes that do not lead.

    Raises:
        InputProblem: where data, initial weights or a setting do not fit, or training diverged.
        TrainingStopped: when SIGINT or SIGTERM stopped it; it can be resumed.
    """
    together = processes or Processes()
    held = folder.is_dir() and any(not one.match("reviews-*") for one in folder.iterdir())
    if together.is_main and not resume and held:
        raise InputProblem(f"{folder}: is not empty; name a new folder, or resume its run")
    if source is None:
        specs = tuple(dataset.spec for dataset in datasets)
        source = RunData(specs=specs, command="training.train.train")
    folder.mkdir(parents=True, exist_ok=True)
    run, searches = begin_run(recipe, source, datasets, folder, together, notice, progress_bar)
    with training_bar() as report:
        train_networks(run, report, notice, searches)
    if not together.is_main:
        return None
    if not recipe.held_out.fraction:
        notice(
            f"{folder}: no people were held out; gmn finish {folder} --data SPEC makes the "
            "artefact, calibrated on people whom it was not trained on"
        )
        return None
    finished = TrainedRun(recipe, folder, datasets, source.command)
    return finish_run(finished, choose_weights(folder, None), (), progress_bar)


def begin_run(
    recipe: Recipe,
    source: RunData,
    datasets: Sequence[Dataset],
    folder: Path,
    processes: Processes,
    notice: Notice,
    progress_bar: ProgressBar = no_bar,
) -> tuple[Run, dict[str, Search]]:
    """Checks what the run needs, from its first step to its artefact, and prepares it.

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
    if processes.is_main and not any(folder.glob("checkpoint*.pt")):
        # Recombined people are made of crops that are read already.
        sets = {dataset.name for dataset in datasets}
        crops = [record for record in records if record.dataset in sets] + held_out
        with progress_bar("Reading every crop once", len(crops)) as advance:
            refuse_unreadable(crops, advance)
    processes.barrier()
    run = prepare_run(recipe, records, folder, processes)
    for note in run.notes:
        notice(note)
    if processes.is_main:
        write_run(folder, recipe, source)
        if recipe.refuse_worse and known:
            start = measure_start(recipe, known, run.device)
            mean = 100 * start.mean(start.best, "mAP")
            notice(f"{start.name}: held-out people mAP {mean:.1f} by {start.best}")
    shown = run.sampler.crops_per_epoch(0)
    alone = run.sampler.single_crop_identities
    notice(f"An epoch shows {describe_epoch(len(records), shown, alone)}")
    return run, searches


def train_networks(
    run: Run,
    report: Report = lambda *_: None,
    notice: Notice = lambda _: None,
    searches: Mapping[str, Search] = NO_SEARCHES,
) -> None:
    """Trains to the recipe's last epoch, from the run's checkpoint where there is one.

    Args:
        run: what `prepare_run` built; its networks are trained in place, and hold the averaged
            weights at the end where the recipe asks for an average.
        report: called before each epoch and after every step.
        notice: is given a line for each event, such as a damaged checkpoint, and the figures of
            each validation.
        searches: the held-out people that are measured while training; may be empty.

    Raises:
        InputProblem: when the loss or a gradient is not finite, naming crops of the batch.
        TrainingStopped: when SIGINT or SIGTERM asked for it; the run can be resumed.
    """
    recipe = run.recipe
    epochs = run.recipe.optimisation.epochs
    on_cpu = run.device.type == "cpu"
    step = TrainingStep(run)
    validation = Validation(run, searches, notice)
    state = _state(run, step)
    now = load_checkpoint(run.folder, state, run.identity, notice)
    log_folder = run.folder if run.processes.is_main else None
    with RunLog(log_folder, now.done) as log, stop_signals() as received:
        unread: Unread = []
        for epoch in range(now.epoch, epochs):
            if now.step == 0:
                run.sampler.prepare(epoch, lambda rows: _embed(run, rows))
            order = run.sampler.epoch(epoch)
            every = max(1, min(recipe.log_every_steps, epochs * len(order) // POINTS))
            run.networks.train()
            run.networks.metric_network.perturbing = recipe.losses.perturbs(epoch)
            values: dict[str, float] = {}
            steps = now.done + (epochs - now.epoch) * len(order) - now.step
            report(now.done, steps, values)
            began = time.perf_counter()
            first = now.step
            for batch in load_batches(run.batches, epoch, order, now.step, run.processes):
                moment = epoch + now.step / len(order)
                rate = learning_rate(recipe.optimisation, moment)
                set_learning_rate(run.optimiser, rate)
                logged = now.done % every == 0
                seed = step_seed(recipe.seed, epoch, now.step) ^ 0x5EED
                found = step.gradients(batch, seed, with_norms=logged)
                unread.append((now, batch.sources, found))
                if logged or on_cpu:
                    refuse_divergence(unread, log, step.scaler)
                step.update()
                if logged:
                    values = {name: float(term) for name, term in found.terms.items()}
                    crops = (now.step + 1 - first) * len(batch.labels)
                    pace = crops / (time.perf_counter() - began)
                    _log_step(log, now.done, moment, rate, values, found.norms, pace)
                now = Position(epoch, now.step + 1, now.done + 1)
                ends = now.step == len(order)
                if ends:
                    now = Position(epoch + 1, 0, now.done)
                report(now.done, steps, values)
                if (ends or recipe.validation.every_steps) and validation.due(now):
                    refuse_divergence(unread, log, step.scaler)
                    validation.measure(now, len(order), log)
                stops = run.processes.any(bool(received))
                if stops or ends or now.step % recipe.checkpoint_every_steps == 0:
                    refuse_divergence(unread, log, step.scaler)
                    save_checkpoint(run.folder, state, now, run.identity, run.processes)
                if stops:
                    raise TrainingStopped(now, received)
    if run.average is not None:
        run.networks.load_state_dict(run.average.module.state_dict())


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM while the run trains; only a program's main thread can."""
    received: list[int] = []

    def receive(number: int, _: FrameType | None) -> None:
        if received and number == signal.SIGINT:
            # A second Ctrl-C no longer waits for the end of the step.
            raise KeyboardInterrupt
        received.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _log_step(
    log: RunLog,
    done: int,
    moment: float,
    rate: float,
    values: dict[str, float],
    norms: dict[str, float],
    pace: float,
) -> None:
    # Terms whose gradient is under 1% of L_gmn's train nothing.
    least = INACTIVE_SHARE * norms.get("gmn", 0.0)
    log.write(
        "step",
        done,
        epoch=round(moment, 4),
        learning_rate=rate,
        loss=values,
        gradient_norm=norms,
        inactive=[name for name, norm in norms.items() if norm < least],
        crops_per_second=round(pace, 1),
    )


def _state(run: Run, step: TrainingStep) -> dict[str, Stateful]:
    """Return what changes from step to step."""
    state: dict[str, Stateful] = {
        "networks": run.networks,
        "optimiser": run.optimiser,
        "scaler": step.scaler,
        "sampler": run.sampler,
    }
    return state if run.average is None else state | {"average": run.average}


def _embed(run: Run, rows: Sequence[int]) -> NDArray[np.float32]:
    """Features of training crops, of which each process embeds its share.

    Leaves the networks in evaluation mode.

    Raises:
        InputProblem: naming the crop that cannot be read.
    """
    run.networks.eval()
    count = run.processes.count
    padded = [*rows, *[rows[0]] * (-len(rows) % count)]
    own = [run.records[row] for row in padded[run.processes.local_slice(len(padded))]]
    precision = run.recipe.precision
    half = precision != "float16" and choose_dtype(run.device, precision) is torch.bfloat16
    size = run.recipe.preprocessing
    features = embed_records(run.networks.embedder, size, own, bfloat16=half)
    gathered = run.processes.gather(torch.from_numpy(features).to(run.device))
    return np.asarray(gathered[: len(rows)].cpu().numpy())
