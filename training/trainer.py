"""The training loop: from records to trained networks, resumable at any step."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch.amp.grad_scaler import GradScaler

from model.problems import InputProblem
from training.averaging import WeightAverage
from training.checkpoint import Progress, Stateful, load_checkpoint, save_checkpoint
from training.divergence import DivergenceWatch, WatchedStep
from training.evaluation.protocols import Search
from training.hard_sampler import HardSampler
from training.loader import Batch, load_batches, step_seed
from training.neighbours import refresh_neighbours
from training.objective import inactive_terms
from training.run import Run
from training.run_log import FILE_NAME as LOG_NAME
from training.run_log import RunLog, SilentLog
from training.schedule import learning_rate, set_learning_rate
from training.step import GradientStep, autocast_type
from training.stopping import StopRequest, TrainingStopped, stop_requests
from training.validation import Validation

Report = Callable[[int, int, dict[str, float]], None]
NAMED_CROPS = 4
SMALLEST_SCALE = 1e-6
POINTS = 20
"""At least so many steps are logged of every run that has as many."""

NO_SEARCHES: Mapping[str, Search] = MappingProxyType({})


@dataclass
class Training:
    """What the steps of a run share beside the run itself."""

    run: Run
    gradients: GradientStep
    scaler: GradScaler | None
    average: WeightAverage | None
    watch: DivergenceWatch
    log: RunLog
    stop: StopRequest
    report: Report
    validation: Validation

    def save(self, progress: Progress) -> None:
        """Writes the run's checkpoint; the process that leads does."""
        if self.run.processes.leads:
            save_checkpoint(self.run.folder, self.parts, progress, self.run.identity)

    @property
    def parts(self) -> dict[str, Stateful]:
        """What changes from step to step."""
        parts: dict[str, Stateful] = {"networks": self.run.networks}
        parts["optimiser"] = self.run.optimiser
        if self.average is not None:
            parts["average"] = self.average
        if self.scaler is not None:
            parts["scaler"] = self.scaler
        if isinstance(self.run.sampler, HardSampler):
            parts["sampler"] = self.run.sampler
        return parts


def train(
    run: Run,
    report: Report,
    notice: Callable[[str], None] = lambda _: None,
    searches: Mapping[str, Search] = NO_SEARCHES,
) -> None:
    """Trains to the recipe's last epoch, from the run's checkpoint where there is one.

    Args:
        run: what `prepare_run` built; its networks are trained in place, and hold the averaged
            weights at the end where the recipe asks for an average.
        report: called after every step with steps done, steps in all, and the loss terms as they
            were last logged: to read them at every step would make a GPU wait.
        notice: is given a line for each event, such as a damaged checkpoint, and the figures of
            each validation.
        searches: the held-out people that are measured while training; may be empty.

    Raises:
        InputProblem: when the loss or a gradient is not finite, naming crops of the batch.
        TrainingStopped: when SIGINT or SIGTERM asked for it; the run can be resumed.
    """
    training = assemble(run, report, searches, notice)
    progress = load_checkpoint(run.folder, training.parts, run.identity, notice)
    with _open_log(run, progress) as training.log, stop_requests() as training.stop:
        while progress.epoch < run.recipe.optimisation.epochs:
            progress = _train_epoch(training, progress)
            training.save(progress)
    if training.average is not None:
        training.average.copy_to(run.networks)


def assemble(
    run: Run,
    report: Report = lambda *_: None,
    searches: Mapping[str, Search] = NO_SEARCHES,
    notice: Callable[[str], None] = lambda _: None,
) -> Training:
    """What a run's steps need; nothing is written and no checkpoint read."""
    recipe = run.recipe
    decay = recipe.optimisation.weight_average
    average = WeightAverage(run.networks, decay) if decay else None
    late = run.device.type == "cuda" and recipe.optimisation.optimiser != "sgd"
    scaled = autocast_type(recipe, run.device) is torch.float16
    return Training(
        run=run,
        gradients=GradientStep(run),
        scaler=GradScaler(run.device.type) if scaled else None,
        average=average,
        # What averages or scales must know at once that a step is lost.
        watch=DivergenceWatch(run.networks, run.device, late and not scaled and not decay),
        log=SilentLog(),
        stop=StopRequest(),
        report=report,
        validation=Validation(run, searches, average, notice),
    )


def _open_log(run: Run, progress: Progress) -> RunLog:
    return RunLog(run.folder, progress.done) if run.processes.leads else SilentLog()


def _train_epoch(training: Training, begin: Progress) -> Progress:
    """Trains from a step to the end of its epoch, and returns where the next one begins."""
    run, recipe = training.run, training.run.recipe
    if begin.step == 0:
        refresh_neighbours(run, begin.epoch)
    order = run.sampler.epoch(begin.epoch)
    run.networks.train()
    start = recipe.losses.perturbation_from_epoch
    run.networks.metric_network.perturbing = start is not None and begin.epoch >= start
    loader = load_batches(
        run.batches, begin.epoch, order, begin.step, recipe.workers, run.processes
    )
    values: dict[str, float] = {}
    # A short run has a curve of some points, too.
    every = max(1, min(recipe.log_every_steps, recipe.optimisation.epochs * len(order) // POINTS))
    began = time.perf_counter()
    now = begin
    for batch in loader:
        moment = now.epoch + now.step / len(order)
        rate = learning_rate(recipe.optimisation, moment)
        set_learning_rate(run.optimiser, rate)
        logged = now.done % every == 0
        terms, norms = train_step(training, batch, now, logged)
        if logged:
            values = {name: float(term) for name, term in terms.items()}
            crops = (now.step + 1 - begin.step) * len(batch.labels)
            training.log.write(
                "step",
                now.done,
                epoch=round(moment, 4),
                learning_rate=rate,
                loss=values,
                gradient_norm=norms,
                inactive=inactive_terms(norms),
                crops_per_second=round(crops / (time.perf_counter() - began), 1),
            )
        now = Progress(now.epoch, now.step + 1, now.done + 1)
        later = (recipe.optimisation.epochs - now.epoch) * len(order) - now.step
        training.report(now.done, now.done + later, values)
        # What has diverged is noticed before it is measured.
        if training.validation.due(now, len(order)):
            _end_if(training, training.watch.last())
            training.validation.measure(now, len(order), training.log)
        _pause(training, now, len(order))
    _end_if(training, training.watch.last())
    return Progress(now.epoch + 1, 0, now.done)


def train_step(
    training: Training, batch: Batch, now: Progress, logged: bool
) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Trains one step; returns the loss terms and, where it is logged, their gradients' norms."""
    run, scaler, watch = training.run, training.scaler, training.watch
    run.optimiser.zero_grad(set_to_none=True)
    watch.before(now)
    scale = scaler.scale(torch.ones((), device=run.device)) if scaler is not None else None
    seed = step_seed(run.recipe.seed, now.epoch, now.step) ^ 0x5EED
    terms, norms = training.gradients.backward(batch, scale, seed, logged)
    gradients = [p.grad for p in run.networks.parameters() if p.grad is not None]
    # Scaled gradients may overflow: the scaler skips such a step and scales less.
    _end_if(training, watch.after(now, batch.sources, terms, [] if scaler else gradients))
    if scaler is None:
        if watch.late:
            run.optimiser.found_inf = watch.diverged  # type: ignore[attr-defined]
        run.optimiser.step()
    else:
        scaler.step(run.optimiser)
        scaler.update()
        if logged and scaler.get_scale() < SMALLEST_SCALE:
            raise _divergence("every gradient overflows float16", batch.sources)
    if training.average is not None:
        training.average.update(run.networks, now.done)
    return terms, norms


def _pause(training: Training, now: Progress, steps: int) -> None:
    """Writes a checkpoint where one is due or where the run was asked to stop, and stops."""
    recipe, stop = training.run.recipe, training.stop
    stopping = training.run.processes.any(stop.signal_number is not None)
    due = now.step % recipe.checkpoint_every_steps == 0 and now.step < steps
    if not stopping and not due:
        return
    _end_if(training, training.watch.last())
    training.save(Progress(now.epoch + 1, 0, now.done) if now.step == steps else now)
    # Nobody leaves, and has torchrun end the others, before the checkpoint is written.
    if stopping and not training.run.processes.any(False):
        number = stop.signal_number or signal.SIGTERM
        raise TrainingStopped(
            f"stopped by {signal.Signals(number).name} after step {now.done}; continue with "
            "--resume",
            number,
        )


def _end_if(training: Training, diverged: WatchedStep | None) -> None:
    """Ends the run at a step that diverged, with the weights from before it as a checkpoint."""
    if diverged is None:
        return
    training.watch.restore(diverged)
    training.save(diverged.progress)
    terms = {name: float(term) for name, term in diverged.terms.items()}
    training.log.write(
        "diverged",
        diverged.progress.done,
        loss={name: str(value) for name, value in terms.items()},
        batch=list(diverged.sources),
    )
    lost = [f"{name} is {value}" for name, value in terms.items() if not math.isfinite(value)]
    what = "the loss is not finite: " + ", ".join(lost) if lost else "a gradient is not finite"
    raise _divergence(what, diverged.sources)


def _divergence(what: str, sources: Sequence[str]) -> InputProblem:
    named = ", ".join(sources[:NAMED_CROPS])
    return InputProblem(
        f"{what}, on the batch of {named}, … (all {len(sources)} are in {LOG_NAME}); train anew "
        "with a lower optimisation.learning_rate or precision=float32; checkpoint.pt has the "
        "weights from before this step"
    )
