"""What ends a run before its last step: a signal, or a loss that is not finite."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from model.problems import InputProblem
from training.checkpoint import Position
from training.run_folder import LOG_NAME, RunLog
from training.step import Gradients, TrainingStep

NAMED_CROPS = 4
SMALLEST_SCALE = 1e-6


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


class DivergenceWatch:
    """Ends a run whose loss or gradient is not finite, before its weights reach a checkpoint.

    A CPU's steps are looked at before they change a weight; a GPU's when a step is logged, or the
    weights are measured or saved, so that the GPU need not be waited for at every step.
    """

    def __init__(self, step: TrainingStep, log: RunLog, at_once: bool) -> None:
        self._step, self._log, self._at_once = step, log, at_once
        self._unread: list[tuple[Position, Sequence[str], Gradients]] = []

    def note(self, now: Position, sources: Sequence[str], found: Gradients, look: bool) -> None:
        """Takes note of a step before it changes the weights, and perhaps looks at it.

        Raises:
            InputProblem: as `look` does.
        """
        self._unread.append((now, sources, found))
        if look or self._at_once:
            self.look()

    def look(self) -> None:
        """Looks at the steps since the last look.

        Raises:
            InputProblem: naming the terms that are not finite, and crops of the batch.
        """
        for now, sources, found in self._unread:
            if not bool(found.finite):
                self._refuse(now, sources, found)
        if self._unread and self._step.scaler.get_scale() < SMALLEST_SCALE:
            raise _divergence("every gradient overflows float16", self._unread[-1][1])
        self._unread.clear()

    def _refuse(self, now: Position, sources: Sequence[str], found: Gradients) -> None:
        terms = {name: float(term) for name, term in found.terms.items()}
        texts = {name: str(value) for name, value in terms.items()}
        self._log.write("diverged", now.done, loss=texts, batch=list(sources))
        lost = [f"{name} is {value}" for name, value in terms.items() if not math.isfinite(value)]
        if not lost:
            raise _divergence("a gradient is not finite", sources)
        raise _divergence(f"the loss is not finite: {', '.join(lost)}", sources)


def _divergence(what: str, sources: Sequence[str]) -> InputProblem:
    named = ", ".join(sources[:NAMED_CROPS])
    return InputProblem(
        f"{what}, on the batch of {named}, … (all {len(sources)} are in {LOG_NAME}); train anew "
        "with a lower optimisation.learning_rate or precision=float32; checkpoint.pt, where there "
        "is one, has finite weights from before this step"
    )
