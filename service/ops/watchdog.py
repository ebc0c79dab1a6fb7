"""Ends a process that is not whole any more, so that whoever supervises it starts another."""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from service.ops.pulse import DEAD, Stage

log = logging.getLogger(__name__)
# What the process ends with: "internal software error" among the statuses of sysexits.h.
EXIT_STATUS = 70
LOOK_EVERY_SECONDS = 1.0
# So long `/livez` and `/readyz` say it, and what is answered gets out, before the process ends.
FAREWELL_SECONDS = 3.0
# A look that comes so much too late tells that the whole process stood still, or all but did.
LATE_SECONDS = 2.0


@dataclass(frozen=True)
class Trouble:
    """Which stage ended or got stuck, and how that was seen."""

    stage: str
    why: str

    def __str__(self) -> str:
        return f"{self.stage}: {self.why}"


class Watchdog:
    """Looks at every stage from a thread of its own, which needs neither event loop nor device.

    A stage that is silent for longer than it may be, or has ended, is named in the log with what
    every thread was doing; `trouble` tells of it for a few seconds, and then the process ends.
    Nothing is lost by that which `kill -9` would not lose: what was acknowledged is on the disk.

    A process that was stopped and goes on is judged anew: no stage could have got on meanwhile.
    One whose interpreter is held by a library, so that no Python runs, is ended by a timer of the
    C library after twice the time, with status 1.
    """

    def __init__(
        self,
        stall_seconds: float,
        farewell_seconds: float = FAREWELL_SECONDS,
        end: Callable[[int], object] = os._exit,
    ) -> None:
        """Watches nothing yet.

        Args:
            stall_seconds: for how long a stage may be silent.
            farewell_seconds: between the discovery and the end.
            end: ends the process with a status, whatever state it is in.
        """
        self._stall_seconds = stall_seconds
        self._farewell_seconds = farewell_seconds
        self._end = end
        self._look_every = min(LOOK_EVERY_SECONDS, stall_seconds / 4)
        self._stages: list[Stage] = []
        self._trouble: Trouble | None = None
        self._wake = threading.Event()
        self._stopped = False
        self._thread: threading.Thread | None = None

    @property
    def trouble(self) -> Trouble | None:
        """Why the process is about to end; None where all is well."""
        return self._trouble

    @property
    def stages(self) -> Sequence[Stage]:
        """What is watched."""
        return tuple(self._stages)

    def watch(self, *stages: Stage) -> None:
        """Looks at these too."""
        self._stages.extend(stages)

    def give_up(self, stage: str, why: str) -> None:
        """Ends the process after the farewell: only another one can do this stage's work."""
        if self._trouble is None:
            self._trouble = Trouble(stage, why)
            self._wake.set()

    def start(self) -> None:
        """Begins to look."""
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends nothing any more: the service is being taken apart, and that takes its time."""
        self._stopped = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(2 * self._look_every + self._farewell_seconds)

    def _run(self) -> None:
        try:
            self._look_again_and_again()
        finally:
            with contextlib.suppress(ValueError, OSError):
                faulthandler.cancel_dump_traceback_later()

    def _look_again_and_again(self) -> None:
        judging_from, looked = 0.0, time.monotonic()
        while not self._stopped:
            self._rearm_timer()
            self._wake.wait(self._look_every)
            now = time.monotonic()
            if now - looked > self._look_every + LATE_SECONDS:
                judging_from = now + self._stall_seconds
            looked = now
            if self._trouble is None:
                self._trouble = self._look(may_judge=now >= judging_from)
            if self._trouble is not None and not self._stopped:
                self._say_farewell(self._trouble)
                return

    def _look(self, may_judge: bool) -> Trouble | None:
        for stage in self.stages:
            silent = stage.silent_seconds()
            if silent == DEAD:
                return Trouble(stage.name, "has ended")
            allowed = max(stage.at_least, stage.patience * self._stall_seconds)
            if silent > allowed and may_judge:
                return Trouble(stage.name, f"gave no sign of life for {silent:.0f} s")
        return None

    def _say_farewell(self, trouble: Trouble) -> None:
        # Beside: whoever hangs may hold the log's lock, or nobody reads what is written to it.
        threading.Thread(target=_tell, args=(trouble,), name="farewell", daemon=True).start()
        deadline = time.monotonic() + self._farewell_seconds
        while not self._stopped and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, 0.05))
        if not self._stopped:
            self._end(EXIT_STATUS)

    def _rearm_timer(self) -> None:
        # Where standard error is no file, as in some tests, there is no such timer.
        with contextlib.suppress(ValueError, OSError, AttributeError):
            seconds = 2 * self._stall_seconds + self._farewell_seconds
            faulthandler.dump_traceback_later(seconds, exit=True)


def _tell(trouble: Trouble) -> None:
    log.critical("%s; the process ends with status %d, restart it", trouble, EXIT_STATUS)
    with contextlib.suppress(ValueError, OSError, AttributeError):
        faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
