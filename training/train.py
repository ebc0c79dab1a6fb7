"""Train a recipe on data sets: prepare the run, loop over its steps, and finish the artefact."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import FrameType

import numpy as np
import torch

from model.arrays import Floats
from model.problems import InputProblem
from model.wording import counted
from training.batches import load_batches, step_seed
from training.checkpoint import Position, Stateful, load_checkpoint, save_checkpoint
from training.datasets.record import Dataset, refuse_unreadable
from training.distributed import ALONE, Processes
from training.evaluation.embedding import ProgressBar, embed_records, no_bar
from training.evaluation.files import make_folder
from training.evaluation.results import EvaluationReport
from training.evaluation.searches import Search
from training.finish import choose_weights, finish_run, searches_to_measure
from training.finished_networks import TrainedRun
from training.optimiser import learning_rate, set_learning_rate
from training.recipe import Recipe
from training.run import Run, prepare_run
from training.run_folder import RunData, RunLog, split_people, write_run
from training.sampler import describe_epoch
from training.start_comparison import measure_start
from training.step import TrainingStep, UncheckedSteps, autocast_type, refuse_divergence
from training.validation import Validation, validation_searches

Notice = Callable[[str], None]
# Called after every step with the number of steps done, the number of all steps, and the loss terms
# that were logged last: reading the terms at every step would make the CPU wait for a GPU.
ShowProgress = Callable[[int, int, dict[str, float]], None]
# A short run logs more often than its recipe says, to have this many points on its curves.
LEAST_LOGGED_STEPS = 20
# A loss term is logged as inactive if its gradient norm is below this share of L_gmn's.
INACTIVE_SHARE = 0.01


@contextmanager
def no_training_bar() -> Iterator[ShowProgress]:
    """Show no progress of the training."""
    yield lambda *_: None


class TrainingStopped(Exception):
    """Raised when a signal has stopped a run, which can be resumed.

    Attributes:
        signal_number: the signal that stopped it.
    """

    def __init__(self, position: Position, received: Sequence[int]) -> None:
        # If several processes train together, another one may have received the signal.
        self.signal_number = received[0] if received else signal.SIGTERM
        name = signal.Signals(self.signal_number).name
        super().__init__(f"stopped by {name} after step {position.done}; continue with --resume")


def train(
    recipe: Recipe,
    datasets: Sequence[Dataset],
    folder: Path,
    *,
    resume: bool = False,
    notice: Notice = print,
    source: RunData | None = None,
    processes: Processes = ALONE,
    progress_bar: ProgressBar = no_bar,
    training_bar: Callable[[], AbstractContextManager[ShowProgress]] = no_training_bar,
) -> EvaluationReport | None:
    """Train a recipe on data sets, and write the artefact and its report into a folder.

    Args:
        recipe: from `training.recipe.read_recipe`.
        datasets: from `training.datasets.registry.read_datasets`.
        folder: the run's folder; it is created if it does not exist.
        resume: continue the run in this folder.
        notice: called with each line that the run prints.
        source: how `gmn finish` reads the same data sets again; None takes their specs.
        processes: the processes that train together.
        progress_bar: shows the progress of a long step before or after the training.
        training_bar: shows the progress of the training.

    Returns:
        The report on the people held out or out of fold; the artefact is
        `folder / "model.safetensors"`. None if there are no such people, and in every process but
        the main one.

    Raises:
        InputProblem: data, initial weights or a setting do not fit, or training diverged.
        TrainingStopped: SIGINT or SIGTERM stopped the run; it can be resumed.
    """
    make_folder(folder)
    # The crops of `--reviews` are written into the folder before the run begins.
    is_used = not all(file.match("reviews-*") for file in folder.iterdir())
    if processes.is_main and is_used and not resume:
        raise InputProblem(
            f"{folder}: is not empty; name a new folder, or continue its run with --resume"
        )
    if source is None:
        specs = tuple(dataset.spec for dataset in datasets)
        source = RunData(specs=specs, command="training.train.train")

    # Anything that would make the run fail at its end is checked before its first step.
    records, held_out = split_people(recipe, datasets)
    measured = "all measured out of fold" if recipe.is_folded else f"{len(held_out):,} held out"
    notice(f"{counted(len(records), 'crop')} to train on, {measured}")
    final_searches = searches_to_measure(recipe, datasets, records)
    searches = validation_searches(recipe, datasets)
    if processes.is_main and not any(folder.glob("checkpoint*.pt")):
        # Recombined people are put together of crops in this list.
        names = {dataset.name for dataset in datasets}
        crops = [record for record in records if record.dataset in names] + held_out
        with progress_bar("Reading every crop once", len(crops)) as advance:
            refuse_unreadable(crops, advance)
    processes.barrier()
    run = prepare_run(recipe, records, folder, processes)
    for note in run.notes:
        notice(note)
    if processes.is_main:
        write_run(folder, recipe, source)
        # Without an epoch the comparison at the end follows at once.
        if recipe.refuse_worse and final_searches and recipe.optimisation.epochs:
            start = measure_start(recipe, final_searches, run.device, progress_bar)
            mean = 100 * start.mean(start.best, "mAP")
            notice(f"{start.name}: held-out people mAP {mean:.1f} by {start.best}")
    if recipe.optimisation.epochs:
        in_epoch = run.sampler.crops_per_epoch(0)
        left_out = run.sampler.single_crop_identities
        notice(f"An epoch shows {describe_epoch(len(records), in_epoch, left_out)}")
        with training_bar() as show_progress:
            train_networks(run, show_progress, notice, searches)
    else:
        states = _states(run, TrainingStep(run))
        save_checkpoint(run.folder, states, Position(), run.identity, processes)
    if not processes.is_main:
        return None
    if recipe.measures_nobody:
        notice(
            f"{folder}: no people were held out; make the artefact with gmn finish {folder} "
            "--data SPEC, which calibrates it on people whom it was not trained on"
        )
        return None
    trained = TrainedRun(recipe, folder, datasets, source.command)
    return finish_run(trained, choose_weights(folder, None), (), progress_bar)


def train_networks(
    run: Run,
    show_progress: ShowProgress = lambda *_: None,
    notice: Notice = lambda _: None,
    searches: Mapping[str, Search] | None = None,
) -> None:
    """Train to the recipe's last epoch, from the run's checkpoint if there is one.

    Args:
        run: built by `prepare_run`; its networks are trained in place.
        show_progress: called before each epoch and after every step.
        notice: called with a line for each event, such as a damaged checkpoint, and with the
            figures of each validation.
        searches: the held-out people to validate on while training; None validates never.

    Raises:
        InputProblem: the loss or a gradient is not finite; names crops of the batch.
        TrainingStopped: SIGINT or SIGTERM stopped the run; it can be resumed.
    """
    recipe = run.recipe
    epochs = recipe.optimisation.epochs
    on_cpu = run.device.type == "cpu"
    step = TrainingStep(run)
    validation = Validation(run, searches or {}, notice)
    state = _states(run, step)
    position = load_checkpoint(run.folder, state, run.identity, notice)
    log_folder = run.folder if run.processes.is_main else None
    unchecked: UncheckedSteps = []
    with RunLog(log_folder, position.done) as log, stop_signals() as received_signals:
        while (epoch := position.epoch) < epochs:
            if position.step == 0:
                run.sampler.prepare(epoch, lambda rows: _embed(run, rows))
            run.networks.train()
            run.networks.metric_network.perturbing = recipe.losses.perturbs(epoch)
            epoch_batches = run.sampler.epoch(epoch)
            epoch_steps = len(epoch_batches)
            log_every = max(
                1, min(recipe.log_every_steps, epochs * epoch_steps // LEAST_LOGGED_STEPS)
            )
            all_steps = position.done + (epochs - epoch) * epoch_steps - position.step
            first_step = position.step
            began = time.perf_counter()
            terms: dict[str, float] = {}
            show_progress(position.done, all_steps, terms)
            for batch in load_batches(run.batches, epoch, epoch_batches, first_step, run.processes):
                epoch_and_fraction = epoch + position.step / epoch_steps
                rate = learning_rate(recipe.optimisation, epoch_and_fraction)
                set_learning_rate(run.optimiser, rate)
                logged = position.done % log_every == 0
                # Augmentation uses the step's seed itself: dropout must not repeat its numbers.
                seed = step_seed(recipe.seed, epoch, position.step) ^ 0x5EED
                gradients = step.gradients(batch, seed, with_norms=logged)
                unchecked.append((position, batch.sources, gradients))
                # On a GPU this check has to wait for the step, so that most steps go without it.
                if logged or on_cpu:
                    refuse_divergence(unchecked, log, step.scaler)
                step.update()
                if logged:
                    terms = {name: float(term) for name, term in gradients.terms.items()}
                    crops = (position.step + 1 - first_step) * len(batch.labels)
                    crops_per_second = crops / (time.perf_counter() - began)
                    norms = gradients.norms
                    smallest_active = INACTIVE_SHARE * norms.get("gmn", 0.0)
                    log.write(
                        "step",
                        position.done,
                        epoch=round(epoch_and_fraction, 4),
                        learning_rate=rate,
                        loss=terms,
                        gradient_norm=norms,
                        inactive=[name for name, norm in norms.items() if norm < smallest_active],
                        crops_per_second=round(crops_per_second, 1),
                    )

                position = Position(epoch, position.step + 1, position.done + 1)
                if position.step == epoch_steps:
                    position = Position(epoch + 1, 0, position.done)
                show_progress(position.done, all_steps, terms)
                epoch_ended = position.step == 0
                if validation.due(position):
                    refuse_divergence(unchecked, log, step.scaler)
                    validation.measure(position, epoch_steps, log)
                must_stop = run.processes.any(bool(received_signals))
                is_due = position.step % recipe.checkpoint_every_steps == 0
                if must_stop or epoch_ended or is_due:
                    refuse_divergence(unchecked, log, step.scaler)
                    save_checkpoint(run.folder, state, position, run.identity, run.processes)
                if must_stop:
                    raise TrainingStopped(position, received_signals)


def _states(run: Run, step: TrainingStep) -> dict[str, Stateful]:
    """Return what a checkpoint holds."""
    return {
        "networks": run.networks,
        "optimiser": run.optimiser,
        "scaler": step.scaler,
        "sampler": run.sampler,
    }


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM while the block runs, instead of being ended by them.

    Python handles signals in the main thread alone: in any other the list stays empty.
    """
    received: list[int] = []

    def receive(number: int, _: FrameType | None) -> None:
        if received and number == signal.SIGINT:
            # A second Ctrl-C ends the program without waiting for the end of the step.
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


def _embed(run: Run, rows: Sequence[int]) -> Floats:
    """Embed training crops, shared out among the processes; leave the networks in evaluation mode.

    Raises:
        InputProblem: naming the crop that cannot be read.
    """
    run.networks.eval()
    missing = -len(rows) % run.processes.count
    padded = [*rows, *[rows[0]] * missing]
    share = padded[run.processes.local_slice(len(padded))]
    features = embed_records(
        run.networks.embedder,
        run.recipe.preprocessing,
        [run.records[row] for row in share],
        bfloat16=autocast_type(run.recipe, run.device) is torch.bfloat16,
    )
    gathered = run.processes.gather(torch.from_numpy(features).to(run.device))
    return np.asarray(gathered[: len(rows)].cpu().numpy())
